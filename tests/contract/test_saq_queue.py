"""What only the queue on Redis promises: to survive its workers, and Redis itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from savannah.adapters.saq_queue import SaqQueue, SaqWorker
from savannah.domain.errors import Unavailable
from savannah.domain.order import NotificationId
from servers import own_redis

LONG = timedelta(seconds=60)  # ends a test that would hang; nothing waits for it
SOON_S = 30.0  # on a busy machine; far less than whatever else would end the wait
NONE = timedelta(0)


class Desk:
    """A handler that keeps what it got and holds its batches while `gate` is shut."""

    def __init__(self):
        self.batches = []
        self.done = []
        self.failures = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, batch):
        self.batches.append(batch)
        if self.failures:
            raise self.failures.pop()
        await self.gate.wait()
        self.done.extend(batch)


async def until(true):
    async with asyncio.timeout(LONG.total_seconds()):
        while not true():  # noqa: ASYNC110  any condition, in a process of its own perhaps
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(url, name, **settings):
    queue = SaqQueue(url, name=name, **settings)
    try:
        yield queue
    finally:
        await queue.close()


@asynccontextmanager
async def working(url, name, desk, *, queue=None, worker=None):
    """A queue and a worker on it, as one process has them."""
    async with opened(url, name, **(queue or {})) as its_queue:
        its_worker = SaqWorker(its_queue, **(worker or {}))
        its_worker.bind(desk.handle)
        await its_worker.start()
        try:
            yield its_queue, its_worker
        finally:
            await its_worker.stop(grace=NONE)


@pytest.fixture
def url(redis_server):
    return redis_server.url


@pytest.fixture
def name(redis_server):
    return redis_server.fresh_name()


@pytest.fixture
def ids(make):
    return [NotificationId(make.id()) for _ in range(1500)]


async def until_empty(url, name):
    """Wait until no job is left in Redis, in whatever state; upkeep has keys of its own."""
    upkeep = ("stats", "worker_info", "sweep", "schedule", "alive")
    async with asyncio.timeout(LONG.total_seconds()), Redis.from_url(url) as client:
        while True:
            keys = [key.decode() async for key in client.scan_iter(match=f"*{name}*", count=1000)]
            if all(key.removeprefix(f"saq:{{{name}}}:").startswith(upkeep) for key in keys):
                return
            await asyncio.sleep(0.005)


# --- carrying ------------------------------------------------------------------------------------


async def test_a_backlog_is_carried_once_in_batches_and_leaves_nothing_behind(url, name, ids):
    desk = Desk()
    async with opened(url, name) as relay:
        await relay.enqueue(ids)
    async with working(url, name, desk) as _:
        await until(lambda: len(desk.done) >= len(ids))
        await until_empty(url, name)
    assert sorted(desk.done) == sorted(ids)
    assert max(map(len, desk.batches)) <= 64
    assert len(desk.batches) < len(ids) / 4


async def test_an_id_that_waits_or_runs_is_dropped_and_one_that_is_done_is_not(url, name, ids):
    desk = Desk()
    desk.gate.clear()
    async with working(url, name, desk) as (queue, _):
        await queue.enqueue(ids[:1] * 3)
        await until(lambda: desk.batches)
        await queue.enqueue(ids[:1])
        desk.gate.set()
        await until(lambda: desk.done)
        await until_empty(url, name)
        assert desk.done == ids[:1]
        await queue.enqueue(ids[:1])
        await until(lambda: len(desk.done) == 2)


async def test_no_more_batches_run_at_once_than_asked_for(url, name, ids):
    desk = Desk()
    desk.gate.clear()
    async with working(url, name, desk, worker={"batch": 2, "concurrency": 3}) as (queue, _):
        await queue.enqueue(ids[:10])
        await until(lambda: len(desk.batches) == 3)
        await asyncio.sleep(0.05)  # time for a fourth
        assert len(desk.batches) == 3
        assert max(map(len, desk.batches)) <= 2
        desk.gate.set()
        await until(lambda: len(desk.done) == 10)


async def test_two_workers_share_the_jobs(url, name, ids):
    one, other = Desk(), Desk()
    for desk in (one, other):
        desk.gate.clear()
    async with (
        working(url, name, one, worker={"batch": 8, "concurrency": 1}) as (queue, _),
        working(url, name, other, worker={"batch": 8, "concurrency": 1}),
    ):
        await queue.enqueue(ids[:16])
        await until(lambda: one.batches and other.batches)
        one.gate.set()
        other.gate.set()
        await until(lambda: len(one.done) + len(other.done) == 16)
    assert sorted(one.done + other.done) == ids[:16]


async def test_queues_of_different_names_know_nothing_of_each_other(url, redis_server, ids):
    one, other = Desk(), Desk()
    async with (
        working(url, redis_server.fresh_name(), one) as (queue, _),
        working(url, redis_server.fresh_name(), other) as (other_queue, _),
    ):
        await queue.enqueue(ids[:1])
        await other_queue.enqueue(ids[1:2])
        await until(lambda: one.done and other.done)
    assert (one.done, other.done) == (ids[:1], ids[1:2])


# --- failing -------------------------------------------------------------------------------------


async def test_a_failed_batch_is_logged_once_and_tried_again(url, name, ids, caplog):
    desk = Desk()
    desk.failures = [ZeroDivisionError, asyncio.CancelledError]
    async with working(url, name, desk, worker={"concurrency": 2}) as (queue, _):
        await queue.enqueue(ids[:128])
        await until(lambda: len(desk.done) == 128)
        await until_empty(url, name)
    assert sorted(desk.done) == ids[:128]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["savannah.queue"] * 2


async def test_a_retry_waits_by_the_clock_of_redis_and_not_by_its_workers(
    url, name, ids, monkeypatch
):
    """Fails when a worker says when it is due: a right clock would find it an hour too late."""
    true_time, wrong = time.time, Desk()
    wrong.failures = [ZeroDivisionError()]
    with monkeypatch.context() as clocks:
        clocks.setattr(time, "time", lambda: true_time() + 3600)
        async with working(url, name, wrong) as (queue, _):
            await queue.enqueue(ids[:1])
            await until(lambda: wrong.batches)
            async with Redis.from_url(url) as client:
                while not await client.zcount(queue.saq._incomplete, 1, "inf"):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
    right = Desk()
    async with working(url, name, right):
        await until(lambda: right.done or len(wrong.batches) > 1)


async def test_a_job_out_of_time_is_cut_off_and_given_to_somebody_again(url, name, ids):
    desk = Desk()
    desk.gate.clear()
    async with working(url, name, desk, queue={"timeout": timedelta(seconds=1)}) as (queue, _):
        await queue.enqueue(ids[:1])
        await until(lambda: len(desk.batches) >= 2)
        desk.gate.set()
        await until_empty(url, name)
    assert desk.done == ids[:1]


async def test_jobs_of_a_killed_worker_run_again_within_seconds(url, name, ids):
    program = """
import asyncio, sys
from savannah.adapters.saq_queue import SaqQueue, SaqWorker

async def handle(batch):
    print(len(batch), flush=True)
    await asyncio.Event().wait()

async def main():
    worker = SaqWorker(SaqQueue(sys.argv[1], name=sys.argv[2]), batch=2, concurrency=100)
    worker.bind(handle)
    await worker.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, url, name, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with opened(url, name) as relay:
            await relay.enqueue(ids[:100])
        begun = 0
        while begun < 100:
            begun += int(await victim.stdout.readline())
    finally:
        victim.kill()
        await victim.communicate()
    desk = Desk()
    async with working(url, name, desk):
        await until(lambda: len(desk.done) == 100)
        await until_empty(url, name)
    assert sorted(desk.done) == ids[:100]


async def test_jobs_in_every_broken_state_come_back_or_are_dropped(url, name, ids):
    """As a worker leaves them that dies between two commands, or too often, or writes badly."""
    desk = Desk()
    unmarked, spent, bodiless, unreadable = map(str, ids[:4])
    async with opened(url, name) as queue, Redis.from_url(url) as client:
        await queue.enqueue(ids[:4])
        active, queued = f"saq:{{{name}}}:active", f"saq:{{{name}}}:queued"
        while await client.lmove(queued, active):
            pass
        body = json.loads(await client.get(queue.saq.job_id(spent)))
        body |= {"status": "active", "attempts": 5, "worker_id": "gone", "started": 1}
        await client.set(queue.saq.job_id(spent), json.dumps(body))
        await client.delete(queue.saq.job_id(bodiless))
        await client.set(queue.saq.job_id(unreadable), "{}")
        async with working(url, name, desk):
            await until_empty(url, name)
            assert [str(id_) for id_ in desk.done] == [unmarked]
            await queue.enqueue(ids[1:4])
            await until(lambda: len(desk.done) == 4)


# --- the end -------------------------------------------------------------------------------------


async def test_stopping_lets_running_jobs_finish_and_leaves_the_others(url, name, ids):
    desk, next_desk = Desk(), Desk()
    desk.gate.clear()
    async with working(url, name, desk, worker={"batch": 2, "concurrency": 1}) as (queue, worker):
        await queue.enqueue(ids[:6])
        await until(lambda: desk.batches)
        stopping = asyncio.create_task(worker.stop(grace=LONG))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        desk.gate.set()
        async with asyncio.timeout(SOON_S):
            await stopping
        assert 1 <= len(desk.done) <= 2  # what it had taken when it was told
    async with working(url, name, next_desk):
        await until_empty(url, name)
    assert sorted(desk.done + next_desk.done) == ids[:6]


async def test_jobs_cut_off_at_the_end_of_the_grace_run_elsewhere_at_once(url, name, ids, caplog):
    desk, next_desk = Desk(), Desk()
    desk.gate.clear()
    async with working(url, name, desk) as (queue, worker):
        await queue.enqueue(ids[:3])
        await until(lambda: sum(map(len, desk.batches)) == 3)
        async with asyncio.timeout(SOON_S):
            await worker.stop(grace=timedelta(milliseconds=50))
        # Nobody has to miss the worker first.
        assert [await queue.saq.count(state) for state in ("queued", "active")] == [3, 0]
    assert desk.done == []
    assert "3 jobs are cut off" in caplog.text
    async with working(url, name, next_desk):
        await until(lambda: len(next_desk.done) == 3)


async def test_an_idle_worker_stops_soon_and_can_start_again(url, name, ids):
    desk = Desk()
    async with working(url, name, desk) as (queue, worker):
        for _ in range(2):
            async with asyncio.timeout(SOON_S):
                await worker.stop(grace=LONG)
                await worker.stop(grace=LONG)
            await worker.start()
        with pytest.raises(RuntimeError, match="already"):
            await worker.start()
        await queue.enqueue(ids[:1])
        await until(lambda: desk.done)


def losing_one_cancellation():
    """Runs on after it was cancelled for the first time; and the event of its beginning."""
    begun, lost = asyncio.Event(), asyncio.Event()

    async def run(*_):
        begun.set()
        try:
            await asyncio.sleep(LONG.total_seconds())
        except asyncio.CancelledError:
            if lost.is_set():
                raise
            lost.set()

    return run, begun


async def test_a_worker_stops_though_a_cancellation_is_lost(url, name, monkeypatch):
    """As redis-py lost one now and then, and a worker that was told to stop ran for ever."""
    loses, begun = losing_one_cancellation()
    async with working(url, name, Desk()) as (queue, worker):
        monkeypatch.setattr(queue.saq, "say_alive", loses)
        await begun.wait()
        async with asyncio.timeout(SOON_S):
            await worker.stop(grace=LONG)


async def test_a_queue_closes_though_a_cancellation_is_lost(url, name, monkeypatch):
    loses, begun = losing_one_cancellation()

    async def listen():
        while True:
            await loses()

    async with opened(url, name) as queue:
        monkeypatch.setattr(queue, "_listen", listen)
        await queue.wait_for_work(timedelta(milliseconds=1))
        await begun.wait()
        async with asyncio.timeout(SOON_S):
            await queue.close()


async def test_a_worker_needs_a_handler(url, name):
    async with opened(url, name) as queue:
        with pytest.raises(RuntimeError, match="bind"):
            await SaqWorker(queue).start()


# --- without Redis -------------------------------------------------------------------------------


async def test_redis_may_go_come_back_empty_and_hang(name, ids, caplog):
    desk = Desk()
    with own_redis() as server:
        async with working(server.url, name, desk) as (queue, _), opened(server.url, name) as relay:
            await queue.ping()
            await queue.enqueue(ids[:1])
            await until(lambda: len(desk.done) == 1)
            server.stop()
            with pytest.raises(Unavailable):
                await queue.enqueue(ids[1:2])
            with pytest.raises(Unavailable):
                await queue.ping()
            queue.wake()
            listening = asyncio.create_task(relay.wait_for_work(LONG))
            await asyncio.sleep(0.6)  # some rounds of every loop
            server.start()
            await queue.enqueue(ids[2:3])
            await until(lambda: len(desk.done) == 2)
            await listening  # a relay that could not hear looks whether it missed something

            desk.gate.clear()
            await queue.enqueue(ids[3:6])
            await until(lambda: sum(map(len, desk.batches)) == 5)
            server.restart()  # empty, while jobs run
            desk.gate.set()
            await until(lambda: len(desk.done) == 5)
            await queue.enqueue(ids[3:6])
            await until(lambda: len(desk.done) == 8)

            server.freeze()
            async with asyncio.timeout(SOON_S):
                with pytest.raises(Unavailable):
                    await queue.ping()
            server.thaw()
            await queue.enqueue(ids[6:7])
            await until(lambda: ids[6] in desk.done)
    said = [record for record in caplog.records if "does not answer" in record.message]
    assert 1 <= len(said) <= 3  # the two queues and the worker, once each, not every time
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_job_forgotten_while_it_runs_and_queued_anew_runs_anew(url, name, ids):
    desk = Desk()
    desk.gate.clear()
    async with working(url, name, desk, worker={"batch": 1, "concurrency": 1}) as (queue, _):
        await queue.enqueue(ids[:1])
        await until(lambda: desk.batches)
        async with Redis.from_url(url) as client:
            await client.delete(*[key async for key in client.scan_iter(match=f"*{name}*")])
        await queue.enqueue(ids[:1])
        desk.gate.set()
        await until(lambda: len(desk.done) == 2)
        await until_empty(url, name)


async def test_a_worker_started_and_stopped_without_redis_waits_for_it(name, ids):
    desk = Desk()
    with own_redis() as server:
        server.stop()
        async with working(server.url, name, desk) as (queue, worker):
            await asyncio.sleep(0.1)
            await worker.stop(grace=LONG)
            await worker.start()
            server.start()
            await queue.enqueue(ids[:1])
            await until(lambda: desk.done)


# --- wake-ups ------------------------------------------------------------------------------------


async def test_a_wake_up_reaches_the_relays_of_other_processes(url, name):
    async with opened(url, name) as here, opened(url, name) as there, opened(url, name) as other:
        for relay in (there, other):
            await relay.wait_for_work(LONG)  # it has subscribed, and looks whether it missed one
        waiting = [asyncio.create_task(relay.wait_for_work(LONG)) for relay in (there, other)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waiting)
        for _ in range(100):
            here.wake()
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*waiting)


async def test_a_listener_that_fails_for_an_unforeseen_reason_listens_again(
    url, name, monkeypatch, caplog
):
    async with opened(url, name) as here, opened(url, name) as there:
        subscribe = there._redis.pubsub

        def fails_once():
            monkeypatch.undo()
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(there._redis, "pubsub", fails_once)
        async with asyncio.timeout(SOON_S):
            await there.wait_for_work(LONG)  # it has subscribed after all
        assert there._redis.pubsub == subscribe
        assert "the listener for wake-ups failed" in caplog.messages
        here.wake()
        async with asyncio.timeout(SOON_S):
            await there.wait_for_work(LONG)


async def test_a_wake_up_is_heard_in_its_own_process_whatever_redis_does(name):
    queue = SaqQueue("redis://127.0.0.1:1/0", name=name)
    queue.wake()
    async with asyncio.timeout(SOON_S):
        await queue.wait_for_work(LONG)
        await queue.wait_for_work(timedelta(milliseconds=5))
    await queue.close()
    queue.wake()


def test_a_wake_up_needs_no_event_loop(url, name):
    queue = SaqQueue(url, name=name)
    queue.wake()

    async def test():
        async with asyncio.timeout(SOON_S):
            await queue.wait_for_work(LONG)
        await queue.close()

    asyncio.run(test())


# --- kinds of servers ----------------------------------------------------------------------------


async def whole_way(url, name, ids):
    desk = Desk()
    async with working(url, name, desk) as (queue, _), opened(url, name) as relay:
        await relay.enqueue(ids)
        await until(lambda: len(desk.done) == len(ids))
        await relay.wait_for_work(LONG)
        waiting = asyncio.create_task(relay.wait_for_work(LONG))
        await asyncio.sleep(0.02)
        queue.wake()
        async with asyncio.timeout(SOON_S):
            await waiting
        await queue.ping()


async def test_it_runs_on_a_cluster(redis_cluster, name, ids):
    await whole_way(redis_cluster, name, ids)


async def test_it_gives_its_password_and_tells_nobody(name, ids, caplog):
    caplog.set_level(logging.DEBUG)
    with own_redis("--requirepass", "s3cret") as server:
        async with opened(server.url, name) as queue:
            with pytest.raises(Unavailable):
                await queue.enqueue(ids)
        await whole_way(server.url.replace("//", "//:s3cret@"), name, ids[:5])
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("authority", ["another", "none"])
async def test_it_speaks_tls_to_a_server_it_can_verify_and_to_no_other(
    tls_redis, name, ids, authority
):
    url = f"rediss://localhost:{tls_redis.port}/0"
    wrong = f"{url}?ssl_ca_certs={tls_redis.another}" if authority == "another" else url
    async with opened(wrong, name) as queue:
        with pytest.raises(Unavailable, match="its certificate is not trusted"):
            await queue.ping()
        with pytest.raises(Unavailable):
            await queue.enqueue(ids[:5])
    async with opened(f"rediss://127.0.0.2:{tls_redis.port}/0", name) as queue:
        with pytest.raises(Unavailable):  # a name that its certificate does not hold
            await queue.ping()
    await whole_way(f"{url}?ssl_ca_certs={tls_redis.authority}", name, ids[:5])
