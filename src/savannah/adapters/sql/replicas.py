"""Which replica may answer a unit of work for reading now; the primary answers when none may.

A process reads its own writes: after each of its commits a replica is passed over until it has
replayed that one. Whether it has is asked beside the work, so no caller waits for the answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import text

from savannah.adapters.sql.pool import FAILURES, Pool

log = logging.getLogger("savannah.sql")

# What is inserted into the log but not flushed may wait for seconds, and holds a commit only where
# commits do not wait for the flush.
_WRITTEN: Final = text(
    "SELECT CAST(CASE current_setting('synchronous_commit') WHEN 'off'"
    " THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END AS text)"
)
_REPLAYED: Final = text(
    "SELECT pg_last_wal_replay_lsn() >= CAST(CAST(:position AS text) AS pg_lsn)"
)
_LOOK_AGAIN_S: Final = (0.005, 0.25)  # the first time, and at most


@dataclass(slots=True, eq=False)
class Replica:
    """One replica, and what is known of it.

    Attributes:
        commits: so many commits of this process it has replayed.
        current_at: it has everything that was committed by then, in seconds of the loop.
        ask_at: it is not asked again before.
        asking: asks it at this moment.
        works: as of the last time; said in the log when it changes.
    """

    number: int
    pool: Pool
    commits: int = 0
    current_at: float = -math.inf
    ask_at: float = -math.inf
    asking: asyncio.Task[None] | None = None
    works: bool = True


class Replicas:
    """The replicas of one primary.

    Args:
        lag: a replica further behind than this is passed over; one that fails is tried again
            after as long.
    """

    def __init__(self, primary: Pool, replicas: Sequence[Pool], *, lag: timedelta) -> None:
        self._primary = primary
        self._all = [Replica(number, pool) for number, pool in enumerate(replicas, 1)]
        self._lag_s = lag.total_seconds()
        self._commits = 0
        self._turn = 0

    def committed(self) -> None:
        """This process has committed something, or may have: replicas have to catch up."""
        self._commits += 1

    def pick(self) -> Replica | None:
        """One that has every write of this process and is not far behind, in turn."""
        now = asyncio.get_running_loop().time()
        able: list[Replica] = []
        for replica in self._all:
            behind = replica.commits != self._commits
            age = now - replica.current_at
            if not behind and age <= self._lag_s:
                able.append(replica)
            # Long before it would be passed over, so that a steady reader never notices.
            if (behind or age > self._lag_s / 5) and not replica.asking and now >= replica.ask_at:
                replica.asking = asyncio.create_task(self._ask(replica))
        if not able:
            return None
        self._turn += 1
        return able[self._turn % len(able)]

    def failed(self, replica: Replica, error: Exception) -> None:
        """Pass it over for a while."""
        replica.current_at = -math.inf
        replica.ask_at = asyncio.get_running_loop().time() + self._lag_s
        self._works(replica, error)

    async def close(self) -> None:
        """Stop asking."""
        asking = [replica.asking for replica in self._all if replica.asking is not None]
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)

    async def _ask(self, replica: Replica) -> None:
        """Note where the primary is, and wait until the replica is there, too."""
        loop = asyncio.get_running_loop()
        commits, began_at = self._commits, loop.time()
        try:
            position = await self._primary.ask(_WRITTEN)
            pause, most = _LOOK_AGAIN_S
            while not await replica.pool.ask(_REPLAYED, position=position):
                if loop.time() - began_at > self._lag_s:
                    replica.ask_at = loop.time() + self._lag_s / 5
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
        except FAILURES as error:
            self.failed(replica, error)
        else:
            replica.commits, replica.current_at = commits, began_at
            self._works(replica)
        finally:
            replica.asking = None

    def _works(self, replica: Replica, error: Exception | None = None) -> None:
        if replica.works is (error is None):
            return
        replica.works = error is None
        about = {"replica": replica.number}
        if error is None:
            log.info("a replica is back", extra=about)
        else:
            log.warning("a replica fails", extra=about | {"error": type(error).__name__})
