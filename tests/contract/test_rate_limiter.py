"""The limiter port: so many in a window that begins with the first one.

An adapter is added by a fixture `open_<name>_limiter` that takes the clock.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import redis

from savannah.adapters.memory import ManualClock, MemoryRateLimiter
from savannah.adapters.shared_redis import RedisRateLimiter
from savannah.application.ports import LimitState
from savannah.domain.notification_policy import Rate

MINUTE = timedelta(minutes=1)
THREE = Rate(3, MINUTE)


class Time(ManualClock):
    """A clock that a server can be made to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.followers = []

    def advance(self, by):
        super().advance(by)
        for follow in self.followers:
            follow(by)


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def open_memory_limiter(clock):
    return MemoryRateLimiter(clock)


@pytest.fixture
def open_redis_limiter(clock, runner, redis_server):
    prefix = redis_server.fresh_name()
    with redis.Redis.from_url(redis_server.url) as server:

        def follow(by):  # the server has its own time; its windows end earlier instead
            for key in server.scan_iter(match=f"{prefix}*"):
                server.pexpire(key, server.pttl(key) - int(by.total_seconds() * 1000))

        clock.followers.append(follow)
        limiter = RedisRateLimiter(
            redis_server.url,
            prefix=prefix,
            fallback=MemoryRateLimiter(clock),
            answer=MINUTE,  # a busy machine is no absence
        )
        yield limiter
        runner.run(limiter.close())


@pytest.fixture(params=["memory", "redis"])
def limiter(request):
    return request.getfixturevalue(f"open_{request.param}_limiter")


async def hits(limiter, count, *, key="k", rate=THREE):
    return [(await limiter.hit(key, rate)).allowed for _ in range(count)]


async def test_so_many_are_allowed_and_no_more(limiter):
    assert await hits(limiter, 5) == [True] * 3 + [False] * 2


async def test_the_state_counts_down(limiter):
    states = [await limiter.hit("k", THREE) for _ in range(4)]
    assert [state.remaining for state in states] == [2, 1, 0, 0]
    assert {state.limit for state in states} == {3}
    assert all(timedelta(0) < state.reset_after <= MINUTE for state in states)


async def test_the_window_begins_with_the_first_one_and_then_ends(limiter, clock):
    assert await hits(limiter, 1) == [True]
    clock.advance(MINUTE - timedelta(seconds=1))
    assert await hits(limiter, 3) == [True, True, False]
    clock.advance(timedelta(seconds=1))
    assert await hits(limiter, 4) == [True] * 3 + [False]


async def test_refused_ones_do_not_lengthen_the_window(limiter, clock):
    await hits(limiter, 9)
    clock.advance(MINUTE)
    assert await hits(limiter, 1) == [True]


async def test_keys_do_not_share_a_window(limiter):
    assert await hits(limiter, 4, key="a") == [True] * 3 + [False]
    assert await hits(limiter, 1, key="b") == [True]


async def test_looking_counts_nothing(limiter):
    fresh = LimitState(allowed=True, limit=3, remaining=3, reset_after=MINUTE)
    first = await limiter.peek("k", THREE)
    assert (first.allowed, first.limit, first.remaining) == (True, fresh.limit, fresh.remaining)
    await hits(limiter, 2)
    for _ in range(3):
        state = await limiter.peek("k", THREE)
        assert (state.allowed, state.remaining) == (True, 1)
    await hits(limiter, 2)
    state = await limiter.peek("k", THREE)
    assert (state.allowed, state.remaining) == (False, 0)


async def test_a_forgotten_key_begins_anew(limiter):
    await hits(limiter, 4)
    await limiter.forget("k")
    await limiter.forget("never seen")
    assert await hits(limiter, 4) == [True] * 3 + [False]


async def test_parallel_hits_are_all_counted(limiter):
    states = await asyncio.gather(*(limiter.hit("k", THREE) for _ in range(8)))
    assert sum(state.allowed for state in states) == 3


# --- what only the limiter in memory promises ----------------------------------------------------


async def test_the_memory_limiter_tells_exactly_when_the_window_ends(clock):
    limiter = MemoryRateLimiter(clock)
    assert (await limiter.peek("k", THREE)).reset_after == MINUTE
    await limiter.hit("k", THREE)
    clock.advance(timedelta(seconds=10))
    assert (await limiter.hit("k", THREE)).reset_after == MINUTE - timedelta(seconds=10)
    await hits(limiter, 1)
    # With the window used up, a look says that one more would be refused.
    assert not (await limiter.peek("k", THREE)).allowed


async def test_the_memory_limiter_is_bounded_and_drops_ended_windows_first(clock):
    limiter = MemoryRateLimiter(clock, most_keys=3)
    short = Rate(1, timedelta(seconds=1))
    await limiter.hit("oldest", THREE)
    await limiter.hit("short", short)
    await limiter.hit("young", THREE)
    clock.advance(timedelta(seconds=2))
    await limiter.hit("new", THREE)  # there is room where the short one was
    assert (await limiter.peek("oldest", THREE)).remaining == 2
    await limiter.hit("newer", THREE)  # no window has ended, so the oldest makes room
    assert (await limiter.peek("oldest", THREE)).remaining == 3
    for key in ("young", "new", "newer"):
        assert (await limiter.peek(key, THREE)).remaining == 2


async def test_the_memory_limiter_never_keeps_more_than_it_may(clock):
    limiter = MemoryRateLimiter(clock, most_keys=1)
    await limiter.hit("first", THREE)
    await limiter.hit("second", THREE)
    assert (await limiter.peek("first", THREE)).remaining == 3
    assert (await limiter.peek("second", THREE)).remaining == 2
