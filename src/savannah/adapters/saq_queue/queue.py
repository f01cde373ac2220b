"""The queue's front: what use cases put in, and how a relay hears that there is work."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Task
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import cast

from savannah.adapters.redis_access import AWAY, end, reason_of
from savannah.adapters.saq_queue.connection import AGAIN_AFTER_S, Trouble, connect
from savannah.adapters.saq_queue.jobs import Jobs
from savannah.application.ports import JobQueue
from savannah.domain.errors import Unavailable
from savannah.domain.order import NotificationId

logger = logging.getLogger("savannah.queue")


class SaqQueue(JobQueue):
    """Puts one job for each message on Redis; relays and workers share it by its name.

    Redis needs no setting but `maxmemory-policy noeviction`. SAQ itself knows nothing of Redis
    Cluster. It runs on one all the same, since the name stands in braces in every key and so all
    keys live in one slot: a cluster makes the queue available, not larger.

    Args:
        url: `redis://`, `rediss://`, or `redis+cluster://` and `rediss+cluster://` with one or
            more `host:port` parted by commas. Connections open on first use.
        name: queues with different names on one Redis know nothing of each other.
        timeout: a job that takes longer is given to somebody again; longer than a batch of
            messages needs at a gateway that lets every request run into its timeout.

    Attributes:
        saq: the same queue for SAQ's own tools, such as its web page.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "savannah",
        timeout: timedelta = timedelta(seconds=120),
    ) -> None:
        self._redis = connect(url)
        self.saq = Jobs(self._redis, name=f"{{{name}}}", timeout=timeout)
        self._channel = f"saq:{self.saq.name}:wake"
        self._woken = asyncio.Event()
        self._listening: Task[None] | None = None
        self._publishing: Task[None] | None = None
        self._wake_again = False
        self._closed = False
        self._trouble = Trouble()

    async def ping(self) -> None:
        """Raises: Unavailable."""
        try:
            await cast("Awaitable[bool]", self._redis.ping())
        except AWAY as error:
            raise Unavailable(f"The job queue does not answer: {reason_of(error)}") from error

    async def waiting(self) -> int:
        """How many jobs nobody has begun. Raises: Unavailable."""
        try:
            return await self.saq.count("queued")
        except AWAY as error:
            raise Unavailable("The job queue does not answer") from error

    async def close(self) -> None:
        """Let go of Redis; what waits there waits on."""
        self._closed = True
        for task in (self._listening, self._publishing):
            if task is not None:
                await end(task)
        self._listening = self._publishing = None
        await self._redis.aclose()

    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        """Put the ids behind those that wait; an id that waits or runs already is dropped.

        Raises:
            Unavailable: Redis cannot be reached; some of the ids may be queued all the same.
        """
        try:
            await self.saq.add([str(id_) for id_ in ids])
        except AWAY as error:
            raise Unavailable("The job queue does not answer") from error

    def wake(self) -> None:
        self._woken.set()
        if self._closed:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # outside a loop only a relay of this process hears it; the others poll
        if self._publishing is None or self._publishing.done():
            self._publishing = loop.create_task(self._publish(), name="savannah-wake")
        else:
            self._wake_again = True

    async def wait_for_work(self, timeout: timedelta) -> None:  # noqa: ASYNC109  the relay's idle time, not a failure
        """Return when any process calls `wake`, or called it since the last return, or at timeout.

        A wake-up is a hint: one that Redis loses costs no more than the timeout.
        """
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="savannah-listen")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                await self._woken.wait()
        # Nothing runs between this and the caller's look at what is due: no call is lost.
        self._woken.clear()

    async def _publish(self) -> None:
        """Pass a wake-up on; those that come meanwhile become one."""
        self._wake_again = True
        while self._wake_again:
            self._wake_again = False
            try:
                await self._redis.publish(self._channel, b"")
            except AWAY as error:
                self._trouble.say(error)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(self._channel)
                    while True:
                        # The word that we are subscribed, again perhaps, wakes too: there may be
                        # something we missed.
                        if await channel.get_message(timeout=5) is not None:
                            self._woken.set()
            except AWAY as error:
                self._trouble.say(error)
            except Exception:  # whatever it is, we listen again
                logger.exception("the listener for wake-ups failed")
            await asyncio.sleep(AGAIN_AFTER_S)
