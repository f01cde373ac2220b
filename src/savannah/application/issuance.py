"""Use cases of the endpoints where clients get, show and give back tokens.

Sources: RFC 6749 sections 4 to 6, RFC 9700 for refresh tokens, RFC 7662 for introspection, RFC 7009
for revocation, OpenID Connect Core section 5.3 for userinfo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from savannah.application.identity import AuditLog, IdentitySettings
from savannah.application.logins import Logins
from savannah.application.minting import REFRESH_PREFIX, Mint
from savannah.application.ports import Clock, Randomness, Session, Storage, UnitOfWork
from savannah.domain.access import IDENTITY_SCOPES, OFFLINE, scope_text, scopes_of
from savannah.domain.clients import Client, ClientType, GrantType
from savannah.domain.errors import (
    AccountDisabled,
    InsufficientScope,
    SavannahError,
    Unauthenticated,
)
from savannah.domain.identity import Grant, GrantId, RefreshToken, User, digest
from savannah.domain.oauth import (
    OAuthError,
    Parameters,
    code_verifier,
    granted_scopes,
    known_resources,
    narrowed_scopes,
)

INACTIVE: Final[dict[str, object]] = {"active": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What the token endpoint answers; `expires_in` counts seconds."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: int
    scope: str
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


class Issuance:
    """Exchanges codes, refresh tokens and clients' own names for tokens, and tells about tokens."""

    def __init__(
        self,
        *,
        storage: Storage,
        logins: Logins,
        mint: Mint,
        audit: AuditLog,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
        resources: Sequence[str],
        issuer: str,
    ) -> None:
        self._storage = storage
        self._logins = logins
        self._mint = mint
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._resources = tuple(resources)
        self._issuer = issuer

    async def issue(
        self,
        parameters: Parameters,
        client: Client,
        *,
        key_thumbprint: str | None = None,
        request_id: str | None = None,
    ) -> Issued:
        """Tokens for a client that has shown who it is.

        Args:
            key_thumbprint: of the key whose holder alone may use the access token.

        Raises: OAuthError.
        """
        parameters.require_single(but=("resource",))
        asked = parameters.required("grant_type")
        if asked not in tuple(GrantType):
            raise OAuthError("unsupported_grant_type", "The grant type is not supported")
        kind = GrantType(asked)
        if kind not in client.grant_types:
            raise OAuthError("unauthorized_client", "The client may not use this grant")
        if kind is GrantType.AUTHORIZATION_CODE:
            return await self._redeem(parameters, client, key_thumbprint, request_id)
        if kind is GrantType.REFRESH_TOKEN:
            return await self._refresh(parameters, client, key_thumbprint, request_id)
        return await self._for_machine(parameters, client, key_thumbprint, request_id)

    # --- authorization codes ---------------------------------------------------------------------

    async def _redeem(
        self,
        parameters: Parameters,
        client: Client,
        key_thumbprint: str | None,
        request_id: str | None,
    ) -> Issued:
        now = self._clock.now()
        code_digest = digest(parameters.required("code"))
        verifier = code_verifier(parameters)
        async with self._storage() as uow:
            code = await uow.handshakes.find_code(code_digest)
            if code is None or code.client_id != client.client_id:
                raise _no_grant("The code is not one of this client")
            session = await uow.grants.session(code.grant_id)
            if code.consumed_at is not None:
                await self._refuse_reuse(uow, session, client, "code_replayed", request_id)
            if code.expires_at <= now:
                raise _no_grant("The code has expired")
            if code.redirect_uri != parameters.one("redirect_uri"):
                raise _no_grant("The redirect_uri is not that of the code")
            if not code.fits(verifier):
                raise _no_grant("The code_verifier does not fit")
            grant, user = self._standing(session)
            resources = self._narrowed_resources(parameters, grant)
            # Of several at once one comes through here; the others have replayed the code.
            if not await uow.handshakes.consume_code(code_digest, at=now):
                await self._refuse_reuse(uow, session, client, "code_replayed", request_id)
            refresh_token: str | None = None
            if self._mint.may_refresh(grant, client):
                refresh_token = self._mint.new_refresh()
                await self._mint.keep_refresh(
                    uow, grant, refresh_token, key_thumbprint=_holder(client, key_thumbprint)
                )
            await uow.commit()
        return await self._issued(
            grant,
            (user, client),
            resources=resources,
            key_thumbprint=key_thumbprint,
            refresh_token=refresh_token,
            nonce=grant.nonce,
        )

    # --- refresh tokens --------------------------------------------------------------------------

    async def _refresh(
        self,
        parameters: Parameters,
        client: Client,
        key_thumbprint: str | None,
        request_id: str | None,
    ) -> Issued:
        now = self._clock.now()
        old = digest(parameters.required("refresh_token"))
        successor = self._mint.new_refresh()
        async with self._storage() as uow:
            token = await uow.grants.find_refresh(old)
            session = None if token is None else await uow.grants.session(token.grant_id)
            if token is None or session is None or session.grant.client_id != client.client_id:
                raise _no_grant("The refresh token is not one of this client")
            if token.key_thumbprint not in (None, key_thumbprint):
                raise _no_grant("The refresh token is bound to another key")
            grant, user = self._standing(session)
            scopes = narrowed_scopes(parameters.one("scope"), grant.scopes)
            resources = self._narrowed_resources(parameters, grant)
            used = None if token.consumed_at is None else token
            if used is None:
                if token.expires_at <= now:
                    raise _no_grant("The refresh token has expired")
                # Of several at once one uses it up; the others come after it.
                if not await uow.grants.consume_refresh(old, digest(successor), at=now):
                    used = await uow.grants.find_refresh(old)
            if used is not None and not await self._is_forgivable(uow, used):
                await self._refuse_reuse(uow, session, client, "refresh_reused", request_id)
            await self._mint.keep_refresh(
                uow, grant, successor, key_thumbprint=token.key_thumbprint
            )
            await uow.commit()
        return await self._issued(
            grant,
            (user, client),
            resources=resources,
            key_thumbprint=key_thumbprint,
            refresh_token=successor,
            scopes=scopes,
        )

    async def _is_forgivable(self, uow: UnitOfWork, used: RefreshToken) -> bool:
        """Whether a client that lost the answer may ask again: shortly, and before it went on."""
        assert used.consumed_at is not None
        assert used.successor is not None
        if self._clock.now() - used.consumed_at >= self._settings.refresh_grace:
            return False
        successor = await uow.grants.find_refresh(used.successor)
        return successor is not None and successor.consumed_at is None

    # --- clients' own tokens ---------------------------------------------------------------------

    async def _for_machine(
        self,
        parameters: Parameters,
        client: Client,
        key_thumbprint: str | None,
        request_id: str | None,
    ) -> Issued:
        """Source: RFC 6749 section 4.4. No refresh token and no ID token."""
        if client.client_type is ClientType.PUBLIC:
            raise OAuthError("unauthorized_client", "The client cannot keep a secret")
        words = (parameters.one("scope") or "").split(" ")
        scopes = granted_scopes(words, client, None) - {*IDENTITY_SCOPES}
        if not scopes:
            raise OAuthError("invalid_scope", "Nothing of the scope can be granted")
        grant = Grant(
            id=GrantId(self._randomness.uuid()),
            user_id=None,
            client_id=client.client_id,
            scopes=scopes,
            created_at=self._clock.now(),
            resources=known_resources(parameters, self._resources),
        )
        async with self._storage() as uow:
            await uow.grants.add(grant)
            await self._audit.record(
                uow, "client.logged_in", client.id, f"client:{client.client_id}", request_id
            )
            await uow.commit()
        return await self._issued(
            grant, (None, client), resources=grant.resources, key_thumbprint=key_thumbprint
        )

    # --- what they share -------------------------------------------------------------------------

    def _standing(self, session: Session | None) -> tuple[Grant, User]:
        """A person's grant that still holds. Raises: OAuthError."""
        if session is None or session.grant.revoked_at is not None:
            raise _no_grant("The grant was revoked")
        user = session.user
        if user is None or not user.is_active:
            raise _no_grant("The account is gone or disabled")
        return session.grant, user

    def _narrowed_resources(self, parameters: Parameters, grant: Grant) -> tuple[str, ...]:
        return known_resources(parameters, grant.resources or self._resources)

    async def _issued(
        self,
        grant: Grant,
        whose: tuple[User | None, Client],
        *,
        resources: tuple[str, ...],
        key_thumbprint: str | None,
        refresh_token: str | None = None,
        scopes: frozenset[str] | None = None,
        nonce: str | None = None,
    ) -> Issued:
        user, client = whose
        wanted = grant.scopes if scopes is None else scopes
        if user is not None:  # the role, or the app, may have less than when it was granted
            wanted &= (scopes_of(user.role) & client.scopes) | {OFFLINE}
        access_token, expires_in = await self._mint.access(
            grant, user, scopes=wanted, resources=resources, key_thumbprint=key_thumbprint
        )
        id_token: str | None = None
        if user is not None and "openid" in wanted:
            id_token = await self._mint.id(grant, user, access_token, nonce=nonce)
        return Issued(
            access_token=access_token,
            token_type="Bearer" if key_thumbprint is None else "DPoP",
            expires_in=expires_in,
            scope=scope_text(wanted),
            refresh_token=refresh_token,
            id_token=id_token,
        )

    async def _refuse_reuse(
        self,
        uow: UnitOfWork,
        session: Session | None,
        client: Client,
        action: str,
        request_id: str | None,
    ) -> NoReturn:
        """End the grant of a code or token that came twice: one of the two was stolen.

        Raises: OAuthError, in every case.
        """
        await self._revoke(uow, session, client, action, request_id)
        await uow.commit()
        raise _no_grant("This was used before")

    async def _revoke(
        self,
        uow: UnitOfWork,
        session: Session | None,
        client: Client,
        action: str,
        request_id: str | None,
    ) -> None:
        """End a grant and everything that came of it."""
        if session is None or session.grant.revoked_at is not None:
            return
        await uow.grants.revoke(session.grant.id, at=self._clock.now())
        who = session.grant.user_id or client.id
        kind = "user" if session.grant.user_id else "client"
        actor, app = f"client:{client.client_id}", client.client_id
        await self._audit.record(uow, f"{kind}.{action}", who, actor, request_id, client=app)

    # --- telling about tokens --------------------------------------------------------------------

    async def user_claims(
        self, token: str, *, key_thumbprint: str | None = None
    ) -> dict[str, object]:
        """What an app may know of the person behind an access token; absent rather than null.

        Raises:
            InvalidToken, TokenExpired, TokenRevoked, AccountDisabled; InsufficientScope for a
            token without `openid`, or without a person.
        """
        live = await self._logins.live(token, key_thumbprint=key_thumbprint)
        user = live.user
        if user is None or "openid" not in live.scopes:
            raise InsufficientScope("openid")
        claims: dict[str, object] = {"sub": str(user.id)}
        if "profile" in live.scopes:
            name = " ".join(part for part in (user.first_name, user.last_name) if part)
            named = {
                "name": name,
                "given_name": user.first_name,
                "family_name": user.last_name,
                "preferred_username": user.username,
            }
            claims |= {key: value for key, value in named.items() if value}
        if "email" in live.scopes and user.email is not None:
            claims |= {"email": user.email, "email_verified": False}
        return claims

    async def introspect(self, token: str, client: Client) -> dict[str, object]:
        """What a token is worth now, for its own client or a resource server.

        Everything else, ours or not, is just not active.
        """
        if token.startswith(REFRESH_PREFIX):
            return await self._introspect_refresh(token, client)
        try:
            claims = await self._logins.peek(token)
        except (Unauthenticated, AccountDisabled):
            return dict(INACTIVE)
        if not _may_see(client, claims.claims.client_id):
            return dict(INACTIVE)
        said, user = claims.claims, claims.user
        found: dict[str, object] = {
            "active": True,
            "scope": scope_text(claims.scopes),
            "client_id": said.client_id,
            "token_type": "Bearer" if said.key_thumbprint is None else "DPoP",
            "exp": int(said.expires_at.timestamp()),
            "iat": int(said.issued_at.timestamp()),
            "sub": said.subject,
            "aud": list(said.resources) or self._resources[0],
            "iss": self._issuer,
            "jti": str(said.token_id),
        }
        if user is not None:
            found["username"] = user.username
        if said.key_thumbprint is not None:
            found["cnf"] = {"jkt": said.key_thumbprint}
        return found

    async def _introspect_refresh(self, token: str, client: Client) -> dict[str, object]:
        async with self._storage(reading="fresh") as uow:
            kept = await uow.grants.find_refresh(digest(token))
            session = None if kept is None else await uow.grants.session(kept.grant_id)
        if kept is None or session is None or not _may_see(client, session.grant.client_id):
            return dict(INACTIVE)
        try:
            grant, user = self._standing(session)
        except OAuthError:
            return dict(INACTIVE)
        if kept.consumed_at is not None or kept.expires_at <= self._clock.now():
            return dict(INACTIVE)
        return {
            "active": True,
            "scope": scope_text(grant.scopes),
            "client_id": grant.client_id,
            "username": user.username,
            "exp": int(kept.expires_at.timestamp()),
            "iat": int(kept.issued_at.timestamp()),
            "sub": str(user.id),
            "iss": self._issuer,
        }

    async def revoke(self, token: str, client: Client, *, request_id: str | None = None) -> None:
        """End the grant of a token, refresh and access tokens together; unknown ones are fine.

        Raises: OAuthError, `invalid_grant`, for a token of another client, which stays.
        """
        if token.startswith(REFRESH_PREFIX):
            async with self._storage(reading="fresh") as uow:
                kept = await uow.grants.find_refresh(digest(token))
            grant_id = None if kept is None else kept.grant_id
        else:
            try:
                grant_id = (await self._logins.peek(token)).claims.grant_id
            except SavannahError:
                return
        if grant_id is None:
            return
        async with self._storage() as uow:
            session = await uow.grants.session(grant_id)
            if session is not None and session.grant.client_id != client.client_id:
                raise _no_grant("The token is not one of this client")
            await self._revoke(uow, session, client, "token_revoked", request_id)
            await uow.commit()


def _holder(client: Client, key_thumbprint: str | None) -> str | None:
    """A client without a secret keeps its refresh tokens to one key (RFC 9449 section 5)."""
    return key_thumbprint if client.client_type is ClientType.PUBLIC else None


def _may_see(client: Client, owner: str) -> bool:
    return client.client_id == owner or client.metadata.resource_server


def _no_grant(description: str) -> OAuthError:
    return OAuthError("invalid_grant", description)
