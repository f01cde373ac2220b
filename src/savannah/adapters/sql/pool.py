"""A pool of connections to one Postgres, each with the driver's face and SQLAlchemy's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID, uuid4

import asyncpg  # type: ignore[import-untyped]  # it ships none
from sqlalchemy import URL, Connection, Executable, Row, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from savannah.adapters.sql.engines import Lookup, StatementFailed, Work, dumps, loads
from savannah.adapters.sql.gathered import GatheredReads
from savannah.adapters.sql.statements import Statements

T = TypeVar("T")

FAILURES: Final = (StatementFailed, exc.SQLAlchemyError, OSError)
_GOODBYE_S: Final = 1.0
_RECYCLE_S: Final = 1800  # firewalls forget quiet connections without a word
_REFUSALS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    pool_size: int
    wait: timedelta
    statement_timeout: timedelta
    lock_timeout: timedelta
    prepared_statements: bool
    replica_retry: timedelta


class Seat:
    """One connection: the driver's face of it, which is the fast one, and SQLAlchemy's.

    SQLAlchemy believes that it commits every statement; where transactions begin and end is said
    to the driver.

    Attributes:
        interrupted: a statement may still be running.
    """

    def __init__(self, connection: AsyncConnection, driver: Any, statements: Statements) -> None:
        self.connection = connection
        self.driver = driver
        self.opened_at = time.monotonic()
        self.interrupted = False
        self._statements = statements

    async def fetch(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """The rows of one statement. Raises: StatementFailed, OSError."""
        prepared = self._statements.of(statement, values)
        text, arguments = prepared.text, prepared.arguments(values)
        return prepared.rows(await self._answered(self.driver.fetch(text, *arguments), text))

    async def write(self, steps: Sequence[tuple[str, list[list[Any]]]]) -> None:
        """Raises: as `fetch`."""
        for text, rows in steps:
            if len(rows) == 1:
                await self._answered(self.driver.fetch(text, *rows[0]), text)
            else:
                await self._answered(self.driver.executemany(text, rows), text)

    async def execute(self, command: str) -> None:
        """A command without values, such as BEGIN. Raises: as `fetch`."""
        await self._answered(self.driver.execute(command), command)

    async def run(self, work: Work[T]) -> T:
        """Work on SQLAlchemy's face. Raises: as `fetch`."""

        def done(connection: Connection) -> T:
            try:
                return work(connection)
            finally:
                connection.rollback()  # of what SQLAlchemy believes; nothing is sent

        return await self._answered(self.connection.run_sync(done))

    async def administer(self, work: Work[T]) -> T:
        """Work that begins and ends transactions itself. Raises: as `fetch`."""
        raw: Any = await self.connection.get_raw_connection()
        raw.dbapi_connection.autocommit = False
        try:
            return await self._answered(self.connection.run_sync(work))
        finally:
            raw.dbapi_connection.autocommit = True

    async def _answered(self, answer: Awaitable[T], text: str | None = None) -> T:
        try:
            return await answer
        except _REFUSALS as error:
            raise _failure(error, text, lost=self.driver.is_closed()) from error
        except exc.DBAPIError as error:
            cause = _cause_of(error)
            raise _failure(cause, error.statement, lost=self.driver.is_closed()) from cause
        except TimeoutError:
            # The server does not even refuse; nobody should wait on this connection again.
            self.driver.terminate()
            raise
        except BaseException as error:
            self.interrupted = not isinstance(error, Exception)
            raise


def _cause_of(error: exc.DBAPIError) -> BaseException:
    """What the driver has said."""
    said: BaseException = error.orig or error
    return said.__cause__ or said


def _failure(cause: BaseException, statement: str | None, *, lost: bool) -> StatementFailed:
    return StatementFailed(
        sqlstate=getattr(cause, "sqlstate", None) or "",
        constraint=getattr(cause, "constraint_name", None) or "",
        lost=lost,
        statement=statement,
    )


class Pool:
    """Connections to one server; the one used last is the next to be taken.

    Not SQLAlchemy's pool, which starts a task for every connection that is taken from it.
    """

    def __init__(self, url: URL, settings: PostgresSettings) -> None:
        self._engine = _postgres_engine(url, settings)
        self.statements: Final = Statements(self._engine.dialect)
        # Behind PgBouncer only a transaction keeps the steps of a statement on one connection,
        # and it is PgBouncer that does the pooling.
        self.keeps: Final = settings.prepared_statements
        self._wait_s = settings.wait.total_seconds()
        self.size: Final = settings.pool_size
        self._turns = asyncio.Semaphore(settings.pool_size)
        self._free: list[Seat] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._gathered: dict[Lookup, GatheredReads[UUID, Row[Any]]] = {}

    @property
    def in_use(self) -> int:
        return self.size - self._turns._value  # noqa: SLF001  it has no other word for it

    async def take(self) -> Seat:
        """Raises: StatementFailed, OSError; TimeoutError, when none is free in time."""
        if self._turns.locked():
            async with asyncio.timeout(self._wait_s):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        while self._free:
            seat = self._free.pop()
            # The driver knows at once when the server went away; asking costs no round trip.
            if not seat.driver.is_closed() and time.monotonic() - seat.opened_at < _RECYCLE_S:
                return seat
            self._later(self._ended(seat))
        try:
            return await self._opened()
        except BaseException:
            self._turns.release()
            raise

    def give(self, seat: Seat) -> asyncio.Task[None] | None:
        """Take a connection back; what still has to be done with it, if anything has."""
        if seat.driver.is_closed():
            self._turns.release()
            return self._later(self._ended(seat))
        if seat.interrupted or not self.keeps or seat.driver.is_in_transaction():
            return self._later(self._restored(seat))
        self._put(seat)
        return None

    async def ask(self, question: Executable) -> Any:
        """The first value of the first row. Raises: as `take`."""
        seat = await self.take()
        try:
            if not self.keeps:
                await seat.execute("BEGIN")
            return (await seat.fetch(question, {}))[0][0]
        finally:
            self.give(seat)

    def gathered(self, lookup: Lookup) -> GatheredReads[UUID, Row[Any]]:
        """Reads of rows by their id, each a transaction by itself, that may share trips."""
        reads = self._gathered.get(lookup)
        if reads is None:
            reads = self._gathered[lookup] = GatheredReads(partial(self._look_up, lookup))
        return reads

    async def _look_up(self, lookup: Lookup, keys: Sequence[UUID]) -> Mapping[UUID, Row[Any]]:
        seat = await self.take()
        try:
            if len(keys) == 1:
                rows = await seat.fetch(lookup.one, {"key": keys[0]})
            else:
                rows = await seat.fetch(lookup.many, {"keys": keys})
        finally:
            self.give(seat)
        return {row.id: row for row in rows}

    async def close(self) -> None:
        for reads in self._gathered.values():
            await reads.close()
        if self._leaving:
            await asyncio.wait(set(self._leaving))
        while self._free:
            await self._ended(self._free.pop())
        await self._engine.dispose()

    def _put(self, seat: Seat) -> None:
        self._free.append(seat)
        self._turns.release()

    async def _opened(self) -> Seat:
        try:
            connection = await self._engine.connect()
        except exc.DBAPIError as error:
            cause = _cause_of(error)
            raise _failure(cause, None, lost=False) from cause
        raw: Any = await connection.get_raw_connection()
        raw.dbapi_connection.autocommit = True
        return Seat(connection, raw.driver_connection, self.statements)

    async def _restored(self, seat: Seat) -> None:
        """End what still runs there, and free it."""
        try:
            await seat.execute("ROLLBACK")
        except FAILURES:
            seat.driver.terminate()  # the server went away, or does not answer
        if self.keeps and not seat.driver.is_closed():
            seat.interrupted = False
            self._put(seat)
        else:
            self._turns.release()
            await self._ended(seat)

    async def _ended(self, seat: Seat) -> None:
        try:
            with suppress(*FAILURES, *_REFUSALS):
                await seat.driver.close(timeout=_GOODBYE_S)  # the server is told, and has gone
            await seat.connection.invalidate()
        finally:
            await seat.connection.close()

    def _later(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A task of its own: whoever is cancelled meanwhile, it is done.
        task = asyncio.create_task(step)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task


def _postgres_engine(url: URL, settings: PostgresSettings) -> AsyncEngine:
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
        connect |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"savannah_{uuid4().hex}",
        }
    if url.query:  # libpq's words, which asyncpg itself reads, but as no arguments of their own
        connect["dsn"] = f"postgresql:///?{urlencode(url.query, doseq=True)}"
    return create_async_engine(
        url.set(query={}),
        poolclass=NullPool,
        hide_parameters=True,  # error texts must not hold personal data
        json_serializer=dumps,
        json_deserializer=loads,
        connect_args=connect,
    )


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
