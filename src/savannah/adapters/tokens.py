"""Access and ID tokens: signed JWTs, and the keys for them.

The keys are in storage, so that every process has the same ones; their private half is encrypted
under a key made from the secret of the installation. Whether a login still stands is not told by
a token: that is the grant's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.jwk import GuestProtocol, RSAKey

from savannah.application.ports import (
    AccessClaims,
    Clock,
    IdClaims,
    IdHint,
    LogoutClaims,
    Storage,
    Tokens,
)
from savannah.domain.access import scope_text
from savannah.domain.errors import InvalidToken, NotFound, TokenExpired
from savannah.domain.identity import GrantId, SigningKey
from savannah.domain.oauth import API_PATH

_log = logging.getLogger("savannah.tokens")

_ALGORITHM: Final = "RS256"
_KEY_BITS: Final = 2048
_NONCE_BYTES: Final = 12
_LONGEST_TOKEN: Final = 8192
_FRESH_FOR: Final = timedelta(seconds=30)
_BETWEEN_REFETCHES: Final = timedelta(seconds=2)
_VERIFIED_MOST: Final = 4096
# For how long an ID token is good for a hint when its key does not verify tokens any more.
_HINTED: Final = timedelta(days=365)
_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"


class _UnknownKey(Exception):
    """The token names a key that was not there when we looked last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """The keys as storage had them at `read_at`; `newest` signs.

    Attributes:
        known: besides `keys`, which verify, those that are too old for anything but a hint.
        verified: claims of tokens that these keys have verified, by the digest of the token. A
            signature stays right; whether the login still stands is asked elsewhere, every time.
    """

    keys: Mapping[str, RSAKey]
    known: Mapping[str, RSAKey]
    newest: str
    read_at: datetime
    verified: dict[bytes, AccessClaims] = field(default_factory=dict)


class JoseTokens(Tokens):
    """RS256 tokens in the profile of RFC 9068, with joserfc.

    A key that another process has made is known at once, through a token that names it; this
    process signs with it within half a minute.

    Args:
        secret_key: the installation's secret. After a change older keys cannot be read any more,
            and a new one is made.
        issuer: our public URL, as it stands in `iss`; a function where it is not known yet.
        audience: the name of the API, as it stands in `aud`.
        overlap: how long a key goes on verifying after another one has taken its place: as long
            as tokens live, and caches and clocks lag.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        clock: Clock,
        secret_key: str,
        issuer: str | Callable[[], str],
        audience: str,
        overlap: timedelta = timedelta(hours=2),
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._secret_key = secret_key
        self._named_issuer = issuer
        self._audience = audience
        self._overlap = overlap
        self._ring: _Ring | None = None
        self._refetched_at: datetime | None = None
        self._unreadable: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def sign_access(self, claims: AccessClaims) -> str:
        said: dict[str, Any] = {
            "iss": self._issuer(),
            "sub": claims.subject,
            "aud": _one_or_list(claims.resources) or self._audience,
            "client_id": claims.client_id,
            "sid": str(claims.grant_id),
            "jti": str(claims.token_id),
            "iat": _seconds(claims.issued_at),
            "exp": _seconds(claims.expires_at),
            "scope": scope_text(claims.scopes),
        }
        if claims.role is not None:
            said["roles"] = [claims.role]
        if claims.auth_time is not None:
            said["auth_time"] = _seconds(claims.auth_time)
        if claims.key_thumbprint is not None:
            said["cnf"] = {"jkt": claims.key_thumbprint}
        return await self._sign("at+jwt", said)

    async def sign_id(self, claims: IdClaims) -> str:
        left_half = hashlib.sha256(claims.access_token.encode("ascii")).digest()[:16]
        said: dict[str, Any] = {
            "iss": self._issuer(),
            "sub": claims.subject,
            "aud": claims.client_id,
            "sid": str(claims.session_id),
            "iat": _seconds(claims.issued_at),
            "exp": _seconds(claims.expires_at),
            "auth_time": _seconds(claims.auth_time),
            "at_hash": base64.urlsafe_b64encode(left_half).rstrip(b"=").decode(),
        }
        if claims.nonce is not None:
            said["nonce"] = claims.nonce
        return await self._sign("JWT", said)

    async def sign_logout(self, claims: LogoutClaims) -> str:
        said: dict[str, Any] = {
            "iss": self._issuer(),
            "sub": claims.subject,
            "aud": claims.client_id,
            "sid": str(claims.session_id),
            "jti": str(claims.token_id),
            "iat": _seconds(claims.issued_at),
            "exp": _seconds(claims.expires_at),
            "events": {_LOGOUT_EVENT: {}},
        }
        return await self._sign("logout+jwt", said)

    async def _sign(self, kind: str, claims: dict[str, Any]) -> str:
        ring = await self._current()
        header = {"alg": _ALGORITHM, "typ": kind, "kid": ring.newest}
        return jwt.encode(header, claims, ring.keys[ring.newest], algorithms=[_ALGORITHM])

    async def read_access(self, token: str) -> AccessClaims:
        ring = await self._current()
        try:
            return self._read(token, ring)
        except _UnknownKey:
            pass
        try:
            return self._read(token, await self._refetched(ring))
        except _UnknownKey:
            raise InvalidToken from None

    async def read_hint(self, token: str) -> IdHint:
        ring = await self._current()
        try:
            header, claims = self._decoded(token, ring.known)
            return self._checked_hint(header, claims)
        except Exception:  # noqa: BLE001 - a hostile text finds exceptions no one has listed
            raise InvalidToken from None

    def _checked_hint(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> IdHint:
        """The claims of an ID token of ours; anything odd raises something."""
        if header["typ"] != "JWT" or claims["iss"] != self._issuer() or "at_hash" not in claims:
            raise InvalidToken
        if not isinstance(claims["sub"], str) or not isinstance(claims["aud"], str):
            raise InvalidToken
        return IdHint(
            subject=claims["sub"], client_id=claims["aud"], session_id=UUID(claims["sid"])
        )

    async def public_keys(self) -> Sequence[Mapping[str, Any]]:
        ring = await self._current()
        return [key.as_dict(private=False) for key in ring.keys.values()]

    async def rotate(self) -> str:
        async with self._turn():
            readable = await asyncio.to_thread(self._open, await self._stored())
            before = [row for row in await self._stored() if row.signs]
            waiting = _oldest_waiting(row for row, _ in readable)
            kid = await (self._activate(waiting) if waiting else self._add_key(signs=True))
            async with self._storage() as uow:
                for row in before:
                    await uow.signing_keys.save(replace(row, retired_at=self._clock.now()))
                await uow.commit()
            self._ring = await self._from_storage()
        return kid

    async def prepare(self) -> None:
        async with self._turn():
            async with self._storage() as uow:
                kept = self._overlap + _HINTED
                await uow.signing_keys.forget(before=self._clock.now() - kept)
                await uow.commit()
            self._ring = await self._from_storage()
            readable = await asyncio.to_thread(self._open, await self._stored())
            if _oldest_waiting(row for row, _ in readable) is None:
                await self._add_key(signs=False)
                self._ring = await self._from_storage()

    async def revoke(self, kid: str) -> None:
        async with self._turn():
            found = [row for row in await self._stored() if row.kid == kid]
            if not found:
                raise NotFound("signing key")
            async with self._storage() as uow:
                await uow.signing_keys.save(replace(found[0], revoked_at=self._clock.now()))
                await uow.commit()
            self._ring = await self._from_storage()

    def _issuer(self) -> str:
        return self._named_issuer if isinstance(self._named_issuer, str) else self._named_issuer()

    # --- reading one token -----------------------------------------------------------------------

    def _read(self, token: str, ring: _Ring) -> AccessClaims:
        if len(token) > _LONGEST_TOKEN:
            raise InvalidToken
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        claims = ring.verified.get(digest)
        if claims is None:
            claims = self._verified(token, ring)
            if len(ring.verified) >= _VERIFIED_MOST:
                ring.verified.clear()
            ring.verified[digest] = claims
        if claims.expires_at <= self._clock.now():
            raise TokenExpired
        return claims

    def _decoded(
        self, token: str, keys: Mapping[str, RSAKey]
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Header and claims, once the signature is right; a hostile text raises anything."""
        if len(token) > _LONGEST_TOKEN:
            raise InvalidToken

        def named_key(guest: GuestProtocol) -> RSAKey:
            kid = guest.headers()["kid"]
            if kid not in keys:
                raise _UnknownKey
            return keys[kid]

        read = jwt.decode(token, named_key, algorithms=[_ALGORITHM])
        return read.header, read.claims

    def _verified(self, token: str, ring: _Ring) -> AccessClaims:
        try:
            return self._checked(*self._decoded(token, ring.keys))
        except _UnknownKey:
            raise
        except Exception:  # noqa: BLE001 - a hostile text finds exceptions no one has listed
            # Not even the reason goes to the log: it may quote the token.
            raise InvalidToken from None

    def _checked(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> AccessClaims:
        """The claims of a token whose signature is right; anything odd raises something.

        Source: RFC 9068 section 4. A token bound to a key of the client says so in `cnf`, in one
        way that we know (RFC 9449 section 6.1).
        """
        if header["typ"].lower() not in ("at+jwt", "application/at+jwt"):
            raise InvalidToken
        resources = self._resources_of(claims["aud"])
        bound = "cnf" in claims
        thumbprint = claims["cnf"]["jkt"] if bound else None
        if bound and (len(claims["cnf"]) != 1 or not isinstance(thumbprint, str)):
            raise InvalidToken
        if claims["iss"] != self._issuer():
            raise InvalidToken
        if not isinstance(claims["sub"], str) or not isinstance(claims["client_id"], str):
            raise InvalidToken
        return AccessClaims(
            subject=claims["sub"],
            client_id=claims["client_id"],
            grant_id=GrantId(UUID(claims["sid"])),
            scopes=frozenset(claims["scope"].split()),
            role=claims["roles"][0] if "roles" in claims else None,
            token_id=UUID(claims["jti"]),
            issued_at=_moment(claims["iat"]),
            expires_at=_moment(claims["exp"]),
            auth_time=_moment(claims["auth_time"]) if "auth_time" in claims else None,
            resources=resources,
            key_thumbprint=thumbprint,
        )

    def _resources_of(self, audience: object) -> tuple[str, ...]:
        """The APIs a token names, ours among them; none when it says so by our usual name."""
        if audience == self._audience:
            return ()
        named = (audience,) if isinstance(audience, str) else audience
        if not isinstance(named, list | tuple) or f"{self._issuer()}{API_PATH}" not in named:
            raise InvalidToken
        return tuple(str(name) for name in named)

    # --- keys ------------------------------------------------------------------------------------

    async def _current(self) -> _Ring:
        ring = self._ring
        if ring is not None and abs(self._clock.now() - ring.read_at) < _FRESH_FOR:
            return ring
        turn = self._turn()
        if ring is not None and turn.locked():
            return ring  # somebody is reading them anew, and these are good enough meanwhile
        return await self._reloaded(ring)

    async def _refetched(self, seen: _Ring) -> _Ring:
        """The keys read again for a token that names a strange one; not for every such token."""
        now, last = self._clock.now(), self._refetched_at
        if not self._turn().locked():
            if last is not None and abs(now - last) < _BETWEEN_REFETCHES:
                return seen
            self._refetched_at = now
        return await self._reloaded(seen)

    async def _reloaded(self, seen: _Ring | None) -> _Ring:
        async with self._turn():
            # Whoever had the turn before may have read them for us.
            if self._ring is None or self._ring is seen:
                self._ring = await self._from_storage()
            return self._ring

    def _turn(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a lock stays with the loop that has waited for it
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _from_storage(self) -> _Ring:
        """The keys as they are; where none signs yet, the next one begins to, or a new one.

        Two processes may both make the first. Then the newer one signs, and both verify.
        """
        now = self._clock.now()
        while True:
            opened = await asyncio.to_thread(self._open, await self._stored())
            signing = [row for row, _ in opened if row.signs]
            if signing:
                break
            waiting = _oldest_waiting(row for row, _ in opened)
            await (self._activate(waiting) if waiting else self._add_key(signs=True))
        return _Ring(
            keys={row.kid: key for row, key in opened if row.verifies(now, overlap=self._overlap)},
            known={row.kid: key for row, key in opened},
            newest=max(signing, key=lambda row: (row.activated_at or now, row.kid)).kid,
            read_at=now,
        )

    async def _stored(self) -> list[SigningKey]:
        # A key that has just been made must be seen.
        async with self._storage(reading="fresh") as uow:
            return [row for row in await uow.signing_keys.list() if row.revoked_at is None]

    async def _add_key(self, *, signs: bool) -> str:
        kid, sealed = await asyncio.to_thread(self._make)
        at = await self._later_than_all()
        async with self._storage() as uow:
            await uow.signing_keys.add(
                SigningKey(
                    kid=kid,
                    algorithm=_ALGORITHM,
                    sealed=sealed,
                    created_at=at,
                    activated_at=at if signs else None,
                )
            )
            await uow.commit()
        _log.info("made a signing key")
        return kid

    async def _activate(self, row: SigningKey) -> str:
        at = await self._later_than_all()
        async with self._storage() as uow:
            await uow.signing_keys.save(replace(row, activated_at=at))
            await uow.commit()
        return row.kid

    async def _later_than_all(self) -> datetime:
        """Now; a clock that steps back must not leave an older key signing."""
        rows = await self._stored()
        moments = [moment for row in rows for moment in (row.created_at, row.activated_at)]
        newest = max((moment for moment in moments if moment is not None), default=None)
        now = self._clock.now()
        return now if newest is None else max(now, newest + timedelta(microseconds=1))

    def _make(self) -> tuple[str, bytes]:
        """A new key, sealed: its id, and the private JWK under the installation's secret."""
        key = RSAKey.generate_key(_KEY_BITS, {"use": "sig", "alg": _ALGORITHM}, auto_kid=True)
        kid = key.thumbprint()
        nonce = os.urandom(_NONCE_BYTES)
        private = json.dumps(key.as_dict(private=True)).encode()
        return kid, nonce + _cipher(self._secret_key).encrypt(nonce, private, kid.encode())

    def _open(self, rows: Iterable[SigningKey]) -> list[tuple[SigningKey, RSAKey]]:
        known = {} if self._ring is None else self._ring.known
        opened: list[tuple[SigningKey, RSAKey]] = []
        for row in rows:
            key = known.get(row.kid) or self._unsealed(row)
            if key is not None:
                opened.append((row, key))
        return opened

    def _unsealed(self, row: SigningKey) -> RSAKey | None:
        nonce, sealed = row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:]
        try:
            private = _cipher(self._secret_key).decrypt(nonce, sealed, row.kid.encode())
        except (InvalidTag, ValueError):
            if row.kid not in self._unreadable:
                self._unreadable.add(row.kid)
                _log.warning(
                    "a signing key cannot be read with this SECRET_KEY; its tokens are refused",
                    extra={"kid": row.kid},
                )
            return None
        return RSAKey.import_key(json.loads(private))


@lru_cache(maxsize=1)
def _cipher(secret_key: str) -> AESGCM:
    """What seals the private keys; slow once, because people choose secrets that can be guessed."""
    # The salt is no secret: it keeps this key apart from others made of the same one.
    salt = b"savannah signing keys"
    return AESGCM(hashlib.scrypt(secret_key.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32))


def _oldest_waiting(rows: Iterable[SigningKey]) -> SigningKey | None:
    """The key that signs next: the one that others have had the longest time to fetch."""
    waiting = [row for row in rows if row.activated_at is None and row.retired_at is None]
    return min(waiting, key=lambda row: (row.created_at, row.kid), default=None)


def _one_or_list(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(seconds: object) -> datetime:
    if type(seconds) is not int:  # True is an int, and a fraction is not ours
        raise InvalidToken
    return datetime.fromtimestamp(seconds, UTC)
