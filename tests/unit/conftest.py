"""The desk: every use case on the memory adapters, with the world in the test's hand."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from office import OPEN, Office, Play, Scene
from savannah.adapters.memory import (
    InlineQueue,
    ManualClock,
    MemoryGateway,
    MemoryStorage,
    MemoryUnitOfWork,
    NullMetrics,
    SeededRandomness,
)
from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.idempotency import Once
from savannah.application.identity import IdentitySettings
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import SmsGateway, Storage, UnitOfWork
from savannah.application.reports import Reports
from savannah.domain.access import Caller
from savannah.domain.customer import Customer
from savannah.domain.errors import SavannahError, Unavailable
from savannah.domain.events import Event
from savannah.domain.identity import SigningKey
from savannah.domain.notification import Notification, SmsStatus
from savannah.domain.notification_policy import Policy
from savannah.domain.order import NotificationId, Order, Status
from savannah.domain.sms_text import SmsEvent

START = datetime(2026, 11, 23, 9, 20, tzinfo=UTC)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests; one that locks up fails."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def story() -> None:
        async with asyncio.timeout(120):
            await pyfuncitem.obj(**arguments)

    asyncio.run(story())
    return True


class Queue(InlineQueue):
    """Carries ids at once, loses them, or is away; counts how often the relay was woken."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0
        self.loses = False
        self.away = False
        self.carried: list[NotificationId] = []

    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        if self.away:
            raise Unavailable
        self.carried.extend(ids)
        if not self.loses:
            await super().enqueue(ids)

    def wake(self) -> None:
        self.wakes += 1


class Counts(NullMetrics):
    """Counts what the business counts."""

    def __init__(self) -> None:
        self.orders = 0
        self.texts: Counter[tuple[SmsEvent, SmsStatus]] = Counter()
        self.cost: Counter[str] = Counter()

    def order_created(self) -> None:
        self.orders += 1

    def sms(self, event: SmsEvent, status: SmsStatus) -> None:
        self.texts[event, status] += 1

    def sms_cost(self, currency: str, units: int) -> None:
        self.cost[currency] += units


class Scripted(SeededRandomness):
    """Draws the symbols it was told to, and then goes on by chance."""

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        super().__init__()
        self.script = list(symbols)

    def symbols(self, alphabet: str, length: int) -> str:
        return self.script.pop(0) if self.script else super().symbols(alphabet, length)


class RiggedStorage(Storage):
    """Memory with trouble on demand.

    The commits numbered in `failing` (counted from the moment it is set) are refused; `rig` may
    exchange parts of every unit of work.
    """

    def __init__(self) -> None:
        self.inner = MemoryStorage()
        self.failing: set[int] = set()
        self.commits = 0
        self.rig: Callable[[Any], None] = lambda _: None

    def fail(self, *numbers: int) -> None:
        self.failing, self.commits = set(numbers), 0

    def __call__(self, *, reading: bool = False) -> UnitOfWork:
        return RiggedUnitOfWork(self, self.inner(reading=reading))

    async def ping(self) -> None:
        await self.inner.ping()


class RiggedUnitOfWork(UnitOfWork):
    def __init__(self, storage: RiggedStorage, inner: MemoryUnitOfWork) -> None:
        self.storage = storage
        self.inner = inner

    async def __aenter__(self):
        await self.inner.__aenter__()
        for name in UnitOfWork.__annotations__:
            setattr(self, name, getattr(self.inner, name))
        self.storage.rig(self)
        return self

    async def __aexit__(self, kind, error, trace) -> None:
        await self.inner.__aexit__(kind, error, trace)

    async def commit(self) -> None:
        self.storage.commits += 1
        if self.storage.commits in self.storage.failing:
            raise Unavailable
        await self.inner.commit()


class Desk:
    """Everything wired together; `staff` and the others are who calls."""

    def __init__(
        self,
        *,
        gateway: SmsGateway | None = None,
        storage: Storage | None = None,
        symbols: Iterable[str] = (),
        now: datetime = START,
        in_flight: int = 32,
        keep_again_after: Sequence[timedelta] = (),
        gather: timedelta = timedelta(0),
        business: Business | None = None,
        **policy: Any,
    ) -> None:
        business = business or Business(policy=Policy(**policy))
        self.policy = business.policy
        self.gateway = gateway or MemoryGateway()
        self.storage = storage or MemoryStorage()
        self.clock = ManualClock(now)
        self.randomness = Scripted(symbols)
        self.queue, self.counts = Queue(), Counts()
        world = {"storage": self.storage, "clock": self.clock, "business": business}
        drawing = {**world, "randomness": self.randomness}
        counting = {**drawing, "jobs": self.queue, "metrics": self.counts}
        self.customers = Customers(**drawing)
        self.orders = Orders(**counting)
        self.notifications = Notifications(
            **counting,
            gateway=self.gateway,
            in_flight=in_flight,
            keep_again_after=keep_again_after,
            gather=gather,
        )
        self.reports = Reports(**world)
        self.queue.bind(self.notifications.send)
        self.viewer, self.staff, self.admin = (
            make("user:ann") for make in (Caller.viewer, Caller.staff, Caller.admin)
        )

    async def customer(self, **fields: Any) -> Customer:
        given = {"name": "Jane Smith", "phone_number": "0700 123 456", "by": self.staff}
        return await self.customers.create(**given | fields)

    async def order(self, customer: Customer | None = None, **fields: Any) -> Order:
        buyer = customer or await self.customer()
        given = {"item": "Laptop Computer", "amount": "999.99", "by": self.staff}
        return await self.orders.create(customer=buyer.id, **given | fields)

    async def moved(self, order: Order, *targets: Status) -> Order:
        for target in targets:
            order = await self.orders.update_status(order.id, target, by=self.staff)
        return order

    async def message(self, order: Order) -> Notification:
        """The newest message of an order."""
        async with self.storage(reading=True) as uow:
            return await uow.notifications.newest(order.id)

    async def messages(self) -> list[Notification]:
        """All messages, oldest first."""
        return sorted(
            (await self._rows("notifications")),
            key=lambda message: (message.created_at, message.id),
        )

    async def all_orders(self) -> list[Order]:
        return await self._rows("orders")

    async def all_customers(self) -> list[Customer]:
        return await self._rows("customers")

    async def _rows(self, table: str) -> list[Any]:
        async with self.storage(reading=True) as uow:
            inner = getattr(uow, "inner", uow)
            return list(getattr(inner._tables, table).values())

    async def keep(self, *rows: object) -> None:
        """Save rows as they are, past the use cases."""
        async with self.storage() as uow:
            homes = {
                Customer: uow.customers,
                Order: uow.orders,
                Notification: uow.notifications,
            }
            for row in rows:
                await homes[type(row)].save(row)
            await uow.commit()

    async def events(self, subject: str, subject_id: UUID) -> list[Event]:
        async with self.storage(reading=True) as uow:
            return list(await uow.events.of(subject, subject_id))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def open_desk() -> type[Desk]:
    """For a desk that is not the usual one."""
    return Desk


@pytest.fixture
def rigged() -> RiggedStorage:
    return RiggedStorage()


@pytest.fixture
def once() -> Callable[..., Once[Any]]:
    """An idempotency key whose stored answer is the id of the result."""

    def once(key: str = "key-1", *, operation: str = "POST /", body: str = "body") -> Once[Any]:
        return Once(
            operation=operation,
            key=key,
            fingerprint=body,
            render=lambda result: str(result.id).encode(),
        )

    return once


@pytest.fixture
def refusal() -> Callable[..., Any]:
    """Await a call that must be refused; the refusal."""

    async def refusal(kind: type[SavannahError], call: Any) -> Any:
        with pytest.raises(kind) as refused:
            await call
        return refused.value

    return refusal


async def _made_key() -> SigningKey:
    office = Office()
    await office.tokens.rotate()
    async with office.storage(reading=True) as uow:
        return (await uow.signing_keys.list())[0]


@pytest.fixture(scope="session")
def signing_key() -> SigningKey:
    """One key pair for every test: making one takes a tenth of a second."""
    return asyncio.run(_made_key())


@pytest.fixture
def play(signing_key: SigningKey) -> Play:
    """Runs one scene in a new office."""

    def run(scene: Scene, settings: IdentitySettings = OPEN) -> None:
        async def whole() -> None:
            office = Office(settings)
            async with office.storage() as uow:
                await uow.signing_keys.add(signing_key)
                await uow.commit()
            await scene(office)

        asyncio.run(whole())

    return run
