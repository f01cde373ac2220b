"""The worker: SAQ runs the jobs, and batches of them go to one handler."""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio import Task
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from saq.types import PartialTimersDict
from saq.worker import Worker

from savannah.adapters.saq_queue.connection import AGAIN_AFTER_S
from savannah.adapters.saq_queue.jobs import FUNCTION
from savannah.adapters.saq_queue.queue import SaqQueue
from savannah.domain.order import NotificationId

logger = logging.getLogger("savannah.queue")

Handler = Callable[[Sequence[NotificationId]], Awaitable[object]]

_IDLE_S: Final = 0.1  # how long a look for jobs blocks, and so how long an idle worker stops
_GATHER_S: Final = 0.002
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

    def __init__(self, queue: SaqQueue, *, batch: int = 64, concurrency: int = 4) -> None:
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
        logging.getLogger("saq").addFilter(_said_already)
        self._batches = _Batches(self._handler, most=self._batch, at_once=self._concurrency)
        self._worker = _Worker(
            self._saq,
            [(FUNCTION, self._send)],
            concurrency=self._batch * self._concurrency,
            dequeue_timeout=_IDLE_S,
            timers=_TIMERS,
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
        await self._batches.end()
        self._alive.cancel()
        await asyncio.gather(self._alive, return_exceptions=True)
        await self._saq.say_gone(worker.id)

    async def _send(self, _context: Mapping[str, Any], *, notification_id: str) -> None:
        await self._batches.carry(NotificationId(UUID(notification_id)))

    async def _stay_alive(self, worker_id: str) -> None:
        while True:
            await asyncio.sleep(_ALIVE_EVERY_S)
            await self._saq.say_alive(worker_id)


class _BatchFailed(Exception):
    """The batch of this job failed; the reason was logged, once."""


@dataclass(slots=True, eq=False)
class _Batch:
    ids: dict[NotificationId, None] = field(default_factory=dict)
    waiting: int = 0
    task: Task[None] | None = None


class _Batches:
    """Joins jobs that come at about the same time, so that they share a unit of work."""

    def __init__(self, handler: Handler, *, most: int, at_once: int) -> None:
        self._handler = handler
        self._most = most
        self._turns = asyncio.Semaphore(at_once)
        self._open: _Batch | None = None
        self._tasks: set[Task[None]] = set()

    async def carry(self, id_: NotificationId) -> None:
        """Return when the batch with this id is done. Raises: _BatchFailed."""
        batch = self._open
        if batch is None or len(batch.ids) >= self._most:
            batch = self._open = _Batch()
            batch.task = asyncio.create_task(self._run(batch))
            self._tasks.add(batch.task)
            batch.task.add_done_callback(self._tasks.discard)
        assert batch.task is not None
        batch.ids[id_] = None
        batch.waiting += 1
        try:
            await asyncio.shield(batch.task)
        finally:
            batch.waiting -= 1
            if not batch.waiting:  # every job of it ran out of time, or the worker stops
                batch.task.cancel()

    async def end(self) -> None:
        """Wait for batches that were cut off; not for long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=AGAIN_AFTER_S)

    async def _run(self, batch: _Batch) -> None:
        await asyncio.sleep(_GATHER_S)
        async with self._turns:  # while it waits for its turn, more may join
            if self._open is batch:
                self._open = None
            try:
                await self._handler(list(batch.ids))
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise  # by us; otherwise the handler did it to itself
                logger.exception("a batch of %d messages failed", len(batch.ids))
                raise _BatchFailed from error


def _said_already(record: logging.LogRecord) -> bool:
    """Keep SAQ from repeating for each job what was logged for its batch."""
    return not (record.exc_info and isinstance(record.exc_info[1], _BatchFailed))


class _Worker(Worker[Any]):
    """SAQ's worker in a program that has its own signal handlers and its own way to stop."""

    SIGNALS: list[signal.Signals] = []  # noqa: RUF012  as SAQ declares it

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.running = asyncio.Event()  # from then on it can be stopped
        self.grace = timedelta(0)

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
        if self.job_task_contexts:
            logger.warning("%d jobs are cut off and wait again", len(self.job_task_contexts))
        await super().stop()
