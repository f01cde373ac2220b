"""How the queue reaches Redis, one server or a cluster, and how it says that it cannot."""

from __future__ import annotations

import logging
import random
import time
from typing import Final, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import RedisCluster

from savannah.adapters.redis_access import cluster_of, reason_of, settings_of_connections

logger = logging.getLogger("savannah.queue")

AGAIN_AFTER_S: Final = 0.5
_ANSWER_S: Final = 2.0  # Redis that takes longer is away


class Trouble:
    """Says that Redis is away once a minute, however often it turns out."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def say(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + 60
            logger.warning("Redis does not answer; jobs wait: %s", reason_of(error))


class _Cluster(RedisCluster):
    """A cluster client that can publish and subscribe: any node hears of what another is told."""

    def pubsub(self) -> PubSub:
        nodes = list(self.nodes_manager.nodes_cache.values()) or self.startup_nodes
        node = random.choice(nodes)  # noqa: S311  no secret
        pool = ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)
        return Redis(connection_pool=pool).pubsub()

    async def publish(self, channel: str, message: bytes) -> None:
        await self.execute_command("PUBLISH", channel, message)


def connect(url: str) -> Redis:
    settings = settings_of_connections(answer_s=_ANSWER_S) | {"health_check_interval": 15}
    cluster = cluster_of(url)
    if cluster is None:
        return Redis.from_url(url, **settings)
    first, others = cluster
    # It has the commands of a single server that SAQ uses, without being one.
    return cast("Redis", _Cluster.from_url(first, startup_nodes=others, **settings))
