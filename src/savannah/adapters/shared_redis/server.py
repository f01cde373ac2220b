"""A Redis that may be away: how it is reached, and who asks whether it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from datetime import timedelta
from hashlib import blake2b
from typing import Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster

from savannah.adapters.redis_access import AWAY, cluster_of, reason_of, settings_of_connections

T = TypeVar("T")

_AGAIN_AFTER_S: Final = 1.0
_SILENT_FOR_S: Final = 60.0


class Away(Exception):
    """Redis does not answer now; the log says why, once a minute."""


class Server:
    """One Redis, or a cluster. While it is away, one request a second finds out about it.

    Args:
        url: `redis://`, `rediss://`, or `redis+cluster://` and `rediss+cluster://` with one or
            more `host:port` parted by commas. Connections open on first use.
        answer: Redis that takes longer is away.
        logger: is told that it is away, with what follows from that.
    """

    def __init__(
        self, url: str, *, answer: timedelta, connections: int, logger: logging.Logger, follows: str
    ) -> None:
        self.redis: Final = _connect(url, answer_s=answer.total_seconds(), connections=connections)
        self._logger = logger
        self._follows = follows
        self._away_until = 0.0
        self._silent_until = 0.0

    async def ask(self, question: Awaitable[T]) -> T:
        """Redis's answer. Raises: Away."""
        try:
            answer = await question
        except AWAY as error:
            self._note(error)
            raise Away from error
        self._away_until = 0.0
        return answer

    def is_away(self) -> bool:
        """Whether nothing need be asked."""
        now = time.monotonic()
        if now < self._away_until:
            return True
        if self._away_until:
            # One request finds out whether it is back; the others do not wait for the answer.
            self._away_until = now + _AGAIN_AFTER_S
        return False

    async def close(self) -> None:
        """Let go of Redis."""
        await self.redis.aclose()

    def _note(self, error: Exception) -> None:
        now = time.monotonic()
        self._away_until = now + _AGAIN_AFTER_S
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_FOR_S
            reason = reason_of(error)
            self._logger.warning("Redis does not answer; %s: %s", self._follows, reason)


def digest(key: str) -> str:
    """What Redis holds of a key: no name or address."""
    return blake2b(key.encode(), digest_size=16).hexdigest()


def _connect(url: str, *, answer_s: float, connections: int) -> Redis | RedisCluster:
    settings = settings_of_connections(answer_s=answer_s)
    cluster = cluster_of(url)
    if cluster is None:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=answer_s, **settings
        )
        return Redis.from_pool(pool)
    first, others = cluster
    return RedisCluster.from_url(first, startup_nodes=others, **settings)
