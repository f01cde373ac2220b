"""Codes, pushed requests, browser sessions, consents and logout notices in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from savannah.adapters.memory.tables import Tables, drop_oldest
from savannah.application.ports import (
    BrowserSessions,
    Consents,
    Handshakes,
    Lock,
    LogoutNotices,
)
from savannah.domain.identity import UserId
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    Consent,
    LogoutNotice,
    PushedRequest,
)


class MemoryHandshakes(Handshakes):
    """What is under way, as one transaction sees it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add_code(self, code: AuthorizationCode) -> None:
        self._tables.codes.put(code.digest, code)

    async def find_code(self, digest: str) -> AuthorizationCode | None:
        return self._tables.codes.get(digest)

    async def consume_code(self, digest: str, *, at: datetime) -> bool:
        code = self._tables.codes.get(digest)
        if code is None or code.consumed_at is not None:
            return False
        self._tables.codes.put(digest, replace(code, consumed_at=at))
        return True

    async def push(self, request: PushedRequest) -> None:
        self._tables.pushed.put(request.digest, request)

    async def take_pushed(self, digest: str, client_id: str) -> PushedRequest | None:
        request = self._tables.pushed.get(digest)
        if request is None or request.client_id != client_id:
            return None
        self._tables.pushed.drop(digest)
        return request

    async def claim(self, digest: str, *, expires_at: datetime) -> bool:
        if digest in self._tables.claimed:
            return False
        self._tables.claimed.put(digest, expires_at)
        return True

    async def forget(self, *, now: datetime, codes_before: datetime, most: int) -> int:
        tables = self._tables
        pushed = ((r.expires_at, k) for k, r in tables.pushed.items() if r.expires_at <= now)
        claimed = ((at, k) for k, at in tables.claimed.items() if at <= now)
        codes = ((c.expires_at, k) for k, c in tables.codes.items() if c.expires_at <= codes_before)
        return (
            drop_oldest(tables.pushed, pushed, most)
            + drop_oldest(tables.claimed, claimed, most)
            + drop_oldest(tables.codes, codes, most)
        )


class MemoryBrowserSessions(BrowserSessions):
    """Browser sessions as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, session: BrowserSession) -> None:
        self._tables.sessions.put(session.id, session)

    async def find(self, digest: str) -> BrowserSession | None:
        found = (s for s in self._tables.sessions.values() if s.digest == digest)
        return next(found, None)

    async def get(self, session_id: UUID, *, lock: Lock | None = None) -> BrowserSession | None:
        del lock  # a unit of work that writes has all of the storage for itself
        return self._tables.sessions.get(session_id)

    async def save(self, session: BrowserSession) -> None:
        self._tables.sessions.put(session.id, session)

    async def end(self, session_id: UUID, *, at: datetime) -> bool:
        session = self._tables.sessions.get(session_id)
        if session is None or session.ended_at is not None:
            return False
        self._tables.sessions.put(session_id, replace(session, ended_at=at))
        return True

    async def end_of_user(self, user_id: UserId, *, at: datetime) -> Collection[UUID]:
        theirs = [s.id for s in self._tables.sessions.values() if s.user_id == user_id]
        return [each for each in theirs if await self.end(each, at=at)]

    async def forget(self, *, before: datetime, most: int) -> int:
        sessions = self._tables.sessions
        old = ((s.expires_at, k) for k, s in sessions.items() if s.expires_at <= before)
        return drop_oldest(sessions, old, most)


class MemoryConsents(Consents):
    """Consents as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def find(self, user_id: UserId, client_id: str) -> Consent | None:
        return self._tables.consents.get((user_id, client_id))

    async def put(self, consent: Consent) -> None:
        self._tables.consents.put((consent.user_id, consent.client_id), consent)

    async def of_user(self, user_id: UserId) -> Sequence[Consent]:
        theirs = [each for each in self._tables.consents.values() if each.user_id == user_id]
        return sorted(theirs, key=attrgetter("client_id"))

    async def remove(self, user_id: UserId, client_id: str) -> bool:
        found = await self.find(user_id, client_id)
        if found is not None:
            self._tables.consents.drop((user_id, client_id))
        return found is not None


class MemoryLogoutNotices(LogoutNotices):
    """Logout notices as one transaction sees them; a lease is a later due time."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, notice: LogoutNotice) -> None:
        self._tables.logout_notices.put(notice.id, notice)

    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[LogoutNotice]:
        due = [n for n in self._tables.logout_notices.values() if n.due_at <= now]
        taken = sorted(due, key=attrgetter("due_at", "id"))[:most]
        for notice in taken:
            self._tables.logout_notices.put(notice.id, replace(notice, due_at=until))
        return taken

    async def postpone(self, notice_id: UUID, *, until: datetime) -> None:
        notice = self._tables.logout_notices.get(notice_id)
        if notice is not None:
            later = replace(notice, due_at=until, attempts=notice.attempts + 1)
            self._tables.logout_notices.put(notice_id, later)

    async def remove(self, notice_id: UUID) -> None:
        self._tables.logout_notices.drop(notice_id)
