"""The worker: SAQ runs the jobs, and batches of them go to one handler."""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio import Task
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from saq.types import PartialTimersDict
from saq.worker import Worker

from savannah.adapters.redis_access import end
from savannah.adapters.saq_queue.jobs import Jobs, message_of
from savannah.adapters.saq_queue.queue import SaqQueue
from savannah.domain.order import NotificationId

logger = logging.getLogger("savannah.queue")

Handler = Callable[[Sequence[NotificationId]], Awaitable[object]]

_IDLE_S: Final = 0.1  # how long a look for jobs blocks, and so how long an idle worker stops
_ALIVE_EVERY_S: Final = 1.0
_TIMERS: Final[PartialTimersDict] = {"schedule": 1, "sweep": 1, "abort": 10, "worker_info": 10}


class SaqWorker:
    """Runs a SAQ worker that hands jobs to one handler, as many at once as came together.

    A job is done when its batch is, and is tried again when that fails. A worker that is killed
    is missed within seconds, and its jobs go to another one.

    Args:
        queue: belongs to this worker, as far as taking jobs goes; others have a `SaqQueue` of
            their own.
        batch: the most ids in one call of the handler.
        concurrency: how many calls run at the same time.
    """

    def __init__(self, queue: SaqQueue, *, batch: int = 32, concurrency: int = 4) -> None:
        self._saq = queue.saq
        self._batch = batch
        self._concurrency = concurrency
        self._handler: Handler | None = None
        self._worker: _Worker | None = None

    def bind(self, handler: Handler) -> None:
        """Say who sends the messages; before `start`."""
        self._handler = handler

    async def start(self) -> None:
        """Begin to take jobs, as soon as there is a Redis to take them from.

        Raises:
            RuntimeError: no handler is bound, or it has started before.
        """
        if self._handler is None:
            raise RuntimeError("bind a handler first")
        if self._worker is not None:
            raise RuntimeError("the worker has started already")
        self._worker = _Worker(
            self._saq, self._handler, batch=self._batch, concurrency=self._concurrency
        )
        self._saq.open = True
        await self._saq.say_alive(self._worker.id)
        self._ran = asyncio.create_task(self._worker.start(), name="savannah-saq")
        self._alive = asyncio.create_task(self._stay_alive(self._worker.id), name="savannah-alive")
        await self._worker.running.wait()

    async def stop(self, *, grace: timedelta) -> None:
        """Take no further job, and let those under way finish within `grace`; twice is once.

        Those that do not finish are cut off and wait in Redis for another worker.
        """
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        self._saq.open = False
        worker.grace = grace
        worker.event.set()
        await self._ran
        await end(self._alive)
        await self._saq.say_gone(worker.id)

    async def _stay_alive(self, worker_id: str) -> None:
        while True:
            await asyncio.sleep(_ALIVE_EVERY_S)
            await self._saq.say_alive(worker_id)


class _Worker(Worker[Any]):
    """SAQ's worker in a program that has its own signal handlers and its own way to stop."""

    SIGNALS: list[signal.Signals] = []  # noqa: RUF012  as SAQ declares it

    def __init__(self, queue: Jobs, handler: Handler, *, batch: int, concurrency: int) -> None:
        super().__init__(
            queue, [], concurrency=concurrency, dequeue_timeout=_IDLE_S, timers=_TIMERS
        )
        self.running = asyncio.Event()  # from then on it can be stopped
        self.grace = timedelta(0)
        self._jobs = queue
        self._handler = handler
        self._batch = batch
        self._busy = 0

    async def process(self) -> bool:
        """Take jobs, as many as there are, and hand them over; SAQ itself goes one by one."""
        jobs = await self._jobs.take(self._batch, wait_s=self.dequeue_timeout)
        if not jobs:
            return False
        self._busy += len(jobs)
        try:
            await self._jobs.begin(jobs, self.id)
            # All are of the same kind, and began at the same time.
            async with asyncio.timeout(jobs[0].timeout or None):
                await self._handler(list(dict.fromkeys(map(message_of, jobs))))
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                await self._jobs.give_back(jobs)  # we stop
                raise
            logger.exception("a batch of %d messages failed", len(jobs))
            await self._jobs.failed_by(jobs, type(error).__name__)
        else:
            await self._jobs.done(jobs)
        finally:
            self._busy -= len(jobs)
        return True

    async def upkeep(self) -> list[Task[None]]:
        self._upkeep = await super().upkeep()
        self.running.set()
        return self._upkeep

    async def stop(self) -> None:
        """Let jobs finish within the grace, and put those that do not back into the queue.

        SAQ would wait for its upkeep, too, which sleeps through the end.
        """
        for task in self._upkeep:
            task.cancel()
        self.tasks.difference_update(self._upkeep)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=self.grace.total_seconds())
        if self._busy:
            logger.warning("%d jobs are cut off and wait again", self._busy)
        await super().stop()
