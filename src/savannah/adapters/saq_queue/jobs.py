"""SAQ's queue, and its keys in Redis, as this queue uses them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis
from saq.job import Job, Status
from saq.queue.redis import RedisQueue
from saq.types import WorkerInfo
from saq.utils import now as now_ms

from savannah.adapters.redis_access import AWAY
from savannah.adapters.saq_queue.connection import AGAIN_AFTER_S, Trouble
from savannah.domain.order import NotificationId

logger = logging.getLogger("savannah.queue")

FUNCTION: Final = "send_sms"
# What every job has in common. The tries in here are for a worker that dies or a database that
# is away for a moment; the tries of a text message are counted in its row. A finished job leaves
# nothing behind: the row tells its story.
_JOB: Final[Mapping[str, Any]] = {
    "function": FUNCTION,
    "retries": 5,
    "retry_delay": 1.0,
    "retry_backoff": 10.0,
    "ttl": -1,
}
_KEY: Final = "the key of this job"
_CUT_OFF: Final = "cancelled"  # as SAQ calls it
_DEAD_AFTER_S: Final = 3.0
_CHUNK: Final = 500

_ADD: Final = """
local incomplete, queued = KEYS[1], KEYS[2]
for i, body in ipairs(ARGV) do
    local id = KEYS[i + 2]
    if not redis.call('ZSCORE', incomplete, id) or redis.call('EXISTS', id) == 0 then
        redis.call('SET', id, body)
        redis.call('ZADD', incomplete, 0, id)
        redis.call('RPUSH', queued, id)
    end
end
"""
_TAKE: Final = """
local taken = {}
if ARGV[2] then taken[1] = redis.call('GET', ARGV[2]) end
for i = #taken + 1, tonumber(ARGV[1]) do
    local id = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
    if not id then break end
    taken[i] = redis.call('GET', id)
end
return taken
"""
# Each command comes with its length before it. A job that Redis forgot while it ran, and that was
# queued anew meanwhile, is left alone by the end of its first run. Redis says when a job is due, as
# in _SCHEDULE: by the clock of one worker it might wait for an hour at another.
_WRITE: Final = """
local active, incomplete = KEYS[1], KEYS[2]
local function finish(id, worker, started)
    local body = redis.call('GET', id)
    if body then
        local read, job = pcall(cjson.decode, body)
        if read and (job.worker_id ~= worker or job.started ~= tonumber(started)) then return end
    end
    redis.call('LREM', active, 1, id)
    redis.call('ZREM', incomplete, id)
    redis.call('DEL', id)
end
local at = 1
while at <= #ARGV do
    local length = tonumber(ARGV[at])
    if ARGV[at + 1] == 'FINISH' then
        finish(ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    elseif ARGV[at + 1] == 'LATER' then
        local due_at = redis.call('TIME')[1] + ARGV[at + 3]
        redis.call('ZADD', incomplete, due_at, ARGV[at + 2])
    else
        redis.call(unpack(ARGV, at + 1, at + length))
    end
    at = at + length + 1
end
"""
_SCHEDULE: Final = """
local schedule, incomplete, queued = KEYS[1], KEYS[2], KEYS[3]
if not redis.call('SET', schedule, 1, 'NX', 'EX', ARGV[1]) then return {} end
local due = redis.call('ZRANGEBYSCORE', incomplete, 1, redis.call('TIME')[1])
for _, id in ipairs(due) do
    redis.call('ZADD', incomplete, 0, id)
    redis.call('RPUSH', queued, id)
end
return due
"""
_LIST: Final = """
local jobs = {}
if redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then
    for i, id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
        jobs[i] = {id, redis.call('GET', id)}
    end
end
return jobs
"""


def message_of(job: Job) -> NotificationId:
    """Raises: ValueError, TypeError, LookupError, when it is no job of ours."""
    return NotificationId(UUID((job.kwargs or {})["notification_id"]))


def _finishing(job: Job) -> Sequence[Any]:
    return "FINISH", job.id, job.worker_id or "", job.started


@dataclass(slots=True, eq=False)
class _Writes:
    arguments: list[Any] = field(default_factory=list)
    sent: bool = False


class Jobs(RedisQueue):
    """SAQ's queue and its keys, with what hundreds of jobs do at once done in few round trips.

    SAQ takes, marks and finishes each job by itself, six round trips a job. Here jobs are taken,
    marked and finished by the batch, and whoever writes while Redis is busy shares the next round
    trip. A Redis that is away makes it wait and say so now and then; a job whose end could not be
    written is swept, and found done, later.

    Attributes:
        open: whether jobs may be taken.
    """

    def __init__(self, client: Redis, *, name: str, timeout: timedelta) -> None:
        super().__init__(client, name=name)
        self.open = True
        self._timeout_s = math.ceil(timeout.total_seconds())  # 0 would mean for ever
        self._add = client.register_script(_ADD)
        self._take = client.register_script(_TAKE)
        self._apply = client.register_script(_WRITE)
        self._list = client.register_script(_LIST)
        self._move_due = client.register_script(_SCHEDULE)
        self._taking = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._writes = _Writes()
        self._suspects: dict[bytes, bytes] = {}
        self._trouble = Trouble()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"  # SAQ's own, which it logs, tells the URL

    # --- putting in

    async def add(self, keys: Sequence[str]) -> None:
        # They differ in their keys only.
        job = Job(
            **_JOB,
            key=_KEY,
            kwargs={"notification_id": _KEY},
            queue=self,
            timeout=self._timeout_s,
            queued=now_ms(),
            status=Status.QUEUED,
        )
        body = str(self.serialize(job))
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            await self._add(
                keys=[self._incomplete, self._queued, *map(self.job_id, chunk)],
                args=[body.replace(_KEY, key) for key in chunk],
            )

    # --- taking out

    async def take(self, most: int, *, wait_s: float) -> list[Job]:
        """Up to that many of the jobs that wait; none, when there is none in that time.

        One of those who ask waits at Redis, the others for their turn.
        """
        async with self._taking:
            if not self.open:
                return []
            try:
                bodies = await self._take(keys=[self._queued, self._active], args=[most])
                if not bodies:
                    id_ = await self.redis.blmove(
                        self._queued,
                        self._active,
                        wait_s,  # type: ignore[arg-type]  # Redis takes fractions of a second
                        "LEFT",
                        "RIGHT",
                    )
                    if id_ is not None:  # perhaps with others behind it
                        keys = [self._queued, self._active]
                        bodies = await self._take(keys=keys, args=[most, id_])
            except AWAY as error:
                self._trouble.say(error)
                await asyncio.sleep(AGAIN_AFTER_S)
                return []
        # One without a body, or with one of somebody else, stays behind for the sweep.
        return [job for body in bodies if (job := self._read(body)) is not None]

    def _read(self, body: bytes | None) -> Job | None:
        try:
            job = self.deserialize(body)
            if job is not None:
                message_of(job)
        except (ValueError, TypeError, LookupError, AttributeError):
            logger.exception("a job on the queue cannot be read")
            return None
        return job

    # --- keeping the books

    async def begin(self, jobs: Sequence[Job], worker_id: str) -> None:
        """Mark that a worker has taken them."""
        for job in jobs:
            job.started = job.touched = now_ms()
            job.attempts += 1
            job.worker_id = worker_id
            job.status = Status.ACTIVE
        await self._write(*(("SET", job.id, self.serialize(job)) for job in jobs))

    async def done(self, jobs: Sequence[Job]) -> None:
        self.complete += len(jobs)
        await self._write(*(_finishing(job) for job in jobs))

    async def failed_by(self, jobs: Sequence[Job], reason: str) -> None:
        """Try them again later, except those that were tried often enough."""
        await asyncio.gather(
            *(
                self.retry(job, reason)
                if job.retryable
                else self.finish(job, Status.FAILED, error=reason)
                for job in jobs
            )
        )

    async def give_back(self, jobs: Sequence[Job]) -> None:
        """Put them into the queue again, for somebody else."""
        await asyncio.gather(*(self.retry(job, _CUT_OFF) for job in jobs))

    async def update(self, job: Job, **kwargs: Any) -> None:
        job.touched = now_ms()
        for name, value in kwargs.items():
            setattr(job, name, value)
        await self._write(("SET", job.id, self.serialize(job)))

    async def _finish(
        self, job: Job, status: Status, *, result: Any = None, error: str | None = None
    ) -> None:
        del status, result, error  # they would be kept in the body, and none is kept
        await self._write(_finishing(job))

    async def _retry(self, job: Job, error: str | None) -> None:
        # Where only its worker stops, the job itself is fine.
        delay_s = 0.0 if error == _CUT_OFF else job.next_retry_delay()
        await self._write(
            ("LREM", self._active, 1, job.id),
            ("LREM", self._queued, 1, job.id),
            ("SET", job.id, self.serialize(job)),
            *(
                [("LATER", job.id, delay_s)]
                if delay_s
                else [("ZADD", self._incomplete, 0, job.id), ("RPUSH", self._queued, job.id)]
            ),
        )

    async def notify(self, job: Job) -> None:
        """Nobody waits for a job to end."""

    async def _write(self, *commands: Sequence[Any]) -> None:
        """All of the commands at once, in one round trip with those that came meanwhile."""
        mine = self._writes
        for command in commands:
            mine.arguments += (len(command), *command)
        async with self._writing:
            if mine.sent:
                return
            if self._writes is mine:
                self._writes = _Writes()
            try:
                await self._apply(keys=[self._active, self._incomplete], args=mine.arguments)
            except AWAY as error:
                self._trouble.say(error)
            mine.sent = True  # not when cancelled: then the next of them sends it

    # --- upkeep

    async def say_alive(self, worker_id: str) -> None:
        try:
            await self.redis.set(self._alive(worker_id), 1, px=int(_DEAD_AFTER_S * 1000))
        except AWAY as error:
            self._trouble.say(error)

    async def say_gone(self, worker_id: str) -> None:
        with suppress(*AWAY):
            await self.redis.delete(self._alive(worker_id))

    def _alive(self, worker_id: str) -> str:
        return self.namespace(f"alive:{worker_id}")

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Give jobs of dead workers, and those that take too long, to somebody else.

        SAQ's own sweep waits until a job's time is over, and then for each job whether somebody
        aborts it, one after the other.
        """
        del abort
        try:
            return await self._sweep_once(lock)
        except AWAY as error:
            self._trouble.say(error)
            return []

    async def _sweep_once(self, lock_s: int) -> list[str]:
        listed = await self._list(keys=[self._sweep, self._active], args=[lock_s])
        jobs = {id_: self._read(body) for id_, body in listed}
        alive = await self._who_lives({job.worker_id for job in jobs.values() if job is not None})
        lost: list[bytes] = []
        bodies: dict[bytes, bytes] = dict(listed)
        unmarked: dict[bytes, bytes] = {}
        swept: list[Awaitable[None]] = []
        for id_, job in jobs.items():
            if job is None:
                swept.append(
                    self._write(
                        ("LREM", self._active, 0, id_),
                        ("ZREM", self._incomplete, id_),
                        ("DEL", id_),
                    )
                )
            elif job.status is not Status.ACTIVE:
                # Just taken and about to be marked, or taken by a worker that died before that.
                unmarked[id_] = bodies[id_]
                if self._suspects.get(id_) != bodies[id_]:
                    continue
                swept.append(self.retry(job, self.swept_error_message))
            elif not job.stuck and job.worker_id in alive:
                continue
            elif job.retryable:
                swept.append(self.retry(job, self.swept_error_message))
            else:
                swept.append(self.finish(job, Status.ABORTED, error=self.swept_error_message))
            lost.append(id_)
        if listed:  # otherwise another worker has just swept
            self._suspects = unmarked
        if swept:
            logger.warning("%d jobs lost their worker", len(swept))
            await asyncio.gather(*swept)
        return [id_.decode() for id_ in lost]

    async def _who_lives(self, worker_ids: Collection[str | None]) -> set[str]:
        ids = [id_ for id_ in worker_ids if id_ is not None]
        if not ids:
            return set()
        found = await self.redis.mget([self._alive(id_) for id_ in ids])
        return {id_ for id_, sign in zip(ids, found, strict=True) if sign is not None}

    async def schedule(self, lock: int = 1) -> list[str]:
        """Queue the retries whose time has come."""
        try:
            due = await self._move_due(
                keys=[self._schedule, self._incomplete, self._queued], args=[lock]
            )
        except AWAY as error:
            self._trouble.say(error)
            return []
        return [id_.decode() for id_ in due]

    async def jobs(self, job_keys: Iterable[str]) -> list[Job | None]:
        try:
            return await super().jobs(job_keys)
        except AWAY as error:
            self._trouble.say(error)
            return []

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        try:
            await super().write_worker_info(worker_id, info, ttl)
        except AWAY as error:
            self._trouble.say(error)
