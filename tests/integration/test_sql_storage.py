"""What only a real database can get wrong: locks, full disks, killed processes, exact columns."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import event, literal_column, select

from savannah.adapters.memory import SeededRandomness
from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.sql.transaction import StatementRefused
from savannah.application.ports import CustomerFilter, NotificationFilter, OrderFilter
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.errors import OrderNumberTaken, Unavailable
from savannah.domain.money import AMOUNT_MAX_MINOR, TOTAL_MAX_MINOR, Money
from savannah.domain.notification import Notification, SmsStatus
from savannah.domain.notification_policy import Policy
from savannah.domain.order import CROCKFORD, NotificationId, Order, OrderId, Reference
from savannah.domain.paging import Ordering, PageRequest, Position
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Locale, SmsEvent

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
RANDOM = SeededRandomness()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "migrated.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
def path(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path / "savannah.db"))


def with_storage(
    path: Path, story: Callable[[SqlStorage], Awaitable[None]], **options: object
) -> None:
    """Run a story on the storage in that file, and close it whatever happens."""

    async def told() -> None:
        storage = SqlStorage.open(f"sqlite:///{path}", **options)
        try:
            async with asyncio.timeout(180):
                await story(storage)
        finally:
            await storage.close()

    asyncio.run(told())


def rows(path: Path, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def customer(**fields: object) -> Customer:
    jane = Customer(
        id=CustomerId(RANDOM.uuid()),
        code=f"CUST-{RANDOM.symbols(CROCKFORD, 6)}",
        name="Jane Smith",
        email=None,
        phone=PhoneNumber("+254700123456"),
        locale=Locale.EN,
        sms_opt_out=False,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(jane, **fields)


def order(buyer: Customer, **fields: object) -> Order:
    laptop = Order(
        id=OrderId(RANDOM.uuid()),
        number=Reference.make(RANDOM.symbols(CROCKFORD, 6)),
        customer_id=buyer.id,
        item="Laptop Computer",
        price=Money(99_999, "KES"),
        quantity=1,
        created_at=NOW,
        updated_at=NOW,
        status_changed_at=NOW,
    )
    return replace(laptop, **fields)


def message(about: Order, buyer: Customer) -> Notification:
    return Notification.compose(
        id=NotificationId(RANDOM.uuid()),
        event=SmsEvent.ORDER_CREATED,
        order=about,
        customer=buyer,
        policy=Policy(),
        at=NOW,
    )


async def keep_customer(storage: SqlStorage) -> Customer:
    jane = customer()
    async with storage() as uow:
        await uow.customers.add(jane)
        await uow.commit()
    return jane


async def take_order(storage: SqlStorage, buyer: Customer, **fields: object) -> Order:
    laptop = order(buyer, **fields)
    async with storage() as uow:
        await uow.orders.add(laptop)
        await uow.notifications.add(message(laptop, buyer))
        await uow.commit()
    return laptop


# --- columns -------------------------------------------------------------------------------------


def test_a_moment_comes_back_as_the_same_instant_from_every_zone(path):
    nairobi = timezone(timedelta(hours=3))
    at = datetime(2026, 11, 23, 12, 0, 0, 123_457, tzinfo=nairobi)

    async def story(storage: SqlStorage) -> None:
        jane = customer(created_at=at)
        async with storage() as uow:
            await uow.customers.add(jane)
            await uow.commit()
        async with storage(reading=True) as uow:
            found = await uow.customers.get(jane.id)
        assert found.created_at == at
        assert found.created_at.tzinfo is UTC

    with_storage(path, story)
    assert rows(path, "SELECT typeof(created_at), created_at % 1000000 FROM customers") == [
        ("integer", 123_457)
    ]


def test_a_moment_without_a_zone_is_refused(path):
    async def story(storage: SqlStorage) -> None:
        async with storage() as uow:
            with pytest.raises(Exception, match="time zone"):
                await uow.customers.add(customer(created_at=NOW.replace(tzinfo=None)))

    with_storage(path, story)
    assert rows(path, "SELECT count(*) FROM customers") == [(0,)]


def test_the_largest_amounts_come_back_to_the_hundredth(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        dear = await take_order(storage, jane, price=Money(AMOUNT_MAX_MINOR, "KES"), quantity=100)
        odd = await take_order(storage, jane, price=Money(10, "KES"), quantity=3)
        async with storage(reading=True) as uow:
            assert (await uow.orders.get(dear.id)).total == dear.total
            assert (await uow.orders.get(odd.id)).total.text == "0.30"
            [sums] = (await uow.reports.customer(jane.id)).by_status
        assert sums.total_minor == dear.total.minor + 30
        assert type(sums.total_minor) is int

    with_storage(path, story)
    assert AMOUNT_MAX_MINOR * 100 == TOTAL_MAX_MINOR - 99
    assert rows(path, "SELECT DISTINCT typeof(price_minor), typeof(total_minor) FROM orders") == [
        ("integer", "integer")
    ]


def test_text_that_no_database_can_hold_finds_nothing_and_breaks_nothing(path):
    async def story(storage: SqlStorage) -> None:
        async with storage(reading=True) as uow:
            assert await uow.users.by_login("admin\0") is None
            assert await uow.clients.find("\ud800") is None
            assert await uow.notifications.by_provider_id("ATXid_\0\udfff") is None

    with_storage(path, story)


def test_a_statement_that_breaks_a_rule_of_the_schema_names_the_rule_but_no_data(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        with pytest.raises(StatementRefused, match="ck_orders_price") as refused:
            await take_order(storage, jane, item="A secret", price=Money(0, "KES"))
        assert "secret" not in str(refused.value)
        assert refused.value.__cause__ is None
        await take_order(storage, jane)

    with_storage(path, story)


def test_an_order_number_that_is_taken_has_an_error_of_its_own(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        first = await take_order(storage, jane)
        with pytest.raises(OrderNumberTaken):
            await take_order(storage, jane, number=first.number)

    with_storage(path, story)
    assert rows(path, "SELECT count(*) FROM orders, notifications") == [(1,)]


# --- one writer ----------------------------------------------------------------------------------


def test_writers_take_turns_in_the_order_in_which_they_came(path):
    turns: list[int] = []

    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)

        async def write(number: int) -> None:
            for _ in range(10):
                async with storage() as uow:
                    await uow.customers.get(jane.id, lock="update")
                    await uow.customers.save(replace(jane, version=len(turns) + 1))
                    await uow.commit()
                turns.append(number)

        await asyncio.gather(*(write(number) for number in range(8)))

    with_storage(path, story)
    assert turns == list(range(8)) * 10
    assert rows(path, "SELECT version FROM customers") == [(80,)]


def test_readers_wait_for_no_writer_and_see_one_moment(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        async with storage(reading=True) as reading, storage() as writing:
            before = await reading.customers.get(jane.id)
            await writing.customers.save(replace(jane, name="Jane Doe", version=2))
            await writing.commit()
            assert await reading.customers.get(jane.id) == before
        async with storage(reading=True) as later:
            assert (await later.customers.get(jane.id)).name == "Jane Doe"

    with_storage(path, story)


def test_a_unit_of_work_for_reading_cannot_write(path):
    async def story(storage: SqlStorage) -> None:
        async with storage(reading=True) as uow:
            with pytest.raises(RuntimeError, match="reading only"):
                await uow.customers.add(customer())

    with_storage(path, story)


def test_a_task_that_is_cancelled_in_a_statement_frees_the_writer_and_leaves_nothing(path):
    endless = select(
        literal_column(
            "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
            "FROM n WHERE x < 3000000) SELECT count(*) FROM n)"
        )
    )

    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        begun = asyncio.Event()

        async def interrupted() -> None:
            async with storage() as uow:
                await uow.orders.add(order(jane))
                await uow.customers.get(jane.id)  # writes the order
                begun.set()
                await uow._transaction.all(endless)
                await uow.commit()

        task = asyncio.create_task(interrupted())
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await take_order(storage, jane)

    with_storage(path, story)
    assert rows(path, "SELECT count(*) FROM orders") == [(1,)]


# --- trouble -------------------------------------------------------------------------------------


def test_a_file_locked_by_another_process_is_unavailable_until_it_is_free(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable) as refused:
                await take_order(storage, jane)
            assert "locked" in str(refused.value.__cause__)
            async with storage(reading=True) as uow:
                assert await uow.customers.get(jane.id) == jane
            other.execute("ROLLBACK")
        await take_order(storage, jane)

    with_storage(path, story, wait=timedelta(milliseconds=50))
    assert rows(path, "SELECT count(*) FROM orders") == [(1,)]


def test_a_full_disk_is_unavailable_and_leaves_only_whole_orders(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        async with storage() as uow:
            pages = await uow._transaction.run(
                lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            )
            await uow._transaction.run(
                lambda connection: connection.exec_driver_sql(
                    f"PRAGMA max_page_count = {pages + 20}"
                ).scalar_one()
            )
        taken = 0

        async def fill() -> None:
            nonlocal taken
            while taken < 1_000:
                await take_order(storage, jane, notes="n" * 2_000)
                taken += 1

        with pytest.raises(Unavailable) as refused:
            await fill()
        assert "full" in str(refused.value.__cause__)
        async with storage() as uow:
            await uow._transaction.run(
                lambda connection: connection.exec_driver_sql(
                    "PRAGMA max_page_count = 1000000"
                ).scalar_one()
            )
        await take_order(storage, jane)
        assert rows(path, "SELECT count(*) FROM orders") == [(taken + 1,)]
        assert rows(path, "SELECT count(*) FROM notifications") == [(taken + 1,)]

    with_storage(path, story)


def test_a_new_file_is_for_its_owner_alone(tmp_path):
    """Whatever folder it is in; the files that SQLite lays beside it are made alike."""
    path = tmp_path / "savannah.db"

    async def story(storage: SqlStorage) -> None:
        await keep_customer(storage)
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
        names = ("savannah.db", "savannah.db-wal", "savannah.db-shm")
        assert modes == dict.fromkeys(names, 0o600)

    before = os.umask(0o022)
    try:
        asyncio.run(migrate(f"sqlite:///{path}"))
        with_storage(path, story)
    finally:
        os.umask(before)


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path):
    async def story(storage: SqlStorage) -> None:
        with pytest.raises(Unavailable):
            await storage.ping()
        async with storage() as uow:
            with pytest.raises(Unavailable):
                await uow.customers.get(customer().id)

    with_storage(tmp_path / "no such folder" / "savannah.db", story)


def test_a_file_that_is_no_database_is_unavailable(tmp_path):
    path = tmp_path / "savannah.db"
    path.write_text("This is not a database. " * 100)

    async def story(storage: SqlStorage) -> None:
        with pytest.raises(Unavailable):
            await storage.ping()

    with_storage(path, story)


def test_no_free_connection_in_time_is_unavailable(path):
    async def story(storage: SqlStorage) -> None:
        async with storage(reading=True) as first, storage(reading=True) as second:
            await first.users.list()
            with pytest.raises(Unavailable):
                await second.users.list()
        await storage.ping()

    with_storage(path, story, pool_size=1, wait=timedelta(milliseconds=20))


def test_a_postgres_that_is_not_there_is_unavailable():
    async def story() -> None:
        storage = SqlStorage.open("postgres://nobody@127.0.0.1:1/none")
        with pytest.raises(Unavailable):
            await storage.ping()
        await storage.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/savannah", "savannah.db", ""]
)
def test_a_url_of_another_kind_is_refused_at_once(url):
    with pytest.raises(ValueError, match="sqlite:///"):
        SqlStorage.open(url)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"])
def test_a_driver_suffix_in_the_url_is_taken_and_ignored(path, scheme):
    async def story() -> None:
        storage = SqlStorage.open(f"{scheme}:///{path}")
        await storage.ping()
        await storage.close()

    asyncio.run(story())


# --- several processes ---------------------------------------------------------------------------


def test_relays_of_two_processes_never_lease_the_same_message(path):
    async def story(one: SqlStorage) -> None:
        two = SqlStorage.open(f"sqlite:///{path}")
        jane = await keep_customer(one)
        wanted = set()
        async with one() as uow:
            for _ in range(60):
                laptop = order(jane)
                text = message(laptop, jane)
                wanted.add(text.id)
                await uow.orders.add(laptop)
                await uow.notifications.add(text)
            await uow.commit()
        leased: list[NotificationId] = []

        async def relay(storage: SqlStorage) -> None:
            while True:
                async with storage() as uow:
                    ids = await uow.notifications.lease_due(
                        now=NOW, until=NOW + timedelta(seconds=30), most=7
                    )
                    await uow.commit()
                if not ids:
                    return
                leased.extend(ids)

        await asyncio.gather(*(relay(storage) for storage in (one, two, one, two)))
        await two.close()
        assert len(leased) == 60
        assert set(leased) == wanted

    with_storage(path, story)


WRITER = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from test_sql_storage import keep_customer, take_order
from savannah.adapters.sql import SqlStorage

async def main():
    storage = SqlStorage.open("sqlite:///{path}")
    jane = await keep_customer(storage)
    async def write():
        while True:
            laptop = await take_order(storage, jane)
            print(laptop.number, flush=True)
    await asyncio.gather(*(write() for _ in range(4)))

asyncio.run(main())
"""


def test_a_killed_process_leaves_whole_orders_and_every_one_it_has_confirmed(path):
    script = WRITER.format(folder=str(Path(__file__).parent), path=path)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as writer:
        confirmed = {writer.stdout.readline().decode().strip() for _ in range(150)}
        os.kill(writer.pid, signal.SIGKILL)
        confirmed |= {line.decode().strip() for line in writer.stdout if line.endswith(b"\n")}
    stored = {number for (number,) in rows(path, "SELECT number FROM orders")}
    assert len(confirmed) >= 150
    assert confirmed <= stored
    assert rows(path, "SELECT count(*) FROM notifications") == [(len(stored),)]
    assert rows(
        path, "SELECT count(*) FROM orders o JOIN notifications n ON n.id = o.notification_id"
    ) == [(len(stored),)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


# --- plans ---------------------------------------------------------------------------------------


def plan_of(path: Path, ask: Callable[[SqlStorage], Awaitable[object]]) -> str:
    """How SQLite goes about the first statement of a question that looks for something."""
    asked: list[tuple[str, object]] = []

    async def story(storage: SqlStorage) -> None:
        for engine in storage._lanes._engines:

            @event.listens_for(engine, "before_cursor_execute")
            def note(_, __, statement, parameters, *___):
                if statement.startswith(("SELECT", "WITH")):
                    asked.append((statement, parameters))

        await ask(storage)

    with_storage(path, story)
    statement, parameters = asked[0]
    with closing(sqlite3.connect(path)) as database:
        steps = database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    return "; ".join(step[3] for step in steps)


@pytest.mark.parametrize(
    ("noun", "name", "index"),
    [
        ("customers", "created_at", "ix_customers_created_at"),
        ("customers", "updated_at", "ix_customers_updated_at"),
        ("customers", "name", "ix_customers_name"),
        ("orders", "created_at", "ix_orders_created_at"),
        ("orders", "updated_at", "ix_orders_updated_at"),
        ("orders", "status_changed_at", "ix_orders_status_changed_at"),
        ("orders", "total_amount", "ix_orders_total_minor"),
        ("orders", "order_number", "sqlite_autoindex_orders_2"),
        ("notifications", "created_at", "ix_notifications_created_at"),
    ],
)
@pytest.mark.parametrize("descending", [True, False])
def test_every_ordering_is_read_from_an_index(path, noun, name, index, descending):
    value = {"name": "J", "total_amount": 100, "order_number": "ORD"}.get(name, NOW)
    request = PageRequest(
        ordering=Ordering(name, descending=descending),
        after=Position((value,), RANDOM.uuid()),
        count=False,
    )
    everything = {
        "customers": CustomerFilter(archived=None),
        "orders": OrderFilter(),
        "notifications": NotificationFilter(),
    }

    async def ask(storage: SqlStorage) -> None:
        async with storage(reading=True) as uow:
            await getattr(uow, noun).list(everything[noun], request)

    plan = plan_of(path, ask)
    assert f"SEARCH {noun} USING INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan.replace("USE TEMP B-TREE FOR RIGHT PART OF ORDER BY", "")


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (
            lambda uow: uow.notifications.lease_due(now=NOW, until=NOW, most=10),
            "ix_notifications_waiting_due",
        ),
        (lambda uow: uow.notifications.next_due_at(), "ix_notifications_waiting_free"),
        (
            lambda uow: uow.notifications.stuck(handed_before=NOW, most=10),
            "ix_notifications_status",
        ),
        (
            lambda uow: uow.notifications.by_provider_id("ATXid_1"),
            "ix_notifications_provider_id",
        ),
        (
            lambda uow: uow.notifications.texted_at(["+254700123456"], after=NOW),
            "ix_notifications_to_phone",
        ),
        *(
            (lambda uow: uow.notifications.spending(currency="KES", today=NOW, month=NOW), index)
            for index in ("ix_notifications_cost", "ix_notifications_unquoted")
        ),
        (
            lambda uow: uow.orders.list(
                OrderFilter(customer=[RANDOM.uuid()]), PageRequest(count=False)
            ),
            "ix_orders_customer_id",
        ),
        (
            lambda uow: uow.customers.list(
                CustomerFilter(email=["jane@example.com"]), PageRequest(count=False)
            ),
            "uq_customers_email_key_live",
        ),
        (lambda uow: uow.events.of("order", RANDOM.uuid()), "ix_events_subject"),
        (lambda uow: uow.events.forget_logins(before=NOW, most=10), "ix_events_logins"),
        (
            lambda uow: uow.notifications.forget_reports(before=NOW, most=10),
            "ix_delivery_reports_received_at",
        ),
        (
            lambda uow: uow.idempotency.forget_expired(now=NOW, most=10),
            "ix_idempotency_keys_expires_at",
        ),
        (lambda uow: uow.grants.forget(before=NOW, most=10), "ix_grants_created_at"),
        (lambda uow: uow.sessions.forget(before=NOW, most=10), "ix_browser_sessions_expires_at"),
    ],
)
def test_what_is_asked_often_is_answered_from_an_index(path, ask, index):
    async def story(storage: SqlStorage) -> None:
        async with storage() as uow:
            await ask(uow)

    assert index in plan_of(path, story)


def test_no_message_is_looked_at_one_by_one_for_a_budget(path):
    async def story(storage: SqlStorage) -> None:
        async with storage() as uow:
            await uow.notifications.spending(currency="KES", today=NOW, month=NOW)

    assert "SCAN notifications" not in plan_of(path, story)


def test_messages_wait_in_the_outbox_only_while_they_wait(path):
    async def story(storage: SqlStorage) -> None:
        jane = await keep_customer(storage)
        laptop = await take_order(storage, jane)
        async with storage() as uow:
            [due] = await uow.notifications.lease_due(
                now=NOW, until=NOW + timedelta(seconds=30), most=10
            )
            await uow.commit()
        async with storage() as uow:
            text = await uow.notifications.get(due, lock="update")
            assert jane.phone is not None
            await uow.notifications.save(text.started(to=jane.phone, at=NOW))
            assert await uow.notifications.next_due_at() is None
            assert (await uow.orders.get(laptop.id)).sms.status == SmsStatus.SENDING
            await uow.commit()

    with_storage(path, story)
