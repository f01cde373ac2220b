"""What only the limiter on Redis promises: one count for all processes, and to let Redis go."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import chain
from uuid import UUID

import pytest
from redis.asyncio import Redis

from savannah.adapters.memory import (
    ManualClock,
    MemoryRateLimiter,
    MemoryStorage,
    SeededRandomness,
)
from savannah.adapters.shared_redis import RedisRateLimiter
from savannah.application.identity import AuditLog, LoginLock
from savannah.domain.errors import TooManyAttempts
from savannah.domain.notification_policy import Rate
from servers import own_redis

MINUTE = timedelta(minutes=1)
THREE = Rate(3, MINUTE)
PATIENT = MINUTE  # so that a busy machine is no absence


@asynccontextmanager
async def opened(url, prefix, *, answer=PATIENT):
    fallback = MemoryRateLimiter(ManualClock())
    limiter = RedisRateLimiter(url, prefix=prefix, fallback=fallback, answer=answer)
    try:
        yield limiter
    finally:
        await limiter.close()


async def hits(limiter, count, *, key="k", rate=THREE):
    return [(await limiter.hit(key, rate)).allowed for _ in range(count)]


async def until(true):
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110  the server has its own time
            await asyncio.sleep(0.01)


@pytest.fixture
def url(redis_server):
    return redis_server.url


@pytest.fixture
def prefix(redis_server):
    return redis_server.fresh_name()


async def test_processes_that_hit_at_once_never_get_more_than_the_limit(url, prefix):
    program = """
import asyncio, json, sys
from datetime import timedelta
from savannah.adapters.memory import ManualClock, MemoryRateLimiter
from savannah.adapters.shared_redis import RedisRateLimiter
from savannah.domain.notification_policy import Rate

async def main():
    fallback = MemoryRateLimiter(ManualClock())
    shared = {"prefix": sys.argv[2], "fallback": fallback, "answer": timedelta(minutes=1)}
    limiters = [RedisRateLimiter(sys.argv[1], **shared) for _ in range(3)]
    rate = Rate(100, timedelta(minutes=1))
    for limiter in limiters:  # with its connections open, so that all hit at once
        await asyncio.gather(*(limiter.peek("k", rate) for _ in range(27)))
    print("ready", flush=True)
    sys.stdin.readline()
    states = await asyncio.gather(*(limiters[n % 3].hit("k", rate) for n in range(80)))
    for limiter in limiters:
        await limiter.close()
    print(json.dumps([state.remaining for state in states if state.allowed]))

asyncio.run(main())
"""
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, url, prefix, stdin=pipe, stdout=pipe
        )
        for _ in range(2)
    ]
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    remaining = [json.loads(answer) for answer, _ in answers]
    assert sorted(chain(*remaining)) == list(range(100))
    assert all(remaining)


async def test_limiters_of_different_prefixes_know_nothing_of_each_other(url, redis_server):
    async with (
        opened(url, redis_server.fresh_name()) as one,
        opened(url, redis_server.fresh_name()) as other,
    ):
        assert await hits(one, 4) == [True] * 3 + [False]
        assert await hits(other, 1) == [True]


async def test_a_window_ends_by_itself_and_leaves_nothing_behind(url, prefix):
    one = Rate(1, MINUTE)
    async with opened(url, prefix) as limiter, Redis.from_url(url) as client:
        assert await hits(limiter, 2, rate=one) == [True, False]

        async def is_gone():
            return not await client.keys(f"{prefix}*")

        async def end_soon():
            (key,) = await client.keys(f"{prefix}*")
            assert 0 < await client.pttl(key) <= 60_000
            await client.pexpire(key, 50)  # the rest of the minute passes

        await end_soon()
        await until(is_gone)
        assert await hits(limiter, 2, rate=one) == [True, False]
        await end_soon()
        await until(is_gone)


async def test_looking_leaves_no_key(url, prefix):
    async with opened(url, prefix) as limiter, Redis.from_url(url) as client:
        assert (await limiter.peek("k", THREE)).reset_after == MINUTE
        assert await client.keys(f"{prefix}*") == []


async def test_a_count_without_an_end_gets_one(url, prefix):
    async with opened(url, prefix) as limiter, Redis.from_url(url) as client:
        await hits(limiter, 3)
        (key,) = await client.keys(f"{prefix}*")
        await client.persist(key)
        state = await limiter.hit("k", THREE)
        assert (state.allowed, state.reset_after) == (False, MINUTE)
        assert await client.pttl(key) > 0


async def test_redis_learns_neither_names_nor_addresses(url, prefix):
    async with opened(url, prefix) as limiter, Redis.from_url(url) as client:
        await limiter.hit("login:jane@example.com:10.0.0.7", THREE)
        (key,) = await client.keys(f"{prefix}*")
        assert b"jane" not in key
        assert b"10.0.0.7" not in key


async def test_without_redis_each_process_counts_by_itself_and_then_joins_again(prefix, caplog):
    with own_redis() as server:
        async with opened(server.url, prefix) as limiter:
            assert await hits(limiter, 2) == [True] * 2
            server.stop()
            assert await hits(limiter, 4) == [True] * 3 + [False]
            assert (await limiter.peek("k", THREE)).remaining == 0
            await limiter.forget("k")
            assert (await limiter.peek("k", THREE)).remaining == 3
            await hits(limiter, 3)
            server.start()
            # It asks again after a while; the server has forgotten everything, the process not.

            async def has_joined():
                return (await limiter.peek("k", THREE)).allowed

            await until(has_joined)
            assert await hits(limiter, 4) == [True] * 3 + [False]
    said = [record for record in caplog.records if "does not answer" in record.message]
    assert len(said) == 1


async def test_a_redis_that_hangs_delays_one_moment_of_requests_and_not_the_rest(prefix):
    many = Rate(1000, MINUTE)
    with own_redis() as server:
        async with opened(server.url, prefix, answer=timedelta(seconds=0.5)) as limiter:
            await asyncio.gather(*(limiter.hit("k", many) for _ in range(50)))
            server.freeze()
            async with asyncio.timeout(20):  # one after the other they would take longer
                states = await asyncio.gather(*(limiter.hit("k", many) for _ in range(50)))
            assert all(state.allowed for state in states)
            asked, ask = [], limiter._server.ask

            async def counted(question):
                asked.append(question)
                return await ask(question)

            limiter._server.ask = counted
            began_at = time.monotonic()
            assert all(await hits(limiter, 200, rate=many))
            # One a second finds out whether it is back.
            assert len(asked) <= 1 + time.monotonic() - began_at
            server.thaw()


async def test_it_counts_on_a_cluster(redis_cluster, prefix):
    async with opened(redis_cluster, prefix) as one, opened(redis_cluster, prefix) as other:
        for key in ("a", "b", "c", "d"):
            assert await hits(one, 2, key=key) == [True] * 2
            assert await hits(other, 2, key=key) == [True, False]
        await one.forget("a")
        assert (await other.peek("a", THREE)).remaining == 3


async def test_a_cluster_that_is_away_is_no_obstacle(prefix):
    nodes = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    async with opened(nodes, prefix) as limiter:
        assert await hits(limiter, 4) == [True] * 3 + [False]


async def test_it_counts_over_tls_where_it_can_verify_the_server_and_alone_elsewhere(
    tls_redis, prefix, caplog
):
    url = f"rediss://localhost:{tls_redis.port}/0"
    trusted = f"{url}?ssl_ca_certs={tls_redis.authority}"
    async with opened(trusted, prefix) as one, opened(trusted, prefix) as other:
        assert await hits(one, 2) == [True] * 2
        assert await hits(other, 2) == [True, False]
    assert not caplog.records
    async with opened(f"{url}?ssl_ca_certs={tls_redis.another}", prefix) as alone:
        assert await hits(alone, 4) == [True] * 3 + [False]
    assert "its certificate is not trusted" in caplog.text


async def test_failed_logins_count_in_every_process(url, prefix):
    """The delay of an account begins wherever its passwords were guessed, and ends everywhere."""
    async with opened(url, prefix) as one, opened(url, prefix) as other:
        locks = [login_lock(limiter) for limiter in (one, other)]

        async def fail(number, name="johndoe"):
            attempt = LoginLock.key(name, f"192.0.2.{number}")
            await locks[number % 2].refuse(attempt)
            await locks[number % 2].count_failure(
                attempt, "user.login_failed", UUID(int=1), "x", None
            )

        for number in range(21):
            await fail(number)
        for lock in locks:
            with pytest.raises(TooManyAttempts) as refused:
                await lock.refuse(LoginLock.key("JohnDoe", "203.0.113.1"))
            assert timedelta(0) < refused.value.retry_after <= timedelta(seconds=1)
        await locks[0].forget(LoginLock.key("johndoe", "203.0.113.1"))
        for lock in locks:
            await lock.refuse(LoginLock.key("johndoe", "203.0.113.1"))


def login_lock(limiter):
    clock = ManualClock()
    audit = AuditLog(clock=clock, randomness=SeededRandomness())
    return LoginLock(storage=MemoryStorage(), limiter=limiter, audit=audit, rate=Rate(5, MINUTE))
