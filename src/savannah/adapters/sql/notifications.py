"""Messages in SQL: the outbox with its leases, delivery reports, and the gateway's pause.

`free_at` is the outbox in one column: while a message waits, nobody may take it before that; one
that does not wait has none.

Whoever locks several messages does so in the order of their ids, or passes over those that are
locked; so no two wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Executable,
    Row,
    Select,
    Subquery,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    select,
    true,
    update,
)

from savannah.adapters.sql.customers import customer_of
from savannah.adapters.sql.orders import point_to_newest
from savannah.adapters.sql.paging import SortKey, read_page
from savannah.adapters.sql.retention import forget, oldest
from savannah.adapters.sql.tables import (
    IN_OUTBOX,
    IS_UNQUOTED,
    customers,
    delivery_reports,
    gateway_pauses,
    notifications,
    orders,
)
from savannah.adapters.sql.transaction import Params, Transaction, insert_of
from savannah.application.ports import (
    DueMessage,
    Lock,
    NotificationFilter,
    Notifications,
)
from savannah.domain.errors import NotFound
from savannah.domain.notification import (
    HANDED_OVER,
    OPEN,
    WAITING,
    Cost,
    DeliveryReport,
    Notification,
    Pause,
    RefusalKind,
    Report,
    SmsStatus,
)
from savannah.domain.notification_policy import (
    DeferReason,
    RuleOutcome,
    RuleResult,
    SkipReason,
    Spending,
    price_of_segment,
)
from savannah.domain.order import NotificationId, OrderId
from savannah.domain.paging import Page, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Encoding, Locale, SmsEvent

_REACHED_A_PHONE: Final = sorted(HANDED_OVER | OPEN)
_GATEWAY: Final = "gateway"

_n = notifications.c
# The rules as text: what they say repeats, and is read once, see `_rules_of`.
_SELECT: Final = select(
    *(
        cast(column, Text).label("rules") if column.name == "rules" else column
        for column in _n
        if column.name != "free_at"
    )
)
_GET: Final = _SELECT.where(_n.id == bindparam("notification_id"))
_GET_LOCKED: Final[dict[Lock | None, Any]] = {
    None: _GET,
    "share": _GET.with_for_update(read=True),
    "update": _GET.with_for_update(),
}
_INSERT: Final = insert(notifications)
# On SQLite. The columns to set are those of the values it is executed with.
_UPDATE: Final = update(notifications).where(_n.id == bindparam("notification_id"))
_NEWEST: Final = (
    _SELECT.select_from(orders)
    .join(notifications, _n.id == orders.c.notification_id)
    .where(orders.c.id == bindparam("order_id"))
)
_HANDLED: Final = select(_n.id).where(_n.dedupe_key == bindparam("dedupe_key"))
_DUE: Final = (
    select(_n.id)
    .where(_n.due_at <= bindparam("now"), _n.free_at <= bindparam("now"), IN_OUTBOX)
    .order_by(_n.due_at, _n.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("due")  # by itself, so that it is asked once, whatever the plan
)
_LEASE: Final = (
    update(notifications)
    .where(_n.id.in_(select(_DUE.c.id)))
    .values(free_at=bindparam("until"))
    .returning(_n.id, _n.due_at)
)
_NEXT_FREE: Final = select(func.min(_n.free_at)).where(IN_OUTBOX)
_BACKLOG: Final = select(func.count().label("messages"), func.min(_n.due_at).label("since")).where(
    IN_OUTBOX
)
_BY_PROVIDER_ID: Final = (
    _SELECT.where(_n.provider_id == bindparam("provider_id"))
    .order_by(_n.created_at.desc(), _n.id.desc())
    .limit(1)
    .with_for_update()
)
_HANDED_BEFORE: Final = (
    _SELECT.where(_n.status == bindparam("status"), _n.handed_at < bindparam("moment"))
    .order_by(_n.handed_at, _n.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_OPEN_TO: Final = (
    _SELECT.where(
        _n.to_phone == bindparam("phone"),
        _n.handed_at > bindparam("after"),
        _n.status.in_(sorted(OPEN)),
    )
    .order_by(_n.id)
    .limit(2)
    .with_for_update()
)


def _sums(what: Column[Any], *where: ColumnElement[bool]) -> Subquery:
    """What was handed over since the month began, and since the day did."""
    month, today = (_n.handed_at >= bindparam(since) for since in ("month", "today"))
    of_month = func.sum(what)
    return (
        select(
            *(
                cast(func.coalesce(each, 0), BigInteger).label(name)
                for name, each in (("today", of_month.filter(today)), ("month", of_month))
            )
        )
        .where(month, *where)
        .subquery()
    )


_QUOTED: Final = _sums(_n.cost_units, _n.cost_currency == bindparam("currency"))
_UNQUOTED: Final = _sums(_n.segments, IS_UNQUOTED)
_LAST_QUOTE: Final = (
    select(_n.cost_units.label("units"), _n.segments)
    .where(_n.cost_currency == bindparam("currency"), _n.handed_at.is_not(None))
    .order_by(_n.handed_at.desc(), _n.id.desc())
    .limit(1)
    .subquery()
)
_SPENDING: Final = select(
    _QUOTED.c.today.label("quoted_today"),
    _QUOTED.c.month.label("quoted_this_month"),
    _UNQUOTED.c.today.label("open_today"),
    _UNQUOTED.c.month.label("open_this_month"),
    _LAST_QUOTE,
).select_from(_QUOTED.join(_UNQUOTED, true()).outerjoin(_LAST_QUOTE, true()))
_RESENT: Final = (
    select(_n.created_at)
    .where(
        _n.order_id == bindparam("order_id"),
        _n.resend_of.is_not(None),
        _n.created_at > bindparam("after"),
    )
    .order_by(_n.created_at)
)
_SKIP_WAITING: Final = update(notifications).where(
    _n.id.in_(
        select(_n.id)
        .where(_n.order_id == bindparam("of_order"), IN_OUTBOX)
        .order_by(_n.id)
        .with_for_update()
    )
)
_DEAD: Final = select(_n.id).where(_n.status == SmsStatus.DEAD).order_by(_n.created_at, _n.id)
_OVERTAKEN: Final = (
    select(delivery_reports.c.provider_id)
    .distinct()
    .join(notifications, _n.provider_id == delivery_reports.c.provider_id)
    .where(delivery_reports.c.matched.is_(False))
    .order_by(delivery_reports.c.provider_id)
    .limit(bindparam("most"))
)
_UNCLAIMED: Final = (
    select(delivery_reports)
    .where(
        delivery_reports.c.matched.is_(False),
        delivery_reports.c.report.is_not(None),
        delivery_reports.c.received_at > bindparam("after"),
        # One outcome is open, and that one's message may have waited for the report.
        select(
            and_(
                func.count() == 1,
                func.count().filter(
                    _n.status == SmsStatus.UNKNOWN, _n.handed_at <= delivery_reports.c.received_at
                )
                == 1,
            )
        )
        .where(
            _n.to_phone == delivery_reports.c.phone,
            _n.status.in_(sorted(OPEN)),
            _n.handed_at > bindparam("after"),
        )
        .scalar_subquery(),
    )
    .order_by(
        delivery_reports.c.received_at, delivery_reports.c.provider_id, delivery_reports.c.word
    )
    .limit(bindparam("most"))
)
_MATCH_REPORT: Final = update(delivery_reports).where(
    delivery_reports.c.provider_id == bindparam("of_provider_id"),
    delivery_reports.c.word == bindparam("of_word"),
)
_FORGET_REPORTS: Final = (oldest(delivery_reports.c.received_at),)
_PAUSE: Final = select(gateway_pauses).where(gateway_pauses.c.gateway == _GATEWAY)
_PAUSED: Final[dict[str, BindParameter[Any]]] = {
    name: bindparam(f"new_{name}") for name in ("kind", "code", "until", "since")
}
_END_PAUSE: Final = delete(gateway_pauses).where(gateway_pauses.c.gateway == bindparam("of"))


# --- statements over many rows -------------------------------------------------------------------

# What changes after a message was added.
_CHANGING: Final = (
    "to_phone",
    "text",
    "encoding",
    "segments",
    "status",
    "skip_reason",
    "defer_reason",
    "rules",
    "attempts",
    "due_at",
    "free_at",
    "handed_at",
    "sent_at",
    "delivered_at",
    "provider_id",
    "cost_currency",
    "cost_units",
    "outcome_code",
    "updated_at",
)


class _Many:
    """Statements over many rows at once. On Postgres a list is one parameter, an array.

    So the text of a statement does not depend on how many there are, and is prepared once.
    """

    def __init__(self, dialect: str) -> None:
        self._arrays = dialect == "postgresql"
        among = _SELECT.where(self._among(_n.id, "ids")).order_by(_n.id)
        self.get: Final[dict[Lock | None, Any]] = {
            None: among,
            "share": among.with_for_update(read=True),
            "update": among.with_for_update(),
        }
        waiting = select(_n.id).where(self._among(_n.id, "ids"), IN_OUTBOX).order_by(_n.id)
        self.release: Final = (
            update(notifications)
            .where(_n.id.in_(waiting.with_for_update()))
            .values(free_at=_n.due_at)
        )
        self.start: Final = (
            _SELECT.add_columns(
                orders.c.version.label("order_version"),
                orders.c.deleted_at.label("order_deleted_at"),
            )
            .join(orders, orders.c.id == _n.order_id)
            .where(self._among(_n.id, "ids"), IN_OUTBOX)
            .order_by(_n.id)
            .with_for_update(of=notifications)
        )
        self.customers: Final = select(customers).where(self._among(customers.c.id, "ids"))
        self.texted: Final = (
            select(_n.to_phone, _n.handed_at)
            .where(
                self._among(_n.to_phone, "phones"),
                _n.handed_at > bindparam("after"),
                _n.status.in_(_REACHED_A_PHONE),
            )
            .order_by(_n.handed_at)
        )
        reports = delivery_reports.c
        self.kept_reports: Final = (
            select(delivery_reports)
            .where(self._among(reports.provider_id, "provider_ids"), reports.matched.is_(False))
            .order_by(reports.received_at, reports.provider_id, reports.word)
            .with_for_update()
        )

    def _among(self, what: Column[Any], name: str) -> ColumnElement[bool]:
        if self._arrays:
            return what == any_(bindparam(name, type_=ARRAY(what.type)))
        return what.in_(bindparam(name, expanding=True))


_many: Final = cache(_Many)


@cache
def _save_arrays() -> Executable:
    """Change many rows to what stands in arrays, one for each column: one row, one trip each."""
    given_types: dict[str, Any] = {"id": _n.id.type} | {
        name: Text() if name == "rules" else _n[name].type for name in _CHANGING
    }
    given = (
        func.unnest(
            *(bindparam(f"new_{name}", type_=ARRAY(kind)) for name, kind in given_types.items())
        )
        .table_valued(*(column(name, kind) for name, kind in given_types.items()))
        .render_derived(name="given")
    )
    changes = {
        name: cast(given.c[name], JSON) if name == "rules" else given.c[name] for name in _CHANGING
    }
    # Whoever changes many locks them in the order of their ids; a join has none of its own.
    locked = (
        select(_n.id)
        .where(_n.id == any_(bindparam("new_id", type_=ARRAY(_n.id.type))))
        .order_by(_n.id)
        .with_for_update()
        .cte("locked")
    )
    return (
        update(notifications).where(_n.id == locked.c.id, locked.c.id == given.c.id).values(changes)
    )


# --- statements that each dialect has of its own -------------------------------------------------


@cache
def _keep_report(dialect: str) -> Executable:
    kept: Executable = insert_of(dialect)(delivery_reports).on_conflict_do_nothing()
    return kept


@cache
def _set_pause(dialect: str) -> Executable:
    paused: Executable = (
        insert_of(dialect)(gateway_pauses)
        .values(gateway=_GATEWAY, **_PAUSED)
        .on_conflict_do_update(index_elements=["gateway"], set_=_PAUSED)
    )
    return paused


class SqlNotifications(Notifications):
    """Messages as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._many = _many(transaction.dialect)

    async def add(self, notification: Notification) -> None:
        self._transaction.later(_INSERT, {**_values(notification), "id": notification.id})
        point_to_newest(self._transaction, notification.order_id, notification.id)

    async def get(
        self, notification_id: NotificationId, *, lock: Lock | None = None
    ) -> Notification:
        values = {"notification_id": notification_id}
        row = await self._transaction.first(_GET_LOCKED[lock], values)
        if row is None:
            raise NotFound("notification")
        return _notification_of(row)

    async def get_many(
        self, ids: Collection[NotificationId], *, lock: Lock | None = None
    ) -> Sequence[Notification]:
        if not ids:
            return ()
        return await self._found(self._many.get[lock], {"ids": sorted(ids)})

    async def save(self, *notifications: Notification) -> None:
        changed = sorted(notifications, key=lambda message: message.id)
        if self._transaction.dialect != "postgresql":
            for each in changed:
                self._transaction.later(_UPDATE, {**_changes(each), "notification_id": each.id})
        elif changed:
            rows = [_changes(each) for each in changed]
            arrays = {f"new_{name}": [row[name] for row in rows] for name in _CHANGING}
            arrays["new_id"] = [each.id for each in changed]
            arrays["new_rules"] = [_as_json(each.rules) for each in changed]
            self._transaction.later(_save_arrays(), arrays)

    async def newest(self, order_id: OrderId) -> Notification | None:
        row = await self._transaction.first(_NEWEST, {"order_id": order_id})
        return None if row is None else _notification_of(row)

    async def handled(self, dedupe_key: str) -> bool:
        row = await self._transaction.first(_HANDLED, {"dedupe_key": dedupe_key})
        return row is not None

    async def list(self, where: NotificationFilter, page: PageRequest) -> Page[Notification]:
        descending = page.ordering.descending
        conditions = [
            column.in_(sorted(among))
            for column, among in (
                (_n.status, where.status),
                (_n.order_id, where.order),
                (_n.customer_id, where.customer),
            )
            if among
        ]
        found = await read_page(
            self._transaction,
            _SELECT.where(*conditions),
            (SortKey(_n.created_at, descending), SortKey(_n.id, descending)),
            page,
            lambda row: (row.created_at,),
        )
        return found.map(_notification_of)

    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[NotificationId]:
        values = {"now": now, "until": until, "most": most}
        taken = await self._transaction.all(_LEASE, values)
        return [row.id for row in sorted(taken, key=lambda row: (row.due_at, row.id))]

    async def next_due_at(self) -> datetime | None:
        row = await self._transaction.first(_NEXT_FREE)
        return None if row is None else row[0]

    async def start(self, ids: Collection[NotificationId]) -> Sequence[DueMessage]:
        if not ids:
            return ()
        rows = await self._transaction.all(self._many.start, {"ids": sorted(ids)})
        if not rows:
            return ()
        buying = sorted({row.customer_id for row in rows})
        buyers = await self._transaction.all(self._many.customers, {"ids": buying})
        by_id = {buyer.id: customer_of(buyer) for buyer in buyers}
        place = {notification_id: number for number, notification_id in enumerate(ids)}
        return [
            DueMessage(
                notification=_notification_of(row),
                order_version=row.order_version,
                order_deleted=row.order_deleted_at is not None,
                customer=by_id[row.customer_id],
            )
            for row in sorted(rows, key=lambda row: place[row.id])
        ]

    async def release(self, ids: Collection[NotificationId]) -> None:
        if ids:
            self._transaction.later(self._many.release, {"ids": sorted(ids)})

    async def stuck(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        return await self._handed_before(handed_before, SmsStatus.SENDING, most)

    async def unknown_since(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        return await self._handed_before(handed_before, SmsStatus.UNKNOWN, most)

    async def _handed_before(
        self, moment: datetime, status: SmsStatus, most: int
    ) -> Sequence[Notification]:
        values = {"moment": moment, "status": status, "most": most}
        return await self._found(_HANDED_BEFORE, values)

    async def by_provider_id(self, provider_id: str) -> Notification | None:
        row = await self._transaction.first(_BY_PROVIDER_ID, {"provider_id": provider_id})
        return None if row is None else _notification_of(row)

    async def open_to(self, phone: str, *, handed_after: datetime) -> Sequence[Notification]:
        return await self._found(_OPEN_TO, {"phone": phone, "after": handed_after})

    async def texted_at(
        self, phones: Collection[str], *, after: datetime
    ) -> Mapping[str, Sequence[datetime]]:
        if not phones:
            return {}
        values = {"phones": sorted(phones), "after": after}
        texted: dict[str, list[datetime]] = {}
        for row in await self._transaction.all(self._many.texted, values):
            texted.setdefault(row.to_phone, []).append(row.handed_at)
        return texted

    async def spending(self, *, currency: str, today: datetime, month: datetime) -> Spending:
        values = {"currency": currency, "today": today, "month": month}
        (row,) = await self._transaction.all(_SPENDING, values)
        return Spending(
            quoted_today=row.quoted_today,
            quoted_this_month=row.quoted_this_month,
            open_today=row.open_today,
            open_this_month=row.open_this_month,
            price=0 if row.units is None else price_of_segment(row.units, row.segments),
        )

    async def resent_at(self, order_id: OrderId, *, after: datetime) -> Sequence[datetime]:
        rows = await self._transaction.all(_RESENT, {"order_id": order_id, "after": after})
        return [row.created_at for row in rows]

    async def skip_waiting(self, order_id: OrderId, *, reason: str, at: datetime) -> None:
        skipped = {
            "status": SmsStatus.SKIPPED,
            "skip_reason": SkipReason(reason),
            "defer_reason": None,
            "free_at": None,
            "updated_at": at,
        }
        self._transaction.later(_SKIP_WAITING, {**skipped, "of_order": order_id})

    async def ids_of_dead(self) -> Sequence[NotificationId]:
        return [row.id for row in await self._transaction.all(_DEAD)]

    async def keep_report(self, report: DeliveryReport, *, matched: bool) -> bool:
        statement = _keep_report(self._transaction.dialect)
        values = {
            "provider_id": report.provider_id,
            "word": report.word,
            "report": report.report,
            "phone": report.phone,
            "network_code": report.network_code,
            "failure_reason": report.failure_reason,
            "received_at": report.received_at,
            "matched": matched,
        }
        return await self._transaction.run(
            lambda connection: connection.execute(statement, values).rowcount == 1
        )

    async def kept_reports(self, provider_ids: Collection[str]) -> Sequence[DeliveryReport]:
        if not provider_ids:
            return ()
        values = {"provider_ids": sorted(provider_ids)}
        rows = await self._transaction.all(self._many.kept_reports, values)
        for row in rows:
            key = {"of_provider_id": row.provider_id, "of_word": row.word}
            self._transaction.later(_MATCH_REPORT, {"matched": True, **key})
        return [_report_of(row) for row in rows]

    async def overtaken(self, *, most: int) -> Sequence[str]:
        return [row.provider_id for row in await self._transaction.all(_OVERTAKEN, {"most": most})]

    async def unclaimed(self, *, handed_after: datetime, most: int) -> Sequence[DeliveryReport]:
        values = {"after": handed_after, "most": most}
        return [_report_of(row) for row in await self._transaction.all(_UNCLAIMED, values)]

    async def forget_reports(self, *, before: datetime, most: int) -> int:
        return await forget(self._transaction, _FORGET_REPORTS, moment=before, most=most)

    async def pause(self) -> Pause | None:
        row = await self._transaction.first(_PAUSE)
        if row is None:
            return None
        return Pause(kind=RefusalKind(row.kind), code=row.code, until=row.until, since=row.since)

    async def set_pause(self, pause: Pause | None) -> None:
        if pause is None:
            self._transaction.later(_END_PAUSE, {"of": _GATEWAY})
        else:
            values = {f"new_{name}": getattr(pause, name) for name in _PAUSED}
            self._transaction.later(_set_pause(self._transaction.dialect), values)

    async def backlog(self) -> tuple[int, datetime | None]:
        row = await self._transaction.first(_BACKLOG)
        return (0, None) if row is None else (row.messages, row.since)

    async def _found(
        self, statement: Select[Any], values: Params | None = None
    ) -> Sequence[Notification]:
        return [_notification_of(row) for row in await self._transaction.all(statement, values)]


def _values(notification: Notification) -> Params:
    return _changes(notification) | {
        "order_id": notification.order_id,
        "customer_id": notification.customer_id,
        "event": notification.event,
        "dedupe_key": notification.dedupe_key,
        "locale": notification.locale,
        "resend_of": notification.resend_of,
        "request_id": notification.request_id,
        "traceparent": notification.traceparent,
        "tracestate": notification.tracestate,
        "created_at": notification.created_at,
    }


def _changes(notification: Notification) -> Params:
    to, cost = notification.to, notification.cost
    return {
        "to_phone": None if to is None else to.e164,
        "text": notification.text,
        "encoding": notification.encoding,
        "segments": notification.segments,
        "status": notification.status,
        "skip_reason": notification.skip_reason,
        "defer_reason": notification.defer_reason,
        "rules": [[outcome.rule, outcome.result] for outcome in notification.rules],
        "attempts": notification.attempts,
        "due_at": notification.due_at,
        # Whoever writes a message is done with its lease.
        "free_at": notification.due_at if notification.status in WAITING else None,
        "handed_at": notification.handed_at,
        "sent_at": notification.sent_at,
        "delivered_at": notification.delivered_at,
        "provider_id": notification.provider_id,
        "cost_currency": None if cost is None else cost.currency,
        "cost_units": None if cost is None else cost.units,
        "outcome_code": notification.outcome_code,
        "updated_at": notification.updated_at,
    }


@lru_cache(maxsize=256)
def _as_json(rules: tuple[RuleOutcome, ...]) -> str:
    """The judgements that are there are few."""
    listed = [[outcome.rule, outcome.result] for outcome in rules]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=256)
def _rules_of(written: str) -> tuple[RuleOutcome, ...]:
    return tuple(RuleOutcome(rule, RuleResult(result)) for rule, result in json.loads(written))


def _notification_of(row: Row[Any]) -> Notification:
    return Notification(
        id=row.id,
        order_id=row.order_id,
        customer_id=row.customer_id,
        event=SmsEvent(row.event),
        dedupe_key=row.dedupe_key,
        to=None if row.to_phone is None else PhoneNumber.from_e164(row.to_phone),
        locale=Locale(row.locale),
        text=row.text,
        encoding=Encoding(row.encoding),
        segments=row.segments,
        status=SmsStatus(row.status),
        skip_reason=None if row.skip_reason is None else SkipReason(row.skip_reason),
        defer_reason=None if row.defer_reason is None else DeferReason(row.defer_reason),
        rules=_rules_of(row.rules),
        attempts=row.attempts,
        due_at=row.due_at,
        handed_at=row.handed_at,
        sent_at=row.sent_at,
        delivered_at=row.delivered_at,
        provider_id=row.provider_id,
        cost=None
        if row.cost_units is None
        else Cost(currency=row.cost_currency, units=row.cost_units),
        outcome_code=row.outcome_code,
        resend_of=row.resend_of,
        request_id=row.request_id,
        traceparent=row.traceparent,
        tracestate=row.tracestate,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _report_of(row: Row[Any]) -> DeliveryReport:
    return DeliveryReport(
        provider_id=row.provider_id,
        report=None if row.report is None else Report(row.report),
        word=row.word,
        phone=row.phone,
        network_code=row.network_code,
        failure_reason=row.failure_reason,
        received_at=row.received_at,
    )
