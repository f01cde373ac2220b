"""How the parts are that a process depends on, for probes of a server and of a worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

log = logging.getLogger("savannah.health")

# A probe gives up after two seconds, so one part that hangs must not eat all of them.
CHECK_S: Final = 1.5


class PartHealth(msgspec.Struct, omit_defaults=True):
    """One part: `disabled` when this installation has none."""

    status: Literal["ok", "degraded", "down", "disabled"]
    latency_ms: int | UnsetType = UNSET
    oldest_age_s: int | UnsetType = UNSET


# Raises when the part is down; tells more than that it is up where there is more.
HealthCheck = Callable[[], Awaitable[PartHealth | None]]


class Health:
    """Asks the parts, each within `CHECK_S`.

    Whoever wants to know of a part that is being asked gets that answer: probes are open to
    anybody, and a flood of them is one question at a time to the database.
    """

    def __init__(self, checks: Mapping[str, HealthCheck]) -> None:
        self._checks = checks
        self._asked: dict[str, asyncio.Task[PartHealth]] = {}

    async def parts(self, *names: str) -> dict[str, PartHealth]:
        """How these parts are, or all of them."""
        asked = {name: self._ask(name) for name in names or self._checks}
        return {name: await asyncio.shield(task) for name, task in asked.items()}

    def _ask(self, name: str) -> asyncio.Task[PartHealth]:
        asked = self._asked.get(name)
        if asked is None or asked.done():
            asked = asyncio.create_task(self._outcome(name), name=f"savannah-health-{name}")
            self._asked[name] = asked
        return asked

    async def _outcome(self, name: str) -> PartHealth:
        started = time.perf_counter()
        check = asyncio.ensure_future(self._checks[name]())
        # Not a timeout around it: a check that does not let itself be cancelled would hold us.
        await asyncio.wait([check], timeout=CHECK_S)
        if check.done() and (error := check.exception()) is None:
            latency = round((time.perf_counter() - started) * 1000)
            return check.result() or PartHealth(status="ok", latency_ms=latency)
        reason = type(error).__name__ if check.done() else "no answer in time"
        log.warning("a part is down", extra={"part": name, "reason": reason})
        check.cancel()
        check.add_done_callback(_forget)
        return PartHealth(status="down")


def _forget(check: asyncio.Future[PartHealth | None]) -> None:
    """Whatever a check says after its time is nobody's business any more."""
    if not check.cancelled():
        check.exception()
