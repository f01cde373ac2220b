"""The rate limiter that all processes share: counters in Redis.

It protects the service; it must not be what takes it down. While Redis is away each process counts
by itself with the limiter it was given.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Awaitable
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError

from savannah.application.ports import LimitState, RateLimiter
from savannah.domain.notification import Rate

logger = logging.getLogger("savannah.limiter")

_AWAY: Final = (RedisError, RedisClusterException, OSError)
_ANSWER_S: Final = 0.5  # a request waits no longer than that, and only the first one does
_AGAIN_AFTER_S: Final = 1.0
_SILENT_FOR_S: Final = 60.0
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
        url: `redis://`, `rediss://`, or `redis+cluster://` and `rediss+cluster://` with one or
            more `host:port` parted by commas. Connections open on first use.
        fallback: counts while Redis is away.
        prefix: limiters with different prefixes on one Redis know nothing of each other.
    """

    def __init__(self, url: str, *, fallback: RateLimiter, prefix: str = "savannah") -> None:
        self._redis = _connect(url)
        self._fallback = fallback
        self._prefix = prefix
        self._away_until = 0.0
        self._silent_until = 0.0

    async def close(self) -> None:
        """Let go of Redis."""
        await self._redis.aclose()

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
        if self._is_away():
            return
        try:
            await self._redis.delete(self._name(key))
        except _AWAY as error:
            self._note(error)
        else:
            self._away_until = 0.0

    async def _ask(self, key: str, rate: Rate, *, counting: bool) -> tuple[int, timedelta] | None:
        """The count and the time left; None while Redis is away."""
        if self._is_away():
            return None
        window_ms = int(rate.window.total_seconds() * 1000)
        script = self._redis.eval(_COUNT, 1, self._name(key), window_ms, int(counting))
        try:
            count, left_ms = await cast("Awaitable[list[int]]", script)
        except _AWAY as error:
            self._note(error)
            return None
        self._away_until = 0.0
        return count, timedelta(milliseconds=left_ms)

    def _name(self, key: str) -> str:
        return f"{self._prefix}:limit:{blake2b(key.encode(), digest_size=16).hexdigest()}"

    def _is_away(self) -> bool:
        now = time.monotonic()
        if now < self._away_until:
            return True
        if self._away_until:
            # One request finds out whether it is back; the others do not wait for the answer.
            self._away_until = now + _AGAIN_AFTER_S
        return False

    def _note(self, error: Exception) -> None:
        now = time.monotonic()
        self._away_until = now + _AGAIN_AFTER_S
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_FOR_S
            logger.warning(
                "Redis does not answer; this process counts by itself: %s", _reason_of(error)
            )


def _reason_of(error: BaseException) -> str:
    """Why, in words without an address: for certificates what is wrong with them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _state(rate: Rate, count: int, *, allowed: bool, reset_after: timedelta) -> LimitState:
    return LimitState(
        allowed=allowed,
        limit=rate.count,
        remaining=max(0, rate.count - count),
        reset_after=reset_after,
    )


def _connect(url: str) -> Redis | RedisCluster:
    settings: dict[str, Any] = {
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
        # Connections that a restart or a fail-over left behind are renewed at once; one that
        # hangs is not waited for twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        "retry_on_error": [ReadOnlyError],
    }
    parts = urlsplit(url)
    scheme, cluster, _ = parts.scheme.partition("+cluster")
    if not cluster:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, timeout=_ANSWER_S, **settings
        )
        return Redis.from_pool(pool)
    who, at, hosts = parts.netloc.rpartition("@")
    first, *more = hosts.split(",")
    nodes = [urlsplit(f"//{host}") for host in more]
    return RedisCluster.from_url(
        urlunsplit(parts._replace(scheme=scheme, netloc=f"{who}{at}{first}")),
        startup_nodes=[ClusterNode(str(node.hostname), node.port or 6379) for node in nodes],
        **settings,
    )
