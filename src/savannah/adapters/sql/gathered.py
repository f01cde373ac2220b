"""Reads that travel together: one trip for all who asked while the last was on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Round(Generic[K, V]):
    """Keys that wait for the next trip, and what it will have found.

    It is made for the first who waits, whose request its span in a trace belongs to.
    """

    def __init__(self) -> None:
        self.keys: set[K] = set()
        self.context = copy_context()
        self.found: asyncio.Future[Mapping[K, V]] = asyncio.get_running_loop().create_future()
        # Everybody who asked may have gone by the time it fails.
        self.found.add_done_callback(lambda found: found.cancelled() or found.exception())


class GatheredReads(Generic[K, V]):
    """Reads values by their key; each is read after it was asked for, and never kept.

    So it is as fresh as a read of one's own. Alone, it is one; under load, a trip serves many.

    Args:
        read: the values of some keys, by key.
        at_once: trips under way; with two, one that hangs on a dying connection does not hold up
            everybody.
    """

    def __init__(
        self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, at_once: int = 2
    ) -> None:
        self._read = read
        self._at_once = at_once
        self._under_way = 0
        self._next: _Round[K, V] | None = None
        self._trips: set[asyncio.Task[None]] = set()

    async def find(self, key: K) -> V | None:
        """The value of that key. Raises: what `read` does."""
        if self._under_way < self._at_once:
            self._under_way += 1
            try:
                found = await self._read([key])
            finally:
                self._one_came_back()
        else:
            if self._next is None:
                self._next = _Round()
            self._next.keys.add(key)
            found = await asyncio.shield(self._next.found)  # it is the others' too
        return found.get(key)

    async def close(self) -> None:
        """End trips whose askers have all gone."""
        while self._trips:
            for trip in self._trips:
                trip.cancel()
            await asyncio.wait(self._trips)

    def _one_came_back(self) -> None:
        """Send those who have waited; who asks from here on waits for a later trip."""
        waiting, self._next = self._next, None
        if waiting is None:
            self._under_way -= 1
        else:
            trip = asyncio.create_task(self._travel(waiting), context=waiting.context)
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)

    async def _travel(self, waiting: _Round[K, V]) -> None:
        try:
            waiting.found.set_result(await self._read(list(waiting.keys)))
        except Exception as error:  # noqa: BLE001  whoever asked decides
            waiting.found.set_exception(error)
        except BaseException:
            waiting.found.cancel()
            raise
        finally:
            self._one_came_back()
