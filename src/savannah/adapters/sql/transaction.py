"""One transaction as the repositories use it, and what its failures mean to the domain.

Writes wait: they travel together with the next read or with the commit, which is one trip for
many statements.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Executable, Row, Table, exc

from savannah.adapters.sql.engines import Lane, Lanes, Lookup, StatementFailed, Work
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
        waiting_orders: the values of orders that are not written yet, by id.
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
        self.waiting_orders: dict[UUID, Params] = {}
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
        """The rows of a statement, preferably of one that is made once: Postgres keeps its text."""
        writes = self._taken()
        return await self._attempt(lambda lane: lane.fetch(writes, statement, values or {}))

    async def first(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        rows = await self.all(statement, values)
        return rows[0] if rows else None

    async def find(self, lookup: Lookup, key: UUID) -> Row[Any] | None:
        """The row with that id."""
        writes = self._taken()
        return await self._attempt(lambda lane: lane.find(writes, lookup, key))

    async def run(self, work: Work[T]) -> T:
        """Do something with the connection itself, such as several reads in one trip."""
        writes = self._taken()
        return await self._attempt(lambda lane: lane.run(writes, work))

    async def administer(self, work: Work[T]) -> T:
        """Change the schema, as the first and only thing."""
        self._require_open()
        return await self._attempt(lambda lane: lane.administer(work))

    async def flush(self) -> None:
        """Write what waits now, to learn now whether it can be written."""
        await self.run(lambda _: None)

    async def commit(self) -> None:
        self._require_open()
        if self._lane is not None or self._waiting:
            writes = self._taken()
            await self._attempt(lambda lane: lane.commit(writes))
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

    def _taken(self) -> list[tuple[Executable, list[Params]]]:
        """What waits; from here on the next step has it."""
        self._require_open()
        waiting, self._waiting = self._waiting, []
        self.waiting_orders = {}
        # What is executed for several values at once needs the same names in all of them.
        return [
            (statement, list(alike))
            for statement, rows in waiting
            for _, alike in groupby(rows, tuple)
        ]

    async def _attempt(self, step: Callable[[Lane], Awaitable[T]]) -> T:
        try:
            if self._lane is None:
                self._lane = await self._lanes.take(reading=self.reading)
            return await step(self._lane)
        except (StatementFailed, exc.DBAPIError) as error:
            self._over = True
            meaning = _meaning_of(error)
            # Where the data is at fault, Postgres quotes it; that must not get into a log.
            cause = error.__cause__ if isinstance(error, StatementFailed) else error
            raise meaning from (cause if isinstance(meaning, Unavailable) else None)
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
# internal; and single codes: a plan that a migration has just made invalid, read-only transaction,
# lock not available.
_POSTGRES_UNAVAILABLE: Final = (
    "0A000",
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


def _meaning_of(error: StatementFailed | exc.DBAPIError) -> Exception:
    """The domain's error behind a failure of the database, or a fault of ours."""
    if isinstance(error, StatementFailed):
        constraint = error.constraint
        unavailable = error.lost or error.sqlstate.startswith(_POSTGRES_UNAVAILABLE)
        reason = f"Postgres {error.sqlstate} {constraint}"
    else:
        cause = error.orig
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        constraint = _sqlite_constraint(cause)
        unavailable, reason = code in _SQLITE_UNAVAILABLE, f"SQLite {code} {constraint}"
    if unavailable:
        return Unavailable()
    if constraint in _FIELDS_TAKEN:
        field, word = _FIELDS_TAKEN[constraint]
        return Invalid.one(field, word, FIELD_TAKEN_DETAILS[word])
    if constraint in _TAKEN:
        return _TAKEN[constraint]()
    return StatementRefused(error.statement, reason.strip())


def _sqlite_constraint(cause: BaseException | None) -> str:
    """What was broken: a column, an index of expressions, or a named check."""
    # "UNIQUE constraint failed: orders.number", "...: index 'uq_...'", "CHECK ...: ck_..."
    broken = str(cause).partition("constraint failed: ")[2].partition(",")[0]
    return broken.removeprefix("index ").strip("'")
