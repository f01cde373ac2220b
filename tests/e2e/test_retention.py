"""What was kept long enough is deleted by every kind of process that sends, at its start already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

import servers
from savannah.adapters.sql import SqlStorage
from savannah.application.ports import IdempotencyRecordKey, UnitOfWork
from savannah.domain.events import Event
from savannah.domain.identity import Grant, GrantId, RefreshToken, SigningKey
from savannah.domain.notification import DeliveryReport, Report
from savannah.domain.oauth import AuthorizationCode, BrowserSession, PushedRequest

pytestmark = pytest.mark.e2e

DAY = timedelta(days=1)
MANY = 1_100  # more than two batches
TABLES = (
    "delivery_reports",
    "events",
    "idempotency_keys",
    "claimed_ids",
    "pushed_requests",
    "authorization_codes",
    "refresh_tokens",
    "grants",
    "browser_sessions",
)


async def add(uow: UnitOfWork, name: str, *, age: timedelta) -> None:
    """A row of that age in each of the tables; ends and expiries are that long ago."""
    at = datetime.now(UTC) - age
    await uow.notifications.keep_report(
        DeliveryReport(
            provider_id=name, report=Report.SENT, word="Sent", phone="+254700123456", received_at=at
        ),
        matched=False,
    )
    await uow.events.add(
        Event(
            id=uuid4(),
            at=at,
            actor="client:till",
            action="user.login_failed",
            subject="user",
            subject_id=uuid4(),
        )
    )
    key = IdempotencyRecordKey("user:till", "POST /api/orders/", name)
    await uow.idempotency.finish(key, "f", b"{}", expires_at=at)
    await uow.handshakes.claim(name, expires_at=at)
    await uow.handshakes.push(
        PushedRequest(digest=name, client_id="till", parameters=(), expires_at=at)
    )
    grant = Grant(
        id=GrantId(uuid4()),
        user_id=None,
        client_id="till",
        scopes=frozenset({"openid"}),
        created_at=at,
    )
    await uow.grants.add(grant)
    await uow.grants.add_refresh(
        RefreshToken(digest=name, grant_id=grant.id, issued_at=at, expires_at=at)
    )
    await uow.handshakes.add_code(
        AuthorizationCode(
            digest=name,
            grant_id=grant.id,
            client_id="till",
            redirect_uri="https://till.example/back",
            code_challenge=None,
            created_at=at,
            expires_at=at,
        )
    )
    await uow.sessions.add(
        BrowserSession(
            id=uuid4(), digest=name, user_id=uuid4(), auth_time=at, created_at=at, expires_at=at
        )
    )


async def fill(url: str) -> None:
    storage = SqlStorage.open(url)
    try:
        async with storage() as uow:
            for number in range(MANY):
                await add(uow, f"old-{number}", age=400 * DAY)
            await add(uow, "young", age=-DAY)
            retired_at = datetime.now(UTC) - 400 * DAY
            await uow.signing_keys.add(
                SigningKey(
                    kid="old",
                    algorithm="RS256",
                    sealed=b"sealed",
                    created_at=retired_at,
                    activated_at=retired_at,
                    retired_at=retired_at,
                )
            )
            await uow.commit()
    finally:
        await storage.close()


def left(url: str) -> dict[str, int]:
    async def count() -> dict[str, int]:
        storage = SqlStorage.open(url)
        statement = " UNION ALL ".join(
            [f"SELECT '{name}', count(*) FROM {name}" for name in TABLES]
            + ["SELECT 'old key', count(*) FROM signing_keys WHERE kid = 'old'"]
        )
        try:
            rows = await storage.read(lambda connection: connection.execute(text(statement)).all())
        finally:
            await storage.close()
        return {row[0]: row[1] for row in rows}

    return asyncio.run(count())


@contextmanager
def installed(kind: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, str]]]:
    """A database without rows, and the settings of what runs on it."""
    processes = request.getfixturevalue("processes")
    if kind == "embedded":
        yield f"sqlite:///{processes.folder}/savannah-data/savannah.db", {}
        return
    url = request.getfixturevalue("postgres_server").fresh_database()
    settings = {
        "DATABASE_URL": url,
        "DEBUG": "true",
        "AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:1",
    }
    if kind == "server":
        yield url, settings
        return
    with servers.own_redis() as redis:
        yield url, settings | {"REDIS_URL": redis.url}


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("embedded", ("serve", "--port", "0")),
        ("server", ("serve", "--port", "0", "--workers", "2")),
        ("redis", ("worker",)),
    ],
)
def test_what_was_kept_long_enough_is_deleted_and_what_is_young_stays(
    kind: str, command: tuple[str, ...], processes: Any, until: Any, request: pytest.FixtureRequest
) -> None:
    with installed(kind, request) as (url, settings):
        assert processes.run("migrate", **settings).returncode == 0
        asyncio.run(fill(url))
        assert left(url) == dict.fromkeys(TABLES, MANY + 1) | {"old key": 1}
        process = processes.start(*command, **settings)
        until(
            lambda: left(url) == dict.fromkeys(TABLES, 1) | {"old key": 0},
            within_s=60,
        )
        assert process.terminate() == 0
        said = process.log.read_text()
        assert "relay failed" not in said
        assert "Traceback" not in said
        assert left(url) == dict.fromkeys(TABLES, 1) | {"old key": 0}
