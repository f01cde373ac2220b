"""Cached analytics on Postgres: any write, through any process, counts at the next question."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import servers
from savannah.adapters.memory import ManualClock, MemoryCache, SeededRandomness
from savannah.adapters.shared_redis import RedisCache
from savannah.adapters.sql import SqlStorage, migrate
from savannah.application.business import Business
from savannah.application.reports import KEPT_FOR, Reports
from savannah.application.savannah import Savannah
from savannah.domain.access import Caller
from savannah.domain.notification import SmsStatus
from savannah.domain.order import Status
from savannah.entrypoints.library import in_memory

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ADMIN = Caller.admin("boss")
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def migrated(postgres_server: servers.PostgresServer) -> str:
    url = postgres_server.fresh_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def url(postgres_server: servers.PostgresServer, migrated: str) -> Iterator[str]:
    url = postgres_server.fresh_database(template=migrated)
    yield url
    postgres_server.drop(url)


class Desk:
    """Two processes on one database; one of them is asked, the other one writes."""

    def __init__(self, url: str, cache) -> None:
        self.clock = ManualClock(NOW)
        self.asked, self.writing = SqlStorage.open(url), SqlStorage.open(url)
        self.reports = Reports(
            storage=self.asked, clock=self.clock, business=Business(), cache=cache
        )
        self.plain = Reports(storage=self.asked, clock=self.clock, business=Business())
        self.other: Savannah = in_memory(
            storage=self.writing, clock=self.clock, randomness=SeededRandomness(7)
        )

    async def close(self) -> None:
        await self.asked.close()
        await self.writing.close()

    async def analytics(self, **about):
        """What is answered; it is always what would be computed now, but for its age."""
        self.clock.advance(SECOND)
        answered = await self.reports.analytics(by=ADMIN, **about)
        computed = await self.plain.analytics(by=ADMIN, **about)
        assert replace(answered, as_of=computed.as_of) == computed
        return answered


async def is_kept(desk: Desk, **about: Any) -> bool:
    """Whether it is answered twice from one look, unless the server itself writes in between."""
    for _ in range(5):
        if await desk.analytics(**about) == await desk.analytics(**about):
            return True
    return False


async def every_write(desk: Desk) -> None:
    """After each write, by whatever way, nothing older is answered."""
    jane = await desk.other.customers.create(name="Jane", phone_number="0700123456", by=ADMIN)
    orders = []

    async def create():
        orders.append(
            await desk.other.orders.create(customer=jane.id, item="Desk", amount="10", by=ADMIN)
        )

    async def ship():
        for status in (Status.PROCESSING, Status.SHIPPED):
            orders[0] = await desk.other.orders.update_status(orders[0].id, status, by=ADMIN)

    async def send():
        await desk.other.notifications.dispatch_due()

    async def deliver():
        async with desk.writing() as uow:
            newest = await uow.notifications.newest(orders[0].id)
            assert newest is not None
            await uow.notifications.save(replace(newest, status=SmsStatus.DELIVERED))
            await uow.commit()

    async def cancel():
        orders[1] = await desk.other.orders.cancel(orders[1].id, by=ADMIN)

    async def delete():
        await desk.other.orders.delete(orders[1].id, by=ADMIN)

    for about in ({}, {"customer": jane.id}):
        await desk.analytics(**about)
    for write in (create, create, ship, send, deliver, cancel, delete):
        await write()
        for about in ({}, {"customer": jane.id}):
            fresh = await desk.analytics(**about)
            assert fresh.as_of == desk.clock.now(), write.__name__
            assert await is_kept(desk, **about), write.__name__
        stats = await desk.reports.customer_stats(jane.id, by=ADMIN)
        assert stats.total_orders == fresh.total_orders
        assert stats.sms == fresh.sms
    assert fresh.total_orders == 1
    assert fresh.sms.delivered == 1


def story(url: str, cache, tell) -> None:
    async def main() -> None:
        desk = Desk(url, cache)
        try:
            async with asyncio.timeout(180):
                await tell(desk)
        finally:
            await desk.close()
            if isinstance(cache, RedisCache):
                await cache.close()

    asyncio.run(main())


def test_a_write_through_another_process_counts_at_once(url):
    story(url, MemoryCache(ManualClock(NOW)), every_write)


def test_so_it_does_where_processes_share_a_cache(url, redis_server):
    patient = timedelta(minutes=1)  # a busy machine is no absence
    cache = RedisCache(redis_server.url, prefix=redis_server.fresh_name(), answer=patient)
    story(url, cache, every_write)


def test_an_answer_is_kept_for_half_a_minute_at_most(url):
    async def tell(desk: Desk) -> None:
        first = await desk.analytics()
        desk.clock.advance(KEPT_FOR - SECOND)
        assert (await desk.analytics()).as_of == first.as_of
        assert (await desk.analytics()).as_of == desk.clock.now()

    story(url, MemoryCache(ManualClock(NOW)), tell)


def test_what_is_not_committed_counts_when_it_is(url):
    """Somebody began before the answer was computed, and commits after it was."""

    async def tell(desk: Desk) -> None:
        jane = await desk.other.customers.create(name="Jane", phone_number="0700123456", by=ADMIN)
        order = await desk.other.orders.create(customer=jane.id, item="A", amount="1", by=ADMIN)
        async with desk.writing() as early, desk.writing() as late:
            for uow, quantity in ((early, 2), (late, 3)):
                if uow is late:  # the later one is done first
                    other = await desk.other.orders.create(
                        customer=jane.id, item="B", amount="1", by=ADMIN
                    )
                    await uow.orders.save(replace(other, quantity=quantity))
                else:
                    await uow.orders.save(replace(order, quantity=quantity))
                await uow.orders.get(order.id)  # so that the write is at the database
            seen = await desk.analytics()
            assert seen.units == 2
            await late.commit()
            assert (await desk.analytics()).units == 4
            await early.commit()
            assert (await desk.analytics()).units == 5

    story(url, MemoryCache(ManualClock(NOW)), tell)


def test_a_replica_and_a_restarted_server_share_no_stamp():
    """A replica cannot tell who is at work, and a recovered server counts on from the past."""

    async def stamp(url: str) -> str | None:
        storage = SqlStorage.open(url)
        try:
            async with storage(reading=True) as uow:
                return await uow.reports.stamp()
        finally:
            await storage.close()

    with servers.own_postgres() as server:
        first = asyncio.run(stamp(server.url))
        assert first is not None
        assert asyncio.run(stamp(server.url)) == first
        with server.replica() as replica:
            assert asyncio.run(stamp(replica.at(server.url))) is None
        server.kill()
        server.start()
        assert asyncio.run(stamp(server.url)) not in {None, first}
