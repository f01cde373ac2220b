"""Proofs that a caller holds a key, so that a stolen token is worth nothing (RFC 9449)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta
from typing import Final

from savannah.application.ports import Clock, ForeignProofs, Storage, Tokens
from savannah.domain.errors import InvalidToken
from savannah.domain.identity import digest
from savannah.domain.oauth import OAuthError

FRESH_FOR: Final = timedelta(seconds=60)


class KeyProofs:
    """Checks DPoP proofs; each is good for one request."""

    def __init__(
        self, *, storage: Storage, tokens: Tokens, proofs: ForeignProofs, clock: Clock
    ) -> None:
        self._storage = storage
        self._tokens = tokens
        self._proofs = proofs
        self._clock = clock

    async def holder(self, proof: str, *, method: str, uri: str, token: str | None = None) -> str:
        """The thumbprint of the key whose holder makes this request.

        Args:
            uri: of the request, without query.
            token: the access token that came with it, where one did.

        Raises:
            OAuthError: `invalid_dpop_proof`.
            InvalidToken, TokenExpired: of the token, before anything is kept of the proof; else
                anybody could make us keep one after the other.
        """
        bound_to = None if token is None else (await self._tokens.read_access(token)).key_thumbprint
        now = self._clock.now()
        try:
            said = await self._proofs.read_key_proof(proof)
        except InvalidToken:
            raise _refused() from None
        bound = None if token is None else _token_digest(token)
        fits = (
            said.method == method
            and said.uri.partition("?")[0].partition("#")[0] == uri
            and abs(now - said.issued_at) <= FRESH_FOR
            and (bound is None or hmac.compare_digest(bound, (said.token_digest or "").encode()))
        )
        if not fits or (token is not None and said.thumbprint != bound_to):
            raise _refused()
        async with self._storage() as uow:
            first = await uow.handshakes.claim(
                digest(f"proof {said.thumbprint} {said.token_id}"),
                expires_at=said.issued_at + 2 * FRESH_FOR,
            )
            await uow.commit()
        if not first:
            raise _refused()
        return said.thumbprint


def _token_digest(token: str) -> bytes:
    """The `ath` of a token (RFC 9449 section 4.2)."""
    hashed = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(hashed).rstrip(b"=")


def _refused() -> OAuthError:
    return OAuthError("invalid_dpop_proof", "The DPoP proof does not fit this request")
