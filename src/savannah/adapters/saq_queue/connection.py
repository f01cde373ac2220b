"""How the queue reaches Redis, one server or a cluster, and how it says that it cannot."""

from __future__ import annotations

import logging
import random
import re
import ssl
import time
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError

logger = logging.getLogger("savannah.queue")

AWAY: Final = (RedisError, RedisClusterException, OSError)
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


def reason_of(error: BaseException) -> str:
    """Why, in words without an address: for certificates what is wrong with them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


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
    settings: dict[str, Any] = {
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
        "health_check_interval": 15,
        # Connections that a restart or a fail-over left behind are renewed at once; one that
        # hangs is not waited for twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        "retry_on_error": [ReadOnlyError],
    }
    scheme, cluster, rest = url.partition("+cluster://")
    if not cluster:
        return Redis.from_url(url, **settings)
    # Not urlsplit, which from Python 3.14 on knows of no brackets behind a comma.
    servers = re.split("[/?]", rest)[0]
    who, at, hosts = servers.rpartition("@")
    first, *more = hosts.split(",")
    nodes = [urlsplit(f"//{host}") for host in more]
    # It has the commands of a single server that SAQ uses, without being one.
    return cast(
        "Redis",
        _Cluster.from_url(
            f"{scheme}://{who}{at}{first}{rest.removeprefix(servers)}",
            startup_nodes=[ClusterNode(str(node.hostname), node.port or 6379) for node in nodes],
            **settings,
        ),
    )
