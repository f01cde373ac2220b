"""Orders in SQL; every read joins the newest message for the order's `sms` picture."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter, ge, le, lt
from typing import Any, Final

from sqlalchemy import Column, Row, bindparam, func, insert, select, update

from savannah.adapters.sql.customers import SEARCHED_CUSTOMER
from savannah.adapters.sql.engines import Lookup
from savannah.adapters.sql.paging import Listing
from savannah.adapters.sql.search import Search, SearchedTable, read_search
from savannah.adapters.sql.tables import (
    ORDER_DOCUMENT,
    ORDER_WHOLES,
    customers,
    notifications,
    orders,
)
from savannah.adapters.sql.transaction import Params, Transaction
from savannah.application.ports import Lock, OrderFilter, Orders
from savannah.domain.errors import NotFound
from savannah.domain.money import Money
from savannah.domain.notification import SmsStatus
from savannah.domain.order import (
    Cancellation,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    Reference,
    SmsSummary,
    Status,
)
from savannah.domain.paging import Page, PageRequest
from savannah.domain.search import SearchQuery, fold
from savannah.domain.sms_text import SmsEvent

_DERIVED: Final = {"number_compact", "item_key", "item_folded", "notes_folded"}
_FROM: Final = orders.outerjoin(notifications, notifications.c.id == orders.c.notification_id)
_COLUMNS: Final = (
    *(column for column in orders.c if column.name not in _DERIVED),
    notifications.c.event.label("sms_event"),
    notifications.c.status.label("sms_status"),
    notifications.c.sent_at.label("sms_sent_at"),
    notifications.c.delivered_at.label("sms_delivered_at"),
)
_SELECT: Final = select(*_COLUMNS).select_from(_FROM).where(orders.c.deleted_at.is_(None))
_SELECT_WITH_CUSTOMER: Final = (
    select(*_COLUMNS)
    .select_from(_FROM.join(customers, customers.c.id == orders.c.customer_id))
    .where(orders.c.deleted_at.is_(None))
)
_GET: Final = Lookup(_SELECT, orders.c.id)
# Only the order is locked: the message may be missing, and is not what is changed here.
_GET_LOCKED: Final[dict[Lock, Any]] = {
    "share": _GET.one.with_for_update(read=True, of=orders),
    "update": _GET.one.with_for_update(of=orders),
}
_INSERT: Final = insert(orders)
# The columns to set are those of the values it is executed with.
_UPDATE: Final = update(orders).where(orders.c.id == bindparam("order_id"))
_ORDERINGS: Final[dict[str, Column[Any]]] = {
    "created_at": orders.c.created_at,
    "updated_at": orders.c.updated_at,
    "status_changed_at": orders.c.status_changed_at,
    "total_amount": orders.c.total_minor,
    "order_number": orders.c.number,
}
# What nearly all messages end as: where they are wanted it is the orders that lead to them.
_MOST_MESSAGES: Final = {SmsStatus.SENT, SmsStatus.DELIVERED}
_LISTING: Final = Listing(
    _SELECT,
    ids=orders.c.id,
    orderings=_ORDERINGS,
    among={
        "status": orders.c.status,
        "customer": orders.c.customer_id,
        "currency": orders.c.currency,
        "sms_status": notifications.c.status,
    },
    compared={
        "min_amount": (orders.c.total_minor, ge),
        "max_amount": (orders.c.total_minor, le),
        "created_from": (orders.c.created_at, ge),
        "created_before": (orders.c.created_at, lt),
        "updated_since": (orders.c.updated_at, ge),
    },
    # A message knows its order, so few messages lead to few orders.
    plain={"of_message": notifications.c.order_id == orders.c.id},
    even=("customer",),
)
_WITH_CUSTOMER: Final = customers.c.id == orders.c.customer_id
_SEARCH: Final = Search(
    main=orders,
    rows=orders.join(customers, _WITH_CUSTOMER),
    id=orders.c.id,
    updated_at=orders.c.updated_at,
    tables=(
        SearchedTable(
            fields=(func.lower(orders.c.number), orders.c.item_folded, orders.c.notes_folded),
            document=ORDER_DOCUMENT,
            wholes=ORDER_WHOLES,
            reference=orders.c.number_compact,
        ),
        SEARCHED_CUSTOMER,
    ),
    kept=orders.c.deleted_at.is_(None),
)
_SEARCH_WITH_SMS: Final = replace(_SEARCH, main=_FROM, rows=_FROM.join(customers, _WITH_CUSTOMER))


class SqlOrders(Orders):
    """Orders as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, order_id: OrderId, *, lock: Lock | None = None) -> Order:
        if lock is None:
            row = await self._transaction.find(_GET, order_id)
        else:
            row = await self._transaction.first(_GET_LOCKED[lock], {"key": order_id})
        if row is None:
            raise NotFound("order")
        return _order_of(row)

    async def add(self, order: Order) -> None:
        values = {**_values(order), "id": order.id, "notification_id": None}
        self._transaction.later(_INSERT, values)
        self._transaction.waiting_orders[order.id] = values

    async def save(self, order: Order) -> None:
        values = {**_values(order), "order_id": order.id}
        self._transaction.later(_UPDATE, values)
        self._transaction.waiting_orders[order.id] = values

    async def list(self, where: OrderFilter, page: PageRequest) -> Page[Order]:
        name = page.ordering.among(_ORDERINGS).name
        found = await _LISTING.page(self._transaction, _wanted(where), page, attrgetter(name))
        return found.map(_order_of)

    async def search(
        self, query: SearchQuery, where: OrderFilter, page: PageRequest
    ) -> Page[Order]:
        found = await read_search(
            self._transaction,
            _SEARCH_WITH_SMS if where.sms_status else _SEARCH,
            query,
            page,
            columns=_SELECT_WITH_CUSTOMER,
            conditions=_LISTING.conditions(_wanted(where)),
        )
        return found.map(_order_of)


def point_to_newest(
    transaction: Transaction, order_id: OrderId, notification_id: NotificationId
) -> None:
    """Make a message the order's newest one, with its own write where that is still to come."""
    waiting = transaction.waiting_orders.get(order_id)
    if waiting is None:
        transaction.later(_UPDATE, {"notification_id": notification_id, "order_id": order_id})
    else:
        waiting["notification_id"] = notification_id


def _wanted(where: OrderFilter) -> Params:
    """The filters that apply, by their names in `_LISTING`."""
    wanted: Params = {
        name: sorted(among)
        for name, among in (
            ("status", where.status),
            ("customer", where.customer),
            ("currency", where.currency),
            ("sms_status", where.sms_status),
        )
        if among
    }
    for name in ("min_amount", "max_amount", "created_from", "created_before", "updated_since"):
        if (bound := getattr(where, name)) is not None:
            wanted[name] = bound
    if where.sms_status and not _MOST_MESSAGES & set(where.sms_status):
        wanted["of_message"] = True
    return wanted


def _values(order: Order) -> Params:
    cancellation = order.cancellation
    return {
        "number": order.number,
        "customer_id": order.customer_id,
        "item": order.item,
        "price_minor": order.price.minor,
        "currency": order.price.currency,
        "quantity": order.quantity,
        "total_minor": order.total.minor,
        "status": order.status,
        "notes": order.notes,
        "metadata": dict(order.metadata),
        "cancel_reason": None if cancellation is None else cancellation.reason,
        "cancel_note": None if cancellation is None else cancellation.note,
        "cancelled_at": None if cancellation is None else cancellation.cancelled_at,
        "cancelled_by": None if cancellation is None else cancellation.cancelled_by,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "status_changed_at": order.status_changed_at,
        "shipped_at": order.shipped_at,
        "delivered_at": order.delivered_at,
        "deleted_at": order.deleted_at,
        "version": order.version,
        "number_compact": Reference.compact(order.number),
        "item_key": order.item.casefold(),
        "item_folded": fold(order.item),
        "notes_folded": None if order.notes is None else fold(order.notes),
    }


def _order_of(row: Row[Any]) -> Order:
    return Order(
        id=row.id,
        number=row.number,
        customer_id=row.customer_id,
        item=row.item,
        price=Money(row.price_minor, row.currency),
        quantity=row.quantity,
        status=Status(row.status),
        notes=row.notes,
        metadata=row.metadata,
        cancellation=None
        if row.cancel_reason is None
        else Cancellation(
            reason=CancelReason(row.cancel_reason),
            note=row.cancel_note,
            cancelled_at=row.cancelled_at,
            cancelled_by=row.cancelled_by,
        ),
        created_at=row.created_at,
        updated_at=row.updated_at,
        status_changed_at=row.status_changed_at,
        shipped_at=row.shipped_at,
        delivered_at=row.delivered_at,
        deleted_at=row.deleted_at,
        version=row.version,
        sms=None
        if row.sms_event is None
        else SmsSummary(
            event=SmsEvent(row.sms_event),
            status=row.sms_status,
            notification=row.notification_id,
            sent_at=row.sms_sent_at,
            delivered_at=row.sms_delivered_at,
        ),
    )
