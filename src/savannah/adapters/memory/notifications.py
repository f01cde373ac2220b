"""Messages in memory: the outbox with its leases, delivery reports, and the gateway's pause."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final

from savannah.adapters.memory.orders import newest_of
from savannah.adapters.memory.tables import FREE, KeptReport, Tables, drop_oldest, page_of
from savannah.application.ports import DueMessage, Lock, NotificationFilter, Notifications
from savannah.domain.errors import NotFound, Unavailable
from savannah.domain.notification import (
    HANDED_OVER,
    OPEN,
    WAITING,
    DeliveryReport,
    Notification,
    Pause,
    SmsStatus,
)
from savannah.domain.notification_policy import SkipReason, Spending, price_of_segment
from savannah.domain.order import NotificationId, OrderId
from savannah.domain.paging import Page, PageRequest, Position

_REACHED_A_PHONE: Final = HANDED_OVER | OPEN
_GATEWAY: Final = "gateway"


class MemoryNotifications(Notifications):
    """Messages as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, notification: Notification) -> None:
        if notification.dedupe_key in self._tables.by_dedupe_key:
            raise Unavailable  # somebody else was faster; a repeat sees their message
        self._tables.by_dedupe_key.put(notification.dedupe_key, notification.id)
        self._tables.newest.put(notification.order_id, notification.id)
        self._put(notification)

    async def get(
        self, notification_id: NotificationId, *, lock: Lock | None = None
    ) -> Notification:
        del lock  # a unit of work that writes has all of the storage for itself
        notification = self._tables.notifications.get(notification_id)
        if notification is None:
            raise NotFound("notification")
        return notification

    async def get_many(
        self, ids: Collection[NotificationId], *, lock: Lock | None = None
    ) -> Sequence[Notification]:
        del lock  # as above
        found = (self._tables.notifications.get(notification_id) for notification_id in ids)
        return [notification for notification in found if notification is not None]

    async def save(self, *notifications: Notification) -> None:
        for notification in notifications:
            self._put(notification)

    def _put(self, notification: Notification) -> None:
        tables = self._tables
        tables.notifications.put(notification.id, notification)
        if notification.status in WAITING:
            tables.waiting.put(notification.id, FREE)
        elif notification.id in tables.waiting:
            tables.waiting.drop(notification.id)
        if notification.provider_id is not None:
            tables.by_provider_id.put(notification.provider_id, notification.id)
        if notification.handed_at is not None and notification.to is not None:
            to = notification.to.e164
            handed = tables.handed.get(to) or ()
            if notification.id not in handed:
                tables.handed.put(to, (*handed, notification.id))

    async def newest(self, order_id: OrderId) -> Notification | None:
        return newest_of(self._tables, order_id)

    async def handled(self, dedupe_key: str) -> bool:
        return dedupe_key in self._tables.by_dedupe_key

    async def list(self, where: NotificationFilter, page: PageRequest) -> Page[Notification]:
        matching = (
            row
            for row in self._tables.notifications.values()
            if (not where.status or row.status in where.status)
            and (not where.order or row.order_id in where.order)
            and (not where.customer or row.customer_id in where.customer)
        )
        return page_of(
            matching,
            page,
            position=lambda row: Position((row.created_at,), row.id),
            descending=page.ordering.descending,
        )

    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[NotificationId]:
        due = [
            message
            for message, leased_until in self._waiting()
            if message.due_at <= now and leased_until <= now
        ]
        due.sort(key=attrgetter("due_at", "id"))
        taken = [message.id for message in due[:most]]
        for notification_id in taken:
            self._tables.waiting.put(notification_id, until)
        return taken

    def _waiting(self) -> Iterator[tuple[Notification, datetime]]:
        for notification_id, leased_until in self._tables.waiting.items():
            message = self._tables.notifications.get(notification_id)
            assert message is not None
            yield message, leased_until

    async def next_due_at(self) -> datetime | None:
        free = (max(message.due_at, until) for message, until in self._waiting())
        return min(free, default=None)

    async def start(self, ids: Collection[NotificationId]) -> Sequence[DueMessage]:
        started: list[DueMessage] = []
        for notification_id in ids:
            if notification_id in self._tables.waiting:
                message = await self.get(notification_id)
                order = self._tables.orders.get(message.order_id)
                customer = self._tables.customers.get(message.customer_id)
                assert order is not None
                assert customer is not None
                started.append(
                    DueMessage(
                        notification=message,
                        order_version=order.version,
                        order_deleted=order.deleted_at is not None,
                        customer=customer,
                    )
                )
        return started

    async def release(self, ids: Collection[NotificationId]) -> None:
        for notification_id in ids:
            if notification_id in self._tables.waiting:
                self._tables.waiting.put(notification_id, FREE)

    async def stuck(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        return self._handed_before(handed_before, SmsStatus.SENDING, most)

    async def unknown_since(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        return self._handed_before(handed_before, SmsStatus.UNKNOWN, most)

    def _handed_before(
        self, moment: datetime, status: SmsStatus, most: int
    ) -> Sequence[Notification]:
        found = [
            row
            for row in self._tables.notifications.values()
            if row.status is status and row.handed_at is not None and row.handed_at < moment
        ]
        return sorted(found, key=attrgetter("handed_at", "id"))[:most]

    async def by_provider_id(self, provider_id: str) -> Notification | None:
        notification_id = self._tables.by_provider_id.get(provider_id)
        return None if notification_id is None else await self.get(notification_id)

    async def open_to(self, phone: str, *, handed_after: datetime) -> Sequence[Notification]:
        found = [
            row
            for row, handed_at in self._handed_to(phone)
            if row.status in OPEN and handed_at > handed_after
        ]
        return sorted(found, key=attrgetter("id"))[:2]

    async def texted_at(
        self, phones: Collection[str], *, after: datetime
    ) -> Mapping[str, Sequence[datetime]]:
        return {
            phone: times
            for phone in phones
            if (
                times := sorted(
                    handed_at
                    for row, handed_at in self._handed_to(phone)
                    if row.status in _REACHED_A_PHONE and handed_at > after
                )
            )
        }

    def _handed_to(self, phone: str) -> Iterator[tuple[Notification, datetime]]:
        for notification_id in self._tables.handed.get(phone) or ():
            row = self._tables.notifications.get(notification_id)
            # A message may have gone to another phone since, and an erased one to nobody.
            if row is not None and row.to is not None and row.to.e164 == phone and row.handed_at:
                yield row, row.handed_at

    async def spending(self, *, currency: str, today: datetime, month: datetime) -> Spending:
        handed = sorted(
            (
                (row.handed_at, row)
                for row in self._tables.notifications.values()
                if row.handed_at is not None
            ),
            key=lambda pair: (pair[0], pair[1].id),
        )
        quoted = [
            (at, row.cost.units, row.segments)
            for at, row in handed
            if row.cost is not None and row.cost.currency == currency
        ]
        still_open = [
            (at, row.segments)
            for at, row in handed
            if row.cost is None and (row.status in OPEN or row.provider_id is not None)
        ]
        return Spending(
            quoted_today=sum(units for at, units, _ in quoted if at >= today),
            quoted_this_month=sum(units for at, units, _ in quoted if at >= month),
            open_today=sum(segments for at, segments in still_open if at >= today),
            open_this_month=sum(segments for at, segments in still_open if at >= month),
            price=price_of_segment(*quoted[-1][1:]) if quoted else 0,
        )

    async def resent_at(self, order_id: OrderId, *, after: datetime) -> Sequence[datetime]:
        return sorted(
            row.created_at
            for row in self._of_order(order_id, self._tables.notifications.values())
            if row.resend_of is not None and row.created_at > after
        )

    async def skip_waiting(self, order_id: OrderId, *, reason: str, at: datetime) -> None:
        waiting = [message for message, _ in self._waiting()]
        for message in self._of_order(order_id, waiting):
            self._put(message.skipped(SkipReason(reason), at=at))

    @staticmethod
    def _of_order(order_id: OrderId, rows: Iterable[Notification]) -> Iterator[Notification]:
        return (row for row in rows if row.order_id == order_id)

    async def ids_of_dead(self) -> Sequence[NotificationId]:
        dead = [row for row in self._tables.notifications.values() if row.status is SmsStatus.DEAD]
        return [row.id for row in sorted(dead, key=attrgetter("created_at", "id"))]

    async def keep_report(self, report: DeliveryReport, *, matched: bool) -> bool:
        key = (report.provider_id, report.word)
        if key in self._tables.reports:
            return False
        self._tables.reports.put(key, KeptReport(report, matched))
        return True

    async def kept_reports(self, provider_ids: Collection[str]) -> Sequence[DeliveryReport]:
        kept = [
            (key, row.report)
            for key, row in self._tables.reports.items()
            if key[0] in provider_ids and not row.matched
        ]
        for key, report in kept:
            self._tables.reports.put(key, KeptReport(report, matched=True))
        return sorted((report for _, report in kept), key=attrgetter("received_at"))

    async def overtaken(self, *, most: int) -> Sequence[str]:
        known = {message.provider_id for message in self._tables.notifications.values()}
        waiting = {key[0] for key, row in self._tables.reports.items() if not row.matched}
        return sorted(waiting & known)[:most]

    async def unclaimed(self, *, handed_after: datetime, most: int) -> Sequence[DeliveryReport]:
        found = []
        for row in self._tables.reports.values():
            if row.matched or row.report.report is None:
                continue
            possible = [
                (message.status, handed_at)
                for message, handed_at in self._handed_to(row.report.phone)
                if message.status in OPEN and handed_at > handed_after
            ]
            if len(possible) == 1:
                ((status, handed_at),) = possible
                if status is SmsStatus.UNKNOWN and handed_at <= row.report.received_at:
                    found.append(row.report)
        return sorted(found, key=attrgetter("received_at", "provider_id", "word"))[:most]

    async def forget_reports(self, *, before: datetime, most: int) -> int:
        old = (
            (row.report.received_at, key)
            for key, row in self._tables.reports.items()
            if row.report.received_at <= before
        )
        return drop_oldest(self._tables.reports, old, most)

    async def pause(self) -> Pause | None:
        return self._tables.pauses.get(_GATEWAY)

    async def set_pause(self, pause: Pause | None) -> None:
        if pause is None:
            self._tables.pauses.drop(_GATEWAY)
        else:
            self._tables.pauses.put(_GATEWAY, pause)

    async def backlog(self) -> tuple[int, datetime | None]:
        due = [message.due_at for message, _ in self._waiting()]
        return len(due), min(due, default=None)
