"""The cache that all processes share: values in Redis, for seconds.

Losing it costs time only, so Redis away means that everything is computed.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta
from typing import Final, TypeVar

import msgspec

from savannah.adapters.shared_redis.server import Away, Server, digest
from savannah.application.ports import Cache

T = TypeVar("T")

_ANSWER: Final = timedelta(seconds=0.25)  # computing does not take much longer
_CONNECTIONS: Final = 8
_LARGEST: Final = 1 << 20  # bytes; what is larger is not worth the way


class RedisCache(Cache):
    """Keeps values as MessagePack: nothing that is read from Redis is run.

    Redis holds a digest of each key. While it is away nothing is found and nothing kept, and one
    request a second finds out whether it is back.

    Args:
        url: as for `RedisRateLimiter`.
        prefix: caches with different prefixes on one Redis know nothing of each other.
        answer: Redis that takes longer is away.
    """

    def __init__(self, url: str, *, prefix: str = "savannah", answer: timedelta = _ANSWER) -> None:
        self._server = Server(
            url,
            answer=answer,
            connections=_CONNECTIONS,
            logger=logging.getLogger("savannah.cache"),
            follows="nothing is cached",
        )
        self._prefix = prefix

    async def close(self) -> None:
        """Let go of Redis."""
        await self._server.close()

    async def get(self, key: str, kind: type[T]) -> T | None:
        if self._server.is_away():
            return None
        try:
            found: bytes | None = await self._server.ask(self._server.redis.get(self._name(key)))
        except Away:
            return None
        if found is None:
            return None
        try:
            return msgspec.msgpack.decode(found, type=kind)
        except msgspec.MsgspecError:
            return None  # another version of this program keeps it in another form

    async def put(self, key: str, value: object, *, keep: timedelta) -> None:
        spelled = msgspec.msgpack.encode(value)
        if len(spelled) > _LARGEST or self._server.is_away():
            return
        with suppress(Away):
            await self._server.ask(self._server.redis.set(self._name(key), spelled, px=keep))

    def _name(self, key: str) -> str:
        return f"{self._prefix}:cache:{digest(key)}"
