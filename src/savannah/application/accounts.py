"""Use cases on people's accounts: opening, changing and administering them.

Passwords are hashed outside any transaction, because that is slow on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from savannah.application.identity import OPERATOR, AuditLog, IdentitySettings, LoginLock
from savannah.application.ports import (
    Clock,
    PasswordHasher,
    Randomness,
    Storage,
    UnitOfWork,
    UserFilter,
)
from savannah.application.sessions import Sessions
from savannah.domain.access import PROFILE_SCOPES, Caller, Role, Scope
from savannah.domain.clients import is_plain
from savannah.domain.errors import (
    InsufficientScope,
    Invalid,
    LastAdmin,
    NotFound,
    Problems,
    RegistrationClosed,
    RoleForbidden,
)
from savannah.domain.identity import ALPHANUMERIC, Registration, User, UserId, login_name
from savannah.domain.oauth import Consent
from savannah.domain.paging import Page, PageRequest
from savannah.domain.passwords import new_password as check_new_password
from savannah.domain.passwords import typed_password

_RESET_LENGTH: Final = 20  # of a password that somebody has to type once


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenConsent:
    """A consent, and what its app is called."""

    consent: Consent
    client_name: str


class Accounts:
    """People's accounts; every method checks what its caller may do."""

    def __init__(
        self,
        *,
        storage: Storage,
        hasher: PasswordHasher,
        audit: AuditLog,
        lock: LoginLock,
        sessions: Sessions,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
    ) -> None:
        self._storage = storage
        self._hasher = hasher
        self._audit = audit
        self._lock = lock
        self._sessions = sessions
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

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
            await self._audit.record(
                uow, "user.registered", user.id, actor, request_id, role=role.value
            )
            await uow.commit()
        return user

    async def profile(self, *, by: Caller) -> User:
        """The caller's own account.

        Raises:
            RoleForbidden when the caller has none; InsufficientScope for a third-party app that
            was not granted `profile` and `email`.
        """
        user_id = _person_of(by)
        if by.account == "none":
            raise InsufficientScope(" ".join(sorted(PROFILE_SCOPES)))
        async with self._storage(reading=True) as uow:
            return await uow.users.get(user_id)

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
            await self._audit.record(
                uow, "user.updated", user_id, who, request_id, fields=[*changed]
            )
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
        lock = LoginLock.key(user.username, address)
        await self._lock.refuse(lock)
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
            await self._lock.refuse(lock)
        else:
            problems.add("old_password", "wrong_password", "This is not your password")
            await self._lock.count_failure(
                lock, "user.password_change_failed", user_id, by.principal, by.request_id
            )
        problems.raise_if_any()
        password_hash = await self._hasher.hash(new)
        async with self._storage() as uow:
            fresh = await uow.users.get(user_id, lock="update")
            unchanged = fresh.password_hash == user.password_hash
            if unchanged:
                await uow.users.save(replace(fresh, password_hash=password_hash))
                await self._sessions.end_all(uow, user_id)
                await self._audit.record(
                    uow, "user.password_changed", user_id, by.principal, by.request_id
                )
                await uow.commit()
        if unchanged:
            await self._lock.forget(lock)
        else:  # somebody else was faster, so the old password has to be looked at again
            await self.change_password(
                old_password=old_password,
                new_password=new_password,
                confirm_password=confirm_password,
                by=by,
                address=address,
            )

    async def reset_password(self, who: str) -> tuple[User, str]:
        """A new password, told this once, for somebody who has lost theirs or never had one here.

        For the operator of this installation alone, since it asks for no old one. Every login of
        theirs ends.

        Args:
            who: a user name or an e-mail address.

        Raises:
            NotFound.
        """
        password = self._randomness.symbols(ALPHANUMERIC, _RESET_LENGTH)
        password_hash = await self._hasher.hash(password)
        async with self._storage() as uow:
            named = await _named(uow, who)
            user = await uow.users.get(named.id, lock="update")
            after = replace(user, password_hash=password_hash)
            await uow.users.save(after)
            await self._sessions.end_all(uow, user.id)
            await self._audit.record(uow, "user.password_reset", user.id, OPERATOR, None)
            await uow.commit()
        return after, password

    async def consents(self, *, by: Caller) -> Sequence[GivenConsent]:
        """What the caller has allowed apps. Raises: RoleForbidden, without an account."""
        user_id = _account_of(by)
        async with self._storage(reading="fresh") as uow:
            given = await uow.consents.of_user(user_id)
            clients = [await uow.clients.find(each.client_id) for each in given]
        return [
            GivenConsent(consent=each, client_name=client.name)
            for each, client in zip(given, clients, strict=True)
            if client is not None
        ]

    async def withdraw_consent(self, client_id: str, *, by: Caller) -> None:
        """Allow an app nothing any more: every login the caller gave it ends, offline ones too.

        Raises: RoleForbidden; NotFound, where there is no such consent.
        """
        user_id = _account_of(by)
        if not is_plain(client_id):
            raise NotFound("consent")
        async with self._storage() as uow:
            user = await uow.users.get(user_id, lock="update")  # a code under way comes after it
            if not await uow.consents.remove(user.id, client_id):
                raise NotFound("consent")
            await uow.grants.revoke_of_client(client_id, user_id=user_id, at=self._clock.now())
            await self._audit.record(
                uow,
                "user.consent_withdrawn",
                user_id,
                by.principal,
                by.request_id,
                client=client_id,
            )
            await uow.commit()

    async def list_users(
        self, where: UserFilter, page: PageRequest, *, by: Caller | None
    ) -> Page[User]:
        """The accounts; None is the operator. Raises: InsufficientScope."""
        _require_manager(by)
        async with self._storage(reading=True) as uow:
            return await uow.users.page(where, page)

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
                await self._sessions.end_all(uow, user.id)
            actor, request_id = (by.principal, by.request_id) if by else (OPERATOR, None)
            if "role" in changed:
                data = {"before": user.role.value, "after": after.role.value}
                await self._audit.record(
                    uow, "user.role_changed", user.id, actor, request_id, **data
                )
            if "is_active" in changed:
                action = "user.enabled" if after.is_active else "user.disabled"
                await self._audit.record(uow, action, user.id, actor, request_id)
            await uow.commit()
        return after


def _person_of(by: Caller) -> UserId:
    if by.user_id is None:
        raise RoleForbidden("This is for people with an account")
    return UserId(by.user_id)


def _account_of(by: Caller) -> UserId:
    user_id = _person_of(by)
    if by.account != "change":
        raise RoleForbidden("A third-party app does not look after an account")
    return user_id


def _require_manager(by: Caller | None) -> None:
    if by is not None:
        by.require(Scope.USERS_MANAGE)


async def _named(uow: UnitOfWork, who: str) -> User:
    found = await uow.users.by_login(login_name(who))
    if found is None:
        raise NotFound("user")
    return found


async def _locked_with_admins(uow: UnitOfWork, who: UserId | str) -> User:
    """An account, locked together with every administrator.

    So two administrators cannot demote each other at once. The order of ids keeps two such
    locks from waiting for each other.
    """
    if isinstance(who, str):
        who = (await _named(uow, who)).id
    admins = {user.id for user in await uow.users.list() if user.is_active_admin}
    locked = {each: await uow.users.get(each, lock="update") for each in sorted({*admins, who})}
    return locked[who]
