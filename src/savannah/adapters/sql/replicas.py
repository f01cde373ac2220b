"""Which replica may answer a unit of work for reading now; the primary answers when none may.

Whoever reads sees everything that was committed, by whatever process, before the reading began: the
primary is asked how far it has written, and a replica answers once it has replayed as much. Whoever
comes while that is being asked shares the next question, so it costs the primary next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text

from savannah.adapters.sql.gathered import GatheredReads
from savannah.adapters.sql.pool import FAILURES, Pool

log = logging.getLogger("savannah.sql")

# As bytes since the beginning. What is inserted into the log but not flushed may wait for seconds,
# and holds a commit only where commits do not wait for the flush.
_WRITTEN: Final = text(
    "SELECT CAST(CASE current_setting('synchronous_commit') WHEN 'off'"
    " THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0' AS bigint)"
)
# None where nothing is replayed: that is no replica.
_REPLAYED: Final = text("SELECT CAST(pg_last_wal_replay_lsn() - '0/0' AS bigint)")
# A replica that follows is some milliseconds behind; a reader waits for these, and no longer.
_LOOK_AGAIN_S: Final = (0.001, 0.002, 0.004, 0.008)
_CATCHES_UP_S: Final = (0.02, 0.25)  # between looks at one that fell behind: the first, and at most


@dataclass(slots=True, eq=False)
class Replica:
    """One replica, and what is known of it.

    Attributes:
        watch: the same server, for the question how far it is.
        replayed: at least so many bytes of the primary's log.
        rests_until: it is not asked before, in seconds of the loop.
        looking: asks it at this moment.
        following: waits until it has caught up again; nobody reads from it meanwhile.
        works: as of the last time; said in the log when it changes.
    """

    number: int
    pool: Pool
    watch: Pool
    replayed: int = -1
    rests_until: float = -math.inf
    looking: asyncio.Task[int] | None = None
    following: asyncio.Task[None] | None = None
    works: bool = True


class Replicas:
    """The replicas of one primary.

    Args:
        watch: the primary; one connection is enough, and nobody else should be able to hold it.
        retry: a replica that failed is tried again after as long.
    """

    def __init__(self, watch: Pool, replicas: Sequence[Replica], *, retry: timedelta) -> None:
        self._watch = watch
        self._all = list(replicas)
        self._retry_s = retry.total_seconds()
        self._turn = 0
        # How far the primary has written.
        self._position = GatheredReads(self._ask, at_once=1)

    async def pick(self) -> Replica | None:
        """One that has everything that is committed by now, in turn; None for the primary.

        Raises: one of `FAILURES`, when the primary cannot say how far it is.
        """
        now = asyncio.get_running_loop().time()
        able = [each for each in self._all if each.following is None and now >= each.rests_until]
        if not able:
            return None
        position = await self._position.find(None)
        assert position is not None
        self._turn += 1
        turn = self._turn % len(able)
        for replica in able[turn:] + able[:turn]:
            if await self._has(replica, position):
                return replica
        return None

    def failed(self, replica: Replica, error: Exception) -> None:
        """Pass it over for a while."""
        replica.rests_until = asyncio.get_running_loop().time() + self._retry_s
        replica.replayed = -1
        self._works(replica, error)

    async def close(self) -> None:
        """Stop asking."""
        await self._position.close()
        tasks: list[asyncio.Task[Any] | None] = []
        for each in self._all:
            tasks += [each.following, each.looking]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- the primary

    async def _ask(self, _: Sequence[None]) -> Mapping[None, int]:
        try:
            return {None: int(await self._watch.ask(_WRITTEN))}
        except FAILURES:
            for replica in self._all:  # what follows may be another primary, with a log of its own
                replica.replayed = -1
            raise

    # --- a replica

    async def _has(self, replica: Replica, position: int) -> bool:
        """Whether it has replayed that much, within the milliseconds that are worth a wait."""
        if replica.replayed >= position:
            return True
        try:
            for pause in (0.0, *_LOOK_AGAIN_S):
                await asyncio.sleep(pause)
                if await self._look(replica) >= position:
                    return True
        except FAILURES as error:
            self.failed(replica, error)
            return False
        if replica.following is None:
            replica.following = asyncio.create_task(self._follow(replica, position))
        return False

    async def _follow(self, replica: Replica, position: int) -> None:
        """Wait beside the work until it is there."""
        pause, most = _CATCHES_UP_S
        try:
            while await self._look(replica) < position:
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
        except FAILURES as error:
            self.failed(replica, error)
        finally:
            replica.following = None

    async def _look(self, replica: Replica) -> int:
        """How far it is; everybody who wants to know shares one look."""
        if replica.looking is None:
            replica.looking = _begun(self._look_now(replica))
        return await asyncio.shield(replica.looking)

    async def _look_now(self, replica: Replica) -> int:
        try:
            replayed = await replica.watch.ask(_REPLAYED)
            if replayed is None:
                raise ConnectionError("this server is no replica")
        finally:
            replica.looking = None
        replica.replayed = max(replica.replayed, int(replayed))
        self._works(replica)
        return replica.replayed

    def _works(self, replica: Replica, error: Exception | None = None) -> None:
        if replica.works is (error is None):
            return
        replica.works = error is None
        about = {"replica": replica.number}
        if error is None:
            log.info("a replica is back", extra=about)
        else:
            log.warning("a replica fails", extra=about | {"error": type(error).__name__})


def _begun(question: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
    """A question whose failure is nobody's business when all who waited for it are gone."""
    task = asyncio.create_task(question)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
