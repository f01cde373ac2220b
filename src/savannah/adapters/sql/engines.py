"""Connections: how a piece of work gets one, on SQLite and on Postgres.

A `Lane` is one connection for one transaction. Statements are SQLAlchemy's, and work is a plain
function of a SQLAlchemy `Connection`, the same for both. SQLite does them in the one thread that
owns the connection, so a piece of work costs one thread switch however many statements it has.
(Through aiosqlite every statement costs four switches: a quarter of the orders per second.)
Postgres hands single statements to asyncpg itself, and runs work on SQLAlchemy's face of it.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    URL,
    Column,
    Connection,
    Engine,
    Executable,
    Row,
    Select,
    any_,
    bindparam,
    create_engine,
    event,
    exc,
    make_url,
)
from sqlalchemy.pool import NullPool

from savannah.application.ports import Reading
from savannah.domain.errors import Unavailable

T = TypeVar("T")
Work = Callable[[Connection], T]
# Statements, and the values to execute each with, as often as there are some.
Writes = Sequence[tuple[Executable, list[dict[str, Any]]]]

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_READERS_MAX: Final = 4  # SQLite reads are short, and two cores are soon busy


class StatementFailed(Exception):
    """Postgres, or the way to it, has refused something; the cause says what it said.

    Attributes:
        sqlstate: the code of the refusal, "" where the server said nothing.
        constraint: the constraint that was broken, "" for none.
        lost: the connection is gone.
        statement: the text of the statement, without its values.
    """

    def __init__(
        self, *, sqlstate: str = "", constraint: str = "", lost: bool, statement: str | None = None
    ) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.lost = lost
        self.statement = statement


class Lookup:
    """Rows by their `id`: as a statement for one `key`, and as one for an array of `keys`."""

    def __init__(self, rows: Select[Any], key: Column[Any]) -> None:
        self.one: Final = rows.where(key == bindparam("key"))
        # For Postgres: one text for any number of them.
        self.many: Final = rows.where(key == any_(bindparam("keys", type_=ARRAY(key.type))))


class Lane(Protocol):
    """One connection, for as long as one transaction needs it; the first step begins that.

    Every step writes first what has waited for it.
    """

    @abstractmethod
    async def fetch(
        self, writes: Writes, statement: Executable, values: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        """The rows of one statement."""

    async def find(self, writes: Writes, lookup: Lookup, key: UUID) -> Row[Any] | None:
        """The row with that id."""
        rows = await self.fetch(writes, lookup.one, {"key": key})
        return rows[0] if rows else None

    @abstractmethod
    async def run(self, writes: Writes, work: Work[T]) -> T:
        """Do something with the connection itself."""

    async def administer(self, work: Work[T]) -> T:
        """Change the schema: on Postgres such work begins and ends transactions itself."""
        return await self.run((), work)

    @abstractmethod
    async def commit(self, writes: Writes) -> None: ...

    @abstractmethod
    async def release(self) -> None:
        """Give the connection back; what is not committed is rolled back."""


class Lanes(Protocol):
    """Where lanes come from: one database."""

    dialect: str

    @abstractmethod
    async def take(self, *, reading: Reading) -> Lane:
        """Raises: Unavailable, when none is free in time."""

    @abstractmethod
    def connections(self) -> tuple[int, int]:
        """How many are in use now, and how many there may be."""

    @abstractmethod
    async def close(self) -> None: ...


def open_lanes(
    url: str,
    *,
    pool_size: int,
    wait: timedelta,
    statement_timeout: timedelta,
    lock_timeout: timedelta,
    prepared_statements: bool,
    replicas: tuple[str, ...] = (),
    replica_retry: timedelta = timedelta(seconds=5),
) -> Lanes:
    """The database behind a URL; nothing is connected yet.

    Raises: ValueError, for a URL that is neither SQLite's nor Postgres's.
    """
    address = address_of(url)
    if address.drivername == "sqlite":
        if replicas:
            raise ValueError("only Postgres has replicas")
        return SqliteLanes(address, readers=min(pool_size, _READERS_MAX), wait=wait, busy=wait)
    # Imported where it is needed: the driver's dialect and SQLAlchemy's asyncio part, with the
    # ORM behind it, would be half a second of every start on the embedded default.
    from savannah.adapters.sql import pool, postgres

    return postgres.PostgresLanes(
        address,
        [address_of(replica) for replica in replicas],
        pool.PostgresSettings(
            pool_size=pool_size,
            wait=wait,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            prepared_statements=prepared_statements,
            replica_retry=replica_retry,
        ),
    )


def address_of(url: str) -> URL:
    """A database URL with the driver we use. Raises: ValueError."""
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ValueError("a database URL begins with postgresql:// or sqlite:///") from None
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file: sqlite:///path/to/savannah.db")
        return parsed.set(drivername="sqlite")
    if kind in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+asyncpg")
    raise ValueError("a database URL begins with postgresql:// or sqlite:///")


def loads(text: str) -> Any:
    """A JSON column's value."""
    # Most are empty.
    return {} if text == "{}" else [] if text == "[]" else json.loads(text)


def dumps(value: object) -> str:
    """A JSON column's text."""
    return _encode(value)


# --- SQLite --------------------------------------------------------------------------------------


class _Seat:
    """One SQLite connection and the only thread that touches it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: Connection | None = None

    def do(self, work: Work[T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(
            self._thread,
            copy_context().run,  # a span of the caller is the parent of what happens there
            self._do,
            work,
        )

    def _do(self, work: Work[T]) -> T:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            return work(self._connection)
        except BaseException:
            self._connection.rollback()
            raise

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _SqliteLane(Lane):
    def __init__(self, pool: _SeatPool, seat: _Seat) -> None:
        self._pool = pool
        self._seat = seat
        self._used = False

    async def fetch(
        self, writes: Writes, statement: Executable, values: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        return await self.run(
            writes, lambda connection: connection.execute(statement, values).all()
        )

    async def run(self, writes: Writes, work: Work[T]) -> T:
        def written(connection: Connection) -> T:
            _write(connection, writes)
            return work(connection)

        self._used = True
        return await self._seat.do(written)

    async def commit(self, writes: Writes) -> None:
        await self.run(writes, Connection.commit)
        self._used = False

    async def release(self) -> None:
        # Nothing here waits, so a cancelled task cannot keep the seat: the thread rolls back
        # after whatever it is still doing, and the seat is free then.
        if self._used:
            self._seat.do(Connection.rollback).add_done_callback(self._returned)
        else:
            self._pool.put(self._seat)

    def _returned(self, rolled_back: asyncio.Future[None]) -> None:
        with suppress(Exception, asyncio.CancelledError):
            rolled_back.result()
        self._pool.put(self._seat)


def _write(connection: Connection, writes: Writes) -> None:
    if not connection.in_transaction():
        connection.begin()
    for statement, rows in writes:
        connection.execute(statement, rows[0] if len(rows) == 1 else rows)


class _SeatPool:
    """Seats that tasks take in turn, first come first served."""

    def __init__(self, seats: list[_Seat], wait: timedelta) -> None:
        self._all = seats
        self._free = list(seats)
        self._wait = wait
        self._count = asyncio.Semaphore(len(seats))

    async def take(self) -> _Seat:
        if self._count.locked():
            try:
                async with asyncio.timeout(self._wait.total_seconds()):
                    await self._count.acquire()
            except TimeoutError as error:
                raise Unavailable from error
        else:
            await self._count.acquire()
        return self._free.pop()

    def connections(self) -> tuple[int, int]:
        return len(self._all) - len(self._free), len(self._all)

    def put(self, seat: _Seat) -> None:
        self._free.append(seat)
        self._count.release()

    async def close(self) -> None:
        for seat in self._all:
            await seat.close()


class SqliteLanes(Lanes):
    """One file: one connection that writes, in fair turns, and a few that read beside it.

    Source: https://www.sqlite.org/wal.html: readers never wait in WAL mode; with
    `synchronous=normal` a commit survives the death of the process.
    """

    dialect = "sqlite"

    def __init__(self, url: URL, *, readers: int, wait: timedelta, busy: timedelta) -> None:
        self._engines = [_sqlite_engine(url, busy, reading) for reading in (False, True)]
        writer, reader = self._engines
        self._writer = _SeatPool([_Seat(writer, "savannah-writer")], wait)
        seats = [_Seat(reader, f"savannah-reader-{number}") for number in range(readers)]
        self._readers = _SeatPool(seats, wait)

    async def take(self, *, reading: Reading) -> Lane:
        pool = self._readers if reading else self._writer
        return _SqliteLane(pool, await pool.take())

    def connections(self) -> tuple[int, int]:
        pools = (self._writer.connections(), self._readers.connections())
        return sum(used for used, _ in pools), sum(most for _, most in pools)

    async def close(self) -> None:
        await self._readers.close()
        await self._writer.close()


def _sqlite_engine(url: URL, busy: timedelta, reading: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,  # error texts must not hold personal data
        json_serializer=dumps,
        connect_args={"timeout": busy.total_seconds()},
    )

    @event.listens_for(engine, "do_connect")
    def keep_private(*_: object) -> None:
        # SQLite would make the file for all to read, and lays others beside it that are like it.
        with suppress(OSError):  # it is there, or cannot be made, which SQLite says better
            os.close(os.open(url.database or "", os.O_CREAT | os.O_EXCL, 0o600))

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        for pragma in (
            "journal_mode=wal",
            "synchronous=normal",
            "foreign_keys=on",
            f"query_only={'on' if reading else 'off'}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
