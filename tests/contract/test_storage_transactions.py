"""Units of work: what is kept, what is not, and who waits for whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from savannah.domain.errors import EmailTaken, NotFound
from savannah.domain.notification import SmsStatus


async def test_what_is_committed_is_there_for_everybody(storage, make):
    jane = make.customer()
    async with storage() as uow:
        await uow.customers.add(jane)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.customers.get(jane.id) == jane
    async with storage() as uow:
        assert await uow.customers.get(jane.id, lock="update") == jane
        assert await uow.customers.get(jane.id, lock="share") == jane


async def test_leaving_without_commit_keeps_nothing(storage, make):
    jane = make.customer(email="jane@example.com")
    order = make.order(jane)
    message = make.message(order)
    async with storage() as uow:
        await uow.customers.add(jane)
        await uow.orders.add(order)
        await uow.notifications.add(message)
        await uow.events.add(make.event("order", order.id))
    async with storage(reading=True) as uow:
        with pytest.raises(NotFound):
            await uow.customers.get(jane.id)
        with pytest.raises(NotFound):
            await uow.orders.get(order.id)
        assert not await uow.notifications.handled(message.dedupe_key)
        assert await uow.notifications.next_due_at() is None
        assert await uow.events.of("order", order.id) == []
    async with storage() as uow:  # neither the address nor the code is taken
        await uow.customers.add(replace(jane, id=make.id()))
        await uow.commit()


async def test_a_change_that_is_rolled_back_leaves_the_old_row(storage, make, keep):
    jane = make.customer(email="jane@example.com")
    await keep(jane)
    async with storage() as uow:
        await uow.customers.save(replace(jane, name="Somebody", email="some@example.com"))
    async with storage() as uow:
        assert await uow.customers.get(jane.id) == jane
    with pytest.raises(EmailTaken):
        await keep(make.customer(email="jane@example.com"))


async def test_an_exception_rolls_back_and_passes_through(storage, make):
    jane = make.customer()

    async def fail() -> None:
        async with storage() as uow:
            await uow.customers.add(jane)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with storage(reading=True) as uow:
        with pytest.raises(NotFound):
            await uow.customers.get(jane.id)


async def test_a_refused_write_leaves_storage_usable(storage, make, keep):
    jane = make.customer(email="jane@example.com")
    await keep(jane)
    with pytest.raises(EmailTaken):
        await keep(make.customer(), make.customer(email="JANE@example.com"))
    await keep(make.customer())
    async with storage(reading=True) as uow:
        assert len(await uow.customers.get_many([jane.id])) == 1


async def test_a_cancelled_unit_of_work_rolls_back_and_lets_the_next_one_in(storage, make):
    jane = make.customer()
    inside = asyncio.Event()

    async def interrupted() -> None:
        async with storage() as uow:
            await uow.customers.add(jane)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(interrupted())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with storage() as uow:
        await uow.customers.add(jane)
        await uow.commit()


async def test_a_waiting_writer_can_be_cancelled(storage, make):
    async with storage() as uow:
        await uow.customers.add(make.customer())

        async def second() -> None:
            async with storage() as other:
                await other.customers.add(make.customer())
                await other.commit()

        task = asyncio.create_task(second())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await uow.commit()
    async with storage() as uow:
        await uow.customers.add(make.customer())
        await uow.commit()


async def test_a_unit_of_work_sees_its_own_changes_and_others_do_not(storage, make, keep):
    jane = make.customer(email="jane@example.com")
    await keep(jane)
    renamed = replace(jane, name="Jane Doe")
    order = make.order(jane)
    async with storage() as uow:
        await uow.customers.save(renamed)
        await uow.orders.add(order)
        assert await uow.customers.get(jane.id) == renamed
        assert await uow.customers.open_orders(jane.id) == 1
        async with storage(reading=True) as reader:
            assert await reader.customers.get(jane.id) == jane
            assert await reader.customers.open_orders(jane.id) == 0
        await uow.commit()


async def test_a_unit_of_work_no_longer_sees_what_it_took_away(storage, make, keep):
    jane = make.customer(email="jane@example.com")
    order = make.order(jane)
    message = make.message(order)
    await keep(jane, order, message)
    async with storage() as uow:
        await uow.notifications.save(replace(message, status=SmsStatus.SENT))
        assert await uow.notifications.backlog() == (0, None)
        await uow.customers.save(replace(jane, email=None))
        await uow.customers.add(make.customer(email="JANE@example.com"))
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.notifications.next_due_at() is None


async def test_readers_do_not_wait_for_a_writer(storage, make, keep):
    jane = make.customer()
    await keep(jane)
    async with storage() as uow:
        await uow.customers.save(replace(jane, name="Jane Doe"))
        async with asyncio.timeout(60), storage(reading=True) as reader:
            assert (await reader.customers.get(jane.id)).name == jane.name


async def test_a_fresh_reader_sees_what_is_committed_now(storage, make, keep):
    jane = make.customer()
    await keep(jane)
    for version in (2, 3):
        async with storage() as uow:
            await uow.customers.save(replace(jane, version=version))
            await uow.commit()
        async with storage(reading="fresh") as reader:
            assert (await reader.customers.get(jane.id)).version == version


async def test_single_reads_leave_later_units_of_work_whole(storage, make, keep):
    jane, joe = make.customer(), make.customer()
    await keep(jane)
    for _ in range(3):
        async with storage(reading="each") as reader:
            assert await reader.customers.get(jane.id) == jane
            assert await reader.customers.get_many([jane.id]) == {jane.id: jane}
        async with storage() as uow:  # perhaps on the same connection
            await uow.customers.add(joe)
        with pytest.raises(NotFound):
            async with storage(reading="each") as reader:
                await reader.customers.get(joe.id)


async def test_no_update_of_a_locked_row_is_lost(storage, make, keep):
    jane = make.customer()
    await keep(jane)

    async def bump() -> None:
        async with storage() as uow:
            current = await uow.customers.get(jane.id, lock="update")
            await asyncio.sleep(0)
            await uow.customers.save(replace(current, version=current.version + 1))
            await uow.commit()

    await asyncio.gather(*(bump() for _ in range(8)))
    async with storage(reading=True) as uow:
        assert (await uow.customers.get(jane.id)).version == 9


async def test_of_two_units_of_work_with_the_same_address_one_wins(storage, make):
    async def add() -> bool:
        async with storage() as uow:
            try:
                await uow.customers.add(make.customer(email="jane@example.com"))
                await asyncio.sleep(0)
                await uow.commit()
            except EmailTaken:
                return False
            return True

    assert sorted(await asyncio.gather(*(add() for _ in range(4)))) == [False] * 3 + [True]


async def test_a_committed_unit_of_work_may_end_with_an_error(storage, make):
    jane = make.customer()

    async def fail() -> None:
        async with storage() as uow:
            await uow.customers.add(jane)
            await uow.commit()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with storage(reading=True) as uow:
        assert await uow.customers.get(jane.id) == jane


async def test_working_storage_answers_a_ping(storage):
    await storage.ping()
