"""Postgres: lanes on connections to the primary and, for reading, to its replicas.

Who may read from which replica is decided in `replicas`; what the driver gets, in `statements`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import URL, Executable, Row

from savannah.adapters.sql.engines import Lane, Lanes, Lookup, StatementFailed, Work, Writes
from savannah.adapters.sql.pool import FAILURES, Pool, PostgresSettings, Seat
from savannah.adapters.sql.replicas import Replica, Replicas
from savannah.application.ports import Reading

T = TypeVar("T")

_QUERY_CANCELED: Final = "57014"
_BEGIN: Final = "BEGIN"
# One snapshot for a whole unit of work: the parts of a report agree with each other.
_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class _TransactionLane(Lane):
    """One connection and one transaction."""

    def __init__(self, pool: Pool, seat: Seat, begin: str) -> None:
        self._pool = pool
        self._seat = seat
        self._begin = begin
        self._begun = False

    async def fetch(
        self, writes: Writes, statement: Executable, values: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        await self._written(self._pool.statements.of_writes(writes))
        return await self._seat.fetch(statement, values)

    async def run(self, writes: Writes, work: Work[T]) -> T:
        await self._written(self._pool.statements.of_writes(writes))
        return await self._seat.run(work)

    async def administer(self, work: Work[T]) -> T:
        return await self._seat.administer(work)

    async def commit(self, writes: Writes) -> None:
        steps = self._pool.statements.of_writes(writes)
        if len(steps) == 1 and not self._begun and self._pool.keeps:
            await self._seat.write(steps)  # a statement by itself is a transaction
        else:
            await self._written(steps)
            await self._seat.execute("COMMIT")

    async def _written(self, steps: Sequence[tuple[str, list[list[Any]]]]) -> None:
        if not self._begun:
            await self._seat.execute(self._begin)
            self._begun = True
        if steps:
            await self._seat.write(steps)

    async def release(self) -> None:
        restoring = self._pool.give(self._seat)
        # Nobody waits for what was only read.
        if restoring is not None and (self._begin is _BEGIN or not self._pool.keeps):
            await asyncio.shield(restoring)


class _SingleLane(Lane):
    """A connection for each read, and no transaction: a statement by itself is one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch(
        self,
        writes: Writes,  # noqa: ARG002  there are none
        statement: Executable,
        values: Mapping[str, Any],
    ) -> Sequence[Row[Any]]:
        seat = await self._pool.take()
        try:
            return await seat.fetch(statement, values)
        finally:
            self._pool.give(seat)

    async def find(
        self,
        writes: Writes,  # noqa: ARG002  there are none
        lookup: Lookup,
        key: UUID,
    ) -> Row[Any] | None:
        return await self._pool.gathered(lookup).find(key)

    async def run(self, writes: Writes, work: Work[T]) -> T:  # noqa: ARG002  there are none
        seat = await self._pool.take()
        try:
            return await seat.run(work)
        finally:
            self._pool.give(seat)

    async def commit(self, writes: Writes) -> None:
        """Nothing is written."""

    async def release(self) -> None:
        """Nothing is kept."""


class _ReadingLane(Lane):
    """On a replica; from the first failure on, at the primary.

    What was read before is not read again, so such a unit of work may see two moments.
    """

    def __init__(self, lane: Lane, fall_back: Callable[[Exception], Awaitable[Lane]]) -> None:
        self._lane: Lane | None = lane
        self._fall_back: Callable[[Exception], Awaitable[Lane]] | None = fall_back

    async def fetch(
        self, writes: Writes, statement: Executable, values: Mapping[str, Any]
    ) -> Sequence[Row[Any]]:
        return await self._done(lambda lane: lane.fetch(writes, statement, values))

    async def run(self, writes: Writes, work: Work[T]) -> T:
        return await self._done(lambda lane: lane.run(writes, work))

    async def _done(self, step: Callable[[Lane], Awaitable[T]]) -> T:
        lane = self._lane
        assert lane is not None, "the primary was away, and this unit of work is over"
        if self._fall_back is not None:
            try:
                return await step(lane)
            except FAILURES as error:
                if isinstance(error, StatementFailed) and error.sqlstate == _QUERY_CANCELED:
                    raise  # at the primary it takes too long, too, and there it is in the way
                self._lane = None  # given back once, also where the primary is away, too
                await lane.release()
                lane = self._lane = await self._fall_back(error)
                self._fall_back = None
        return await step(lane)

    async def commit(self, writes: Writes) -> None:
        await self._done(lambda lane: lane.commit(writes))

    async def release(self) -> None:
        if self._lane is not None:
            await self._lane.release()


class PostgresLanes(Lanes):
    """A pool of connections to the primary, and one to each replica for reading."""

    dialect = "postgresql"

    def __init__(self, url: URL, replicas: list[URL], settings: PostgresSettings) -> None:
        self._primary = Pool(url, settings)
        self._pools = [self._primary]
        self._replicas: Replicas | None = None
        if replicas:
            # Nobody who asks how far a server is should have to wait for those who work there.
            alone = replace(settings, pool_size=1)
            watch, *watches = (Pool(each, alone) for each in (url, *replicas))
            pools = [Pool(replica, settings) for replica in replicas]
            self._pools += [*pools, watch, *watches]
            served = enumerate(zip(pools, watches, strict=True), 1)
            self._replicas = Replicas(
                watch,
                [Replica(number, *both) for number, both in served],
                retry=settings.replica_retry,
            )

    async def take(self, *, reading: Reading) -> Lane:
        if not reading:
            seat = await self._primary.take()
            return _TransactionLane(self._primary, seat, _BEGIN)
        if self._replicas is None or reading == "fresh":
            return await self._reading(self._primary, reading)
        replica = await self._replicas.pick()
        if replica is None:
            return await self._reading(self._primary, reading)
        instead = partial(self._instead_of, replica, reading)
        try:
            lane = await self._reading(replica.pool, reading)
        except FAILURES as error:
            return await instead(error)
        return _ReadingLane(lane, instead)

    async def _reading(self, pool: Pool, reading: Reading) -> Lane:
        if reading is not True and pool.keeps:
            return _SingleLane(pool)
        return _TransactionLane(pool, await pool.take(), _BEGIN_READING)

    async def _instead_of(self, replica: Replica, reading: Reading, error: Exception) -> Lane:
        # One that is only in the way of what it replays, or has an older schema, goes on.
        assert self._replicas is not None
        if not isinstance(error, StatementFailed) or error.lost:
            self._replicas.failed(replica, error)
        return await self._reading(self._primary, reading)

    def connections(self) -> tuple[int, int]:
        return sum(pool.in_use for pool in self._pools), sum(pool.size for pool in self._pools)

    async def close(self) -> None:
        if self._replicas is not None:
            await self._replicas.close()
        for pool in self._pools:
            await pool.close()
