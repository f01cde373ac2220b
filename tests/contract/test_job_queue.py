"""The queue port: what is enqueued reaches the handler; a carrier promises nothing more.

An adapter is added by a fixture `open_<name>_queue` that yields the queue and what its handler
has got: a list `ids`, and `wait_for(ids)`, which returns when all of them are in it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from savannah.adapters.memory import InlineQueue
from savannah.adapters.saq_queue import SaqQueue, SaqWorker
from savannah.domain.order import NotificationId


class Handed:
    """A handler that notes what it gets."""

    def __init__(self) -> None:
        self.ids: list[NotificationId] = []
        self._more = asyncio.Event()

    async def __call__(self, ids):
        await asyncio.sleep(0)
        self.ids.extend(ids)
        self._more.set()

    async def wait_for(self, ids):
        while not set(ids) <= set(self.ids):
            self._more.clear()
            await self._more.wait()


@pytest.fixture
def open_inline_queue():
    handed = Handed()
    queue = InlineQueue()
    queue.bind(handed)
    return queue, handed


@pytest.fixture
def open_saq_queue(runner, redis_server):
    handed = Handed()
    queue = SaqQueue(redis_server.url, name=redis_server.fresh_name())
    worker = SaqWorker(queue)
    worker.bind(handed)
    runner.run(worker.start())
    yield queue, handed
    runner.run(worker.stop(grace=timedelta(seconds=60)))
    runner.run(queue.close())


@pytest.fixture(params=["inline", "saq"])
def queue_and_handed(request):
    return request.getfixturevalue(f"open_{request.param}_queue")


@pytest.fixture
def ids(make):
    return [NotificationId(make.id()) for _ in range(5)]


async def test_every_id_reaches_the_handler(queue_and_handed, ids):
    queue, handed = queue_and_handed
    await queue.enqueue(ids[:2])
    await asyncio.gather(*(queue.enqueue([each]) for each in ids[2:]))
    await handed.wait_for(ids)


async def test_enqueueing_nothing_is_fine_and_waking_never_fails(queue_and_handed, ids):
    queue, handed = queue_and_handed
    queue.wake()
    await queue.enqueue([])
    queue.wake()
    await queue.enqueue(ids)
    await handed.wait_for(ids)
    assert set(handed.ids) == set(ids)


# --- what only the queue that is none promises ---------------------------------------------------


async def test_the_inline_queue_is_done_when_enqueue_returns(open_inline_queue, ids):
    queue, handed = open_inline_queue
    await queue.enqueue(ids)
    assert handed.ids == ids


async def test_the_inline_queue_passes_the_handlers_failure_on(ids):
    async def handler(_):
        raise ZeroDivisionError

    queue = InlineQueue()
    queue.bind(handler)
    with pytest.raises(ZeroDivisionError):
        await queue.enqueue(ids)


async def test_the_inline_queue_needs_a_handler(ids):
    queue = InlineQueue()
    queue.wake()
    with pytest.raises(RuntimeError, match="handler"):
        await queue.enqueue(ids)
