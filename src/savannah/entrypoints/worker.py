"""The outbox of one process: the relay that looks for due messages, and the carriers behind it.

What is due, what a failed attempt means and what a sweep finds is decided by the use cases; this
file only keeps them running, whatever storage does meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, Protocol

from savannah.application.notifications import Notifications
from savannah.application.ports import Clock, JobQueue, Tokens
from savannah.application.sessions import Sessions
from savannah.domain.errors import SavannahError, Unavailable
from savannah.domain.order import NotificationId

log = logging.getLogger("savannah.worker")

IDLE: Final = timedelta(seconds=1)
SWEEP_EVERY_S: Final = 10.0
WATCH_EVERY_S: Final = 2.0
LOGOUTS_EVERY_S: Final = 2.0
FORGET_EVERY_S: Final = 600.0
FORGET_ON_S: Final = 0.05  # when there was more than one batch; others get their turn meanwhile
# One order is dispatched at once; those that come in a burst are dispatched together, since a round
# costs as much as several orders.
ROUND_EVERY_S: Final = 0.01
LOOK_EVERY_S: Final = 0.2
MOST: Final = 256
_FIRST_BACKOFF_S: Final = 0.25
_LONGEST_BACKOFF_S: Final = 10.0

Watch = Callable[[int, float | None], None]


class RelayQueue(JobQueue, Protocol):
    """A queue that a relay listens to."""

    async def wait_for_work(self, timeout: timedelta) -> None:  # noqa: ASYNC109  as its adapters
        """Return at a wake-up since the last return, or at the timeout."""


class Carrier(Protocol):
    """Takes ids from the queue to the handler; the in-process queue is one itself."""

    def bind(self, handler: Callable[[Sequence[NotificationId]], Awaitable[None]]) -> None: ...

    async def start(self) -> None: ...

    async def stop(self, *, grace: timedelta) -> Sequence[NotificationId] | None:
        """Begin nothing new; the ids that were never begun and wait nowhere else."""


class LogoutRelay:
    """Tells apps about sessions that are over, sweeps what is left of logins, and makes keys.

    What is due lies in storage, so it survives a crash; several processes may do this at once.
    """

    def __init__(self, sessions: Sessions, tokens: Tokens) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        self._stopped.clear()
        self._task = asyncio.create_task(self._run(), name="savannah-logouts")

    async def stop(self, *, grace: timedelta) -> None:
        """Take on nothing new and let what is under way finish within `grace`; twice is once."""
        if self._task is None:
            return
        task, self._task = self._task, None
        self._stopped.set()
        _, late = await asyncio.wait([task], timeout=grace.total_seconds())
        if late:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        next_sweep, more = 0.0, False
        while not self._stopped.is_set():
            sweeps, more = more, False
            try:
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + FORGET_EVERY_S
                    sweeps = True
                    await self._tokens.prepare()
                if sweeps:
                    more = await self._sessions.sweep()
                while await self._sessions.deliver_notices() and not self._stopped.is_set():
                    pass
            except Exception as error:  # nothing in one round may end the relay
                unforeseen = not isinstance(error, Unavailable)
                log.log(logging.ERROR, "the logout relay failed", exc_info=unforeseen)
            with suppress(TimeoutError):
                async with asyncio.timeout(FORGET_ON_S if more else LOGOUTS_EVERY_S):
                    await self._stopped.wait()


class Outbox:
    """Sends what is due for as long as it runs.

    Args:
        carrier: sends what the relay puts into the queue.
        clock: the one by which messages are due.
        watch: is told the depth of the outbox and the age in seconds of its oldest due message.
    """

    def __init__(
        self,
        notifications: Notifications,
        queue: RelayQueue,
        carrier: Carrier,
        *,
        clock: Clock,
        watch: Watch,
    ) -> None:
        self._notifications = notifications
        self._queue = queue
        self._carrier = carrier
        self._clock = clock
        self._watch = watch
        self._relay: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._next_sweep = 0.0
        self._next_watch = 0.0
        self._next_look = 0.0

    async def start(self) -> None:
        """Begin to relay and to carry."""
        self._stopped.clear()
        self._carrier.bind(self._notifications.send)
        await self._carrier.start()
        self._relay = asyncio.create_task(self._run(), name="savannah-relay")

    async def stop(self, *, grace: timedelta) -> None:
        """Take on nothing new and let what is under way finish within `grace`; twice is once.

        Messages that were leased but not begun are due again at once, here or elsewhere.
        """
        if self._relay is None:
            return
        relay, self._relay = self._relay, None
        self._stopped.set()
        self._queue.wake()
        _, late = await asyncio.wait([relay], timeout=grace.total_seconds())
        if late:
            relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        left = await self._carrier.stop(grace=grace)
        if left:
            await self._give_back(left)

    async def _give_back(self, ids: Sequence[NotificationId]) -> None:
        try:
            await self._notifications.give_back(ids)
        except SavannahError:
            log.warning("leases were not given back and end by themselves", exc_info=True)

    async def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            began_at = time.monotonic()
            try:
                await self._queue.wait_for_work(await self._round())
                failures = 0
            except Exception as error:  # nothing in one round may end the relay
                backoff_s = min(_FIRST_BACKOFF_S * 2**failures, _LONGEST_BACKOFF_S)
                failures += 1
                log.log(
                    logging.ERROR,
                    "the outbox relay failed",
                    extra={"retry_in_s": backoff_s},
                    exc_info=not isinstance(error, Unavailable),
                )
                await self._nap(backoff_s)
            else:
                early_s = began_at + ROUND_EVERY_S - time.monotonic()
                if early_s > 0:
                    await self._nap(early_s)

    async def _nap(self, seconds: float) -> None:
        """Sleep through wake-ups, but not through the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _round(self) -> timedelta:
        """Dispatch all that is due; how long there is nothing to do."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            if (await self._notifications.sweep()).more:
                self._next_sweep = now  # in the next round, so that nobody waits for a long one
        while await self._notifications.dispatch_due(most=MOST) == MOST:
            if self._stopped.is_set():
                break
        if now >= self._next_watch:
            self._next_watch = now + WATCH_EVERY_S
            depth, age = await self._notifications.backlog()
            self._watch(depth, age.total_seconds() if age else None)
        if now < self._next_look:  # while orders come in, not after each of them
            return timedelta(seconds=self._next_look - now)
        self._next_look = now + LOOK_EVERY_S
        due = await self._notifications.next_due_at()
        if due is None:
            return IDLE
        return min(max(due - self._clock.now(), timedelta(0)), IDLE)
