"""What processes on one Postgres share besides rows: the time, and wake-ups."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import servers
from savannah.adapters.in_process import InProcessQueue
from savannah.adapters.sql import SqlStorage
from savannah.adapters.sql.clock import DatabaseClock
from savannah.adapters.sql.wake import PostgresWakes
from savannah.domain.errors import Unavailable

LONG = timedelta(seconds=60)  # ends a test that would hang
MINUTE = timedelta(minutes=1)  # what a busy machine may take is far less
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server():
    with servers.own_postgres() as server:
        yield server


@asynccontextmanager
async def opened(url):
    storage = SqlStorage.open(url)
    try:
        yield storage
    finally:
        await storage.close()


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR])
def test_a_machine_with_a_wrong_clock_has_the_time_of_the_database(server, wrong_by, caplog):
    async def story():
        async with opened(server.url) as storage:
            clock = DatabaseClock(storage, machine=lambda: datetime.now(UTC) + wrong_by)
            await clock.start()
            assert abs(clock.now() - datetime.now(UTC)) < MINUTE
            await clock.stop()

    asyncio.run(story())
    assert "differs from the database server's" in caplog.text


def test_between_two_looks_the_time_goes_forward_whatever_the_machine_says(server):
    seconds = 100.0
    said = [datetime.now(UTC)]

    async def story():
        nonlocal seconds
        async with opened(server.url) as storage:
            clock = DatabaseClock(storage, monotonic=lambda: seconds, machine=lambda: said[-1])
            await clock.set()
            before = clock.now()
            said.append(said[0] - HOUR)
            seconds += 3
            assert clock.now() - before == timedelta(seconds=3)

    asyncio.run(story())


def test_the_time_goes_on_while_the_database_is_away_and_is_set_right_by_the_next_look(server):
    seconds = 0.0

    async def story():
        nonlocal seconds
        async with opened(server.url) as storage:
            clock = DatabaseClock(storage, monotonic=lambda: seconds)
            await clock.set()
            before = clock.now()
            server.stop()
            seconds += 2 * 3600  # the machine slept, and wakes up two hours wrong
            with pytest.raises(Unavailable):
                await clock.set()
            assert clock.now() - before == 2 * HOUR
            server.start()
            await clock.set()
            assert abs(clock.now() - datetime.now(UTC)) < MINUTE

    asyncio.run(story())


def test_a_clock_of_a_database_that_is_away_cannot_be_set(server):
    async def story():
        nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres"
        async with opened(nowhere) as storage:
            with pytest.raises(Unavailable):
                await DatabaseClock(storage).start()

    asyncio.run(story())


# --- wake-ups ------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(url):
    """A relay's queue that hears, once it surely does."""
    queue, wakes = InProcessQueue(), PostgresWakes(url)
    wakes.listen(queue.wake)
    try:
        await queue.wait_for_work(LONG)  # it looks whether it missed something
        yield queue
    finally:
        await wakes.close()


@asynccontextmanager
async def telling(url):
    queue, wakes = InProcessQueue(), PostgresWakes(url)
    queue.pass_on(wakes.tell)
    try:
        yield queue
    finally:
        await wakes.close()


async def hears(queue):
    began_at = time.monotonic()
    await queue.wait_for_work(LONG)
    return time.monotonic() - began_at < LONG.total_seconds() / 2


def test_a_wake_up_in_one_process_reaches_the_relays_of_all_others(server):
    async def story():
        async with (
            listening(server.url) as one,
            listening(server.url) as other,
            telling(server.url) as teller,
        ):
            for _ in range(3):
                waiting = [asyncio.create_task(hears(queue)) for queue in (one, other)]
                await asyncio.sleep(0.02)
                assert not any(task.done() for task in waiting)
                for _ in range(100):
                    teller.wake()
                assert await asyncio.gather(*waiting) == [True, True]
                # A second one may follow, for those that came late.
                late = (queue.wait_for_work(timedelta(seconds=0.5)) for queue in (one, other))
                await asyncio.gather(*late)

    asyncio.run(story())


def test_a_listener_whose_connection_is_cut_listens_again_and_looks_at_once(server):
    async def story():
        async with listening(server.url) as queue, telling(server.url) as teller:
            connection = await asyncpg.connect(server.url)
            cut = (
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
            )
            assert await connection.fetchval(cut) == 1
            await connection.close()
            assert await hears(queue)  # what was missed meanwhile
            teller.wake()
            assert await hears(queue)

    asyncio.run(story())


def test_a_listener_that_fails_for_an_unforeseen_reason_listens_again(server, caplog):
    async def story():
        heard = asyncio.Event()
        calls = []

        def hear():
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("nobody foresaw this")
            heard.set()

        wakes = PostgresWakes(server.url)
        wakes.listen(hear)
        try:
            async with asyncio.timeout(LONG.total_seconds()):
                await heard.wait()
        finally:
            await wakes.close()

    asyncio.run(story())
    assert "the listener for wake-ups failed" in caplog.messages


def test_without_its_database_a_wake_up_is_lost_and_nothing_else(server):
    async def story():
        async with listening(server.url) as queue, telling(server.url) as teller:
            await asyncio.to_thread(server.stop)
            teller.wake()
            await queue.wait_for_work(timedelta(seconds=0.1))
            server.start()
            assert await hears(queue)
            teller.wake()
            assert await hears(queue)

    asyncio.run(story())
