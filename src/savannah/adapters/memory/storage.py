"""Storage in memory: transactions, events and idempotency answers.

A unit of work that writes waits until no other one writes, sees its own changes at once, and
shows them to the others when it commits. A reading one never waits and sees what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from heapq import nsmallest
from operator import attrgetter
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from savannah.adapters.memory.customers import MemoryCustomers
from savannah.adapters.memory.identity import (
    MemoryClients,
    MemoryGrants,
    MemorySigningKeys,
    MemoryUsers,
)
from savannah.adapters.memory.notifications import MemoryNotifications
from savannah.adapters.memory.oauth import (
    MemoryBrowserSessions,
    MemoryConsents,
    MemoryHandshakes,
    MemoryLogoutNotices,
)
from savannah.adapters.memory.orders import MemoryOrders
from savannah.adapters.memory.reports import MemoryReports
from savannah.adapters.memory.tables import KeptAnswer, Tables, drop_oldest
from savannah.application.ports import (
    Events,
    Idempotency,
    IdempotencyRecordKey,
    Reading,
    Storage,
    UnitOfWork,
)
from savannah.domain.errors import IdempotencyKeyReused
from savannah.domain.events import LOGIN_ACTIONS, Event


class MemoryEvents(Events):
    """Events as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, event: Event) -> None:
        subject = (event.subject, event.subject_id)
        self._tables.events.put(subject, (*await self.of(*subject), event))

    async def of(self, subject: str, subject_id: UUID) -> Sequence[Event]:
        events = self._tables.events.get((subject, subject_id)) or ()
        return sorted(events, key=attrgetter("at", "id"))

    async def forget_logins(self, *, before: datetime, most: int) -> int:
        old = nsmallest(
            most,
            (
                event
                for events in self._tables.events.values()
                for event in events
                if event.action in LOGIN_ACTIONS and event.at <= before
            ),
            key=attrgetter("at", "id"),
        )
        gone = {event.id for event in old}
        for subject in {(event.subject, event.subject_id) for event in old}:
            kept = tuple(event for event in await self.of(*subject) if event.id not in gone)
            if kept:
                self._tables.events.put(subject, kept)
            else:
                self._tables.events.drop(subject)
        return len(old)


class MemoryIdempotency(Idempotency):
    """Answers as one transaction sees them.

    Writers take turns, so an equal request waits for the first one instead of being told that
    it is in progress.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def begin(
        self, key: IdempotencyRecordKey, fingerprint: str, *, now: datetime
    ) -> bytes | None:
        kept = self._tables.answers.get(key)
        if kept is None or kept.expires_at <= now:
            return None
        if kept.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return kept.answer

    async def finish(
        self, key: IdempotencyRecordKey, fingerprint: str, answer: bytes, *, expires_at: datetime
    ) -> None:
        self._tables.answers.put(key, KeptAnswer(fingerprint, answer, expires_at))

    async def forget_expired(self, *, now: datetime, most: int) -> int:
        expired = (
            (kept.expires_at, key)
            for key, kept in self._tables.answers.items()
            if kept.expires_at <= now
        )
        return drop_oldest(self._tables.answers, expired, most)


class MemoryUnitOfWork(UnitOfWork):
    """One transaction over dictionaries; it ends with `commit()` or with its block."""

    def __init__(
        self, committed: dict[str, dict[Any, Any]], turn: asyncio.Lock, *, reading: bool
    ) -> None:
        self._committed = committed
        self._turn = turn
        self._reading = reading
        self._writing = False

    async def __aenter__(self) -> Self:
        if not self._reading:
            await self._turn.acquire()
            self._writing = True
        self._tables = tables = Tables(self._committed, writable=self._writing)
        self.customers = MemoryCustomers(tables)
        self.orders = MemoryOrders(tables)
        self.notifications = MemoryNotifications(tables)
        self.reports = MemoryReports(tables)
        self.events = MemoryEvents(tables)
        self.idempotency = MemoryIdempotency(tables)
        self.users = MemoryUsers(tables)
        self.clients = MemoryClients(tables)
        self.grants = MemoryGrants(tables)
        self.handshakes = MemoryHandshakes(tables)
        self.sessions = MemoryBrowserSessions(tables)
        self.consents = MemoryConsents(tables)
        self.logout_notices = MemoryLogoutNotices(tables)
        self.signing_keys = MemorySigningKeys(tables)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tables.close()
        self._end()

    async def commit(self) -> None:
        self._tables.publish()
        self._end()

    def _end(self) -> None:
        if self._writing:
            self._writing = False
            self._turn.release()


class MemoryStorage(Storage):
    """Everything in this process's memory; gone when the process ends.

    Serves one event loop at a time. Another one, in a thread of its own, gets a RuntimeError while
    the former writes: nothing here would keep the two apart.
    """

    def __init__(self) -> None:
        self._committed: dict[str, dict[Any, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    def __call__(self, *, reading: Reading = False) -> MemoryUnitOfWork:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a lock stays with the loop that has waited for it
            if self._turn.locked() and self._loop is not None and self._loop.is_running():
                raise RuntimeError("This storage serves another event loop, which is writing")
            self._loop, self._turn = loop, asyncio.Lock()
        return MemoryUnitOfWork(self._committed, self._turn, reading=bool(reading))

    async def ping(self) -> None:
        return None
