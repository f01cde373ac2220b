"""Reads by key that travel together: one trip for all who asked while the last was on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row

Found = Mapping[UUID, Row[Any]]
# One that hangs on a dying connection must not hold up everybody.
_UNDER_WAY_MOST: Final = 2


class _Round:
    """Keys that wait for the next trip, and what it will have found.

    It is made for the first who waits, whose request its span in a trace belongs to.
    """

    def __init__(self) -> None:
        self.keys: set[UUID] = set()
        self.context = copy_context()
        self.found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        # Everybody who asked may have gone by the time it fails.
        self.found.add_done_callback(lambda found: found.cancelled() or found.exception())


class GatheredReads:
    """Reads rows by their key; each is read after it was asked for, and never kept.

    So it is as fresh as a read of one's own. Alone, it is one; under load, a trip serves many.

    Args:
        read: the rows of some keys, by key.
    """

    def __init__(self, read: Callable[[Sequence[UUID]], Awaitable[Found]]) -> None:
        self._read = read
        self._under_way = 0
        self._next: _Round | None = None
        self._trips: set[asyncio.Task[None]] = set()

    async def find(self, key: UUID) -> Row[Any] | None:
        """The row of that key. Raises: what `read` does."""
        if self._under_way < _UNDER_WAY_MOST:
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
        """Wait for trips whose askers have all gone."""
        while self._trips:
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

    async def _travel(self, waiting: _Round) -> None:
        try:
            waiting.found.set_result(await self._read(list(waiting.keys)))
        except Exception as error:  # noqa: BLE001  whoever asked decides
            waiting.found.set_exception(error)
        except BaseException:
            waiting.found.cancel()
            raise
        finally:
            self._one_came_back()
