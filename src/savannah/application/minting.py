"""Making the tokens of a grant."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from savannah.application.identity import IdentitySettings
from savannah.application.ports import (
    AccessClaims,
    Clock,
    IdClaims,
    Randomness,
    Tokens,
    UnitOfWork,
)
from savannah.domain.access import OFFLINE
from savannah.domain.clients import Client, GrantType
from savannah.domain.identity import ALPHANUMERIC, SECRET_LENGTH, Grant, RefreshToken, User, digest

REFRESH_PREFIX: Final = "rt_"
ID_TOKEN_MOST: Final = timedelta(hours=1)


class Mint:
    """Access, ID and refresh tokens; whether they stand is the grant's to say."""

    def __init__(
        self, *, tokens: Tokens, clock: Clock, randomness: Randomness, settings: IdentitySettings
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

    async def access(
        self,
        grant: Grant,
        user: User | None,
        *,
        scopes: frozenset[str] | None = None,
        resources: tuple[str, ...] = (),
        key_thumbprint: str | None = None,
    ) -> tuple[str, int]:
        """A token for a grant, and how many seconds it lives."""
        lifetime, now = self._settings.access_token_ttl, self._clock.now()
        token = await self._tokens.sign_access(
            AccessClaims(
                subject=grant.client_id if user is None else str(user.id),
                client_id=grant.client_id,
                grant_id=grant.id,
                scopes=grant.scopes if scopes is None else scopes,
                role=None if user is None else user.role.value,
                token_id=self._randomness.uuid(),
                issued_at=now,
                expires_at=now + lifetime,
                auth_time=None if user is None else grant.auth_time or grant.created_at,
                resources=resources or grant.resources,
                key_thumbprint=key_thumbprint,
            )
        )
        return token, int(lifetime.total_seconds())

    async def id(
        self, grant: Grant, user: User, access_token: str, *, nonce: str | None = None
    ) -> str:
        """An ID token that belongs to an access token."""
        lifetime, now = min(self._settings.access_token_ttl, ID_TOKEN_MOST), self._clock.now()
        return await self._tokens.sign_id(
            IdClaims(
                subject=str(user.id),
                client_id=grant.client_id,
                session_id=grant.session_id or grant.id,
                issued_at=now,
                expires_at=now + lifetime,
                auth_time=grant.auth_time or grant.created_at,
                access_token=access_token,
                nonce=nonce,
            )
        )

    def may_refresh(self, grant: Grant, client: Client) -> bool:
        """Whether a grant comes with a refresh token (OpenID Connect Core section 11).

        First-party apps need no `offline_access` for that; theirs end with the browser session.
        """
        if GrantType.REFRESH_TOKEN not in client.grant_types:
            return False
        return client.first_party or OFFLINE in grant.scopes or "openid" not in grant.scopes

    def new_refresh(self) -> str:
        return REFRESH_PREFIX + self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH)

    async def keep_refresh(
        self, uow: UnitOfWork, grant: Grant, token: str, *, key_thumbprint: str | None = None
    ) -> None:
        """Store a refresh token of a grant: it ends when nobody uses it, and with its family."""
        now = self._clock.now()
        family_ends = grant.created_at + self._settings.refresh_family_ttl
        await uow.grants.add_refresh(
            RefreshToken(
                digest=digest(token),
                grant_id=grant.id,
                issued_at=now,
                expires_at=min(now + self._settings.refresh_token_ttl, family_ends),
                key_thumbprint=key_thumbprint,
            )
        )
