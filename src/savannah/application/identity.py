"""Use cases on people and programs: accounts, apps, logins, and whose a request is.

Not here: the OAuth 2 and OpenID Connect endpoints, and anything about headers or status codes.
Passwords are hashed outside any transaction, because that is slow on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from savannah.application.ports import (
    AccessClaims,
    Clock,
    IdClaims,
    PasswordHasher,
    Randomness,
    RateLimiter,
    Storage,
    Tokens,
    UnitOfWork,
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
    AuthenticationRequired,
    InsufficientScope,
    Invalid,
    InvalidClient,
    InvalidCredentials,
    LastAdmin,
    NotFound,
    Problems,
    RegistrationClosed,
    RoleForbidden,
    TokenRevoked,
    TooManyAttempts,
)
from savannah.domain.events import Event
from savannah.domain.identity import (
    ALPHANUMERIC,
    SECRET_LENGTH,
    AppRequest,
    Client,
    ClientType,
    Grant,
    GrantId,
    GrantType,
    RefreshToken,
    Registration,
    User,
    UserId,
    digest,
    login_key,
    login_name,
    typed_password,
)
from savannah.domain.identity import new_password as check_new_password
from savannah.domain.notification import Rate

REFRESH_PREFIX: Final = "rt_"
OPERATOR: Final = "operator"
_CLIENT_ID_LENGTH: Final = 32
_ID_TOKEN_MOST: Final = timedelta(hours=1)
_LOGIN_LOCK: Final = Rate(5, timedelta(minutes=15))
_EVERY_SCOPE: Final = frozenset({*IDENTITY_SCOPES, *(scope.value for scope in Scope)})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How this installation deals with accounts and apps.

    Attributes:
        registration_role: what people who register themselves become.
        app_creation_open: whether anybody may make an app; otherwise it takes `apps:manage`.
        login_lock: failures per account and address before login is refused; None never locks.
        refresh_token_ttl: how long a refresh token that nobody uses lives.
    """

    registration_open: bool = False
    registration_role: Role = Role.VIEWER
    app_creation_open: bool = False
    access_token_ttl: timedelta = timedelta(hours=1)
    refresh_token_ttl: timedelta = timedelta(days=14)
    login_lock: Rate | None = _LOGIN_LOCK


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

    A machine client's token has neither user name nor role.
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


class Identity:
    """Accounts, apps and logins; every method checks what its caller may do."""

    def __init__(
        self,
        *,
        storage: Storage,
        tokens: Tokens,
        hasher: PasswordHasher,
        limiter: RateLimiter,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
    ) -> None:
        self._storage = storage
        self._tokens = tokens
        self._hasher = hasher
        self._limiter = limiter
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

    # --- accounts --------------------------------------------------------------------------------

    async def register(
        self,
        *,
        username: str,
        password: str,
        email: str | None = None,
        confirm_password: str | None = None,
        first_name: str = "",
        last_name: str = "",
        request_id: str | None = None,
    ) -> User:
        """An account for whoever asks, where registration is open.

        Raises:
            RegistrationClosed; Invalid with every broken field, `username_taken` and
            `email_taken` among them.
        """
        self.require_open_registration()
        problems = Problems()
        typed = Registration.check(
            problems,
            username=username,
            email=email,
            password=password,
            confirm_password=confirm_password,
            first_name=first_name,
            last_name=last_name,
        )
        return await self._open_account(
            typed,
            problems,
            role=self._settings.registration_role,
            actor=None,
            request_id=request_id,
        )

    def require_open_registration(self) -> None:
        """Raises: RegistrationClosed. A door asks before it looks at what was typed."""
        if not self._settings.registration_open:
            raise RegistrationClosed

    async def create_superuser(
        self, *, username: str, email: str | None = None, password: str
    ) -> User:
        """An administrator, made by the operator of this installation. Raises: Invalid."""
        problems = Problems()
        typed = Registration.check(problems, username=username, email=email, password=password)
        return await self._open_account(
            typed, problems, role=Role.ADMIN, actor=OPERATOR, request_id=None
        )

    async def _open_account(
        self,
        typed: Registration,
        problems: Problems,
        *,
        role: Role,
        actor: str | None,
        request_id: str | None,
    ) -> User:
        async with self._storage(reading=True) as uow:
            # Storage has the last word in `add`; asking before reports all problems together, and
            # keeps anybody from taking another person's e-mail address as a user name.
            if typed.username and await uow.users.by_login(typed.username):
                problems.add("username", "username_taken", "This user name is taken")
            if typed.email and await uow.users.by_login(typed.email):
                problems.add("email", "email_taken", "Another account has this e-mail address")
        problems.raise_if_any()
        password_hash = await self._hasher.hash(typed.password)
        user = typed.user(
            id=UserId(self._randomness.uuid()),
            role=role,
            password_hash=password_hash,
            at=self._clock.now(),
        )
        async with self._storage() as uow:
            await uow.users.add(user)
            actor = actor or f"user:{user.id}"
            await self._record(uow, "user.registered", user.id, actor, request_id, role=role.value)
            await uow.commit()
        return user

    async def profile(self, *, by: Caller) -> User:
        """The caller's own account. Raises: RoleForbidden when the caller has none."""
        async with self._storage(reading=True) as uow:
            return await uow.users.get(_account_of(by))

    async def update_profile(self, changes: Mapping[str, object], *, by: Caller) -> User:
        """Change the caller's own names and e-mail address.

        Raises:
            RoleForbidden; Invalid with every broken, unknown or read-only field, or `email_taken`.
        """
        user_id = _account_of(by)
        async with self._storage() as uow:
            user = await uow.users.get(user_id, lock="update")
            after, changed = user.updated(changes)
            if not changed:
                return user
            if "email" in changed and after.email is not None:
                holder = await uow.users.by_login(after.email)
                if holder is not None and holder.id != user_id:
                    raise Invalid.one(
                        "email", "email_taken", "Another account has this e-mail address"
                    )
            await uow.users.save(after)
            who, request_id = by.principal, by.request_id
            await self._record(uow, "user.updated", user_id, who, request_id, fields=[*changed])
            await uow.commit()
        return after

    async def change_password(
        self,
        *,
        old_password: str,
        new_password: str,
        confirm_password: str,
        by: Caller,
        address: str,
    ) -> None:
        """Replace the caller's password and end every login of theirs, this one too.

        A wrong old password counts as a failed login from `address`.

        Raises:
            RoleForbidden, TooManyAttempts; Invalid with every broken field, `wrong_password` among
            them.
        """
        user_id = _account_of(by)
        async with self._storage(reading="fresh") as uow:
            user = await uow.users.get(user_id)
        lock = _lock_key(user.username, address)
        await self._refuse_locked(lock)
        problems = Problems()
        old = typed_password(old_password)
        new = check_new_password(
            problems,
            "new_password",
            new_password,
            confirm_password,
            username=user.username,
            email=user.email,
        )
        if new and new == old:
            problems.add("new_password", "password_too_similar", "This is the password you have")
        right, _ = await self._hasher.verify(old, user.password_hash)
        if right:
            await self._refuse_locked(lock)
        else:
            problems.add("old_password", "wrong_password", "This is not your password")
            await self._count_failure(
                lock, "user.password_change_failed", user_id, by.principal, by.request_id
            )
        problems.raise_if_any()
        password_hash = await self._hasher.hash(new)
        async with self._storage() as uow:
            fresh = await uow.users.get(user_id, lock="update")
            unchanged = fresh.password_hash == user.password_hash
            if unchanged:
                await uow.users.save(replace(fresh, password_hash=password_hash))
                await uow.grants.revoke_of_user(user_id, at=self._clock.now())
                await self._record(
                    uow, "user.password_changed", user_id, by.principal, by.request_id
                )
                await uow.commit()
        if unchanged:
            await self._limiter.forget(lock)
        else:  # somebody else was faster, so the old password has to be looked at again
            await self.change_password(
                old_password=old_password,
                new_password=new_password,
                confirm_password=confirm_password,
                by=by,
                address=address,
            )

    async def list_users(self, *, by: Caller | None) -> Sequence[User]:
        """Everybody, by user name; None is the operator. Raises: InsufficientScope."""
        _require_manager(by)
        async with self._storage(reading=True) as uow:
            return await uow.users.list()

    async def get_user(self, user_id: UserId, *, by: Caller | None) -> User:
        """One account; None is the operator. Raises: InsufficientScope, NotFound."""
        _require_manager(by)
        async with self._storage(reading=True) as uow:
            return await uow.users.get(user_id)

    async def set_role(self, who: UserId | str, role: Role, *, by: Caller | None) -> User:
        """Give somebody another role. Raises: as `change_user`."""
        return await self.change_user(who, {"role": role}, by=by)

    async def set_active(self, who: UserId | str, active: bool, *, by: Caller | None) -> User:
        """Let somebody in again, or end every login of theirs. Raises: as `change_user`."""
        return await self.change_user(who, {"is_active": active}, by=by)

    async def change_user(
        self, who: UserId | str, changes: Mapping[str, object], *, by: Caller | None
    ) -> User:
        """Decide somebody's `role` or `is_active`; both act at their next request.

        Args:
            who: an account's id, or its user name or e-mail address.
            by: None is the operator of this installation.

        Raises:
            InsufficientScope, NotFound, Invalid; LastAdmin when nobody would be left to manage.
        """
        _require_manager(by)
        now = self._clock.now()
        async with self._storage() as uow:
            user = await _locked_with_admins(uow, who)
            after, changed = user.administered(changes)
            if not changed:
                return user
            steps_down = user.is_active_admin and not after.is_active_admin
            if steps_down and await uow.users.active_admins() < 2:
                raise LastAdmin
            await uow.users.save(after)
            if not after.is_active:
                await uow.grants.revoke_of_user(user.id, at=now)
            actor, request_id = (by.principal, by.request_id) if by else (OPERATOR, None)
            if "role" in changed:
                data = {"before": user.role.value, "after": after.role.value}
                await self._record(uow, "user.role_changed", user.id, actor, request_id, **data)
            if "is_active" in changed:
                action = "user.enabled" if after.is_active else "user.disabled"
                await self._record(uow, action, user.id, actor, request_id)
            await uow.commit()
        return after

    # --- apps ------------------------------------------------------------------------------------

    async def create_client(
        self,
        *,
        name: str,
        client_type: str = ClientType.CONFIDENTIAL,
        redirect_uris: Sequence[str] = (),
        scopes: Sequence[str] | None = None,
        grant_types: Sequence[str] | None = None,
        first_party: bool = True,
        by: Caller | None,
        request_id: str | None = None,
    ) -> tuple[Client, str | None]:
        """A new app and its secret, which nobody can read again; public apps have none.

        Without `scopes` an app gets every scope its users may have; one that gets tokens of its
        own gets what its maker and the staff role share.

        Args:
            first_party: whether people may give the app their password; apps without
                `authorization_code` never are.
            by: None is somebody unknown, not the operator.

        Raises:
            AuthenticationRequired and InsufficientScope where apps are made by administrators;
            InsufficientScope also for `client_credentials` without `apps:manage`, and for scopes
            of such an app which its maker lacks; Invalid with every broken field.
        """
        self.require_app_maker(by)
        asked = AppRequest.parse(
            name=name,
            client_type=client_type,
            redirect_uris=redirect_uris,
            scopes=scopes,
            grant_types=grant_types,
        )
        allowed = _EVERY_SCOPE if asked.scopes is None else asked.scopes
        if asked.for_machines:
            if by is None or not by.may(Scope.APPS_MANAGE):
                raise InsufficientScope(Scope.APPS_MANAGE)
            if asked.scopes is None:
                staff = ROLE_SCOPES[Role.STAFF] & by.permissions
                allowed = frozenset({*IDENTITY_SCOPES, *(scope.value for scope in staff)})
            for scope in Scope:
                if scope in allowed:
                    by.require(scope)
        confidential = asked.client_type is ClientType.CONFIDENTIAL
        secret = self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH) if confidential else None
        client = Client(
            id=self._randomness.uuid(),
            client_id=self._randomness.symbols(ALPHANUMERIC, _CLIENT_ID_LENGTH),
            name=asked.name,
            client_type=asked.client_type,
            secret_digests=() if secret is None else (digest(secret),),
            redirect_uris=asked.redirect_uris,
            grant_types=asked.grant_types,
            scopes=allowed,
            first_party=first_party and GrantType.AUTHORIZATION_CODE in asked.grant_types,
            owner_id=None if by is None or by.user_id is None else UserId(by.user_id),
            created_at=self._clock.now(),
        )
        async with self._storage() as uow:
            await uow.clients.add(client)
            actor = "anonymous"
            if by is not None:
                actor, request_id = by.principal, by.request_id
            grants = [grant.value for grant in client.grant_types]
            await self._record(uow, "client.created", client.id, actor, request_id, grants=grants)
            await uow.commit()
        return client, secret

    def require_app_maker(self, by: Caller | None) -> None:
        """Whether this caller may make apps at all; a door asks before it looks at what was typed.

        Raises:
            AuthenticationRequired and InsufficientScope where apps are made by administrators.
        """
        if not self._settings.app_creation_open:
            if by is None:
                raise AuthenticationRequired
            by.require(Scope.APPS_MANAGE)

    # --- logins ----------------------------------------------------------------------------------

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
            client = await uow.clients.find(client_id) if _is_plain(client_id) else None
            user = await uow.users.by_login(name) if name else None
        if client is None or not client.first_party or not client.is_active:
            raise InvalidClient
        if not client.accepts_secret(client_secret):
            raise InvalidClient
        lock = _lock_key(user.username if user else name, address)
        await self._refuse_locked(lock)
        right, upgraded = await self._hasher.verify(
            typed_password(password), user.password_hash if user else None
        )
        if user is None or not right:
            # No name of an account that does not exist goes to the audit log: people type their
            # password into the wrong field.
            await self._count_failure(
                lock,
                "user.login_failed" if user else "client.login_failed",
                user.id if user else client.id,
                f"client:{client.client_id}",
                request_id,
                reason="wrong_password" if user else "unknown_user",
            )
            raise InvalidCredentials
        # Guesses that ran beside this one may have used up the tries.
        await self._refuse_locked(lock)
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
        await self._limiter.forget(lock)
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
                await self._record(
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
            await self._record(uow, "user.logged_in", user.id, actor, request_id, client=app)
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
                await self._record(uow, action, subject.id, by.principal, by.request_id)
            await uow.commit()

    async def authenticate(self, token: str, *, request_id: str | None = None) -> Caller:
        """Whose request this is, from its access token; the role is the one of this moment.

        Raises: InvalidToken, TokenExpired, TokenRevoked, AccountDisabled.
        """
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

    # --- what several of them need ---------------------------------------------------------------

    async def _refuse_locked(self, lock: str) -> None:
        """Raises: TooManyAttempts, when the failures of an account and address are used up."""
        rate = self._settings.login_lock
        if rate is not None:
            state = await self._limiter.peek(lock, rate)
            if state.remaining == 0:
                raise TooManyAttempts(retry_after=state.reset_after)

    async def _count_failure(
        self,
        lock: str,
        action: str,
        subject_id: UUID,
        actor: str,
        request_id: str | None,
        **data: object,
    ) -> None:
        """Count a wrong password and put it into the audit log.

        Raises: TooManyAttempts, when others have used up the failures meanwhile.
        """
        rate = self._settings.login_lock
        state = None if rate is None else await self._limiter.hit(lock, rate)
        async with self._storage() as uow:
            await self._record(uow, action, subject_id, actor, request_id, **data)
            await uow.commit()
        if state is not None and not state.allowed:
            raise TooManyAttempts(retry_after=state.reset_after)

    async def _record(
        self,
        uow: UnitOfWork,
        action: str,
        subject_id: UUID,
        actor: str,
        request_id: str | None,
        **data: object,
    ) -> None:
        await uow.events.add(
            Event(
                id=self._randomness.uuid(),
                at=self._clock.now(),
                actor=actor,
                action=action,
                subject=action.partition(".")[0],
                subject_id=subject_id,
                data=data,
                request_id=request_id,
            )
        )


def _account_of(by: Caller) -> UserId:
    if by.user_id is None:
        raise RoleForbidden("This is for people with an account")
    return UserId(by.user_id)


def _require_manager(by: Caller | None) -> None:
    if by is not None:
        by.require(Scope.USERS_MANAGE)


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


def _is_plain(client_id: str) -> bool:
    """Whether there can be such a client id; some databases do not even take other questions."""
    return client_id.isascii() and client_id.isprintable()


def _lock_key(name: str, address: str) -> str:
    return f"login:{digest(f'{login_key(name)} {address}')}"


async def _locked_with_admins(uow: UnitOfWork, who: UserId | str) -> User:
    """An account, locked together with every administrator.

    So two administrators cannot demote each other at once. The order of ids keeps two such
    locks from waiting for each other.
    """
    if isinstance(who, str):
        found = await uow.users.by_login(login_name(who))
        if found is None:
            raise NotFound("user")
        who = found.id
    admins = {user.id for user in await uow.users.list() if user.is_active_admin}
    locked = {each: await uow.users.get(each, lock="update") for each in sorted({*admins, who})}
    return locked[who]
