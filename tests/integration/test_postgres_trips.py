"""What goes to Postgres: how often, as which statements, and that what returns is right."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.dialects.postgresql import insert as insert_or

import servers
from savannah import Caller, Savannah, in_memory
from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.sql.statements import Statements
from savannah.adapters.sql.tables import customers, events, notifications, orders
from savannah.application.business import Business
from savannah.application.idempotency import Once
from savannah.application.ports import OrderFilter
from savannah.domain.customer import Customer
from savannah.domain.identity import GrantId
from savannah.domain.notification_policy import Policy
from savannah.domain.order import Order
from savannah.domain.paging import PageRequest

MANAGER = Caller.admin("user:manager")
THRIFTY = Business(policy=Policy(budget_daily=10**9, budget_monthly=10**10))


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[servers.OwnPostgres, str]]:
    with servers.own_postgres() as server:
        url = server.fresh_database()
        asyncio.run(migrate(url))
        yield server, url


@pytest.fixture
def url(database: tuple[servers.OwnPostgres, str]) -> str:
    server, url = database
    server.empty(url, but="alembic_version")  # no story is about what another has left
    return url


class Desk:
    """A storage with one connection, and what goes over it."""

    def __init__(self, storage: SqlStorage) -> None:
        self.storage = storage
        self.app: Savannah = in_memory(storage=storage)
        self.thrifty: Savannah = in_memory(storage=storage, business=THRIFTY)
        self.trips: list[str] = []

    async def watch(self) -> None:
        pool = self.storage._lanes._primary
        seat = await pool.take()
        seat.driver.add_query_logger(lambda logged: self.trips.append(logged.query))
        pool.give(seat)

    async def jane(self) -> Customer:
        return await self.app.customers.create(
            name="Jane Smith", phone_number="0700 123 456", by=MANAGER
        )

    async def order(self, jane: Customer, **more: object) -> Order:
        return await self.app.orders.create(
            customer=jane.id, item="Laptop", amount="999.99", by=MANAGER, **more
        )

    async def begin_to_send(self, jane: Customer) -> None:
        """Send a first text, for which the driver asks what such statements take."""
        await self.order(jane)
        assert await self.app.notifications.dispatch_due() == 1

    async def texts(self) -> list[str]:
        """The text of each trip since the last time."""
        await asyncio.sleep(0)  # the driver tells of them a moment later
        texts, self.trips = self.trips, []
        return texts

    async def told(self) -> list[str]:
        """The first words of each."""
        return [text.split()[0] for text in await self.texts()]


def tell(url: str, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def within() -> None:
        storage = SqlStorage.open(url, pool_size=1)
        try:
            desk = Desk(storage)
            await desk.watch()
            async with asyncio.timeout(180):
                await story(desk)
        finally:
            await storage.close()

    asyncio.run(within())


def test_lists_of_whatever_length_leave_no_more_than_so_many_statements():
    statements = Statements(dialect.dialect())
    wanted = select(customers).where(customers.c.email_key.in_(bindparam("keys", expanding=True)))
    kept = {statements.of(wanted, {"keys": ["x"] * size}).text for size in range(1, 400)}
    assert len(kept) == 399
    assert len(statements._known[wanted]) <= 128


def test_an_order_its_message_and_its_event_are_written_in_one_trip(url):
    async def story(desk: Desk) -> None:
        jane = await desk.jane()
        await desk.told()
        order = await desk.order(jane)
        assert await desk.told() == ["BEGIN", "SELECT", "WITH", "COMMIT"]
        async with desk.storage(reading=True) as uow:
            assert await uow.orders.get(order.id) == order
            assert (await uow.notifications.newest(order.id)).id == order.sms.notification
            assert len(await uow.events.of("order", order.id)) == 1

    tell(url, story)


def test_the_answer_under_an_idempotency_key_travels_with_its_effect(url):
    async def story(desk: Desk) -> None:
        jane = await desk.jane()
        once = Once(operation="POST /", key="k", fingerprint="f", render=lambda order: b"done")
        await desk.told()
        await desk.order(jane, once=once)
        assert await desk.told() == ["BEGIN", "WITH", "SELECT", "WITH", "COMMIT"]

    tell(url, story)


def test_a_change_of_status_is_written_in_one_trip(url):
    async def story(desk: Desk) -> None:
        order = await desk.order(await desk.jane())
        await desk.app.orders.update_status(order.id, "processing", by=MANAGER)
        await desk.told()
        moved = await desk.app.orders.update_status(order.id, "shipped", by=MANAGER)
        *before, write, commit = await desk.told()
        assert before == ["BEGIN", "SELECT", "SELECT", "SELECT"]
        assert (write, commit) == ("WITH", "COMMIT")
        assert moved.sms.notification != order.sms.notification
        assert await desk.app.orders.get(order.id, by=MANAGER) == moved

    tell(url, story)


def test_what_was_spent_is_asked_in_one_trip(url):
    async def story(desk: Desk) -> None:
        jane = await desk.jane()
        await desk.begin_to_send(jane)
        trips = []
        for app in (desk.app, desk.thrifty):
            await desk.order(jane)
            await desk.told()
            assert await app.notifications.dispatch_due() == 1
            trips.append(len(await desk.told()))
        assert trips[1] == trips[0] + 1

    tell(url, story)


def test_a_text_is_written_anew_only_when_its_order_has_changed(url):
    async def story(desk: Desk) -> None:
        jane = await desk.jane()
        await desk.begin_to_send(jane)
        trips = []
        for edits in ({}, {"item": "Teapot"}):
            order = await desk.order(jane)
            if edits:
                await desk.app.orders.update(order.id, edits, by=MANAGER)
            await desk.told()
            assert await desk.app.notifications.dispatch_due() == 1
            trips.append(len(await desk.told()))
            async with desk.storage(reading=True) as uow:
                message = await uow.notifications.newest(order.id)
            assert (message.status, "Teapot" in message.text) == ("sent", bool(edits))
        assert trips[1] == trips[0] + 1

    tell(url, story)


def test_a_single_read_is_one_trip_and_so_is_a_page_with_its_count(url):
    async def story(desk: Desk) -> None:
        order = await desk.order(await desk.jane())
        await desk.told()
        assert await desk.app.orders.get(order.id, by=MANAGER) == order
        assert await desk.told() == ["SELECT"]
        page = await desk.app.orders.list(OrderFilter(), PageRequest(), by=MANAGER)
        assert page.count == len(page.items) > 0
        assert await desk.told() == ["SELECT"]

    tell(url, story)


def test_many_checks_of_tokens_at_once_share_a_trip(url):
    async def story(desk: Desk) -> None:
        async def check(grant_id: GrantId) -> None:
            async with desk.storage(reading="fresh") as uow:
                assert await uow.grants.session(grant_id) is None

        for _ in range(2):  # the driver asks once what such an array is
            await desk.texts()
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    group.create_task(check(GrantId(UUID(int=number))))
        assert ["ANY (" in text for text in await desk.texts()] == [False, False, True]

    tell(url, story)


def test_a_single_write_needs_no_transaction_around_it(url):
    async def story(desk: Desk) -> None:
        order = await desk.order(await desk.jane())
        await desk.told()
        async with desk.storage() as uow:
            await uow.orders.save(replace(order, item="Desk"))
            await uow.commit()
        assert await desk.told() == ["UPDATE"]
        assert (await desk.app.orders.get(order.id, by=MANAGER)).item == "Desk"

    tell(url, story)


def test_a_page_of_the_same_shape_is_the_same_text(url):
    async def story(desk: Desk) -> None:
        jane, john = await desk.jane(), await desk.jane()
        made = [await desk.order(jane) for _ in range(5)]

        async def texts(*customers: Customer) -> tuple[str, int]:
            await desk.texts()
            where = OrderFilter(customer=[customer.id for customer in customers])
            page = await desk.app.orders.list(where, PageRequest(limit=2), by=MANAGER)
            return (await desk.texts())[0], page.count

        one, count = await texts(jane)
        assert count == len(made)
        assert (await texts(john)) == (one, 0)
        two, count = await texts(john, jane)
        assert count == len(made)
        assert two != one
        assert (await texts(jane))[0] == one

    tell(url, story)


def test_several_saved_in_one_unit_of_work_may_set_different_columns(url):
    async def story(desk: Desk) -> None:
        jane = await desk.jane()
        first, second = await desk.order(jane), await desk.order(jane)
        async with desk.storage() as uow:
            message = await uow.notifications.get(first.sms.notification)
            again = replace(message, id=second.id, dedupe_key="again")
            await uow.orders.save(replace(first, item="Desk"))
            await uow.orders.save(replace(second, item="Chair"))
            await uow.notifications.add(again)
            await uow.commit()
        items = [(await desk.app.orders.get(each.id, by=MANAGER)) for each in (first, second)]
        assert [order.item for order in items] == ["Desk", "Chair"]
        assert [order.sms.notification for order in items] == [again.id, second.sms.notification]

    tell(url, story)


# --- which writes travel together ----------------------------------------------------------------

_ID = bindparam("of")
ADD_ORDER, ADD_EVENT = insert(orders), insert(events)
SAVE_ORDER = update(orders).where(orders.c.id == _ID)
SAVE_CUSTOMER = update(customers).where(customers.c.id == _ID)
FORGET_EVENT = delete(events).where(events.c.id == _ID)
KEEP_EVENT = insert_or(events).on_conflict_do_nothing()
SKIP = update(notifications).where(
    notifications.c.id.in_(select(notifications.c.id).where(notifications.c.order_id == _ID))
)


@pytest.mark.parametrize(
    ("writes", "starts"),
    [
        ([ADD_ORDER, ADD_EVENT, ADD_EVENT], ["WITH"]),
        ([SAVE_ORDER, SAVE_CUSTOMER, ADD_EVENT], ["WITH"]),
        ([SAVE_ORDER], ["UPDATE"]),
        # Neither part of one statement sees what another has written.
        ([ADD_ORDER, SAVE_ORDER], ["INSERT", "UPDATE"]),
        ([SAVE_ORDER, ADD_EVENT, SAVE_ORDER], ["WITH", "UPDATE"]),
        ([FORGET_EVENT, ADD_EVENT], ["DELETE", "INSERT"]),
        ([ADD_ORDER, SKIP, ADD_EVENT], ["INSERT", "UPDATE", "INSERT"]),
        ([ADD_ORDER, KEEP_EVENT, ADD_EVENT], ["INSERT", "INSERT", "INSERT"]),
    ],
)
def test_writes_travel_together_where_none_has_to_see_another(writes, starts):
    values = {"item": "Desk"}
    event = {"id": None, "actor": "me"}
    of = {ADD_ORDER: values | {"id": None}, ADD_EVENT: event, KEEP_EVENT: event}
    of |= {SAVE_ORDER: values | {"of": None}, SAVE_CUSTOMER: {"name": "Jane", "of": None}}
    of |= {FORGET_EVENT: {"of": None}, SKIP: {"of": None, "skip_reason": "order_deleted"}}
    steps = Statements(dialect.dialect()).of_writes([(write, [of[write]]) for write in writes])
    assert [text.split()[0] for text, _ in steps] == starts
    for text, [arguments] in steps:
        numbers = {f"${number}" for number in range(1, len(arguments) + 1)}
        assert all(number in text for number in numbers)
        assert f"${len(arguments) + 1}" not in text


NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("forget", "indexes"),
    [
        (lambda uow: uow.events.forget_logins(before=NOW, most=9), ["ix_events_logins"]),
        (
            lambda uow: uow.notifications.forget_reports(before=NOW, most=9),
            ["ix_delivery_reports_received_at"],
        ),
        (
            lambda uow: uow.idempotency.forget_expired(now=NOW, most=9),
            ["ix_idempotency_keys_expires_at"],
        ),
        (
            lambda uow: uow.handshakes.forget(now=NOW, codes_before=NOW, most=9),
            [
                "ix_authorization_codes_expires_at",
                "ix_pushed_requests_expires_at",
                "ix_claimed_ids_expires_at",
            ],
        ),
        (
            lambda uow: uow.sessions.forget(before=NOW, most=9),
            ["ix_browser_sessions_expires_at"],
        ),
        (lambda uow: uow.grants.forget(before=NOW, most=9), ["ix_grants_created_at"] * 2),
    ],
)
def test_what_has_been_kept_long_enough_is_found_by_an_index(url, forget, indexes):
    async def story(desk: Desk) -> None:
        async with desk.storage() as uow:
            await uow.users.active_admins()  # it has begun
            await desk.texts()
            await forget(uow)
            texts = await desk.texts()
        connection = await asyncpg.connect(url)
        try:
            # Whatever the moment and the number: tables of tests are too small for an index.
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            for text, index in zip(texts, indexes, strict=True):
                plan = [row[0] for row in await connection.fetch(f"EXPLAIN {text}", NOW, 9)]
                assert any(f"using {index} on" in line for line in plan), "\n".join(plan)
                assert not any("Seq Scan" in line for line in plan), "\n".join(plan)
        finally:
            await connection.close()

    tell(url, story)


def test_a_value_that_is_missing_is_an_error_and_never_null():
    with pytest.raises(ValueError, match="of"):
        Statements(dialect.dialect()).of(SAVE_ORDER, {"item": "Desk"})
