"""Through a real PgBouncer in transaction mode: `uv run nox -s pgbouncer`, not the other sessions.

The storage suites of `contract/` run through it in that session, too.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import servers
from savannah import Caller, MemoryGateway, in_memory
from savannah.adapters.sql import SqlStorage, migrate, schema_is_current
from savannah.application.idempotency import AlreadyDone, Once
from savannah.application.ports import OrderFilter
from savannah.domain.errors import IdempotencyInProgress, Unavailable
from savannah.domain.paging import PageRequest

TILL = Caller.admin("user:till")


@pytest.fixture
def url(request, migrated_postgres):
    """An empty database with the schema, past the pooler."""
    from savannah.adapters.sql.tables import metadata

    async def empty():
        connection = await asyncpg.connect(migrated_postgres)
        for table in reversed(metadata.sorted_tables):
            await connection.execute(f"DELETE FROM {table.name}")
        await connection.close()

    asyncio.run(empty())
    return migrated_postgres


def opened(url, pgbouncer, **more):
    return SqlStorage.open(pgbouncer.at(url), prepared_statements=False, **more)


def told(story):
    async def within():
        async with asyncio.timeout(180):
            await story()

    asyncio.run(within())


async def jane_in(app):
    return await app.customers.create(name="Jane", phone_number="0700123456", by=TILL)


def test_this_really_goes_through_the_pooler_and_shares_its_few_connections(url, pgbouncer):
    async def story():
        storage = opened(url, pgbouncer)
        assert await schema_is_current(storage)
        app = in_memory(storage=storage)
        jane = await jane_in(app)
        orders = await asyncio.gather(
            *(
                app.orders.create(customer=jane.id, item=f"Lamp {n}", amount=10, by=TILL)
                for n in range(40)
            )
        )
        assert len({order.id for order in orders}) == 40
        connection = await asyncpg.connect(url)
        ours = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert 1 <= await connection.fetchval(ours) <= 4
        await connection.close()
        page = await app.orders.list(OrderFilter(), PageRequest(limit=100), by=TILL)
        assert len(page.items) == 40
        await storage.close()

    told(story)


def test_an_order_is_texted_and_found_and_counted(url, pgbouncer):
    async def story():
        storage, gateway = opened(url, pgbouncer), MemoryGateway()
        app = in_memory(storage=storage, gateway=gateway)
        jane = await jane_in(app)
        for number in range(5):
            await app.orders.create(customer=jane.id, item=f"Lamp {number}", amount=10, by=TILL)
        assert await app.notifications.dispatch_due() == 5
        assert len(gateway.sent) == 5
        found = await app.orders.search("lamp", OrderFilter(), PageRequest(), by=TILL)
        assert len(found.items) == 5
        assert (await app.reports.analytics(by=TILL)).total_orders == 5
        await storage.close()

    told(story)


def test_equal_requests_at_once_make_one_order(url, pgbouncer):
    async def story():
        storages = [opened(url, pgbouncer) for _ in range(3)]
        apps = [in_memory(storage=storage) for storage in storages]
        jane = await jane_in(apps[0])
        once = Once(
            operation="POST /api/orders/",
            key="k-1",
            fingerprint="f",
            render=lambda order: order.number.encode(),
        )

        async def request(app):
            while True:
                try:
                    made = await app.orders.create(
                        customer=jane.id, item="Lamp", amount=10, by=TILL, once=once
                    )
                except AlreadyDone as done:
                    return done.answer.decode()
                except IdempotencyInProgress:
                    await asyncio.sleep(0.005)
                else:
                    return made.number

        answers = await asyncio.gather(*(request(app) for app in apps * 8))
        assert len(set(answers)) == 1
        page = await apps[0].orders.list(OrderFilter(), PageRequest(), by=TILL)
        assert [order.number for order in page.items] == [answers[0]]
        for storage in storages:
            await storage.close()

    told(story)


def test_relays_lease_each_message_once(url, pgbouncer):
    async def story():
        storages = [opened(url, pgbouncer) for _ in range(3)]
        app = in_memory(storage=storages[0])
        jane = await jane_in(app)
        for number in range(30):
            await app.orders.create(customer=jane.id, item=f"Lamp {number}", amount=10, by=TILL)
        now, leased = datetime.now(UTC), []

        async def relay(storage):
            while True:
                async with storage() as uow:
                    ids = await uow.notifications.lease_due(
                        now=now, until=now + timedelta(seconds=30), most=4
                    )
                    await uow.commit()
                if not ids:
                    return
                leased.extend(ids)

        await asyncio.gather(*(relay(storage) for storage in storages))
        await relay(storages[0])
        assert len(leased) == len(set(leased)) == 30
        for storage in storages:
            await storage.close()

    told(story)


def test_replicas_are_read_through_poolers_of_their_own(caplog):
    """Fails if the question how far a server is were asked on two of its connections."""
    with servers.own_postgres() as primary, primary.replica() as replica:
        database = primary.fresh_database()
        asyncio.run(migrate(database))
        with (
            servers.own_pgbouncer(primary.url) as before,
            servers.own_pgbouncer(replica.url) as there,
        ):

            async def story():
                storage = opened(database, before, replicas=[there.at(database)])
                app = in_memory(storage=storage)
                jane = await jane_in(app)

                async def one(number):
                    made = await app.orders.create(
                        customer=jane.id, item=f"Lamp {number}", amount=10, by=TILL
                    )
                    assert (await app.orders.get(made.id, by=TILL)).item == made.item

                await asyncio.gather(*(one(number) for number in range(30)))
                await storage.close()

            told(story)
    assert "a replica fails" not in caplog.text


def test_a_pooler_that_goes_away_is_unavailable_and_usable_when_it_is_back(url, pgbouncer):
    async def story():
        storage = opened(url, pgbouncer)
        await storage.ping()
        pgbouncer.kill()
        with pytest.raises(Unavailable):
            await storage.ping()
        pgbouncer.start()
        await storage.ping()
        await storage.close()

    told(story)
