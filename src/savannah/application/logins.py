"""Use cases on logins: the password door, logout, and whose a request is.

Passwords are hashed outside any transaction, because that is slow on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from savannah.application.identity import AuditLog, ClientSecrets, IdentitySettings, LoginLock
from savannah.application.ports import (
    AccessClaims,
    Clock,
    IdClaims,
    PasswordHasher,
    Randomness,
    Storage,
    Tokens,
    TrustedIssuers,
)
from savannah.domain.access import (
    IDENTITY_SCOPES,
    ROLE_SCOPES,
    Caller,
    Role,
    Scope,
    expand,
    scope_text,
)
from savannah.domain.errors import (
    AccountDisabled,
    Invalid,
    InvalidCredentials,
    RoleForbidden,
    TokenRevoked,
)
from savannah.domain.identity import (
    ALPHANUMERIC,
    SECRET_LENGTH,
    Client,
    Grant,
    GrantId,
    GrantType,
    RefreshToken,
    User,
    digest,
    is_plain,
    login_name,
    typed_password,
)
from savannah.domain.trusted_issuers import ExternalIdentity

REFRESH_PREFIX: Final = "rt_"
_ID_TOKEN_MOST: Final = timedelta(hours=1)


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
class _Live:
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
        hasher: PasswordHasher,
        audit: AuditLog,
        lock: LoginLock,
        secrets: ClientSecrets,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
        issuers: TrustedIssuers | None = None,
    ) -> None:
        self._issuers = issuers
        self._storage = storage
        self._tokens = tokens
        self._hasher = hasher
        self._audit = audit
        self._lock = lock
        self._secrets = secrets
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

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
        name = login_name(username)
        async with self._storage(reading="fresh") as uow:
            client = await uow.clients.find(client_id) if is_plain(client_id) else None
            user = await uow.users.by_login(name) if name else None
        if client is not None and not (client.first_party and client.is_active):
            client = None
        client = await self._secrets.check(
            client, client_id, client_secret, address=address, request_id=request_id
        )
        lock = LoginLock.key(user.username if user else name, address)
        await self._lock.refuse(lock)
        right, upgraded = await self._hasher.verify(
            typed_password(password), user.password_hash if user else None
        )
        if user is None or not right:
            # No name of an account that does not exist goes to the audit log: people type their
            # password into the wrong field.
            await self._lock.count_failure(
                lock,
                "user.login_failed" if user else "client.login_failed",
                user.id if user else client.id,
                f"client:{client.client_id}",
                request_id,
                reason="wrong_password" if user else "unknown_user",
            )
            raise InvalidCredentials
        # Guesses that ran beside this one may have used up the tries.
        await self._lock.refuse(lock)
        opened = await self._open_grant(user, upgraded, client, scope, request_id=request_id)
        if opened is None:  # the password was changed meanwhile, so this one is looked at again
            return await self.login(
                username=username,
                password=password,
                client_id=client_id,
                client_secret=client_secret,
                scope=scope,
                address=address,
                request_id=request_id,
            )
        await self._lock.forget(lock)
        grant, user, refresh_token = opened
        access_token, expires_in = await self._sign_access(grant, user)
        return Login(
            access_token=access_token,
            refresh_token=refresh_token,
            id_token=await self._sign_id(grant, user, access_token)
            if "openid" in grant.scopes
            else None,
            expires_in=expires_in,
            scope=scope_text(grant.scopes),
            user=user,
        )

    async def _open_grant(
        self,
        user: User,
        upgraded: str | None,
        client: Client,
        scope: str | None,
        *,
        request_id: str | None,
    ) -> tuple[Grant, User, str | None] | None:
        """The grant, its user as of now, and a refresh token; None when the password changed."""
        now = self._clock.now()
        async with self._storage() as uow:
            fresh = await uow.users.get(user.id, lock="update")
            if fresh.password_hash != user.password_hash:
                return None
            if not fresh.is_active:
                await self._audit.record(
                    uow,
                    "user.login_failed",
                    user.id,
                    f"client:{client.client_id}",
                    request_id,
                    reason="disabled",
                )
                await uow.commit()
                raise AccountDisabled
            grant = Grant(
                id=GrantId(self._randomness.uuid()),
                user_id=user.id,
                client_id=client.client_id,
                scopes=_granted(scope, fresh.role, client),
                created_at=now,
            )
            after = replace(fresh, last_login=now, password_hash=upgraded or fresh.password_hash)
            await uow.users.save(after)
            await uow.grants.add(grant)
            refresh_token: str | None = None
            if GrantType.REFRESH_TOKEN in client.grant_types:
                refresh_token = REFRESH_PREFIX + self._randomness.symbols(
                    ALPHANUMERIC, SECRET_LENGTH
                )
                await uow.grants.add_refresh(
                    RefreshToken(
                        digest=digest(refresh_token),
                        grant_id=grant.id,
                        issued_at=now,
                        expires_at=now + self._settings.refresh_token_ttl,
                    )
                )
            actor, app = f"user:{user.id}", client.client_id
            await self._audit.record(uow, "user.logged_in", user.id, actor, request_id, client=app)
            await uow.commit()
        return grant, after, refresh_token

    async def _sign_access(self, grant: Grant, user: User) -> tuple[str, int]:
        """A token for a grant, and how many seconds it lives."""
        lifetime = self._settings.access_token_ttl
        token = await self._tokens.sign_access(
            AccessClaims(
                subject=str(user.id),
                client_id=grant.client_id,
                grant_id=grant.id,
                scopes=grant.scopes,
                role=user.role.value,
                token_id=self._randomness.uuid(),
                issued_at=grant.created_at,
                expires_at=grant.created_at + lifetime,
                auth_time=grant.created_at,
            )
        )
        return token, int(lifetime.total_seconds())

    async def _sign_id(self, grant: Grant, user: User, access_token: str) -> str:
        lifetime = min(self._settings.access_token_ttl, _ID_TOKEN_MOST)
        return await self._tokens.sign_id(
            IdClaims(
                subject=str(user.id),
                client_id=grant.client_id,
                grant_id=grant.id,
                issued_at=grant.created_at,
                expires_at=grant.created_at + lifetime,
                auth_time=grant.created_at,
                access_token=access_token,
            )
        )

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

    async def authenticate(self, token: str, *, request_id: str | None = None) -> Caller:
        """Whose request this is, from its access token; the role is the one of this moment.

        A token of a trusted issuer makes a caller without an account. It cannot be revoked here.

        Raises: InvalidToken, TokenExpired, TokenRevoked, AccountDisabled; Unavailable.
        """
        if self._issuers is not None and (found := await self._issuers.read(token)) is not None:
            return found.caller(request_id=request_id)
        live = await self._live(token)
        user, client = live.user, live.client
        return Caller(
            principal=f"user:{user.id}" if user else f"client:{client.client_id}",
            permissions=frozenset(scope for scope in Scope if scope in live.scopes),
            role=user.role if user else None,
            user_id=user.id if user else None,
            client_id=client.client_id,
            grant_id=live.claims.grant_id,
            request_id=request_id,
        )

    async def token_info(self, token: str) -> TokenInfo:
        """What an access token allows at this moment, and for how long.

        Raises: as `authenticate`.
        """
        if self._issuers is not None and (found := await self._issuers.read(token)) is not None:
            return self._external_info(found)
        live = await self._live(token)
        claims, user = live.claims, live.user
        left = claims.expires_at - self._clock.now()
        return TokenInfo(
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

    async def _live(self, token: str) -> _Live:
        claims = await self._tokens.read_access(token)
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
            scopes &= _scopes_of(user.role)
        return _Live(claims=claims, user=user, client=client, scopes=scopes)


def _scopes_of(role: Role) -> frozenset[str]:
    return frozenset({*IDENTITY_SCOPES, *ROLE_SCOPES[role]})


def _granted(scope: str | None, role: Role, client: Client) -> frozenset[str]:
    """What of the scopes asked for both the role and the app may have; all of it when none are."""
    allowed = _scopes_of(role) & client.scopes
    asked = [word for word in (scope or "").split(" ") if word]  # RFC 6749 section 3.3
    granted = expand(asked) & allowed if asked else allowed
    if not granted:
        raise Invalid.one("scope", "invalid_choice", "Nothing of this can be granted")
    return granted
