"""The cache: what every adapter keeps, and that losing it is never an error."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest
import redis

from savannah.adapters.memory import ManualClock, MemoryCache
from savannah.adapters.shared_redis import RedisCache
from savannah.application.ports import Cache
from savannah.application.reports import KeptSums
from savannah.domain.order import Status
from savannah.domain.statistics import AnalyticsSums, DaySum, ItemSum, SmsSum, StatusSum

MINUTE = timedelta(minutes=1)  # also for Redis to answer: a busy machine is no absence
SUMS = AnalyticsSums(
    by_status=[
        StatusSum(currency="KES", status=Status.SHIPPED, orders=2, total_minor=10**12, units=3)
    ],
    days=[DaySum(day=date(2026, 11, 23), orders=2, cancelled=1, net_minor=5)],
    top_items=[ItemSum(item="Zoë's \u738b", orders=1, units=2, net_minor=3)],
    customers=4,
    new_customers=3,
    recent_orders=2,
    seconds_to_ship=[7200, 7201],
    seconds_to_deliver=[],
    sms=[SmsSum(status="sent", messages=3, segments=4, cost={"KES": 24_000})],
)
KEPT = KeptSums(stamp="7:9:8", as_of=datetime(2026, 11, 23, 9, 0, 0, 123456, UTC), sums=SUMS)


@pytest.fixture
def own_server(request):
    import servers

    with servers.own_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def cache(request, runner):
    if request.param == "memory":
        yield MemoryCache(ManualClock())
        return
    server = request.getfixturevalue("redis_server")
    cache = RedisCache(server.url, prefix=server.fresh_name(), answer=MINUTE)
    yield cache
    runner.run(cache.close())


async def test_what_is_put_is_found_as_it_was(cache: Cache):
    assert await cache.get("report", KeptSums) is None
    await cache.put("report", KEPT, keep=MINUTE)
    assert await cache.get("report", KeptSums) == KEPT
    assert await cache.get("another", KeptSums) is None


async def test_the_last_value_counts(cache: Cache):
    await cache.put("report", KEPT, keep=MINUTE)
    await cache.put("report", replace(KEPT, stamp="later"), keep=MINUTE)
    found = await cache.get("report", KeptSums)
    assert found is not None
    assert found.stamp == "later"


@dataclass(frozen=True)
class Other:
    answer: int


async def test_a_value_of_another_kind_is_not_found(cache: Cache):
    await cache.put("report", Other(42), keep=MINUTE)
    assert await cache.get("report", KeptSums) is None
    assert await cache.get("report", Other) == Other(42)


async def test_in_memory_a_value_ends_and_the_least_used_one_leaves():
    clock = ManualClock()
    cache = MemoryCache(clock, most=2)
    await cache.put("a", Other(1), keep=MINUTE)
    clock.advance(MINUTE - timedelta(microseconds=1))
    assert await cache.get("a", Other) == Other(1)
    clock.advance(timedelta(microseconds=1))
    assert await cache.get("a", Other) is None
    for key in ("a", "b"):
        await cache.put(key, Other(2), keep=MINUTE)
    await cache.get("a", Other)
    await cache.put("c", Other(3), keep=MINUTE)
    found = [key for key in ("a", "b", "c") if await cache.get(key, Other) is not None]
    assert found == ["a", "c"]


async def test_redis_forgets_a_value_by_itself_and_knows_no_names(redis_server):
    name = redis_server.fresh_name()
    cache = RedisCache(redis_server.url, prefix=name, answer=MINUTE)
    await cache.put("customer 0700123456", Other(1), keep=timedelta(seconds=30))
    with redis.Redis.from_url(redis_server.url) as client:
        (key,) = client.scan_iter(match=f"{name}*")
        assert b"0700" not in key
        assert 0 < client.pttl(key) <= 30_000
    await cache.close()


async def test_what_somebody_else_put_there_is_not_found(redis_server):
    name = redis_server.fresh_name()
    cache = RedisCache(redis_server.url, prefix=name, answer=MINUTE)
    await cache.put("a", Other(1), keep=MINUTE)
    with redis.Redis.from_url(redis_server.url) as client:
        (key,) = client.scan_iter(match=f"{name}*")
        for rubbish in (b"", b"\xc1", b"cos\nsystem\n(S'x'\ntR."):
            client.set(key, rubbish)
            assert await cache.get("a", Other) is None
    await cache.close()


async def test_while_redis_is_away_nothing_is_found_and_nothing_fails(own_server, caplog):
    caplog.set_level(logging.WARNING, logger="savannah.cache")
    cache = RedisCache(own_server.url, answer=MINUTE)
    await cache.put("a", Other(1), keep=MINUTE)
    own_server.kill()
    for _ in range(3):
        assert await cache.get("a", Other) is None
        await cache.put("a", Other(2), keep=MINUTE)
    assert len(caplog.records) == 1
    own_server.start()
    cache._server._away_until = 0.0  # a second later
    await cache.put("a", Other(3), keep=MINUTE)
    assert await cache.get("a", Other) == Other(3)
    await cache.close()
