"""Reading what clients sign with keys of their own: assertions and proofs of possession.

The keys come from the client's registration or from the proof itself; the algorithms are ours to
choose and never the text's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from joserfc import jws, jwt
from joserfc.jwk import ECKey, GuestProtocol, RSAKey

from savannah.application.ports import Assertion, ForeignProofs, KeyProof
from savannah.domain.errors import InvalidToken

_log = logging.getLogger("savannah.tokens")

T = TypeVar("T")

ASSERTION_ALGORITHMS: Final = ("RS256", "PS256", "ES256")
KEY_PROOF_ALGORITHMS: Final = ("ES256", "RS256", "PS256")
_LONGEST: Final = 8192
_RSA_LEAST: Final = 2048
_HEADERS: Final = jws.JWSRegistry(algorithms=[*ASSERTION_ALGORITHMS], strict_check_header=False)
_HEADERS.max_header_length = 4096  # a proof carries its key there
_PUBLIC_OF_EC: Final = ("kty", "crv", "x", "y", "kid", "use", "alg")
_PUBLIC_OF_RSA: Final = ("kty", "n", "e", "kid", "use", "alg")


class JoseProofs(ForeignProofs):
    """Reads RS256, PS256 and ES256, with joserfc."""

    async def read_assertion(self, assertion: str, jwks: Mapping[str, object]) -> Assertion:
        def read() -> Assertion:
            keys = _usable(jwks)

            def named(guest: GuestProtocol) -> RSAKey | ECKey:
                return _pick(keys, guest.headers())

            token = jwt.decode(
                assertion, named, algorithms=[*ASSERTION_ALGORITHMS], registry=_HEADERS
            )
            return _assertion(token.claims)

        return await _guarded(assertion, read)

    async def claimed_issuer(self, assertion: str) -> str:
        def read() -> str:
            claims = jws.extract_compact(assertion.encode(), registry=_HEADERS)
            return _text(json.loads(claims.payload), "iss")

        return await _guarded(assertion, read)

    async def read_key_proof(self, proof: str) -> KeyProof:
        def read() -> KeyProof:
            seen: list[RSAKey | ECKey] = []

            def own(guest: GuestProtocol) -> RSAKey | ECKey:
                header = guest.headers()
                if header["typ"] != "dpop+jwt" or header["jwk"].get("d") is not None:
                    raise InvalidToken
                seen.append(_key(header["jwk"]))
                return seen[0]

            token = jwt.decode(proof, own, algorithms=[*KEY_PROOF_ALGORITHMS], registry=_HEADERS)
            claims = token.claims
            digest = claims.get("ath")
            if not isinstance(digest, str | None):
                raise InvalidToken
            return KeyProof(
                thumbprint=seen[0].thumbprint(),
                method=_text(claims, "htm"),
                uri=_text(claims, "htu"),
                token_id=_text(claims, "jti"),
                issued_at=_moment(claims["iat"]),
                token_digest=digest,
            )

        return await _guarded(proof, read)


async def _guarded(text: str, read: Callable[[], T]) -> T:
    """What was read, or InvalidToken: a hostile text finds exceptions that no one has listed."""
    if len(text) > _LONGEST:
        raise InvalidToken
    try:
        return await asyncio.to_thread(read)
    except Exception:  # noqa: BLE001 - see above
        # Not even the reason goes to the log: it may quote the text.
        raise InvalidToken from None


def _usable(jwks: Mapping[str, object]) -> list[RSAKey | ECKey]:
    """One key at a time: a single odd one must not cost the others."""
    keys: list[RSAKey | ECKey] = []
    listed = jwks.get("keys")
    for one in listed if isinstance(listed, list) else ():
        try:
            keys.append(_key(one))
        except Exception:  # noqa: BLE001 - see `_guarded`
            _log.info("a key in the registration of a client cannot be used")
    return keys


def _key(jwk: Mapping[str, Any]) -> RSAKey | ECKey:
    if jwk["kty"] == "RSA":
        key = RSAKey.import_key({name: jwk[name] for name in _PUBLIC_OF_RSA if name in jwk})
        if key.raw_value.key_size < _RSA_LEAST:
            raise InvalidToken
        return key
    if jwk["kty"] == "EC" and jwk["crv"] == "P-256":
        return ECKey.import_key({name: jwk[name] for name in _PUBLIC_OF_EC if name in jwk})
    raise InvalidToken


def _pick(keys: list[RSAKey | ECKey], header: Mapping[str, Any]) -> RSAKey | ECKey:
    kty = "EC" if header["alg"] == "ES256" else "RSA"
    fitting = [key for key in keys if key.key_type == kty]
    if "kid" in header:
        fitting = [key for key in fitting if key.kid == header["kid"]]
    (key,) = fitting
    return key


def _assertion(claims: Mapping[str, Any]) -> Assertion:
    audience = claims["aud"]
    audiences = (audience,) if isinstance(audience, str) else tuple(audience)
    return Assertion(
        issuer=_text(claims, "iss"),
        subject=_text(claims, "sub"),
        audiences=audiences,
        token_id=_text(claims, "jti"),
        expires_at=_moment(claims["exp"]),
        not_before=_moment(claims["nbf"]) if "nbf" in claims else None,
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str) or not value:
        raise InvalidToken
    return value


def _moment(seconds: object) -> datetime:
    if type(seconds) not in (int, float):  # True is an int
        raise InvalidToken
    return datetime.fromtimestamp(seconds, UTC)  # type: ignore[arg-type]  # checked above
