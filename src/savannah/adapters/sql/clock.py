"""The time of the database server, for every process that works on it.

Leases, retries and expiries are written by one process and judged by others. Each machine's own
clock may be wrong, and may jump; so all of them go by the server's, and between two looks at it by
a time that only ever goes forward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text

from savannah.adapters.sql.unit_of_work import SqlStorage
from savannah.application.ports import Clock
from savannah.domain.errors import Unavailable

log = logging.getLogger("savannah.sql")

_LOOK_EVERY_S: Final = 10.0
# An answer that took longer says too little about when it was true.
_ROUND_TRIP_MOST_S: Final = 0.5
_WRONG: Final = timedelta(seconds=5)
_NOW: Final = text("SELECT clock_timestamp()")


class DatabaseClock(Clock):
    """What time it is at the database server; `set` it once before use.

    Args:
        monotonic: seconds that only grow.
        machine: this machine's own clock, to say in the log that it is wrong.
    """

    def __init__(
        self,
        storage: SqlStorage,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        machine: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._monotonic = monotonic
        self._machine = machine
        self._zero: datetime | None = None
        self._following: asyncio.Task[None] | None = None

    def now(self) -> datetime:
        assert self._zero is not None, "the clock was not set"
        return self._zero + timedelta(seconds=self._monotonic())

    async def set(self) -> None:
        """Look at the server's clock. Raises: Unavailable."""
        asked_at = self._monotonic()
        found = await self._storage.read(lambda connection: connection.scalar(_NOW))
        assert isinstance(found, datetime)
        answered_at = self._monotonic()
        if self._zero is not None and answered_at - asked_at > _ROUND_TRIP_MOST_S:
            return
        if self._zero is None and abs(found - self._machine()) > _WRONG:
            log.warning("this machine's clock differs from the database server's, which counts")
        self._zero = found.astimezone(UTC) - timedelta(seconds=(asked_at + answered_at) / 2)

    async def start(self) -> None:
        """Set it now and from time to time. Raises: Unavailable."""
        await self.set()
        self._following = asyncio.create_task(self._follow(), name="savannah-clock")

    async def stop(self) -> None:
        """Look no more; the time goes on."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.set()
            except Unavailable:
                continue  # until it is back, the time goes on as before
            except Exception:  # whatever it is, the next look comes
                log.exception("the database's clock cannot be read")
