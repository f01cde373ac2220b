"""The queue without a broker: batches, failures, wake-ups, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import pytest

from savannah.adapters.in_process import InProcessQueue
from savannah.domain.order import NotificationId

LONG = timedelta(seconds=60)  # ends a test that would hang; nothing waits for it
NONE = timedelta(0)


def ids(*numbers: int) -> list[NotificationId]:
    return [NotificationId(UUID(int=number)) for number in numbers]


class Desk:
    """A handler that keeps what it got and holds its batches while `gate` is shut."""

    def __init__(self) -> None:
        self.batches: list[Sequence[NotificationId]] = []
        self.done = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, batch: Sequence[NotificationId]) -> None:
        self.batches.append(batch)
        await self.gate.wait()
        self.done += 1


@asynccontextmanager
async def running(queue: InProcessQueue) -> AsyncIterator[None]:
    await queue.start()
    try:
        yield
    finally:
        await queue.stop(grace=NONE)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG.total_seconds()):
        while not true():  # noqa: ASYNC110  any condition; the loop only turns
            await asyncio.sleep(0)


def run(test: Awaitable[None]) -> None:
    async def inside() -> None:
        await test

    asyncio.run(inside())


def test_ids_reach_the_handler_in_order_and_in_batches_of_at_most_32() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue(concurrency=1)
        queue.bind(desk.handle)
        await queue.enqueue(ids(*range(90)))
        async with running(queue):
            await until(lambda: desk.done == 3)
        assert [len(batch) for batch in desk.batches] == [32, 32, 26]
        assert [id_ for batch in desk.batches for id_ in batch] == ids(*range(90))

    run(test())


def test_ids_that_come_later_are_carried_too() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue()
        queue.bind(desk.handle)
        async with running(queue):
            await queue.enqueue(ids(1))
            await until(lambda: desk.done == 1)
            await queue.enqueue(ids(2, 3))
            await until(lambda: desk.done == 2)
        assert desk.batches == [ids(1), ids(2, 3)]

    run(test())


def test_only_so_many_batches_are_under_way_at_a_time() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue(batch=2, concurrency=3)
        desk.gate.clear()
        queue.bind(desk.handle)
        async with running(queue):
            await queue.enqueue(ids(*range(10)))
            await until(lambda: len(desk.batches) == 3)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(desk.batches) == 3
            desk.gate.set()
            await until(lambda: desk.done == 5)

    run(test())


def test_an_id_that_waits_already_is_dropped_and_one_under_way_is_not() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue(concurrency=1)
        desk.gate.clear()
        queue.bind(desk.handle)
        async with running(queue):
            await queue.enqueue(ids(1))
            await until(lambda: len(desk.batches) == 1)
            await queue.enqueue(ids(1, 2, 2))
            await queue.enqueue(ids(2, 1, 3))
            desk.gate.set()
            await until(lambda: desk.done == 2)
        assert desk.batches == [ids(1), ids(1, 2, 3)]

    run(test())


@pytest.mark.parametrize("failure", [RuntimeError("out of order"), asyncio.CancelledError()])
def test_a_failing_handler_is_logged_and_the_queue_goes_on(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        seen: list[Sequence[NotificationId]] = []

        async def fail_once(batch: Sequence[NotificationId]) -> None:
            seen.append(batch)
            if len(seen) == 1:
                raise failure

        queue = InProcessQueue(concurrency=1)
        queue.bind(fail_once)
        async with running(queue):
            await queue.enqueue(ids(1))
            await until(lambda: len(seen) == 1)
            await queue.enqueue(ids(2))
            await until(lambda: len(seen) == 2)

    run(test())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].name == "savannah.queue"


def test_stopping_lets_a_batch_finish_and_hands_back_what_waits() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue(batch=2, concurrency=1)
        desk.gate.clear()
        queue.bind(desk.handle)
        await queue.start()
        await queue.enqueue(ids(1, 2, 3, 4, 5))
        await until(lambda: len(desk.batches) == 1)
        stopping = asyncio.create_task(queue.stop(grace=LONG))
        await asyncio.sleep(0)
        desk.gate.set()
        assert await stopping == ids(3, 4, 5)
        assert desk.batches == [ids(1, 2)]
        assert desk.done == 1

    run(test())


def test_a_batch_that_outlasts_the_grace_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue()
        desk.gate.clear()
        queue.bind(desk.handle)
        await queue.start()
        await queue.enqueue(ids(1))
        await until(lambda: len(desk.batches) == 1)
        async with asyncio.timeout(LONG.total_seconds()):
            assert await queue.stop(grace=timedelta(milliseconds=20)) == []
        assert desk.done == 0

    run(test())
    assert "cut off" in caplog.text


def test_an_idle_queue_stops_at_once_and_can_start_again() -> None:
    async def test() -> None:
        desk, queue = Desk(), InProcessQueue()
        queue.bind(desk.handle)
        assert await queue.stop(grace=LONG) == []
        await queue.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            assert await queue.stop(grace=LONG) == []
        await queue.enqueue(ids(1))
        async with running(queue):
            await until(lambda: desk.done == 1)
        assert desk.batches == [ids(1)]

    run(test())


def test_a_queue_starts_once_and_only_with_a_handler() -> None:
    async def test() -> None:
        queue = InProcessQueue()
        with pytest.raises(RuntimeError, match="bind"):
            await queue.start()
        queue.bind(Desk().handle)
        async with running(queue):
            with pytest.raises(RuntimeError, match="already"):
                await queue.start()

    run(test())


def test_waiting_for_work_ends_when_somebody_wakes_the_queue() -> None:
    async def test() -> None:
        queue = InProcessQueue()
        waiting = asyncio.create_task(queue.wait_for_work(LONG))
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.wake()
        async with asyncio.timeout(30):
            await waiting

    run(test())


def test_a_wake_up_before_the_wait_is_not_lost_and_counts_once() -> None:
    async def test() -> None:
        queue = InProcessQueue()
        queue.wake()
        queue.wake()
        async with asyncio.timeout(30):
            await queue.wait_for_work(LONG)
        again = asyncio.create_task(queue.wait_for_work(LONG))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    run(test())


def test_waiting_for_work_ends_at_the_timeout() -> None:
    async def test() -> None:
        queue = InProcessQueue()
        async with asyncio.timeout(30):
            await queue.wait_for_work(timedelta(milliseconds=5))
            await queue.wait_for_work(NONE)

    run(test())


def test_a_wake_up_needs_no_event_loop() -> None:
    queue = InProcessQueue()
    queue.wake()

    async def test() -> None:
        async with asyncio.timeout(30):
            await queue.wait_for_work(LONG)

    run(test())
