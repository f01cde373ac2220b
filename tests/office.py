"""Everything around accounts, apps and logins in memory, for the tests of those use cases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest

from savannah.adapters.memory import (
    ManualClock,
    MemoryRateLimiter,
    MemoryStorage,
    SeededRandomness,
)
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.proofs import JoseProofs
from savannah.adapters.tokens import JoseTokens
from savannah.application.identity import IdentitySettings
from savannah.application.logins import Login
from savannah.application.ports import AccessClaims, LogoutSender
from savannah.application.savannah import Identity
from savannah.domain.access import Caller, Role
from savannah.domain.clients import Client
from savannah.domain.errors import (
    Invalid,
    SavannahError,
)
from savannah.domain.events import Event
from savannah.domain.identity import Grant, GrantId, User

T = TypeVar("T")

PASSWORD = "securepassword123"
HERE = "192.0.2.7"
ISSUER = "http://localhost:8000"
OPEN = IdentitySettings(
    registration_open=True, registration_role=Role.STAFF, app_creation_open=True
)


class CountingHasher(Argon2Hasher):
    """Cheap argon2id that knows how often it worked, and can be interrupted before it answers."""

    def __init__(self, *, time_cost: int = 1) -> None:
        super().__init__(memory_kib=8, time_cost=time_cost, threads=1)
        self.verified: list[str | None] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        self.verified.append(password_hash)
        answer = await super().verify(password, password_hash)
        if self.meanwhile is not None:
            event, self.meanwhile = self.meanwhile, None
            await event()
        return answer


class KeptLogouts(LogoutSender):
    """Keeps what apps are told; takes nothing while it is `away`, and waits at a `barrier`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.away = False
        self.barrier: asyncio.Barrier | None = None

    async def send(self, uri: str, logout_token: str) -> bool:
        if self.barrier is not None:
            await self.barrier.wait()
        self.sent.append((uri, logout_token))
        return not self.away


class Office:
    """Everything the use cases need, and shortcuts for what most tests begin with."""

    def __init__(self, settings: IdentitySettings = OPEN) -> None:
        self.storage = MemoryStorage()
        self.clock = ManualClock(datetime(2026, 11, 23, 9, tzinfo=UTC))
        self.hasher = CountingHasher()
        self.limiter = MemoryRateLimiter(self.clock)
        self.randomness = SeededRandomness()
        self.logout_sender = KeptLogouts()
        self.tokens = JoseTokens(
            storage=self.storage,
            clock=self.clock,
            secret_key="a secret for tests",
            issuer=ISSUER,
            audience="savannah",
        )
        self.identity = identity = self.with_settings(settings)
        self.accounts, self.apps = identity.accounts, identity.apps
        self.logins = identity.logins

    def with_settings(
        self, settings: IdentitySettings, *, hasher: Argon2Hasher | None = None
    ) -> Identity:
        return Identity.over(
            storage=self.storage,
            tokens=self.tokens,
            hasher=hasher or self.hasher,
            limiter=self.limiter,
            clock=self.clock,
            randomness=self.randomness,
            proofs=JoseProofs(),
            logout_sender=self.logout_sender,
            settings=settings,
            issuer=ISSUER,
            ticket_key=b"a key for tickets",
        )

    async def john(self, **more: str) -> User:
        fields = {"username": "johndoe", "email": "john@example.com", "password": PASSWORD}
        return await self.accounts.register(**{**fields, **more})

    async def app(self, **more: Any) -> tuple[Client, str]:
        client, secret = await self.apps.create_client(
            **{"name": "My Mobile App", "by": None, **more}
        )
        return client, secret or ""

    async def login(self, client: Client, secret: str | None, **more: str) -> Login:
        fields = {"username": "johndoe", "password": PASSWORD, "address": HERE}
        return await self.logins.login(
            client_id=client.client_id, client_secret=secret, **{**fields, **more}
        )

    async def at_work(self, **more: str) -> tuple[Login, Caller]:
        """John, his app and a login."""
        await self.john()
        client, secret = await self.app()
        login = await self.login(client, secret, **more)
        return login, await self.logins.authenticate(login.access_token)

    async def boss(self) -> Caller:
        user = await self.accounts.create_superuser(username="boss", password="Zawadi-2026")
        return replace(Caller.admin(f"user:{user.id}"), user_id=user.id, request_id="req-boss")

    async def events(self, subject: str, subject_id: UUID) -> list[Event]:
        async with self.storage(reading=True) as uow:
            return list(await uow.events.of(subject, subject_id))

    async def actions(self, subject: str, subject_id: UUID) -> list[str]:
        return [event.action for event in await self.events(subject, subject_id)]

    async def machine(self, **more: Any) -> tuple[Client, Caller, str]:
        """An app with tokens of its own, its caller, and such a token."""
        boss = await self.boss()
        client, _ = await self.app(
            **{"name": "ERP", "grant_types": ["client_credentials"], "by": boss, **more}
        )
        grant = Grant(
            id=GrantId(self.randomness.uuid()),
            user_id=None,
            client_id=client.client_id,
            scopes=client.scopes,
            created_at=self.clock.now(),
        )
        async with self.storage() as uow:
            await uow.grants.add(grant)
            await uow.commit()
        token = await self.tokens.sign_access(self.claims(grant, client.client_id))
        return client, await self.logins.authenticate(token), token

    def claims(self, grant: Grant, subject: str) -> AccessClaims:
        now = self.clock.now()
        return AccessClaims(
            subject=subject,
            client_id=grant.client_id,
            grant_id=grant.id,
            scopes=grant.scopes,
            role=None,
            token_id=self.randomness.uuid(),
            issued_at=now,
            expires_at=now + timedelta(hours=1),
        )


Scene = Callable[[Office], Coroutine[Any, Any, None]]
Play = Callable[..., None]


def field_codes(invalid: Invalid) -> set[tuple[str, str]]:
    return {(problem.field, problem.code) for problem in invalid.problems}


async def refusal(awaited: Awaitable[object]) -> SavannahError:
    with pytest.raises(SavannahError) as caught:
        await awaited
    return caught.value


def changed(
    office: Office, by: Caller, *, old: str = PASSWORD, new: str = "Jambo-2026", again: str = ""
) -> Coroutine[Any, Any, None]:
    return office.accounts.change_password(
        old_password=old,
        new_password=new,
        confirm_password=again or new,
        by=by,
        address=HERE,
    )
