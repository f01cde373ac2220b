"""Rows in dictionaries: what is committed, what one transaction sees, and pages of sorted rows.

Rows are frozen, so a transaction shares them and keeps only what it has changed. Only their
metadata is not; callers get and give copies of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from savannah.application.ports import IdempotencyRecordKey
from savannah.domain.clients import Client
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.events import Event
from savannah.domain.identity import Grant, GrantId, RefreshToken, SigningKey, User, UserId
from savannah.domain.notification import DeliveryReport, Notification, Pause
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    Consent,
    LogoutNotice,
    PushedRequest,
)
from savannah.domain.order import NotificationId, Order, OrderId
from savannah.domain.paging import Page, PageRequest, Position

K = TypeVar("K")
V = TypeVar("V")
Row = TypeVar("Row")
Tagged = TypeVar("Tagged", Customer, Order)

FREE: Final = datetime.min.replace(tzinfo=UTC)
_END: Final = datetime.max.replace(tzinfo=UTC)


class _Gone:
    """Stands for a row that this transaction has deleted."""


_GONE: Final = _Gone()


class Table(Generic[K, V]):
    """One table as one transaction sees it: the committed rows under its own changes."""

    __slots__ = ("_changes", "_committed", "_writable")

    def __init__(self, committed: dict[K, V], *, writable: bool) -> None:
        self._committed = committed
        self._changes: dict[K, V | _Gone] = {}
        self._writable = writable

    def get(self, key: K) -> V | None:
        if self._changes and key in self._changes:
            changed = self._changes[key]
            return None if isinstance(changed, _Gone) else changed
        return self._committed.get(key)

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def items(self) -> Iterator[tuple[K, V]]:
        if not self._changes:
            yield from self._committed.items()
            return
        for key, row in self._committed.items():
            if key not in self._changes:
                yield key, row
        for key, changed in self._changes.items():
            if not isinstance(changed, _Gone):
                yield key, changed

    def values(self) -> Iterator[V]:
        return (row for _, row in self.items())

    def put(self, key: K, row: V) -> None:
        self._require_writable()
        self._changes[key] = row

    def drop(self, key: K) -> None:
        self._require_writable()
        self._changes[key] = _GONE

    def _require_writable(self) -> None:
        if not self._writable:
            raise RuntimeError("This unit of work is for reading only, or has ended")

    def publish(self) -> None:
        """Make the changes the committed state; nothing can be changed afterwards."""
        for key, changed in self._changes.items():
            if isinstance(changed, _Gone):
                self._committed.pop(key, None)
            else:
                self._committed[key] = changed
        self.close()

    def close(self) -> None:
        """Drop the changes that were not published; nothing can be changed afterwards."""
        self._changes = {}
        self._writable = False


@dataclass(frozen=True, slots=True)
class KeptReport:
    report: DeliveryReport
    matched: bool


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    fingerprint: str
    answer: bytes
    expires_at: datetime


class Tables:
    """Every table as one transaction sees it. The lower half are indexes of the upper one.

    `waiting` holds the queued and deferred messages with the end of their lease (`FREE` without
    one); `handed` every message that was ever handed over to a phone.
    """

    def __init__(self, committed: dict[str, dict[Any, Any]], *, writable: bool) -> None:
        self._all: list[Table[Any, Any]] = []

        def table(name: str) -> Table[Any, Any]:
            rows = committed.setdefault(name, {})
            self._all.append(Table(rows, writable=writable))
            return self._all[-1]

        self.customers: Table[CustomerId, Customer] = table("customers")
        self.orders: Table[OrderId, Order] = table("orders")
        self.notifications: Table[NotificationId, Notification] = table("notifications")
        self.reports: Table[tuple[str, str], KeptReport] = table("reports")
        self.pauses: Table[str, Pause] = table("pauses")
        self.events: Table[tuple[str, UUID], tuple[Event, ...]] = table("events")
        self.answers: Table[IdempotencyRecordKey, KeptAnswer] = table("answers")
        self.users: Table[UserId, User] = table("users")
        self.clients: Table[str, Client] = table("clients")
        self.grants: Table[GrantId, Grant] = table("grants")
        self.refresh_tokens: Table[str, RefreshToken] = table("refresh_tokens")
        self.codes: Table[str, AuthorizationCode] = table("codes")
        self.pushed: Table[str, PushedRequest] = table("pushed")
        self.claimed: Table[str, datetime] = table("claimed")
        self.sessions: Table[UUID, BrowserSession] = table("sessions")
        self.consents: Table[tuple[UserId, str], Consent] = table("consents")
        self.logout_notices: Table[UUID, LogoutNotice] = table("logout_notices")
        self.signing_keys: Table[str, SigningKey] = table("signing_keys")

        self.customer_by_email: Table[str, CustomerId] = table("customer_by_email")
        self.customer_by_code: Table[str, CustomerId] = table("customer_by_code")
        self.order_by_number: Table[str, OrderId] = table("order_by_number")
        self.newest: Table[OrderId, NotificationId] = table("newest")
        self.by_dedupe_key: Table[str, NotificationId] = table("by_dedupe_key")
        self.by_provider_id: Table[str, NotificationId] = table("by_provider_id")
        self.waiting: Table[NotificationId, datetime] = table("waiting")
        self.handed: Table[str, tuple[NotificationId, ...]] = table("handed")

    def publish(self) -> None:
        """Make the changes the committed state; nothing can be changed afterwards."""
        for table in self._all:
            table.publish()

    def close(self) -> None:
        """Drop the changes that were not published; nothing can be changed afterwards."""
        for table in self._all:
            table.close()


def drop_oldest(table: Table[K, V], old: Iterable[tuple[datetime, K]], most: int) -> int:
    """Delete the first of these rows, each told by its moment and key; how many."""
    gone = heapq.nsmallest(most, old)
    for _, key in gone:
        table.drop(key)
    return len(gone)


def page_of(
    rows: Iterable[Row],
    request: PageRequest,
    *,
    position: Callable[[Row], Position],
    sort_key: Callable[[Position], tuple[Any, ...]] = lambda place: (*place.values, place.id),
    descending: bool = False,
) -> Page[Row]:
    """The page of the matching rows that a request asks for, in the order of `sort_key`."""
    keyed = [(sort_key(position(row)), row) for row in rows]
    counted = len(keyed) if request.count else None
    backward = request.before is not None
    upwards = descending is backward  # whether reading goes from smaller to larger keys
    place = request.before if backward else request.after
    if place is not None:
        start = sort_key(place)
        keyed = [pair for pair in keyed if (pair[0] > start if upwards else pair[0] < start)]
    pick = heapq.nsmallest if upwards else heapq.nlargest
    nearest = pick(request.limit + 1, keyed, key=itemgetter(0))
    return Page.cut([row for _, row in nearest], request, position=position, counted=counted)


def detached(row: Tagged) -> Tagged:
    """The row with metadata of its own: whoever changes that changes no other copy."""
    return replace(row, metadata=dict(row.metadata))


def by_rank(place: Position) -> tuple[Any, ...]:
    """The order of search results: rank, newer `updated_at`, id."""
    rank, updated_at = place.values
    assert isinstance(updated_at, datetime)
    return (rank, _END - updated_at, place.id)
