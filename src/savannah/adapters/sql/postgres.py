"""Postgres through asyncpg: a pool of connections to the primary, and one to each replica."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import URL, Connection, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from savannah.adapters.sql.engines import Lane, Lanes, Work, dumps
from savannah.application.ports import Reading

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    pool_size: int
    wait: timedelta
    statement_timeout: timedelta
    lock_timeout: timedelta
    prepared_statements: bool


class _PostgresLane(Lane):
    def __init__(self, connection: AsyncConnection, releasing: set[asyncio.Task[None]]) -> None:
        self._connection = connection
        self._releasing = releasing

    async def run(self, work: Work[T]) -> T:
        return await self._connection.run_sync(work)

    async def commit(self, work: Work[None]) -> None:
        def last(connection: Connection) -> None:
            work(connection)
            connection.commit()

        await self._connection.run_sync(last)

    async def release(self) -> None:
        # A task of its own: whoever is cancelled meanwhile, the connection goes back.
        task = asyncio.create_task(self._connection.close())
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        await asyncio.shield(task)

    async def _close(self) -> None:
        try:
            await self._connection.close()
        except exc.DBAPIError:
            # It could not roll back, because the server went away; now there is nothing to.
            await self._connection.close()


class PostgresLanes(Lanes):
    """A pool of connections to the primary, and one to each replica for reading."""

    dialect = "postgresql"

    def __init__(self, url: URL, replicas: list[URL], settings: PostgresSettings) -> None:
        primary = _postgres_engine(url, settings)
        self._engines = [
            primary,
            *(_postgres_engine(replica, settings) for replica in replicas),
        ]
        self._writer = primary
        # One snapshot for a whole unit of work: the parts of a report agree with each other.
        self._fresh, *replicas_only = [
            engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            for engine in self._engines
        ]
        self._readers = replicas_only or [self._fresh]
        self._next = 0
        self._releasing: set[asyncio.Task[None]] = set()

    async def take(self, *, reading: Reading) -> Lane:
        engine = self._writer
        if reading == "fresh":
            engine = self._fresh
        elif reading:
            self._next = (self._next + 1) % len(self._readers)
            engine = self._readers[self._next]
        return _PostgresLane(await engine.connect(), self._releasing)

    async def close(self) -> None:
        if self._releasing:
            await asyncio.wait(set(self._releasing))
        for engine in self._engines:
            await engine.dispose()


def _postgres_engine(url: URL, settings: PostgresSettings) -> AsyncEngine:
    pool: dict[str, Any] = {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.wait.total_seconds(),
    }
    connect: dict[str, Any] = {"timeout": settings.wait.total_seconds()}
    if settings.prepared_statements:
        connect["server_settings"] = {
            "application_name": "savannah",
            "statement_timeout": _milliseconds(settings.statement_timeout),
            "lock_timeout": _milliseconds(settings.lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(
                settings.statement_timeout + settings.lock_timeout
            ),
            # Compiling pays for analytical queries only; ours are over sooner.
            "jit": "off",
        }
    else:
        # PgBouncer in transaction mode: a prepared statement may be gone with the next
        # transaction, and it refuses start-up parameters; set the timeouts on the role.
        pool = {"poolclass": NullPool}
        connect |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"savannah_{uuid4().hex}",
        }
    engine = create_async_engine(
        _with_asyncpg_options(url),
        **pool,
        hide_parameters=True,  # error texts must not hold personal data
        json_serializer=dumps,
        connect_args=connect,
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: Any, _: object, __: object) -> None:
        # The driver knows at once when the server went away; asking costs no round trip.
        if connection.driver_connection.is_closed():
            raise exc.DisconnectionError

    return engine


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


def _with_asyncpg_options(url: URL) -> URL:
    """The URL with libpq's `sslmode`, which hosting providers hand out, in asyncpg's spelling."""
    mode = url.query.get("sslmode")
    if mode is None:
        return url
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
