"""How Redis is reached, one server or a cluster, by the queue and by what is shared beside it."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, RedisClusterException, RedisError

AWAY: Final = (RedisError, RedisClusterException, OSError)
_AGAIN_AFTER_S: Final = 0.1


def settings_of_connections(*, answer_s: float) -> dict[str, Any]:
    """What every client is made with; Redis that takes longer than `answer_s` is away."""
    return {
        "socket_timeout": answer_s,
        "socket_connect_timeout": answer_s,
        # Connections that a restart or a fail-over left behind are renewed at once; one that
        # hangs is not waited for twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        "retry_on_error": [ReadOnlyError],
    }


def cluster_of(url: str) -> tuple[str, list[ClusterNode]] | None:
    """The address of a cluster's first node and its other nodes; None for a single server."""
    scheme, cluster, rest = url.partition("+cluster://")
    if not cluster:
        return None
    # Not urlsplit, which from Python 3.14 on knows of no brackets behind a comma.
    servers = re.split("[/?]", rest)[0]
    who, at, hosts = servers.rpartition("@")
    first, *more = hosts.split(",")
    nodes = [urlsplit(f"//{host}") for host in more]
    return (
        f"{scheme}://{who}{at}{first}{rest.removeprefix(servers)}",
        [ClusterNode(str(node.hostname), node.port or 6379) for node in nodes],
    )


def reason_of(error: BaseException) -> str:
    """Why, in words without an address: for certificates what is wrong with them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task that talks to Redis for as long as it runs, and wait for its end.

    More than once if need be: before Python 3.12 `asyncio.wait_for`, with which redis-py sends,
    loses a cancellation that comes at the moment when what it waits for is done.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_AFTER_S)
    await asyncio.gather(task, return_exceptions=True)
