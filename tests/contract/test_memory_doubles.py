"""What the adapters in memory promise beyond their ports, to programs that embed Savannah."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from savannah.adapters.memory import (
    ManualClock,
    MemoryStorage,
    NullMetrics,
    SeededRandomness,
)
from savannah.domain.errors import NotFound, Unavailable
from savannah.domain.notification import SmsStatus
from savannah.domain.order import CROCKFORD
from savannah.domain.sms_text import SmsEvent

# --- storage -------------------------------------------------------------------------------------


async def test_a_second_event_loop_is_refused_while_the_first_writes():
    storage = MemoryStorage()

    async def use():
        async with storage() as uow:
            await uow.commit()

    async with storage():
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, use())
    await asyncio.to_thread(asyncio.run, use())
    await use()


async def test_a_reading_unit_of_work_cannot_write(make):
    storage = MemoryStorage()
    async with storage(reading=True) as uow:
        with pytest.raises(RuntimeError, match="reading"):
            await uow.customers.add(make.customer())
        with pytest.raises(RuntimeError, match="reading"):
            await uow.notifications.set_pause(None)
        await uow.commit()


async def test_nothing_can_be_written_after_the_commit_and_nobody_waits_for_the_end(make):
    storage = MemoryStorage()
    jane = make.customer()
    async with storage() as uow:
        await uow.customers.add(jane)
        await uow.commit()
        async with asyncio.timeout(60), storage() as other:
            await other.customers.save(replace(jane, name="Jane Doe"))
            await other.commit()
        assert (await uow.customers.get(jane.id)).name == "Jane Doe"
        with pytest.raises(RuntimeError, match="ended"):
            await uow.customers.save(jane)
        await uow.commit()


async def test_a_customer_who_was_never_added_cannot_be_saved(make):
    async with MemoryStorage()() as uow:
        with pytest.raises(NotFound):
            await uow.customers.save(make.customer())


async def test_a_dedupe_key_that_came_twice_is_worth_a_repeat(make):
    jane = make.customer()
    order = make.order(jane)
    message = make.message(order)
    async with MemoryStorage()() as uow:
        await uow.customers.add(jane)
        await uow.orders.add(order)
        await uow.notifications.add(message)
        with pytest.raises(Unavailable):
            await uow.notifications.add(replace(message, id=make.id()))


async def test_rows_that_nobody_can_change_are_shared_not_copied(make):
    storage = MemoryStorage()
    message = make.message(make.order(make.customer()))
    async with storage() as uow:
        await uow.notifications.add(message)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.notifications.get(message.id) is message


def test_storage_survives_its_event_loop(make):
    storage = MemoryStorage()
    jane = make.customer()

    async def add_and_contend():
        async with storage() as uow:
            if not await uow.customers.get_many([jane.id]):
                await uow.customers.add(jane)

            async def wait_for_turn():
                async with storage() as other:
                    return await other.customers.get(jane.id)

            waiting = asyncio.create_task(wait_for_turn())
            await asyncio.sleep(0)
            await uow.commit()
        return await waiting

    for _ in range(2):
        assert asyncio.run(add_and_contend()) == jane


# --- the clock -----------------------------------------------------------------------------------


def test_a_clock_stands_still_until_it_is_moved():
    clock = ManualClock()
    start = clock.now()
    assert clock.now() == start
    assert start.tzinfo is UTC
    clock.advance(timedelta(hours=1))
    assert clock.now() - start == timedelta(hours=1)
    nairobi = timezone(timedelta(hours=3))
    clock.set(datetime(2026, 11, 23, 12, 0, tzinfo=nairobi))
    assert clock.now() == datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    assert ManualClock(datetime(2026, 1, 1, tzinfo=nairobi)).now().tzinfo is UTC


def test_a_ticking_clock_moves_after_every_look():
    clock = ManualClock(tick=timedelta(seconds=1))
    first, second, third = clock.now(), clock.now(), clock.now()
    assert third - second == second - first == timedelta(seconds=1)


# --- chance --------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_things():
    def drawn(seed):
        chance = SeededRandomness(seed)
        return [chance.uuid(), chance.symbols(CROCKFORD, 6), chance.fraction(), chance.uuid()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_seeded_ids_are_version_7_and_grow():
    chance = SeededRandomness()
    ids = [chance.uuid() for _ in range(1000)]
    assert all(each.version == 7 and each.variant == "specified in RFC 4122" for each in ids)
    assert ids == sorted(set(ids))


def test_symbols_come_from_their_alphabet_and_fractions_stay_below_one():
    chance = SeededRandomness()
    assert len(chance.symbols(CROCKFORD, 500)) == 500
    assert set(chance.symbols(CROCKFORD, 500)) <= set(CROCKFORD)
    assert all(0 <= chance.fraction() < 1 for _ in range(500))


# --- metrics -------------------------------------------------------------------------------------


def test_nothing_is_counted():
    metrics = NullMetrics()
    metrics.order_created()
    metrics.sms(SmsEvent.ORDER_CREATED, SmsStatus.SENT)
    metrics.sms_cost("KES", 8_000)
