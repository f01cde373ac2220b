"""What a process finds out about itself for those who watch it: figures that nobody counts.

Counters count where things happen. This file times the gateway, and measures what has a level
rather than a count: the connections in use, the queue, the gateway's pause, the loop's lag.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.notifications import Notifications
from savannah.application.ports import Sms, SmsGateway
from savannah.domain.errors import SavannahError
from savannah.domain.notification import Accepted, Outcome, RefusedSms

log = logging.getLogger("savannah.watch")

EVERY_S: Final = 5.0
# A scrape must not hang with what it measures.
PATIENCE_S: Final = 1.5


def outcome_word(outcome: Outcome) -> str:
    """An outcome as a label: `accepted`, the kind of a refusal, or `unknown`."""
    match outcome:
        case Accepted():
            return "accepted"
        case RefusedSms():
            return outcome.kind.value
        case _:
            return "unknown"


class TimedGateway(SmsGateway):
    """The same gateway, with its calls counted and timed."""

    def __init__(self, gateway: SmsGateway, metrics: PrometheusMetrics) -> None:
        self._gateway = gateway
        self._metrics = metrics

    async def send(self, sms: Sms) -> Outcome:
        started = time.perf_counter()
        outcome = await self._gateway.send(sms)
        self._metrics.gateway(outcome_word(outcome), time.perf_counter() - started)
        return outcome


class Connections(Protocol):
    """Storage, as far as its connections go."""

    def connections(self) -> tuple[int, int]:
        """How many are in use, and how many there may be."""


class Watch:
    """Measures a process's levels, at every scrape and every few seconds in between.

    In between, because of several processes only one is asked at a time.

    Args:
        queued: how many jobs wait at the job server; raises where that is away. None without one.
    """

    def __init__(
        self,
        metrics: PrometheusMetrics,
        *,
        notifications: Notifications,
        connections: Connections | None = None,
        queued: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._metrics = metrics
        self._notifications = notifications
        self._connections = connections
        self._queued = queued
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.measure()  # or others would take what is not known yet for down
        self._task = asyncio.create_task(self._run(), name="savannah-watch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def measure(self) -> None:
        """Set every level there is; what does not answer in time counts as down."""
        if self._connections is not None:
            self._metrics.connections(*self._connections.connections())
        await asyncio.gather(self._storage(), self._jobs())

    async def _storage(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                depth, age = await self._notifications.backlog()
                pause = await self._notifications.pause()
        except (SavannahError, TimeoutError) as error:
            # The other figures are wanted most when storage is in trouble.
            log.warning("the outbox cannot be measured", extra={"reason": type(error).__name__})
            self._metrics.database_up(False)
        else:
            self._metrics.database_up(True)
            self._metrics.outbox(depth, age.total_seconds() or None)
            self._metrics.paused(None if pause is None else pause.kind.value)

    async def _jobs(self) -> None:
        if self._queued is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._metrics.redis(await self._queued())
        except (SavannahError, TimeoutError):
            self._metrics.redis(None)

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._metrics.loop_lag(max(0.0, time.monotonic() - due))
            with suppress(Exception):  # what it measures is what may be broken
                await self.measure()
