"""The job queue without a broker: ids go to a handler in this process.

It only carries. What it loses when the process ends comes back with the lease in storage; what a
job does, and what is due, is decided by the handler and by the relay that waits here for work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import islice

from savannah.application.ports import JobQueue
from savannah.domain.order import NotificationId

logger = logging.getLogger("savannah.queue")

Handler = Callable[[Sequence[NotificationId]], Awaitable[None]]


class InProcessQueue(JobQueue):
    """Hands ids to one handler in batches, several batches at a time. For one event loop.

    Args:
        batch: the most ids in one call of the handler.
        concurrency: how many calls run at the same time.
    """

    def __init__(self, *, batch: int = 32, concurrency: int = 4) -> None:
        self._batch = batch
        self._concurrency = concurrency
        self._handler: Handler | None = None
        self._waiting: dict[NotificationId, None] = {}  # in order of arrival, each id once
        self._arrived = asyncio.Event()
        self._woken = asyncio.Event()
        self._carriers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._tell: Callable[[], None] | None = None

    def bind(self, handler: Handler) -> None:
        """Say who sends the messages; before `start`."""
        self._handler = handler

    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        self._waiting.update(dict.fromkeys(ids))
        self._arrived.set()

    def pass_on(self, tell: Callable[[], None]) -> None:
        """Tell relays elsewhere of wake-ups, since none listens here."""
        self._tell = tell

    def wake(self) -> None:
        self._woken.set()
        if self._tell is not None:
            self._tell()

    async def wait_for_work(self, timeout: timedelta) -> None:  # noqa: ASYNC109  the relay's idle time, not a failure
        """Return when somebody calls `wake`, or called it since the last return, or at timeout."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            pass
        # Nothing runs between this and the caller's look at what is due: no call is lost.
        self._woken.clear()

    async def start(self) -> None:
        """Begin to hand over ids, also those that wait already.

        Raises:
            RuntimeError: no handler is bound, or it has started before.
        """
        if self._handler is None:
            raise RuntimeError("bind a handler first")
        if self._carriers:
            raise RuntimeError("the queue has started already")
        self._stopping = False
        self._carriers = [
            asyncio.create_task(self._carry(self._handler), name=f"savannah-queue-{number}")
            for number in range(self._concurrency)
        ]

    async def stop(self, *, grace: timedelta) -> Sequence[NotificationId]:
        """Begin no further batch, and let those under way finish within `grace`.

        Returns the ids that were never handed over, so that their leases can be given back.
        """
        self._stopping = True
        self._arrived.set()
        if self._carriers:
            _, late = await asyncio.wait(self._carriers, timeout=grace.total_seconds())
            for carrier in late:
                carrier.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            if late:
                logger.warning("%d batches were cut off at the end of the grace", len(late))
        self._carriers = []
        left = list(self._waiting)
        self._waiting.clear()
        return left

    async def _carry(self, handler: Handler) -> None:
        while not self._stopping:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            ids = list(islice(self._waiting, self._batch))
            for notification_id in ids:
                del self._waiting[notification_id]
            try:
                await handler(ids)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                logger.exception("a batch of %d messages was cancelled from within", len(ids))
            except Exception:
                logger.exception("a batch of %d messages failed", len(ids))
