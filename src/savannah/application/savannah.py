"""Savannah as one value: what every door receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from savannah.application.accounts import Accounts
from savannah.application.apps import Apps
from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.identity import AuditLog, ClientSecrets, IdentitySettings, LoginLock
from savannah.application.logins import Logins
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import (
    Clock,
    PasswordHasher,
    Randomness,
    RateLimiter,
    Storage,
    Tokens,
    TrustedIssuers,
)
from savannah.application.reports import Reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The use cases on people and programs."""

    accounts: Accounts
    apps: Apps
    logins: Logins

    @classmethod
    def over(
        cls,
        *,
        storage: Storage,
        tokens: Tokens,
        hasher: PasswordHasher,
        limiter: RateLimiter,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
        issuers: TrustedIssuers | None = None,
    ) -> Self:
        """All of them over the same adapters, with one login lock.

        Args:
            issuers: other issuers whose tokens are taken besides our own.
        """
        audit = AuditLog(clock=clock, randomness=randomness)
        lock = LoginLock(storage=storage, limiter=limiter, audit=audit, rate=settings.login_lock)
        secrets = ClientSecrets(
            storage=storage,
            limiter=limiter,
            hasher=hasher,
            audit=audit,
            rate=settings.login_lock,
        )
        return cls(
            accounts=Accounts(
                storage=storage,
                hasher=hasher,
                audit=audit,
                lock=lock,
                clock=clock,
                randomness=randomness,
                settings=settings,
            ),
            apps=Apps(
                storage=storage,
                audit=audit,
                clock=clock,
                randomness=randomness,
                settings=settings,
            ),
            logins=Logins(
                storage=storage,
                tokens=tokens,
                hasher=hasher,
                audit=audit,
                lock=lock,
                secrets=secrets,
                clock=clock,
                randomness=randomness,
                settings=settings,
                issuers=issuers,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Savannah:
    """The use cases by noun. `identity` is None where the program that embeds knows its users.

    `storage` is for the doors' health checks; the use cases are the way to the data.
    """

    customers: Customers
    orders: Orders
    notifications: Notifications
    reports: Reports
    identity: Identity | None
    business: Business
    storage: Storage
