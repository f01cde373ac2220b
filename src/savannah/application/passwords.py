"""Proving who somebody is by a password, the same for every door that asks for one.

Hashing is slow on purpose and happens outside any transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from savannah.application.identity import Attempt, AuditLog, LoginLock
from savannah.application.ports import Clock, PasswordHasher, Storage, UnitOfWork
from savannah.domain.clients import Client
from savannah.domain.errors import AccountDisabled, InvalidCredentials
from savannah.domain.identity import User, login_name
from savannah.domain.passwords import typed_password


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Somebody who has shown a password; `upgraded` is a new hash where the old one is outdated."""

    user: User
    upgraded: str | None = field(repr=False)
    lock: Attempt
    client: Client
    request_id: str | None


class Passwords:
    """Checks passwords, counts wrong ones, and lets in whoever may come in."""

    def __init__(
        self,
        *,
        storage: Storage,
        hasher: PasswordHasher,
        audit: AuditLog,
        lock: LoginLock,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._hasher = hasher
        self._audit = audit
        self._lock = lock
        self._clock = clock

    async def prove(
        self, *, username: str, password: str, client: Client, address: str, request_id: str | None
    ) -> Proof:
        """Who this is. An unknown user costs as much time as a wrong password.

        Raises: InvalidCredentials, TooManyAttempts.
        """
        name = login_name(username)
        async with self._storage(reading="fresh") as uow:
            user = await uow.users.by_login(name) if name else None
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
        return Proof(user=user, upgraded=upgraded, lock=lock, client=client, request_id=request_id)

    async def admit(self, uow: UnitOfWork, proof: Proof) -> User | None:
        """The account as of now, with this login noted; None when the password was changed.

        Raises: AccountDisabled, which ends the unit of work.
        """
        user, client = proof.user, proof.client
        fresh = await uow.users.get(user.id, lock="update")
        if fresh.password_hash != user.password_hash:
            return None
        if not fresh.is_active:
            await self._audit.record(
                uow,
                "user.login_failed",
                user.id,
                f"client:{client.client_id}",
                proof.request_id,
                reason="disabled",
            )
            await uow.commit()
            raise AccountDisabled
        after = replace(
            fresh,
            last_login=self._clock.now(),
            password_hash=proof.upgraded or fresh.password_hash,
        )
        await uow.users.save(after)
        actor, app = f"user:{user.id}", client.client_id
        await self._audit.record(
            uow, "user.logged_in", user.id, actor, proof.request_id, client=app
        )
        return after

    async def forget_failures(self, proof: Proof) -> None:
        """Begin to count wrong passwords anew."""
        await self._lock.forget(proof.lock)
