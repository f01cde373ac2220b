"""Storage in a database: units of work over one transaction each, the same for both dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sqlalchemy import text

from savannah.adapters.sql.customers import SqlCustomers
from savannah.adapters.sql.engines import Lanes, Work, open_lanes
from savannah.adapters.sql.events import SqlEvents, SqlIdempotency
from savannah.adapters.sql.identity import (
    SqlClients,
    SqlGrants,
    SqlSigningKeys,
    SqlUsers,
)
from savannah.adapters.sql.notifications import SqlNotifications
from savannah.adapters.sql.oauth import (
    SqlBrowserSessions,
    SqlConsents,
    SqlHandshakes,
    SqlLogoutNotices,
)
from savannah.adapters.sql.orders import SqlOrders
from savannah.adapters.sql.reports import SqlReports
from savannah.adapters.sql.transaction import Transaction
from savannah.application.ports import IdempotencyRecordKey, Reading, Storage, UnitOfWork

T = TypeVar("T")

_PING = text("SELECT 1")


_REPOSITORIES: Final[Mapping[str, Callable[[Transaction], object]]] = {
    "customers": SqlCustomers,
    "orders": SqlOrders,
    "notifications": SqlNotifications,
    "reports": SqlReports,
    "events": SqlEvents,
    "idempotency": SqlIdempotency,
    "users": SqlUsers,
    "clients": SqlClients,
    "grants": SqlGrants,
    "handshakes": SqlHandshakes,
    "sessions": SqlBrowserSessions,
    "consents": SqlConsents,
    "logout_notices": SqlLogoutNotices,
    "signing_keys": SqlSigningKeys,
}


class SqlUnitOfWork(UnitOfWork):
    """One transaction; it begins with the first thing asked of it.

    Writes wait for the next read or the commit, so that is where they fail. After a failure, and
    after `commit()`, the unit of work is over; whoever tries again takes a new one.
    """

    customers: SqlCustomers
    orders: SqlOrders
    notifications: SqlNotifications
    reports: SqlReports
    events: SqlEvents
    idempotency: SqlIdempotency
    users: SqlUsers
    clients: SqlClients
    grants: SqlGrants
    handshakes: SqlHandshakes
    sessions: SqlBrowserSessions
    consents: SqlConsents
    logout_notices: SqlLogoutNotices
    signing_keys: SqlSigningKeys

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        # One of the repositories, made when it is asked for: most units of work need one or two.
        if name not in _REPOSITORIES:
            raise AttributeError(name)
        repository = _REPOSITORIES[name](self._transaction)
        setattr(self, name, repository)
        return repository

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transaction.close()

    async def commit(self) -> None:
        await self._transaction.commit()


class SqlStorage(Storage):
    """A database. `open` connects to nothing yet; `close` when done."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._keys_in_flight: set[IdempotencyRecordKey] = set()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        pool_size: int = 10,
        wait: timedelta = timedelta(seconds=5),
        statement_timeout: timedelta = timedelta(seconds=10),
        lock_timeout: timedelta = timedelta(seconds=5),
        prepared_statements: bool = True,
        replicas: Sequence[str] = (),
        replica_retry: timedelta = timedelta(seconds=5),
    ) -> Self:
        """The storage behind `sqlite:///path` or `postgresql://…`, driver suffix or not.

        Args:
            pool_size: connections to Postgres; SQLite has one that writes and up to four that
                read.
            wait: for a free connection, for connecting, and for SQLite's file lock.
            statement_timeout: Postgres only, likewise `lock_timeout`.
            prepared_statements: False behind PgBouncer in transaction mode; timeouts are then
                set on the database role, and PgBouncer does the pooling.
            replicas: URLs of read replicas of that Postgres. Units of work for reading go
                there, save fresh ones; a replica that fails, or has not within milliseconds what
                is committed by then, is passed over in favour of the primary.
            replica_retry: a replica that failed is tried again after as long.

        Raises:
            ValueError: the URL is neither SQLite's nor Postgres's.
        """
        return cls(
            open_lanes(
                url,
                pool_size=pool_size,
                wait=wait,
                statement_timeout=statement_timeout,
                lock_timeout=lock_timeout,
                prepared_statements=prepared_statements,
                replicas=tuple(replicas),
                replica_retry=replica_retry,
            )
        )

    def __call__(self, *, reading: Reading = False) -> SqlUnitOfWork:
        return SqlUnitOfWork(Transaction(self._lanes, self._keys_in_flight, reading=reading))

    async def ping(self) -> None:
        """Raises: Unavailable."""
        await self.read(lambda connection: connection.execute(_PING).one())

    def connections(self) -> tuple[int, int]:
        """How many are in use now, and how many there may be."""
        return self._lanes.connections()

    async def read(self, work: Work[T]) -> T:
        """Look at the primary database itself, as the schema check does.

        Raises: Unavailable.
        """
        transaction = Transaction(self._lanes, set(), reading="fresh")
        try:
            return await transaction.run(work)
        finally:
            await transaction.close()

    async def close(self) -> None:
        """Give all connections back; units of work must be over by now."""
        await self._lanes.close()
