"""Postgres through asyncpg: a pool of connections to the primary, and one to each replica.

Who may read from which replica is decided in `replicas`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from uuid import uuid4

from sqlalchemy import URL, Connection, Engine, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.util import greenlet_spawn

from savannah.adapters.sql.engines import Lane, Lanes, Work, dumps
from savannah.adapters.sql.replicas import FAILURES, Replica, Replicas
from savannah.application.ports import Reading

T = TypeVar("T")

_RECYCLE_S: Final = 1800  # firewalls forget quiet connections without a word
_QUERY_CANCELED: Final = "57014"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    pool_size: int
    wait: timedelta
    statement_timeout: timedelta
    lock_timeout: timedelta
    prepared_statements: bool
    replica_lag: timedelta


class _PostgresLane(Lane):
    def __init__(
        self,
        connection: AsyncConnection,
        releasing: set[asyncio.Task[None]],
        committed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._releasing = releasing
        self._committed = committed

    async def run(self, work: Work[T]) -> T:
        try:
            return await self._connection.run_sync(work)
        except TimeoutError:
            # The server does not even refuse; nobody should wait on this connection again.
            await self._connection.invalidate()
            raise

    async def commit(self, work: Work[None]) -> None:
        def last(connection: Connection) -> None:
            work(connection)
            connection.commit()

        try:
            await self.run(last)
        finally:
            self._committed()  # where it failed, perhaps all the same

    async def release(self) -> None:
        # A task of its own: whoever is cancelled meanwhile, the connection goes back.
        task = asyncio.create_task(self._close())
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        await asyncio.shield(task)

    async def _close(self) -> None:
        if self._connection.in_transaction():
            try:
                await self._connection.rollback()
            except FAILURES:
                # The server went away, or does not answer: nobody should get this one again.
                await self._connection.invalidate()
        await self._connection.close()


class _SingleLane(Lane):
    """A connection for each read, and no transaction: a statement by itself is one.

    Saves the trips of BEGIN and ROLLBACK, and three of four switches between coroutine and work.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, work: Work[T]) -> T:
        return await greenlet_spawn(self._run, work)

    def _run(self, work: Work[T]) -> T:
        with self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.autocommit = True
            try:
                return work(connection)
            except TimeoutError:
                connection.invalidate()  # the server does not even refuse
                raise
            finally:
                driver.autocommit = False

    async def commit(self, work: Work[None]) -> None:
        await self.run(work)

    async def release(self) -> None:
        """Nothing is kept."""


class _ReadingLane(Lane):
    """On a replica; from the first failure on, at the primary.

    What was read before is not read again, so such a unit of work may see two moments.
    """

    def __init__(self, lane: Lane, fall_back: Callable[[Exception], Awaitable[Lane]]) -> None:
        self._lane = lane
        self._fall_back: Callable[[Exception], Awaitable[Lane]] | None = fall_back

    async def run(self, work: Work[T]) -> T:
        if self._fall_back is not None:
            try:
                return await self._lane.run(work)
            except FAILURES as error:
                if _took_too_long(error):
                    raise  # at the primary, too, and there it would be in the way
                await self._lane.release()
                self._lane = await self._fall_back(error)
                self._fall_back = None
        return await self._lane.run(work)

    async def commit(self, work: Work[None]) -> None:
        await self.run(work)

    async def release(self) -> None:
        await self._lane.release()


class PostgresLanes(Lanes):
    """A pool of connections to the primary, and one to each replica for reading."""

    dialect = "postgresql"

    def __init__(self, url: URL, replicas: list[URL], settings: PostgresSettings) -> None:
        primary = _postgres_engine(url, settings)
        self._engines = [
            primary,
            *(_postgres_engine(replica, settings) for replica in replicas),
        ]
        self._primary = primary
        # One snapshot for a whole unit of work: the parts of a report agree with each other.
        self._snapshots = {
            engine: engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            for engine in self._engines
        }
        # Behind PgBouncer only a transaction keeps the steps of a statement on one connection.
        self._reads_singly = settings.prepared_statements
        self._replicas = Replicas(primary, self._engines[1:], lag=settings.replica_lag)
        self._releasing: set[asyncio.Task[None]] = set()

    async def take(self, *, reading: Reading) -> Lane:
        if not reading:
            return await self._lane(self._primary)
        replica = None if reading == "fresh" else self._replicas.pick()
        if replica is None:
            return await self._reading(self._primary, reading)
        instead = partial(self._instead_of, replica, reading)
        try:
            lane = await self._reading(replica.engine, reading)
        except FAILURES as error:
            return await instead(error)
        return _ReadingLane(lane, instead)

    async def _reading(self, engine: AsyncEngine, reading: Reading) -> Lane:
        if reading is not True and self._reads_singly:
            return _SingleLane(engine.sync_engine)
        return await self._lane(self._snapshots[engine])

    async def _lane(self, engine: AsyncEngine) -> _PostgresLane:
        connection = await engine.connect()
        return _PostgresLane(connection, self._releasing, self._replicas.committed)

    async def _instead_of(self, replica: Replica, reading: Reading, error: Exception) -> Lane:
        # One that is only in the way of what it replays, or has an older schema, goes on.
        if not isinstance(error, exc.DBAPIError) or error.connection_invalidated:
            self._replicas.failed(replica, error)
        return await self._reading(self._primary, reading)

    def connections(self) -> tuple[int, int]:
        pools = [engine.pool for engine in self._engines]
        known = [pool for pool in pools if isinstance(pool, QueuePool)]  # PgBouncer does its own
        return sum(pool.checkedout() for pool in known), sum(pool.size() for pool in known)

    async def close(self) -> None:
        await self._replicas.close()
        if self._releasing:
            await asyncio.wait(set(self._releasing))
        for engine in self._engines:
            await engine.dispose()


def _postgres_engine(url: URL, settings: PostgresSettings) -> AsyncEngine:
    pool: dict[str, Any] = {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.wait.total_seconds(),
        "pool_recycle": _RECYCLE_S,
    }
    connect: dict[str, Any] = {
        "timeout": settings.wait.total_seconds(),
        # The server ends a long statement itself, unless it, or the network, has stopped.
        "command_timeout": (settings.statement_timeout + settings.wait).total_seconds(),
    }
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


def _took_too_long(error: Exception) -> bool:
    cause = error.orig if isinstance(error, exc.DBAPIError) else None
    return getattr(cause, "sqlstate", None) == _QUERY_CANCELED


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))


def _with_asyncpg_options(url: URL) -> URL:
    """The URL with libpq's `sslmode`, which hosting providers hand out, in asyncpg's spelling."""
    mode = url.query.get("sslmode")
    if mode is None:
        return url
    return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
