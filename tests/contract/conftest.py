"""What the contract suites share: every adapter behind one fixture, rows to store, page walks.

A suite is written once from the port's words and runs against each adapter. To add one to
`storage`, write a fixture `open_<name>` and put `<name>` among the parameters; one that lives
elsewhere is named with `--storage`.
"""

from __future__ import annotations

import asyncio
import inspect
import runpy
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from savannah.adapters.memory import MemoryStorage, SeededRandomness
from savannah.application.ports import Storage
from savannah.domain.access import Role
from savannah.domain.clients import Client, ClientType, GrantType
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.events import Event
from savannah.domain.identity import Grant, GrantId, User, UserId
from savannah.domain.money import Money
from savannah.domain.notification import DeliveryReport, Notification, Report, SmsStatus
from savannah.domain.order import (
    CROCKFORD,
    Cancellation,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    Reference,
    Status,
)
from savannah.domain.paging import Page, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Encoding, Locale, SmsEvent

Opener = Callable[[], AbstractAsyncContextManager[Storage]]

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


# --- running -------------------------------------------------------------------------------------


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests on the loop their adapter was opened on; a lock-up fails."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def story() -> None:
        async with asyncio.timeout(120):
            await pyfuncitem.obj(**arguments)

    runner: asyncio.Runner = pyfuncitem._request.getfixturevalue("runner")
    runner.run(story())
    return True


# --- the adapters --------------------------------------------------------------------------------


@pytest.fixture
def open_memory() -> Opener:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        yield MemoryStorage()

    return opened


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the current schema, made once and copied for each test."""
    from savannah.adapters.sql import migrate

    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def open_sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    from savannah.adapters.sql import SqlStorage

    path = tmp_path / "savannah.db"
    shutil.copy(request.getfixturevalue("migrated_sqlite"), path)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        storage = SqlStorage.open(f"sqlite:///{path}")
        try:
            yield storage
        finally:
            await storage.close()

    return opened


@pytest.fixture
def open_postgres(request: pytest.FixtureRequest) -> Opener:
    return _postgres(request)


@pytest.fixture
def open_pgbouncer(request: pytest.FixtureRequest) -> Opener:
    return _postgres(request, through="pgbouncer")


def _postgres(request: pytest.FixtureRequest, *, through: str | None = None) -> Opener:
    import asyncpg

    from savannah.adapters.sql import SqlStorage
    from savannah.adapters.sql.tables import metadata

    url = request.getfixturevalue("migrated_postgres")
    pooled = url if through is None else request.getfixturevalue(through).at(url)
    # Deleting a few rows is many times faster than truncating, or copying the database.
    emptied = "; ".join(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables))

    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(emptied)
        finally:
            await connection.close()
        storage = SqlStorage.open(pooled, prepared_statements=through is None)
        try:
            yield storage
        finally:
            await storage.close()

    return opened


@pytest.fixture
def open_postgres_without_trigrams(request: pytest.FixtureRequest) -> Opener:
    """As where the extension cannot be had; the indexes are back afterwards."""
    from sqlalchemy import text

    from savannah.adapters.sql import migrate
    from savannah.adapters.sql.tables import TRIGRAM_INDEXES

    opener = request.getfixturevalue("open_postgres")

    @asynccontextmanager
    async def opened() -> AsyncIterator[Storage]:
        async with opener() as storage:
            dropped = text(f"DROP INDEX {', '.join(TRIGRAM_INDEXES)}")
            async with storage() as uow:
                await uow._transaction.run(lambda connection: connection.execute(dropped))
                await uow.commit()
            try:
                yield storage
            finally:
                await migrate(request.getfixturevalue("migrated_postgres"))

    return opened


@pytest.fixture
def open_given(request: pytest.FixtureRequest) -> Opener:
    file, _, name = request.config.getoption("--storage").rpartition(":")
    opener: Opener = runpy.run_path(file)[name]
    return opener


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each suite runs on every storage, unless the command line names one alone."""
    if "storage" in metafunc.fixturenames:
        pooled = metafunc.config.getoption("--pooler")
        given = metafunc.config.getoption("--storage")
        alone = ["given"] if given else ["pgbouncer"] if pooled else []
        names = alone or ["memory", "sqlite", "postgres"]
        if not alone and metafunc.module.__name__.endswith("test_storage_search"):
            names.append("postgres_without_trigrams")
        metafunc.parametrize("storage", names, indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Storage]:
    opened = request.getfixturevalue(f"open_{request.param}")()
    yield runner.run(opened.__aenter__())
    runner.run(opened.__aexit__(None, None, None))


# --- rows ----------------------------------------------------------------------------------------


class Make:
    """Rows that are valid and different from each other; every field can be given."""

    def __init__(self) -> None:
        self._random = SeededRandomness()
        self._made = 0

    def id(self) -> UUID:
        return self._random.uuid()

    def _next(self) -> tuple[int, datetime]:
        self._made += 1
        return self._made, START + timedelta(minutes=self._made)

    def customer(self, **fields: Any) -> Customer:
        number, now = self._next()
        at = fields.pop("at", now)
        values: dict[str, Any] = {
            "id": CustomerId(self.id()),
            "code": f"CUST-{number:06d}",
            "name": f"Customer {number}",
            "email": None,
            "phone": PhoneNumber(f"+2547{number:08d}"),
            "locale": Locale.EN,
            "sms_opt_out": False,
            "created_at": at,
            "updated_at": at,
        }
        return Customer(**values | fields)

    def order(self, customer: Customer, **fields: Any) -> Order:
        _, now = self._next()
        at = fields.pop("at", now)
        total, currency = fields.pop("price", 99_999), fields.pop("currency", "KES")
        values: dict[str, Any] = {
            "id": OrderId(self.id()),
            "number": Reference.make(self._random.symbols(CROCKFORD, 6)),
            "customer_id": customer.id,
            "item": "Laptop Computer",
            "price": Money(total, currency),
            "quantity": 1,
            "created_at": at,
            "updated_at": at,
            "status_changed_at": at,
        }
        if fields.get("status") is Status.CANCELLED:
            values["cancellation"] = Cancellation(
                reason=CancelReason.OTHER, note=None, cancelled_at=at, cancelled_by="user:till"
            )
        return Order(**values | fields)

    def message(self, order: Order, **fields: Any) -> Notification:
        number, now = self._next()
        at = fields.pop("at", now)
        phone = fields.pop("to", f"+2547{number:08d}")
        values: dict[str, Any] = {
            "id": NotificationId(self.id()),
            "order_id": order.id,
            "customer_id": order.customer_id,
            "event": SmsEvent.ORDER_CREATED,
            "dedupe_key": f"{order.id}:order_created:{number}",
            "to": None if phone is None else PhoneNumber(phone),
            "locale": Locale.EN,
            "text": "Your order has arrived with us.",
            "encoding": Encoding.GSM7,
            "segments": 1,
            "status": SmsStatus.QUEUED,
            "due_at": at,
            "created_at": at,
            "updated_at": at,
        }
        return Notification(**values | fields)

    def report(self, provider_id: str, **fields: Any) -> DeliveryReport:
        _, now = self._next()
        values: dict[str, Any] = {
            "provider_id": provider_id,
            "report": Report.DELIVERED,
            "word": "Success",
            "phone": "+254700123456",
            "received_at": now,
        }
        return DeliveryReport(**values | fields)

    def event(self, subject: str, subject_id: UUID, **fields: Any) -> Event:
        _, now = self._next()
        values: dict[str, Any] = {
            "id": self.id(),
            "at": now,
            "actor": "user:till",
            "action": f"{subject}.updated",
            "subject": subject,
            "subject_id": subject_id,
        }
        return Event(**values | fields)

    def user(self, username: str, **fields: Any) -> User:
        _, now = self._next()
        values: dict[str, Any] = {
            "id": UserId(self.id()),
            "username": username,
            "email": None,
            "first_name": "",
            "last_name": "",
            "role": Role.STAFF,
            "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA",
            "date_joined": now,
        }
        return User(**values | fields)

    def client(self, client_id: str, **fields: Any) -> Client:
        _, now = self._next()
        values: dict[str, Any] = {
            "id": self.id(),
            "client_id": client_id,
            "name": "Till",
            "client_type": ClientType.CONFIDENTIAL,
            "secret_digests": ("0" * 64,),
            "redirect_uris": ("https://till.example/back",),
            "grant_types": (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN),
            "scopes": frozenset({"orders:read"}),
            "first_party": True,
            "created_at": now,
        }
        return Client(**values | fields)

    def grant(self, **fields: Any) -> Grant:
        _, now = self._next()
        values: dict[str, Any] = {
            "id": GrantId(self.id()),
            "user_id": None,
            "client_id": "till",
            "scopes": frozenset({"orders:read"}),
            "created_at": now,
        }
        return Grant(**values | fields)


@pytest.fixture
def make() -> Make:
    return Make()


Keep = Callable[..., Awaitable[None]]


@pytest.fixture
def keep(storage: Storage) -> Keep:
    """Add rows in one committed unit of work."""

    async def keep(*rows: object) -> None:
        async with storage() as uow:
            ports = {
                Customer: uow.customers,
                Order: uow.orders,
                Notification: uow.notifications,
                Event: uow.events,
                User: uow.users,
                Client: uow.clients,
                Grant: uow.grants,
            }
            for row in rows:
                await ports[type(row)].add(row)
            await uow.commit()

    return keep


# --- pages ---------------------------------------------------------------------------------------

Fetch = Callable[[PageRequest], Awaitable[Page[Any]]]
Walk = Callable[..., Awaitable[None]]


@pytest.fixture
def walk() -> Walk:
    """Turn over all pages of every size, forwards and then back again."""

    async def walk(fetch: Fetch, expected: Sequence[Any], **request: Any) -> None:
        for limit in range(1, len(expected) + 2):
            there: list[Any] = []
            pages = 0
            page = await fetch(PageRequest(limit=limit, **request))
            assert page.previous is None
            while True:
                pages += 1
                assert page.count == len(expected)
                assert page.count_exact
                assert len(page.items) == min(limit, len(expected) - len(there))
                there.extend(page.items)
                if page.next is None:
                    break
                page = await fetch(PageRequest(limit=limit, after=page.next, **request))
                assert page.previous is not None
            assert there == list(expected)
            back = list(page.items)
            while page.previous is not None:
                pages -= 1
                page = await fetch(PageRequest(limit=limit, before=page.previous, **request))
                assert page.next is not None
                back = [*page.items, *back]
            assert back == list(expected)
            assert pages == 1

    return walk
