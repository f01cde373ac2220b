"""What the use cases on people and programs share: settings, audit entries, limits on guesses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from savannah.application.ports import (
    Clock,
    LimitState,
    PasswordHasher,
    Randomness,
    RateLimiter,
    Storage,
    UnitOfWork,
)
from savannah.domain.access import Role
from savannah.domain.clients import Client
from savannah.domain.errors import InvalidClient, TooManyAttempts
from savannah.domain.events import Event
from savannah.domain.identity import digest, login_key
from savannah.domain.notification_policy import Rate

OPERATOR: Final = "operator"  # the actor of what is done on the command line
_LOGIN_LOCK: Final = Rate(5, timedelta(minutes=15))
# How many times the failures of `login_lock` are free, and how long they count.
_ACCOUNT_FREE: Final = 4
_ACCOUNT_WINDOW: Final = timedelta(days=1)
_ADDRESS_FREE: Final = 10
_ADDRESS_WINDOW: Final = timedelta(hours=1)
_SHORTEST_DELAY: Final = timedelta(seconds=1)
_LONGEST_DELAY: Final = timedelta(minutes=15)
_DOUBLINGS: Final = 11  # from one second to more than a quarter of an hour
_DELAYED: Final = Rate(1, _LONGEST_DELAY)
# For how long an address is known as one from which somebody has logged in.
_KNOWN: Final = Rate(1, timedelta(days=30))


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
        login_retention: how long the audit log tells of logins, and of tries at them.
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
    login_retention: timedelta = timedelta(days=90)


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


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try at a password counts under: account and address, each alone and both."""

    both: str
    account: str
    address: str


class LoginLock:
    """Counts wrong passwords, and refuses more when they are used up.

    An account from one address has `rate`: so many failures, then none until its window ends. Who
    uses many addresses for one account, or one address for many accounts, meets a delay that
    doubles with each further failure, up to a quarter of an hour. Strangers could keep that delay
    up for ever, so it does not hold where the account has logged in within a month: nobody is
    locked out for good. A name that no account has is treated the same. A right password resets
    what was counted for the account, not for the address.
    """

    def __init__(
        self, *, storage: Storage, limiter: RateLimiter, audit: AuditLog, rate: Rate | None
    ) -> None:
        self._storage = storage
        self._limiter = limiter
        self._audit = audit
        self._rate = rate

    @staticmethod
    def key(name: str, address: str) -> Attempt:
        """What is counted for a user name, whatever its case, from one address."""
        account = login_key(name)
        return Attempt(
            both=f"login:{digest(f'{account} {address}')}",
            account=f"login-account:{digest(account)}",
            address=f"login-address:{digest(address)}",
        )

    async def refuse(self, attempt: Attempt) -> None:
        """Raises: TooManyAttempts, when the failures are used up, or a delay is running."""
        if self._rate is None:
            return
        state = await self._limiter.peek(attempt.both, self._rate)
        waits = [state.reset_after] if state.remaining == 0 else []
        known = await self._limiter.peek(_known_of(attempt), _KNOWN)
        for key in (attempt.account, attempt.address) if known.remaining else (attempt.address,):
            delay = await self._limiter.peek(_delay_of(key), _DELAYED)
            if delay.remaining == 0:
                waits.append(delay.reset_after)
        if waits:
            raise TooManyAttempts(retry_after=max(waits))

    async def count_failure(
        self,
        attempt: Attempt,
        action: str,
        subject_id: UUID,
        actor: str,
        request_id: str | None,
        **data: object,
    ) -> None:
        """Count a wrong password and put it into the audit log.

        Raises: TooManyAttempts, when others have used up the failures meanwhile.
        """
        state: LimitState | None = None
        if self._rate is not None:
            state = await self._limiter.hit(attempt.both, self._rate)
            await self._delay(attempt.account, _ACCOUNT_WINDOW, free=_ACCOUNT_FREE)
            await self._delay(attempt.address, _ADDRESS_WINDOW, free=_ADDRESS_FREE)
        async with self._storage() as uow:
            await self._audit.record(uow, action, subject_id, actor, request_id, **data)
            await uow.commit()
        if state is not None and not state.allowed:
            raise TooManyAttempts(retry_after=state.reset_after)

    async def _delay(self, key: str, window: timedelta, *, free: int) -> None:
        """Count one failure, and begin a delay when there are more than the free ones."""
        assert self._rate is not None
        free *= self._rate.count
        counted = await self._limiter.hit(key, Rate(free + _DOUBLINGS, window))
        beyond = _DOUBLINGS - counted.remaining
        if beyond > 0:
            delay = min(_LONGEST_DELAY, _SHORTEST_DELAY * 2 ** (beyond - 1))
            await self._limiter.forget(_delay_of(key))
            await self._limiter.hit(_delay_of(key), replace(_DELAYED, window=delay))

    async def forget(self, attempt: Attempt) -> None:
        """Begin to count anew for an account, after a right password; its address is known now."""
        known = _known_of(attempt)
        for key in (attempt.both, attempt.account, _delay_of(attempt.account), known):
            await self._limiter.forget(key)
        await self._limiter.hit(known, _KNOWN)


def _delay_of(key: str) -> str:
    return f"{key}:delay"


def _known_of(attempt: Attempt) -> str:
    return f"{attempt.both}:known"


class ClientSecrets:
    """Finds out whether a program is the app it says it is, and slows guesses down."""

    def __init__(
        self,
        *,
        storage: Storage,
        limiter: RateLimiter,
        hasher: PasswordHasher,
        audit: AuditLog,
        rate: Rate | None,
    ) -> None:
        self._storage = storage
        self._limiter = limiter
        self._hasher = hasher
        self._audit = audit
        self._rate = rate

    async def check(
        self,
        client: Client | None,
        client_id: str,
        secret: str | None,
        *,
        address: str,
        request_id: str | None = None,
    ) -> Client:
        """The app, when the secret is one of its own; a public app shows none.

        Only guesses for one app from one address count together, so nobody locks an app out from
        elsewhere. A secret that another system hashed slowly is stored as a digest from then on.

        Args:
            client: what was found under `client_id`; None for nothing that may be used.

        Raises:
            InvalidClient, TooManyAttempts.
        """
        key = f"client-secret:{digest(f'{client_id} {address}')}"
        if self._rate is not None:
            state = await self._limiter.peek(key, self._rate)
            if state.remaining == 0:
                raise TooManyAttempts(retry_after=state.reset_after)
        accepted = digest(secret or "") if client is None else await self._accepted(client, secret)
        if client is None or accepted is None:
            if self._rate is not None and secret is not None:
                await self._limiter.hit(key, self._rate)
            raise InvalidClient
        if accepted in client.foreign_hashes and secret is not None:
            client = await self._upgraded(client, accepted, digest(secret), request_id)
        return client

    async def _accepted(self, client: Client, secret: str | None) -> str | None:
        """What is stored of this secret; None when it is not the app's."""
        if client.accepts_secret(secret):
            return ""
        for foreign in client.foreign_hashes if secret else ():
            right, _ = await self._hasher.verify(secret or "", foreign)
            if right:
                return foreign
        return None

    async def _upgraded(
        self, client: Client, foreign: str, own: str, request_id: str | None
    ) -> Client:
        async with self._storage() as uow:
            fresh = await uow.clients.find(client.client_id, lock="update")
            if fresh is None or foreign not in fresh.secret_digests:
                return client  # another request was faster
            kept = tuple(own if each == foreign else each for each in fresh.secret_digests)
            after = replace(fresh, secret_digests=kept)
            await uow.clients.save(after)
            actor = f"client:{client.client_id}"
            await self._audit.record(uow, "client.secret_upgraded", client.id, actor, request_id)
            await uow.commit()
        return after
