"""One transaction as the repositories use it, and what its failures mean to the domain.

Writes wait: they travel together with the next read or with the commit, which is one trip for
many statements.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Executable, Row, Table, exc

from savannah.adapters.sql.engines import Lane, Lanes, Work
from savannah.application.ports import IdempotencyRecordKey, Reading
from savannah.domain.errors import (
    CodeTaken,
    EmailTaken,
    IdempotencyInProgress,
    Invalid,
    OrderNumberTaken,
    SavannahError,
    Unavailable,
)

T = TypeVar("T")
Params = dict[str, Any]


# There is no neutral way to say "unless it is there"; each dialect has a statement of its own,
# and loading the other one would slow every start.
def insert_of(dialect: str) -> Callable[[Table], Any]:
    """The `insert` of a dialect, which knows about conflicts."""
    statement: Callable[[Table], Any] = import_module(f"sqlalchemy.dialects.{dialect}").insert
    return statement


class Transaction:
    """Begins with the first statement, ends with `commit` or `close`, whichever comes first.

    After a failed statement nothing but `close` is possible.

    Attributes:
        dialect: `sqlite` or `postgresql`, for the few statements that differ.
        new_orders: the values of orders that are not written yet, by id.
    """

    def __init__(
        self,
        lanes: Lanes,
        keys_in_flight: set[IdempotencyRecordKey],
        *,
        reading: Reading,
    ) -> None:
        self.dialect: Final = lanes.dialect
        self.reading: Final = reading
        self.new_orders: dict[UUID, Params] = {}
        self._lanes = lanes
        self._lane: Lane | None = None
        self._waiting: list[tuple[Executable, list[Params]]] = []
        self._over = False
        self._keys_in_flight = keys_in_flight
        self._keys: set[IdempotencyRecordKey] = set()

    def own(self, key: IdempotencyRecordKey) -> None:
        """Keep other transactions of this process from working under the same key.

        Raises: IdempotencyInProgress.
        """
        if key in self._keys:
            return
        if key in self._keys_in_flight:
            raise IdempotencyInProgress
        self._keys_in_flight.add(key)
        self._keys.add(key)

    def later(self, statement: Executable, values: Params) -> None:
        """Write this before the next read, or with the commit."""
        self._require_open()
        if self.reading:
            raise RuntimeError("This unit of work is for reading only")
        if self._waiting and self._waiting[-1][0] is statement:
            self._waiting[-1][1].append(values)
        else:
            self._waiting.append((statement, [values]))

    async def all(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        return await self.run(lambda connection: connection.execute(statement, values).all())

    async def first(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        return await self.run(lambda connection: connection.execute(statement, values).first())

    async def run(self, work: Work[T]) -> T:
        """Do something with the connection itself, such as several reads in one trip."""
        self._require_open()
        flush = self._flushing()

        def begun(connection: Connection) -> T:
            flush(connection)
            return work(connection)

        return await self._attempt(lambda lane: lane.run(begun))

    async def flush(self) -> None:
        """Write what waits now, to learn now whether it can be written."""
        await self.run(lambda _: None)

    async def commit(self) -> None:
        self._require_open()
        if self._lane is not None or self._waiting:
            flush = self._flushing()
            await self._attempt(lambda lane: lane.commit(flush))
        await self.close()

    async def close(self) -> None:
        """Give everything back; what was not committed never happened."""
        self._over = True
        self._waiting = []
        self._keys_in_flight -= self._keys
        self._keys = set()
        lane, self._lane = self._lane, None
        if lane is not None:
            await lane.release()

    def _require_open(self) -> None:
        if self._over:
            raise RuntimeError("This unit of work has ended")

    def _flushing(self) -> Work[None]:
        waiting, self._waiting = self._waiting, []
        self.new_orders = {}

        def flush(connection: Connection) -> None:
            if not connection.in_transaction():
                connection.begin()
            for statement, rows in waiting:
                connection.execute(statement, rows[0] if len(rows) == 1 else rows)

        return flush

    async def _attempt(self, step: Callable[[Lane], Awaitable[T]]) -> T:
        try:
            if self._lane is None:
                self._lane = await self._lanes.take(reading=self.reading)
            return await step(self._lane)
        except exc.DBAPIError as error:
            self._over = True
            meaning = _meaning_of(error)
            # Where the data is at fault, Postgres quotes it; that must not get into a log.
            raise meaning from (error if isinstance(meaning, Unavailable) else None)
        except (exc.TimeoutError, exc.DisconnectionError, OSError) as error:
            self._over = True  # no connection in time, or the server went away meanwhile
            raise Unavailable from error
        except BaseException:
            self._over = True
            raise


# --- failures ------------------------------------------------------------------------------------

# What a broken constraint means, by its name (Postgres) and by what SQLite says instead of it.
_TAKEN: Final[dict[str, Callable[[], SavannahError]]] = {
    "uq_customers_email_key_live": EmailTaken,
    "customers.email_key": EmailTaken,
    "uq_customers_code": CodeTaken,
    "customers.code": CodeTaken,
    "uq_orders_number": OrderNumberTaken,
    "orders.number": OrderNumberTaken,
    # Somebody else was faster; a repeat sees their message.
    "uq_notifications_dedupe_key": Unavailable,
    "notifications.dedupe_key": Unavailable,
    "pk_idempotency_keys": IdempotencyInProgress,
    "idempotency_keys.principal": IdempotencyInProgress,
}
_FIELDS_TAKEN: Final = {
    "uq_users_username_key": ("username", "username_taken"),
    "users.username_key": ("username", "username_taken"),
    "uq_users_email_key": ("email", "email_taken"),
    "users.email_key": ("email", "email_taken"),
}
FIELD_TAKEN_DETAILS: Final = {
    "username_taken": "Somebody has this user name already",
    "email_taken": "Somebody has this e-mail address already",
}

# Primary result codes of https://www.sqlite.org/rescode.html: busy, locked, no memory, read only,
# interrupted, I/O error, corrupt, full, cannot open, locking protocol, not a database.
_SQLITE_UNAVAILABLE: Final = frozenset({5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26})

# Classes of https://www.postgresql.org/docs/15/errcodes-appendix.html: connection, authorization,
# catalog, rollback (deadlock), resources, operator intervention (timeouts, shutdown), system,
# internal; and two single codes: read-only transaction, lock not available.
_POSTGRES_UNAVAILABLE: Final = (
    "08",
    "28",
    "3D",
    "40",
    "53",
    "57",
    "58",
    "XX",
    "25006",
    "55P03",
)


class StatementRefused(Exception):
    """The database took exception to a statement of ours: a fault in this program.

    Says which statement and why, but not with which values: they are people's data.
    """

    def __init__(self, statement: str | None, reason: str) -> None:
        super().__init__(f"{reason}: {statement}")


def _meaning_of(error: exc.DBAPIError) -> Exception:
    """The domain's error behind a failure of the database, or a fault of ours."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        constraint = _sqlite_constraint(cause)
        unavailable, reason = code in _SQLITE_UNAVAILABLE, f"SQLite {code} {constraint}"
    else:
        state = getattr(cause, "sqlstate", None) or ""
        constraint = getattr(getattr(cause, "__cause__", None), "constraint_name", None) or ""
        unavailable = error.connection_invalidated or state.startswith(_POSTGRES_UNAVAILABLE)
        reason = f"Postgres {state} {constraint}"
    if unavailable:
        return Unavailable()
    if constraint in _FIELDS_TAKEN:
        field, word = _FIELDS_TAKEN[constraint]
        return Invalid.one(field, word, FIELD_TAKEN_DETAILS[word])
    if constraint in _TAKEN:
        return _TAKEN[constraint]()
    return StatementRefused(error.statement, reason.strip())


def _sqlite_constraint(cause: sqlite3.Error) -> str:
    """What was broken: a column, an index of expressions, or a named check."""
    # "UNIQUE constraint failed: orders.number", "...: index 'uq_...'", "CHECK ...: ck_..."
    broken = str(cause).partition("constraint failed: ")[2].partition(",")[0]
    return broken.removeprefix("index ").strip("'")
