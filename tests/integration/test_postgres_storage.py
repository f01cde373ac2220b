"""What a Postgres that stops, hangs or is fought over does to units of work."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

import servers
from certificates import Authority, pass_on
from savannah import Caller, MemoryGateway, Savannah, in_memory
from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.sql.transaction import StatementRefused
from savannah.application.idempotency import AlreadyDone, Once
from savannah.application.ports import CustomerFilter, IdempotencyRecordKey, OrderFilter
from savannah.domain.customer import Customer
from savannah.domain.errors import (
    CodeTaken,
    EmailTaken,
    IdempotencyInProgress,
    Invalid,
    OrderNumberTaken,
    Unavailable,
)
from savannah.domain.identity import User, UserId
from savannah.domain.order import Order
from savannah.domain.paging import PageRequest

MANAGER = Caller.admin("user:manager")
SHORT = timedelta(milliseconds=400)  # for the server
# For us, before a server that hangs: a busy machine may stop us for a while, too.
PATIENCE = timedelta(seconds=1)
SOON_S = 60.0  # on a busy machine; what is waited for takes a fraction of it

Story = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[servers.OwnPostgres]:
    with servers.own_postgres() as server:
        yield server


def migrated(server: servers.OwnPostgres) -> str:
    url = server.fresh_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture(scope="module")
def shared_url(server: servers.OwnPostgres) -> str:
    return migrated(server)


@pytest.fixture
def url(server: servers.OwnPostgres, shared_url: str) -> str:
    server.empty(shared_url, but="alembic_version")
    return shared_url


def told(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story; a lock-up fails."""

    async def within() -> None:
        async with asyncio.timeout(180):
            await story()

    asyncio.run(within())


@asynccontextmanager
async def opened(url: str, **options: object):
    storage = SqlStorage.open(url, **options)
    try:
        yield storage
    finally:
        await storage.close()


@asynccontextmanager
async def several(count: int, url: str, **options: object):
    """As many storages as there would be processes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(url, **options)) for _ in range(count)]


async def ask(url: str, question: str, *values: object):
    """The first value of the answer, not through the storage."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question, *values)
    finally:
        await connection.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await holds():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.005)


async def jane_of(app: Savannah) -> Customer:
    return await app.customers.create(name="Jane Smith", phone_number="0700 123 456", by=MANAGER)


async def jane_in(url: str) -> Customer:
    """Made through a storage that has the usual patience, and is gone."""
    async with opened(url) as storage:
        return await jane_of(in_memory(storage=storage))


async def laptop_for(app: Savannah, jane: Customer, **more: object) -> Order:
    return await app.orders.create(
        customer=jane.id, item="Laptop Computer", amount="999.99", by=MANAGER, **more
    )


async def run_sql(uow, statement: str):
    """Have this unit of work execute something of ours."""
    return await uow._transaction.run(lambda connection: connection.execute(text(statement)).all())


OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


# --- a server that stops, crashes, hangs ---------------------------------------------------------


def test_a_restart_under_load_loses_no_order_that_was_confirmed():
    with servers.own_postgres() as server:
        url = migrated(server)

        async def story() -> None:
            confirmed: list[Order] = []
            refusals = [0] * 6
            over = False

            async def till(number: int) -> None:
                while not over:
                    try:
                        confirmed.append(await laptop_for(app, jane))
                    except Unavailable:
                        refusals[number] += 1
                        await asyncio.sleep(0.001)

            async def more(count: int) -> None:
                wanted = len(confirmed) + count

                async def there() -> bool:
                    return len(confirmed) >= wanted

                await until(there)

            async with opened(url, pool_size=4, wait=timedelta(seconds=1)) as storage:
                app = in_memory(storage=storage)
                jane = await jane_of(app)
                tills = [asyncio.create_task(till(number)) for number in range(6)]
                for stop in (server.stop, server.kill):
                    await more(30)
                    await asyncio.to_thread(stop)
                    before = list(refusals)

                    async def all_refused(before=before) -> bool:
                        return all(now > then for now, then in zip(refusals, before, strict=True))

                    await until(all_refused)
                    server.start()
                    await more(30)
                over = True
                await asyncio.gather(*tills)
                await storage.ping()

            connection = await asyncpg.connect(url)
            stored = {row["id"] for row in await connection.fetch("SELECT id FROM orders")}
            whole = await connection.fetchval(
                "SELECT count(*) FROM orders o JOIN notifications n ON n.id = o.notification_id"
                " JOIN events e ON e.subject_id = o.id"
            )
            await connection.close()
            assert {order.id for order in confirmed} <= stored
            # A commit whose answer was lost may have happened; never a part of one.
            assert len(stored) - len(confirmed) <= sum(refusals)
            assert whole == len(stored)

        told(story)


def test_a_server_that_is_away_is_unavailable_at_once_and_usable_when_it_is_back(server, url):
    async def story() -> None:
        async with opened(url) as storage:
            await storage.ping()
            server.stop()
            began_at = time.monotonic()
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await storage.ping()
                async with storage() as uow:
                    with pytest.raises(Unavailable):
                        await uow.users.list()
            assert time.monotonic() - began_at < SOON_S
            server.start()
            await storage.ping()

    told(story)


def test_a_server_that_hangs_is_unavailable_in_time(server, url):
    async def story() -> None:
        patience = {"wait": PATIENCE, "statement_timeout": PATIENCE}
        async with opened(url, **patience) as used, opened(url, **patience) as unused:
            jane = await jane_in(url)
            async with used() as uow:
                await uow.customers.get(jane.id, lock="update")
                await used.ping()
                server.freeze()
                try:
                    began_at = time.monotonic()
                    with pytest.raises(Unavailable):
                        await uow.customers.get(jane.id)
                    for storage in (used, unused):
                        with pytest.raises(Unavailable):
                            await storage.ping()
                    assert time.monotonic() - began_at < SOON_S
                finally:
                    server.thaw()
            async with used() as uow:  # what the lost one had locked is free
                await uow.customers.save(replace(jane, name="Jane Doe"))
                await uow.commit()
            await unused.ping()

    told(story)


def test_a_connection_that_ends_within_a_unit_of_work_undoes_it_and_is_replaced(server, url):
    async def story() -> None:
        async with opened(url, pool_size=1) as storage:
            jane = await jane_of(in_memory(storage=storage))
            async with storage() as uow:
                await uow.customers.save(replace(jane, name="Somebody Else"))
                [[pid]] = await run_sql(uow, "SELECT pg_backend_pid()")
                await ask(server.url, "SELECT pg_terminate_backend($1, 5000)", pid)
                with pytest.raises(Unavailable):
                    await uow.commit()
            async with storage() as uow:
                assert await uow.customers.get(jane.id) == jane
                assert await run_sql(uow, "SELECT pg_backend_pid()") != [(pid,)]

    told(story)


def test_leaving_a_unit_of_work_whose_connection_has_ended_is_no_error(server, url):
    async def story() -> None:
        async with opened(url, pool_size=1) as storage:
            for reading in (False, True, "each"):
                async with storage(reading=reading) as uow:
                    [[pid]] = await run_sql(uow, "SELECT pg_backend_pid()")
                    await ask(server.url, "SELECT pg_terminate_backend($1, 5000)", pid)
                await storage.ping()

    told(story)


def test_leaving_a_unit_of_work_while_the_server_hangs_is_no_error_and_spoils_nothing(server, url):
    async def story() -> None:
        patience = {"wait": PATIENCE, "statement_timeout": PATIENCE}
        jane = await jane_in(url)
        async with opened(url, pool_size=1, **patience) as storage:
            async with storage() as uow:
                await uow.customers.get(jane.id, lock="update")
                server.freeze()
            server.thaw()
            async with storage() as uow:
                await uow.customers.get(jane.id, lock="update")
                await uow.commit()

    try:
        told(story)
    finally:
        server.thaw()


def test_connections_that_ended_while_idle_are_never_noticed(server, url):
    async def story() -> None:
        async with opened(url, pool_size=3) as storage, AsyncExitStack() as stack:
            for _ in range(3):
                uow = await stack.enter_async_context(storage())
                await uow.users.list()
            await stack.aclose()
            ended = await ask(url, f"SELECT count(pg_terminate_backend(pid, 5000)) {OTHERS}")
            assert ended == 3
            await asyncio.sleep(0)
            for _ in range(3):
                await storage.ping()

    told(story)


# --- limits --------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_unavailable(url):
    async def story() -> None:
        async with opened(url, pool_size=1, statement_timeout=SHORT) as storage:
            for reading in (False, True, "each"):
                async with storage(reading=reading) as uow:
                    with pytest.raises(Unavailable) as refused:
                        await run_sql(uow, "SELECT pg_sleep(30)")
                assert "statement timeout" in str(refused.value.__cause__)
            await storage.ping()

    told(story)


def test_whoever_waits_too_long_for_a_lock_is_unavailable_and_the_other_goes_on(url):
    async def story() -> None:
        async with opened(url, lock_timeout=SHORT) as storage:
            jane = await jane_of(in_memory(storage=storage))
            async with storage() as first, storage() as second:
                await first.customers.get(jane.id, lock="update")
                with pytest.raises(Unavailable) as refused:
                    await second.customers.get(jane.id, lock="share")
                assert "lock timeout" in str(refused.value.__cause__)
                await first.customers.save(replace(jane, name="Jane Doe"))
                await first.commit()
            async with storage() as uow:
                assert (await uow.customers.get(jane.id, lock="share")).name == "Jane Doe"

    told(story)


def test_a_unit_of_work_left_idle_loses_its_locks_and_is_unavailable(url):
    async def story() -> None:
        patience = {"statement_timeout": SHORT, "lock_timeout": SHORT}
        jane = await jane_in(url)
        async with opened(url, pool_size=1, **patience) as storage:
            async with storage() as uow:
                await uow.customers.get(jane.id, lock="update")

                async def thrown_out() -> bool:
                    return await ask(url, f"SELECT count(*) {OTHERS}") == 0

                await until(thrown_out)
                with pytest.raises(Unavailable):
                    await uow.customers.save(replace(jane, name="Too Late"))
            await storage.ping()

    told(story)


def test_no_free_connection_in_time_is_unavailable(url):
    async def story() -> None:
        async with opened(url, pool_size=2, wait=PATIENCE) as storage:
            async with storage() as first, storage() as second:
                await first.users.list()
                await second.users.list()
                began_at = time.monotonic()
                with pytest.raises(Unavailable):
                    await storage.ping()
                assert PATIENCE.total_seconds() <= time.monotonic() - began_at < SOON_S
            for _ in range(10):
                await asyncio.gather(storage.ping(), storage.ping())
            assert await ask(url, f"SELECT count(*) {OTHERS}") <= 2

    told(story)


def test_those_who_wait_for_a_connection_get_one_in_turn(url):
    async def story() -> None:
        async with opened(url, pool_size=2) as storage:
            await asyncio.gather(*(storage.ping() for _ in range(20)))
            assert await ask(url, f"SELECT count(*) {OTHERS}") <= 2

    told(story)


@pytest.mark.parametrize("trouble", ["no_such_database", "wrong_role", "too_many"])
def test_a_server_that_lets_nobody_in_is_unavailable(server, url, trouble):
    async def story() -> None:
        if trouble == "too_many":
            await ask(url, "CREATE ROLE guest LOGIN CONNECTION LIMIT 0")
        wrong = {
            "no_such_database": server.at("/no_such_database"),
            "wrong_role": url.replace("postgres@", "nobody_known@"),
            "too_many": url.replace("postgres@", "guest@"),
        }[trouble]
        async with opened(wrong) as storage:
            with pytest.raises(Unavailable):
                await storage.ping()

    told(story)


def test_the_ssl_mode_of_libpq_is_understood(url):
    """The server of this test speaks no TLS."""

    async def story() -> None:
        for mode in ("disable", "prefer"):
            async with opened(f"{url}?sslmode={mode}") as storage:
                await storage.ping()
        async with opened(f"{url}?sslmode=require") as storage:
            with pytest.raises(Unavailable):
                await storage.ping()

    told(story)


@asynccontextmanager
async def in_tls(target: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A port that speaks TLS as Postgres does, with a server behind it that may know none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(8)  # an SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            onward = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(pass_on(reader, onward[1]), pass_on(onward[0], writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def test_a_server_is_known_by_the_certificate_that_its_address_names(server, url, tmp_path):
    authority, another = (Authority(tmp_path, name) for name in ("authority", "another"))
    certificate, key = authority.issue("localhost")

    async def story() -> None:
        async with in_tls(server.port, certificate, key) as port:
            there = url.replace(f":{server.port}/", f":{port}/")
            known = f"{there}?sslmode=verify-full&sslrootcert={authority.file}"
            async with opened(known) as storage:
                await storage.ping()
            for stranger in (
                f"{there}?sslmode=verify-full&sslrootcert={another.file}",
                known.replace("127.0.0.1", "127.0.0.2"),
            ):
                async with opened(stranger) as storage:
                    with pytest.raises(Unavailable):
                        await storage.ping()

    told(story)


# --- cancelling ----------------------------------------------------------------------------------


def test_a_cancelled_unit_of_work_gives_back_its_connection_and_its_locks(url):
    async def story() -> None:
        async with opened(url, pool_size=2) as storage:
            jane = await jane_of(in_memory(storage=storage))

            async def changing(begun: asyncio.Event) -> None:
                async with storage() as uow:
                    await uow.customers.get(jane.id, lock="update")
                    begun.set()
                    await run_sql(uow, "SELECT pg_sleep(30)")

            async def waiting(begun: asyncio.Event) -> None:
                async with storage() as uow:
                    begun.set()
                    await uow.customers.get(jane.id, lock="update")

            async def queueing(begun: asyncio.Event) -> None:
                begun.set()
                await storage.ping()

            for _ in range(3):
                tasks = []
                for work in (changing, waiting, queueing):
                    begun = asyncio.Event()
                    tasks.append(asyncio.create_task(work(begun)))
                    await begun.wait()
                    await asyncio.sleep(0.02)
                for task in reversed(tasks):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                        pytest.fail("it went on")

                async def nothing_runs() -> bool:
                    return not await ask(url, f"SELECT count(*) {OTHERS} AND state <> 'idle'")

                await until(nothing_runs)
                async with storage() as one, storage() as other:
                    await one.customers.get(jane.id, lock="update")
                    await other.users.list()

    told(story)


# --- several processes ---------------------------------------------------------------------------


def test_relays_of_several_processes_never_lease_the_same_message(url):
    async def story() -> None:
        async with several(3, url) as storages:
            apps = [in_memory(storage=storage) for storage in storages]
            jane = await jane_of(apps[0])
            orders = await asyncio.gather(*(laptop_for(apps[n % 3], jane) for n in range(60)))
            now = datetime.now(UTC)
            leased = []

            async def relay(storage: SqlStorage) -> None:
                while True:
                    async with storage() as uow:
                        ids = await uow.notifications.lease_due(
                            now=now, until=now + timedelta(seconds=30), most=7
                        )
                        await asyncio.sleep(0)
                        await uow.commit()
                    if not ids:
                        return
                    leased.extend(ids)

            await asyncio.gather(*(relay(storage) for storage in storages * 2))
            # A relay that finds everything locked goes home; the next look takes what is left.
            await relay(storages[0])
            assert len(leased) == 60
            assert set(leased) == {order.sms.notification for order in orders}

    told(story)


def test_workers_of_several_processes_text_every_order_once(url):
    async def story() -> None:
        gateway = MemoryGateway()
        async with several(3, url) as storages:
            apps = [in_memory(storage=storage, gateway=gateway) for storage in storages]
            jane = await jane_of(apps[0])
            await asyncio.gather(*(laptop_for(apps[n % 3], jane) for n in range(20)))
            async with storages[0]() as uow:
                ids = await uow.notifications.lease_due(
                    now=datetime.now(UTC), until=datetime.now(UTC), most=100
                )
                await uow.commit()
            assert len(ids) == 20
            # As when a lease ends while its worker is still busy: all of them get all.
            await asyncio.gather(*(app.notifications.send(ids) for app in apps))
            await asyncio.gather(*(app.notifications.send(ids[::-1]) for app in apps))
            sent = [sms.id for sms in gateway.sent]
            assert sorted(sent) == sorted(ids)

    told(story)


def test_equal_requests_to_several_processes_make_one_order_and_one_text(url):
    async def story() -> None:
        async with several(3, url, pool_size=4) as storages:
            apps = [in_memory(storage=storage) for storage in storages]
            jane = await jane_of(apps[0])
            once = Once(
                operation="POST /api/orders/",
                key="k-1",
                fingerprint="f",
                render=lambda order: order.number.encode(),
            )

            async def request(app: Savannah) -> str:
                while True:
                    try:
                        return (await laptop_for(app, jane, once=once)).number
                    except AlreadyDone as done:
                        return done.answer.decode()
                    except IdempotencyInProgress:
                        await asyncio.sleep(0)

            answers = await asyncio.gather(*(request(app) for app in apps * 8))
            page = await apps[1].orders.list(OrderFilter(), PageRequest(), by=MANAGER)
            assert {order.number for order in page.items} == set(answers)
            assert len(page.items) == 1
            assert await ask(url, "SELECT count(*) FROM notifications") == 1
            assert await ask(url, "SELECT count(*) FROM idempotency_keys") == 1

    told(story)


def test_messages_that_many_write_in_any_order_never_lock_each_other_up(url):
    async def story() -> None:
        # So that a deadlock would be one, and not a lock that came too late.
        long = timedelta(seconds=20)
        async with several(2, url, lock_timeout=long, statement_timeout=long) as storages:
            app = in_memory(storage=storages[0])
            jane = await jane_of(app)
            orders = [await laptop_for(app, jane) for _ in range(12)]
            ids = [order.sms.notification for order in orders]
            async with storages[0](reading=True) as uow:
                messages = list(await uow.notifications.get_many(ids))

            async def save(uow, turn: int) -> None:
                await uow.notifications.save(*messages[:: turn % 2 * 2 - 1])

            async def lock(uow, turn: int) -> None:
                await uow.notifications.get_many(ids[:: turn % 2 * 2 - 1], lock="update")

            async def start(uow, turn: int) -> None:
                await uow.notifications.start(ids[:: turn % 2 * 2 - 1])

            async def release(uow, turn: int) -> None:
                await uow.notifications.release(ids[:: turn % 2 * 2 - 1])

            async def lease(uow, turn: int) -> None:
                now = datetime.now(UTC)
                await uow.notifications.lease_due(now=now, until=now, most=5 + turn)

            async def one(number: int, storage: SqlStorage) -> None:
                for turn in range(8):
                    work = (save, lock, start, release, lease)[(number + turn) % 5]
                    async with storage() as uow:
                        await work(uow, number + turn)
                        await uow.notifications._transaction.flush()
                        await asyncio.sleep(0)
                        await uow.commit()

            await asyncio.gather(*(one(number, storages[number % 2]) for number in range(10)))

    told(story)


def test_a_deadlock_makes_one_of_the_two_unavailable(url):
    async def story() -> None:
        async with several(2, url) as (one, two):
            jane = await jane_of(in_memory(storage=one))
            john = await jane_of(in_memory(storage=one))

            async def change(storage: SqlStorage, first: Customer, second: Customer) -> str:
                async with storage() as uow:
                    await uow.customers.get(first.id, lock="update")
                    met.release()
                    await both.wait()
                    try:
                        await uow.customers.get(second.id, lock="update")
                    except Unavailable:
                        return "unavailable"
                    await uow.commit()
                    return "committed"

            met, both = asyncio.Semaphore(0), asyncio.Event()
            tasks = [
                asyncio.create_task(change(one, jane, john)),
                asyncio.create_task(change(two, john, jane)),
            ]
            for _ in tasks:
                await met.acquire()
            both.set()
            assert sorted(await asyncio.gather(*tasks)) == ["committed", "unavailable"]

    told(story)


# --- behind a pooler -----------------------------------------------------------------------------


def test_without_prepared_statements_everything_works_and_nothing_stays_with_the_server(url):
    async def story() -> None:
        gateway = MemoryGateway()
        async with opened(url, prepared_statements=False) as storage:
            app = in_memory(storage=storage, gateway=gateway)
            jane = await jane_of(app)
            orders = await asyncio.gather(*(laptop_for(app, jane) for _ in range(5)))
            assert await app.notifications.dispatch_due() == 5
            assert len(gateway.sent) == 5
            found = await app.orders.search("lapt", OrderFilter(), PageRequest(), by=MANAGER)
            assert {hit.item.id for hit in found.items} == {order.id for order in orders}
            numbers = await app.reports.analytics(by=MANAGER)
            assert numbers.total_orders == 5
            async with storage() as uow:
                # PgBouncer refuses start-up parameters that it does not know.
                assert await run_sql(uow, "SHOW statement_timeout") == [("0",)]
                held = await run_sql(uow, "SELECT name, statement FROM pg_prepared_statements")
                assert all(name.startswith("savannah_") for name, _ in held)
            assert await ask(url, f"SELECT count(*) {OTHERS}") == 0

    told(story)


# --- what a broken constraint means --------------------------------------------------------------


async def same_email(uow, order: Order, jane: Customer) -> None:
    await uow.customers.add(replace(jane, id=uuid4(), code="OTHER", email="JANE@example.com"))


async def same_code(uow, order: Order, jane: Customer) -> None:
    await uow.customers.add(replace(jane, id=uuid4(), email=None))


async def same_number(uow, order: Order, jane: Customer) -> None:
    await uow.orders.add(replace(order, id=uuid4()))


async def same_message(uow, order: Order, jane: Customer) -> None:
    message = await uow.notifications.get(order.sms.notification)
    await uow.notifications.add(replace(message, id=uuid4()))


async def same_key(uow, order: Order, jane: Customer) -> None:
    key = IdempotencyRecordKey("user:till", "POST /api/orders/", "k-1")
    for answer in (b"one", b"two"):
        await uow.idempotency.finish(key, "f", answer, expires_at=datetime.now(UTC))


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (same_email, EmailTaken),
        (same_code, CodeTaken),
        (same_number, OrderNumberTaken),
        (same_message, Unavailable),
        (same_key, IdempotencyInProgress),
    ],
)
def test_a_broken_constraint_says_what_is_taken(url, broken, error):
    async def story() -> None:
        async with opened(url) as storage:
            app = in_memory(storage=storage)
            jane = await app.customers.create(
                name="Jane", phone_number="0700 123 456", email="jane@example.com", by=MANAGER
            )
            order = await laptop_for(app, jane)

            async def write() -> None:
                async with storage() as uow:
                    await broken(uow, order, jane)
                    await uow.commit()

            with pytest.raises(error):
                await write()
            page = await app.customers.list(CustomerFilter(), PageRequest(), by=MANAGER)
            assert list(page.items) == [jane]

    told(story)


@pytest.mark.parametrize("field", ["username", "email"])
def test_of_two_who_take_the_same_name_at_once_one_is_told_so(url, field):
    def user(**fields: object) -> User:
        values = {
            "id": UserId(uuid4()),
            "username": uuid4().hex,
            "email": None,
            "first_name": "",
            "last_name": "",
            "role": "staff",
            "password_hash": "$argon2id$",
            "date_joined": datetime.now(UTC),
        }
        return User(**values | fields)

    async def story() -> None:
        async with several(2, url) as (one, two), one() as first, two() as second:
            for uow, name in ((first, "Jane@example.com"), (second, "jane@example.COM")):
                await uow.users.add(user(**{field: name}))
            await first.commit()
            with pytest.raises(Invalid) as refused:
                await second.commit()
            [problem] = refused.value.problems
            assert (problem.field, problem.code) == (field, f"{field}_taken")

    told(story)


def test_a_refused_statement_does_not_say_whose_data_it_was(url):
    async def story() -> None:
        async with opened(url) as storage:
            jane = await jane_of(in_memory(storage=storage))
            async with storage() as uow:
                with pytest.raises(StatementRefused, match="ck_customers_version") as refused:
                    await uow.customers.save(replace(jane, version=-1))
            assert "Jane" not in str(refused.value)
            assert refused.value.__cause__ is None
            assert refused.value.__suppress_context__

    told(story)
