"""The rate limiter that all processes share: counters in Redis.

It protects the service; it must not be what takes it down. While Redis is away each process counts
by itself with the limiter it was given.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Final, cast

from savannah.adapters.shared_redis.server import Away, Server, digest
from savannah.application.ports import LimitState, RateLimiter
from savannah.domain.notification_policy import Rate

_ANSWER: Final = timedelta(seconds=0.5)  # only the first request waits for that
_CONNECTIONS: Final = 32

# One round trip, one key and one moment: nobody counts between the parts, and Redis alone knows
# what time it is. A key without an end, as a restored copy may have, gets one.
_COUNT: Final = """
local count = tonumber(redis.call('GET', KEYS[1]) or 0)
local left = redis.call('PTTL', KEYS[1])
if ARGV[2] == '1' then
    count = redis.call('INCR', KEYS[1])
    if left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
end
if left < 0 then left = tonumber(ARGV[1]) end
return {count, left}
"""


class RedisRateLimiter(RateLimiter):
    """Counts for all processes together; `peek` is allowed when one more hit would be.

    Redis holds a digest of each key, so no name or address. A hit whose answer is lost may count
    twice.

    Args:
        url: as for `server.Server`.
        fallback: counts while Redis is away.
        prefix: limiters with different prefixes on one Redis know nothing of each other.
        answer: Redis that takes longer is away.
    """

    def __init__(
        self,
        url: str,
        *,
        fallback: RateLimiter,
        prefix: str = "savannah",
        answer: timedelta = _ANSWER,
    ) -> None:
        self._server = Server(
            url,
            answer=answer,
            connections=_CONNECTIONS,
            logger=logging.getLogger("savannah.limiter"),
            follows="this process counts by itself",
        )
        self._fallback = fallback
        self._prefix = prefix

    async def close(self) -> None:
        """Let go of Redis."""
        await self._server.close()

    async def hit(self, key: str, rate: Rate) -> LimitState:
        if (found := await self._ask(key, rate, counting=True)) is None:
            return await self._fallback.hit(key, rate)
        count, reset_after = found
        return _state(rate, count, allowed=count <= rate.count, reset_after=reset_after)

    async def peek(self, key: str, rate: Rate) -> LimitState:
        if (found := await self._ask(key, rate, counting=False)) is None:
            return await self._fallback.peek(key, rate)
        count, reset_after = found
        return _state(rate, count, allowed=count < rate.count, reset_after=reset_after)

    async def forget(self, key: str) -> None:
        await self._fallback.forget(key)
        if self._server.is_away():
            return
        with suppress(Away):
            await self._server.ask(self._server.redis.delete(self._name(key)))

    async def _ask(self, key: str, rate: Rate, *, counting: bool) -> tuple[int, timedelta] | None:
        """The count and the time left; None while Redis is away."""
        if self._server.is_away():
            return None
        window_ms = int(rate.window.total_seconds() * 1000)
        script = self._server.redis.eval(_COUNT, 1, self._name(key), window_ms, int(counting))
        try:
            count, left_ms = await self._server.ask(cast("Awaitable[list[int]]", script))
        except Away:
            return None
        return count, timedelta(milliseconds=left_ms)

    def _name(self, key: str) -> str:
        return f"{self._prefix}:limit:{digest(key)}"


def _state(rate: Rate, count: int, *, allowed: bool, reset_after: timedelta) -> LimitState:
    return LimitState(
        allowed=allowed,
        limit=rate.count,
        remaining=max(0, rate.count - count),
        reset_after=reset_after,
    )
