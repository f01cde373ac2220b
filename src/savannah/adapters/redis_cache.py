"""The cache that all processes share: values in Redis, for seconds.

Losing it costs time only, so Redis away means that everything is computed.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from hashlib import blake2b
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from savannah.application.ports import Cache

T = TypeVar("T")

logger = logging.getLogger("savannah.cache")

_AWAY: Final = (RedisError, RedisClusterException, OSError)
_ANSWER_S: Final = 0.25  # computing does not take much longer
_AGAIN_AFTER_S: Final = 1.0
_SILENT_FOR_S: Final = 60.0
_CONNECTIONS: Final = 8
_LARGEST: Final = 1 << 20  # bytes; what is larger is not worth the way


class RedisCache(Cache):
    """Keeps values as MessagePack: nothing that is read from Redis is run.

    Redis holds a digest of each key. While it is away nothing is found and nothing kept, and one
    request a second finds out whether it is back.

    Args:
        url: as for `RedisRateLimiter`.
        prefix: caches with different prefixes on one Redis know nothing of each other.
    """

    def __init__(self, url: str, *, prefix: str = "savannah") -> None:
        self._redis = _connect(url)
        self._prefix = prefix
        self._away_until = 0.0
        self._silent_until = 0.0

    async def close(self) -> None:
        """Let go of Redis."""
        await self._redis.aclose()

    async def get(self, key: str, kind: type[T]) -> T | None:
        if self._is_away():
            return None
        try:
            found = cast("bytes | None", await self._redis.get(self._name(key)))
        except _AWAY as error:
            self._note(error)
            return None
        self._away_until = 0.0
        if found is None:
            return None
        try:
            return msgspec.msgpack.decode(found, type=kind)
        except msgspec.MsgspecError:
            return None  # another version of this program keeps it in another form

    async def put(self, key: str, value: object, *, keep: timedelta) -> None:
        spelled = msgspec.msgpack.encode(value)
        if len(spelled) > _LARGEST or self._is_away():
            return
        try:
            await self._redis.set(self._name(key), spelled, px=keep)
        except _AWAY as error:
            self._note(error)
        else:
            self._away_until = 0.0

    def _name(self, key: str) -> str:
        return f"{self._prefix}:cache:{blake2b(key.encode(), digest_size=16).hexdigest()}"

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
            logger.warning("Redis does not answer; nothing is cached: %s", type(error).__name__)


def _connect(url: str) -> Redis | RedisCluster:
    settings: dict[str, Any] = {
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
        "retry": Retry(NoBackoff(), 1),
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
