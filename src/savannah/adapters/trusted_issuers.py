"""Access tokens of other issuers: their keys over HTTP, and whether a signature is one of theirs.

What a token must say, and what it then allows here, is in `savannah.domain.trusted_issuers`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from savannah.application.ports import Clock, TrustedIssuers
from savannah.domain.errors import InvalidToken, TokenExpired, Unavailable
from savannah.domain.trusted_issuers import (
    ALGORITHMS,
    RSA,
    ExternalIdentity,
    TrustedIssuer,
)

_log = logging.getLogger("savannah.issuers")

_LONGEST_TOKEN: Final = 16_384  # groups make tokens of some issuers long
_LONGEST_HEADER: Final = 8_192  # and certificates their headers
_MAX_ANSWER: Final = 256 * 1024
_MAX_KEYS: Final = 100
_ONE_KID_MOST: Final = 4
_RSA_BITS: Final = range(2048, 8193)  # below it is weak, above it is slow
_DEADLINE_S: Final = 5.0
_BETWEEN_FETCHES: Final = timedelta(seconds=30)
_FRESH_USUAL: Final = timedelta(minutes=15)
_FRESH_LEAST: Final = timedelta(minutes=5)
_FRESH_MOST: Final = timedelta(hours=1)
# Every token has ended long before that, so these keys have nothing left to verify.
_STALE_MOST: Final = timedelta(hours=24)
_VERIFIED_MOST: Final = 4096
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?([0-9]{1,9})")


class _UnknownKey(Exception):
    """The token names a key that the issuer did not have when we looked last."""


class _Trouble(Exception):
    """What the issuer answered cannot be used; says why, in words of ours."""


class _Registry(jws.JWSRegistry):
    max_header_length = _LONGEST_HEADER


# Members of the header that we do not know are no reason to refuse; those we know are checked.
_HEADERS: Final = _Registry(algorithms=list(ALGORITHMS), strict_check_header=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """One public key. `kind` is RSA or its curve; `alg` what alone it is for, if that is said."""

    kid: str | None
    kind: str
    alg: str | None
    key: RSAKey | ECKey


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """An issuer's keys as it gave them at `read_at`.

    Attributes:
        verified: digests of the tokens whose signatures these keys have verified.
    """

    keys: tuple[_Key, ...]
    read_at: datetime
    fresh_for: timedelta
    verified: set[bytes] = field(default_factory=set)

    def fitting(self, kid: str | None, alg: str) -> list[_Key]:
        """The keys a token with that header may be signed with.

        A token that names none has one only where there is no choice.

        Raises: _UnknownKey.
        """
        named = [key for key in self.keys if key.kid == kid] if kid is not None else self.keys
        if not named or (kid is None and len(named) > 1):
            raise _UnknownKey
        return [key for key in named if key.kind == ALGORITHMS[alg] and key.alg in (None, alg)]


class JwksIssuers(TrustedIssuers):
    """Verifies with the keys each issuer publishes (RFC 7517), found by OpenID discovery.

    Keys are kept for as long as the issuer says, within 5 to 60 minutes, then read again beside
    the requests. While an issuer is down its keys go on for a day. A token that names a strange
    key has them read again, at most once in half a minute and once for all that wait.

    Args:
        loopback: plain http to this machine is taken too, for development.
    """

    def __init__(
        self, issuers: Iterable[TrustedIssuer], *, clock: Clock, loopback: bool = False
    ) -> None:
        # A connection for each fetch: there are few, and none waits for another issuer's.
        self._client = httpx.AsyncClient(
            headers={
                "Accept": "application/json",
                # Keeps the limit on the size of an answer meaningful.
                "Accept-Encoding": "identity",
                "User-Agent": "savannah",
            },
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=_DEADLINE_S,
            follow_redirects=False,
            trust_env=False,
        )
        self._issuers = {
            each.issuer: _Issuer(each, client=self._client, clock=clock, loopback=loopback)
            for each in issuers
        }

    async def read(self, token: str) -> ExternalIdentity | None:
        issuer = self._issuers.get(_named_issuer(token))
        return None if issuer is None else await issuer.read(token)

    async def reach(self) -> Mapping[str, str | None]:
        """Ask every issuer for its keys; each with what is wrong, None for nothing."""
        found = await asyncio.gather(*(each.reach() for each in self._issuers.values()))
        return dict(zip(self._issuers, found, strict=True))

    async def aclose(self) -> None:
        """Stop asking for keys."""
        for issuer in self._issuers.values():
            issuer.stop()
        await self._client.aclose()


class _Issuer:
    """One issuer: what it told us last, and at most one question to it under way."""

    def __init__(
        self, rules: TrustedIssuer, *, client: httpx.AsyncClient, clock: Clock, loopback: bool
    ) -> None:
        self._rules = rules
        self._client = client
        self._clock = clock
        self._loopback = loopback
        self._ring: _Ring | None = None
        self._asked_at: datetime | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    async def read(self, token: str) -> ExternalIdentity:
        """Raises: InvalidToken, TokenExpired, Unavailable."""
        # All that can be said without a key comes first, so that rubbish asks nobody for one.
        signed, found = self._looked_at(token)
        digest = hashlib.sha256(token.encode()).digest()
        ring = await self._keys()
        if digest in ring.verified:  # a signature stays right as long as its key is there
            return found
        try:
            self._verify(signed, ring)
        except _UnknownKey:
            ring = await self._refetched(ring)
            try:
                self._verify(signed, ring)
            except _UnknownKey:
                raise InvalidToken from None
        if len(ring.verified) >= _VERIFIED_MOST:
            ring.verified.clear()
        ring.verified.add(digest)
        return found

    # --- one token -------------------------------------------------------------------------------

    def _looked_at(self, token: str) -> tuple[jws.CompactSignature, ExternalIdentity]:
        """The parts of a token, and what it says if its signature is right.

        Raises: InvalidToken, TokenExpired.
        """
        try:
            signed = jws.extract_compact(token.encode("ascii"), registry=_HEADERS)
            header, claims = signed.headers(), json.loads(signed.payload)
            return signed, self._rules.identity(header, claims, now=self._clock.now())
        except TokenExpired:
            raise
        except Exception:  # noqa: BLE001 - a hostile text finds exceptions no one has listed
            # Not even the reason goes to the log: it may quote the token.
            raise InvalidToken from None

    def _verify(self, signed: jws.CompactSignature, ring: _Ring) -> None:
        """Raises: InvalidToken, _UnknownKey."""
        try:
            header = signed.headers()
            alg: str = header["alg"]
            for key in ring.fitting(header.get("kid"), alg)[:_ONE_KID_MOST]:
                if jws.validate_compact(signed, key.key, algorithms=[alg], registry=_HEADERS):
                    return
        except _UnknownKey:
            raise
        except Exception:  # noqa: BLE001 - as above
            raise InvalidToken from None
        raise InvalidToken

    # --- keys ------------------------------------------------------------------------------------

    async def _keys(self) -> _Ring:
        """Raises: Unavailable, while there are none."""
        ring = self._ring
        age = abs(self._clock.now() - ring.read_at) if ring else _STALE_MOST
        if ring is not None and age < _STALE_MOST:
            if age >= ring.fresh_for:
                self._asked()  # beside this request, which these keys are good enough for
            return ring
        await self._answered()
        if self._ring is None or self._ring is ring:
            raise Unavailable("The issuer of this token does not answer")
        return self._ring

    async def _refetched(self, seen: _Ring) -> _Ring:
        """The keys read again for a token that names a strange one; not for every such token."""
        if self._ring is seen:
            await self._answered()
        return self._ring or seen

    async def _answered(self) -> None:
        """Wait for the question under way, which goes on when the one who waits is gone."""
        if (asked := self._asked()) is not None:
            await asyncio.shield(asked)

    def _asked(self) -> asyncio.Task[None] | None:
        """The question under way, put now if one may be; None when the last is too fresh."""
        loop, now = asyncio.get_running_loop(), self._clock.now()
        if self._fetch is None or self._fetch.done() or self._fetch.get_loop() is not loop:
            if self._asked_at is not None and abs(now - self._asked_at) < _BETWEEN_FETCHES:
                return None
            self._asked_at = now
            self._fetch = loop.create_task(self._ask())
        return self._fetch

    async def _ask(self) -> None:
        """Read the keys; whatever goes wrong leaves those we have."""
        try:
            async with asyncio.timeout(_DEADLINE_S):
                keys, fresh_for = await self._published()
        except _Trouble as trouble:
            self._trouble = str(trouble)
        except TimeoutError:
            self._trouble = f"no answer within {_DEADLINE_S:.0f} s"
        except Exception as error:  # noqa: BLE001 - one issuer's answer must not harm the rest
            self._trouble = f"cannot be read ({type(error).__name__})"
        else:
            self._trouble = None
            self._ring = _Ring(keys=keys, read_at=self._clock.now(), fresh_for=fresh_for)
            return
        _log.warning(
            "no keys from a trusted issuer",
            extra={
                "issuer": self._rules.issuer,
                "reason": self._trouble,
                "older_keys": 0 if self._ring is None else len(self._ring.keys),
            },
        )

    async def reach(self) -> str | None:
        """Ask for the keys now; what is wrong, None for nothing."""
        self._asked_at = None
        await self._answered()
        return self._trouble

    def stop(self) -> None:
        if self._fetch is not None and not self._fetch.done():
            self._fetch.cancel()

    async def _published(self) -> tuple[tuple[_Key, ...], timedelta]:
        """The issuer's usable keys, and for how long they count as fresh.

        Source: OpenID Connect Discovery sections 4.1 and 4.3.

        Raises: _Trouble; httpx.HTTPError; ValueError for what is not JSON.
        """
        address = self._rules.jwks_uri
        if address is None:
            root = self._rules.issuer.rstrip("/")
            found, _ = await self._read_json(f"{root}/.well-known/openid-configuration")
            if found.get("issuer") != self._rules.issuer:
                raise _Trouble("the discovery document is another issuer's")
            address = found.get("jwks_uri")
        if not isinstance(address, str) or not self._is_safe(address):
            raise _Trouble("jwks_uri is not an https address")
        found, fresh_for = await self._read_json(address)
        entries = found.get("keys")
        if not isinstance(entries, list):
            raise _Trouble("the key set has no keys")
        tried = [_usable(entry, self._rules.issuer) for entry in entries[:_MAX_KEYS]]
        keys = tuple(key for key in tried if key is not None)
        if not keys:
            raise _Trouble("no key of the set can be used")
        if skipped := len(entries) - len(keys):
            _log.info(
                "keys of a trusted issuer were left out",
                extra={"issuer": self._rules.issuer, "used": len(keys), "left_out": skipped},
            )
        return keys, fresh_for

    def _is_safe(self, address: str) -> bool:
        try:
            url = urlsplit(address)
            host, _ = url.hostname or "", url.port  # the port is checked by being read
        except ValueError:
            return False
        if "@" in url.netloc or not host:
            return False
        return url.scheme == "https" or (
            self._loopback and url.scheme == "http" and _is_loopback(host)
        )

    async def _read_json(self, address: str) -> tuple[Mapping[str, Any], timedelta]:
        """A JSON object, and for how long it may be kept."""
        async with self._client.stream("GET", address) as answer:
            if answer.status_code != httpx.codes.OK:  # redirects too: they lead anywhere
                raise _Trouble(f"HTTP status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise _Trouble("the answer is compressed, which nobody asked for")
            received = bytearray()
            async for chunk in answer.aiter_raw():
                received += chunk
                if len(received) > _MAX_ANSWER:
                    raise _Trouble(f"the answer is longer than {_MAX_ANSWER // 1024} KiB")
            kept = _MAX_AGE.search(answer.headers.get("cache-control", "").lower())
        found = json.loads(received)
        if not isinstance(found, dict):
            raise _Trouble("the answer is no JSON object")
        age = timedelta(seconds=int(kept[1])) if kept else _FRESH_USUAL
        return found, min(max(age, _FRESH_LEAST), _FRESH_MOST)


def _named_issuer(token: str) -> str:
    """What a token says in `iss`, not verified; empty when it says nothing that can be read."""
    if len(token) > _LONGEST_TOKEN or token.count(".") != 2:
        return ""
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return ""
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else ""


def _usable(entry: object, issuer: str) -> _Key | None:
    """One member of a key set (RFC 7517 section 4), None for one we cannot or must not use.

    Only what makes up the public key is taken over. One bad key does not harm the others.
    """
    try:
        match entry:
            case {"d": _} | {"k": _}:  # a private key that everybody knows proves nothing
                return None
            case {"kty": "RSA", "n": str(n), "e": str(e)}:
                key: RSAKey | ECKey = RSAKey.import_key({"kty": "RSA", "n": n, "e": e})
                kind = RSA
                if cast("RSAKey", key).public_key.key_size not in _RSA_BITS:
                    return None
            case {"kty": "EC", "crv": str(kind), "x": str(x), "y": str(y)}:
                key = ECKey.import_key({"kty": "EC", "crv": kind, "x": x, "y": y})
            case _:
                return None
        assert isinstance(entry, dict)
        kid, alg, use, uses = (entry.get(name) for name in ("kid", "alg", "use", "key_ops"))
        if use not in (None, "sig") or (uses is not None and "verify" not in uses):
            return None
        if not isinstance(kid, str | None) or not isinstance(alg, str | None):
            return None
        # Entra ID says whose tokens a key is for; a template stands for each of its tenants.
        owner = entry.get("issuer")
        if isinstance(owner, str) and "{" not in owner and owner != issuer:
            return None
    except Exception:  # noqa: BLE001 - joserfc lets several kinds through
        return None
    return _Key(kid=kid, kind=kind, alg=alg, key=key)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
