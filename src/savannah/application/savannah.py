"""Savannah as one value: what every door receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from savannah.application.accounts import Accounts
from savannah.application.apps import Apps
from savannah.application.authorization import Authorization
from savannah.application.business import Business
from savannah.application.client_authentication import ClientAuthentication
from savannah.application.customers import Customers
from savannah.application.identity import AuditLog, ClientSecrets, IdentitySettings, LoginLock
from savannah.application.issuance import Issuance
from savannah.application.key_proofs import KeyProofs
from savannah.application.logins import Logins
from savannah.application.minting import Mint
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.passwords import Passwords
from savannah.application.ports import (
    Clock,
    ForeignProofs,
    LogoutSender,
    PasswordHasher,
    Randomness,
    RateLimiter,
    Storage,
    Tokens,
    TrustedIssuers,
)
from savannah.application.reports import Reports
from savannah.application.sessions import Sessions
from savannah.domain.oauth import API_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The use cases on people and programs; the later ones are the OpenID provider's."""

    accounts: Accounts
    apps: Apps
    logins: Logins
    tokens: Tokens
    clients: ClientAuthentication
    key_proofs: KeyProofs
    authorization: Authorization
    sessions: Sessions
    issuance: Issuance

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
        proofs: ForeignProofs,
        logout_sender: LogoutSender,
        settings: IdentitySettings,
        issuer: str,
        ticket_key: bytes,
        issuers: TrustedIssuers | None = None,
    ) -> Self:
        """All of them over the same adapters, with one login lock.

        Args:
            issuer: our public URL, compared character for character wherever it comes.
            ticket_key: signs what waits in browsers; the same in every process.
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
        passwords = Passwords(storage=storage, hasher=hasher, audit=audit, lock=lock, clock=clock)
        mint = Mint(tokens=tokens, clock=clock, randomness=randomness, settings=settings)
        resources = (issuer + API_PATH,)
        logins = Logins(
            storage=storage,
            tokens=tokens,
            passwords=passwords,
            mint=mint,
            audit=audit,
            secrets=secrets,
            clock=clock,
            randomness=randomness,
            issuers=issuers,
        )
        sessions = Sessions(
            storage=storage,
            tokens=tokens,
            passwords=passwords,
            sender=logout_sender,
            audit=audit,
            clock=clock,
            randomness=randomness,
            settings=settings,
        )
        return cls(
            accounts=Accounts(
                storage=storage,
                hasher=hasher,
                audit=audit,
                lock=lock,
                sessions=sessions,
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
            logins=logins,
            tokens=tokens,
            key_proofs=KeyProofs(storage=storage, tokens=tokens, proofs=proofs, clock=clock),
            clients=ClientAuthentication(
                storage=storage, secrets=secrets, proofs=proofs, clock=clock, issuer=issuer
            ),
            authorization=Authorization(
                storage=storage,
                tokens=tokens,
                passwords=passwords,
                sessions=sessions,
                audit=audit,
                clock=clock,
                randomness=randomness,
                issuer=issuer,
                resources=resources,
                ticket_key=ticket_key,
            ),
            sessions=sessions,
            issuance=Issuance(
                storage=storage,
                logins=logins,
                mint=mint,
                audit=audit,
                clock=clock,
                randomness=randomness,
                settings=settings,
                resources=resources,
                issuer=issuer,
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
