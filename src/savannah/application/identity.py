"""What the use cases on people and programs share: settings, audit entries, the login lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from savannah.application.ports import Clock, Randomness, RateLimiter, Storage, UnitOfWork
from savannah.domain.access import Role
from savannah.domain.errors import TooManyAttempts
from savannah.domain.events import Event
from savannah.domain.identity import digest, login_key
from savannah.domain.notification import Rate

OPERATOR: Final = "operator"
_LOGIN_LOCK: Final = Rate(5, timedelta(minutes=15))


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How this installation deals with accounts and apps.

    Attributes:
        registration_role: what people who register themselves become.
        app_creation_open: whether anybody may make an app; otherwise it takes `apps:manage`.
        login_lock: failures per account and address before login is refused; None never locks.
        refresh_token_ttl: how long a refresh token that nobody uses lives.
        refresh_family_ttl: after which time from its login even one that is used ends.
        refresh_grace: how long the refresh token before the newest one may be used again, by
            clients that lost the answer.
        session_ttl: how long somebody stays logged in here with a browser.
    """

    registration_open: bool = False
    registration_role: Role = Role.VIEWER
    app_creation_open: bool = False
    access_token_ttl: timedelta = timedelta(hours=1)
    refresh_token_ttl: timedelta = timedelta(days=14)
    refresh_family_ttl: timedelta = timedelta(days=90)
    refresh_grace: timedelta = timedelta(0)
    session_ttl: timedelta = timedelta(days=14)
    login_lock: Rate | None = _LOGIN_LOCK


class AuditLog:
    """Entries about who did what to accounts and apps."""

    def __init__(self, *, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness

    async def record(
        self,
        uow: UnitOfWork,
        action: str,
        subject_id: UUID,
        actor: str,
        request_id: str | None,
        **data: object,
    ) -> None:
        """An entry in the transaction of its cause; `action` begins with the kind of subject."""
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


class LoginLock:
    """Counts wrong passwords per account and address, and refuses more when they are used up."""

    def __init__(
        self, *, storage: Storage, limiter: RateLimiter, audit: AuditLog, rate: Rate | None
    ) -> None:
        self._storage = storage
        self._limiter = limiter
        self._audit = audit
        self._rate = rate

    @staticmethod
    def key(name: str, address: str) -> str:
        """What is counted under one key: a user name, whatever its case, from one address."""
        return f"login:{digest(f'{login_key(name)} {address}')}"

    async def refuse(self, key: str) -> None:
        """Raises: TooManyAttempts, when the failures of an account and address are used up."""
        if self._rate is not None:
            state = await self._limiter.peek(key, self._rate)
            if state.remaining == 0:
                raise TooManyAttempts(retry_after=state.reset_after)

    async def count_failure(
        self,
        key: str,
        action: str,
        subject_id: UUID,
        actor: str,
        request_id: str | None,
        **data: object,
    ) -> None:
        """Count a wrong password and put it into the audit log.

        Raises: TooManyAttempts, when others have used up the failures meanwhile.
        """
        state = None if self._rate is None else await self._limiter.hit(key, self._rate)
        async with self._storage() as uow:
            await self._audit.record(uow, action, subject_id, actor, request_id, **data)
            await uow.commit()
        if state is not None and not state.allowed:
            raise TooManyAttempts(retry_after=state.reset_after)

    async def forget(self, key: str) -> None:
        """Begin to count anew, after a right password."""
        await self._limiter.forget(key)
