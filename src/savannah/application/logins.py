"""Use cases on logins: the password door, logout, and whose a request is."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from savannah.application.identity import AuditLog, ClientSecrets
from savannah.application.minting import Mint
from savannah.application.passwords import Passwords, Proof
from savannah.application.ports import (
    AccessClaims,
    Clock,
    Randomness,
    Storage,
    Tokens,
    TrustedIssuers,
)
from savannah.domain.access import (
    OFFLINE,
    PROFILE_SCOPES,
    Caller,
    Role,
    Scope,
    expand,
    scope_text,
    scopes_of,
)
from savannah.domain.clients import AuthMethod, Client, is_plain
from savannah.domain.errors import (
    AccountDisabled,
    Invalid,
    InvalidToken,
    RoleForbidden,
    TokenRevoked,
)
from savannah.domain.identity import Grant, GrantId, User, digest
from savannah.domain.trusted_issuers import ExternalIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a login gives; `expires_in` counts seconds.

    `refresh_token` is None for an app without that grant type, `id_token` without `openid`.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    id_token: str | None = field(repr=False)
    expires_in: int
    scope: str
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What a live access token allows now; `iat` and `exp` are seconds since 1970.

    A machine client's token has neither user name nor role. One of a trusted issuer has no user
    name, and the issuer for the name of the client.
    """

    active: bool = True
    token_type: str
    sub: str
    username: str | None
    role: Role | None
    client_id: str
    client_name: str
    scope: str
    iat: int
    exp: int
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveToken:
    """A token whose grant stands: what it says, whose it is, and what it allows now."""

    claims: AccessClaims
    user: User | None
    client: Client
    scopes: frozenset[str]


class Logins:
    """Tokens for people, and what a token allows."""

    def __init__(
        self,
        *,
        storage: Storage,
        tokens: Tokens,
        passwords: Passwords,
        mint: Mint,
        audit: AuditLog,
        secrets: ClientSecrets,
        clock: Clock,
        randomness: Randomness,
        issuers: TrustedIssuers | None = None,
    ) -> None:
        self._issuers = issuers
        self._storage = storage
        self._tokens = tokens
        self._passwords = passwords
        self._mint = mint
        self._audit = audit
        self._secrets = secrets
        self._clock = clock
        self._randomness = randomness

    async def login(
        self,
        *,
        username: str,
        password: str,
        client_id: str,
        client_secret: str | None = None,
        scope: str | None = None,
        address: str,
        request_id: str | None = None,
    ) -> Login:
        """Exchange a password for tokens, through a first-party app.

        `username` may be the e-mail address. Without `scope` the tokens allow all the role does.
        An unknown user costs as much time as a wrong password and gives the same answer.

        Raises:
            InvalidClient, InvalidCredentials, TooManyAttempts; AccountDisabled, and only with the
            right password; Invalid at `scope` when nothing of it can be granted.
        """
        async with self._storage(reading="fresh") as uow:
            client = await uow.clients.find(client_id) if is_plain(client_id) else None
        if client is not None and not (client.first_party and client.is_active):
            client = None
        # Who has registered a key as the only way is not let in with the secret from before.
        method = None if client is None else client.metadata.token_endpoint_auth_method
        if method is AuthMethod.PRIVATE_KEY_JWT:
            client = None
        client = await self._secrets.check(
            client, client_id, client_secret, address=address, request_id=request_id
        )
        while True:
            proof = await self._passwords.prove(
                username=username,
                password=password,
                client=client,
                address=address,
                request_id=request_id,
            )
            opened = await self._open_grant(proof, scope)
            if opened is not None:
                break  # else the password was changed meanwhile, so this one is looked at again
        await self._passwords.forget_failures(proof)
        grant, user, refresh_token = opened
        access_token, expires_in = await self._mint.access(grant, user)
        return Login(
            access_token=access_token,
            refresh_token=refresh_token,
            id_token=await self._mint.id(grant, user, access_token)
            if "openid" in grant.scopes
            else None,
            expires_in=expires_in,
            scope=scope_text(grant.scopes),
            user=user,
        )

    async def _open_grant(
        self, proof: Proof, scope: str | None
    ) -> tuple[Grant, User, str | None] | None:
        """The grant, its user as of now, and a refresh token; None when the password changed."""
        client = proof.client
        async with self._storage() as uow:
            user = await self._passwords.admit(uow, proof)
            if user is None:
                return None
            grant = Grant(
                id=GrantId(self._randomness.uuid()),
                user_id=user.id,
                client_id=client.client_id,
                scopes=_granted(scope, user.role, client),
                created_at=self._clock.now(),
            )
            await uow.grants.add(grant)
            refresh_token: str | None = None
            if self._mint.may_refresh(grant, client):
                refresh_token = self._mint.new_refresh()
                await self._mint.keep_refresh(uow, grant, refresh_token)
            await uow.commit()
        return grant, user, refresh_token

    async def logout(self, *, by: Caller, refresh_token: str | None = None) -> None:
        """End the login this request came with, and that of `refresh_token` if it is theirs.

        A refresh token of somebody else, or of no one, changes nothing.

        Raises: RoleForbidden, when the caller did not come with a token of ours.
        """
        if by.grant_id is None:
            raise RoleForbidden("There is no login to end")
        now = self._clock.now()
        async with self._storage() as uow:
            session = await uow.grants.session(GrantId(by.grant_id))
            if session is None:
                return
            own = session.grant
            await uow.grants.revoke(own.id, at=now)
            found = await uow.grants.find_refresh(digest(refresh_token)) if refresh_token else None
            other = await uow.grants.find(found.grant_id) if found else None
            if other and (other.user_id, other.client_id) == (own.user_id, own.client_id):
                await uow.grants.revoke(other.id, at=now)
            if (subject := session.user or session.client) is not None:
                action = "user.logged_out" if session.user else "client.logged_out"
                await self._audit.record(uow, action, subject.id, by.principal, by.request_id)
            await uow.commit()

    async def authenticate(
        self, token: str, *, key_thumbprint: str | None = None, request_id: str | None = None
    ) -> Caller:
        """Whose request this is, from its access token; the role is the one of this moment.

        `key_thumbprint` is as for `live`. A token of a trusted issuer makes a caller without an
        account. It cannot be revoked here.

        Raises: InvalidToken, TokenExpired, TokenRevoked, AccountDisabled; Unavailable.
        """
        if self._issuers is not None and (found := await self._issuers.read(token)) is not None:
            if key_thumbprint is not None:
                raise InvalidToken  # it is bound to no key
            return found.caller(request_id=request_id)
        live = await self.live(token, key_thumbprint=key_thumbprint)
        user, client = live.user, live.client
        return Caller(
            principal=f"user:{user.id}" if user else f"client:{client.client_id}",
            permissions=frozenset(scope for scope in Scope if scope in live.scopes),
            role=user.role if user else None,
            user_id=user.id if user else None,
            client_id=client.client_id,
            grant_id=live.claims.grant_id,
            account=_account_access(client, live.scopes),
            request_id=request_id,
        )

    async def token_info(self, token: str) -> TokenInfo:
        """What an access token allows at this moment, and for how long.

        Whoever asks has used it for this very request, proof of its key and all.

        Raises: as `authenticate`.
        """
        if self._issuers is not None and (found := await self._issuers.read(token)) is not None:
            return self._external_info(found)
        live = await self.peek(token)
        claims, user = live.claims, live.user
        left = claims.expires_at - self._clock.now()
        return TokenInfo(
            token_type="Bearer" if claims.key_thumbprint is None else "DPoP",
            sub=claims.subject,
            username=user.username if user else None,
            role=user.role if user else None,
            client_id=live.client.client_id,
            client_name=live.client.name,
            scope=scope_text(live.scopes),
            iat=int(claims.issued_at.timestamp()),
            exp=int(claims.expires_at.timestamp()),
            expires_in=max(0, int(left.total_seconds())),
        )

    def _external_info(self, found: ExternalIdentity) -> TokenInfo:
        left = found.expires_at - self._clock.now()
        return TokenInfo(
            token_type="Bearer",  # noqa: S106  the name of a kind
            sub=found.subject,
            username=None,
            role=found.role,
            client_id=found.client or found.issuer,
            client_name=found.issuer,
            scope=scope_text(found.permissions),
            iat=int(found.issued_at.timestamp()),
            exp=int(found.expires_at.timestamp()),
            expires_in=max(0, int(left.total_seconds())),
        )

    async def live(self, token: str, *, key_thumbprint: str | None = None) -> LiveToken:
        """A token that was not revoked, whose it is, and what it allows at this moment.

        Args:
            key_thumbprint: of the key whose holder the caller has proved to be (RFC 9449). A
                token that is bound to a key is good with that one only, and never by itself.

        Raises: InvalidToken, TokenExpired, TokenRevoked, AccountDisabled.
        """
        claims = await self._tokens.read_access(token)
        if claims.key_thumbprint != key_thumbprint:
            raise InvalidToken
        return await self._standing(claims)

    async def peek(self, token: str) -> LiveToken:
        """As `live`, for whoever looks at somebody's token and does not use it."""
        return await self._standing(await self._tokens.read_access(token))

    async def _standing(self, claims: AccessClaims) -> LiveToken:
        # Older data would let a token outlive its logout, and refuse one that was just given.
        async with self._storage(reading="fresh") as uow:
            session = await uow.grants.session(claims.grant_id)
        if session is None:
            raise TokenRevoked
        grant, user, client = session.grant, session.user, session.client
        if user is not None and not user.is_active:
            raise AccountDisabled
        if grant.revoked_at is not None or client is None or not client.is_active:
            raise TokenRevoked
        if user is None and grant.user_id is not None:
            raise TokenRevoked
        scopes = claims.scopes & client.scopes
        if user is not None:
            scopes &= scopes_of(user.role)
        # It allows nothing at the API, so neither role nor app has it.
        scopes |= claims.scopes & {OFFLINE}
        return LiveToken(claims=claims, user=user, client=client, scopes=scopes)


def _account_access(client: Client, scopes: AbstractSet[str]) -> Literal["change", "read", "none"]:
    if client.first_party:
        return "change"
    return "read" if scopes >= PROFILE_SCOPES else "none"


def _granted(scope: str | None, role: Role, client: Client) -> frozenset[str]:
    """What of the scopes asked for both the role and the app may have; all of it when none are."""
    allowed = scopes_of(role) & client.scopes
    asked = [word for word in (scope or "").split(" ") if word]  # RFC 6749 section 3.3
    granted = expand(asked) & allowed if asked else allowed
    if not granted:
        raise Invalid.one("scope", "invalid_choice", "Nothing of this can be granted")
    return granted
