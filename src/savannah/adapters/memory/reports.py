"""Raw sums for statistics, counted in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import Final

from savannah.adapters.memory.tables import Tables
from savannah.application.ports import Reports
from savannah.domain.customer import CustomerId
from savannah.domain.notification import Notification
from savannah.domain.order import Order, Status
from savannah.domain.statistics import (
    TOP_ITEMS,
    AnalyticsSums,
    CustomerSums,
    DaySum,
    ItemSum,
    Period,
    SmsSum,
    StatusSum,
    middle,
)

_RECENT: Final = timedelta(days=7)


class MemoryReports(Reports):
    """Sums over what one transaction sees."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def stamp(self) -> str | None:
        return None  # counting is as cheap as looking whether it is still true

    async def customer(self, customer_id: CustomerId) -> CustomerSums:
        return CustomerSums(
            by_status=_status_sums(self._orders(customer_id)),
            sms=_sms_sums(self._messages(customer_id)),
        )

    async def analytics(
        self, *, period: Period, currency: str, customer: CustomerId | None, now: datetime
    ) -> AnalyticsSums:
        start, before = period.starts_at, period.ends_before
        ever = self._orders(customer)
        every_currency = [order for order in ever if start <= order.created_at < before]
        orders = [order for order in every_currency if order.price.currency == currency]
        customers = {order.customer_id for order in orders}
        earlier = {order.customer_id for order in ever if order.created_at < start}
        return AnalyticsSums(
            by_status=_status_sums(every_currency),
            days=_day_sums(orders, lambda moment: moment.astimezone(period.zone).date()),
            top_items=_top_items(orders),
            customers=len(customers),
            new_customers=len(customers - earlier),
            recent_orders=sum(
                order.price.currency == currency and now - _RECENT <= order.created_at <= now
                for order in ever
            ),
            seconds_to_ship=middle(
                int((order.shipped_at - order.created_at).total_seconds())
                for order in orders
                if order.shipped_at is not None
            ),
            seconds_to_deliver=middle(
                int((order.delivered_at - order.created_at).total_seconds())
                for order in orders
                if order.delivered_at is not None
            ),
            sms=_sms_sums(
                row for row in self._messages(customer) if start <= row.created_at < before
            ),
        )

    def _orders(self, customer_id: CustomerId | None) -> list[Order]:
        return [
            order
            for order in self._tables.orders.values()
            if order.deleted_at is None and customer_id in (None, order.customer_id)
        ]

    def _messages(self, customer_id: CustomerId | None) -> list[Notification]:
        shown = {order.id for order in self._orders(customer_id)}
        return [row for row in self._tables.notifications.values() if row.order_id in shown]


def _status_sums(orders: Iterable[Order]) -> list[StatusSum]:
    groups: dict[tuple[str, Status], list[Order]] = {}
    for order in orders:
        groups.setdefault((order.price.currency, order.status), []).append(order)
    return [
        StatusSum(
            currency=currency,
            status=status,
            orders=len(group),
            total_minor=sum(order.total.minor for order in group),
            units=sum(order.quantity for order in group),
            largest_minor=max(order.total.minor for order in group),
            first_at=min(order.created_at for order in group),
            last_at=max(order.created_at for order in group),
        )
        for (currency, status), group in sorted(groups.items())
    ]


def _day_sums(orders: Iterable[Order], day_of: Callable[[datetime], date]) -> list[DaySum]:
    groups: dict[date, list[Order]] = {}
    for order in orders:
        groups.setdefault(day_of(order.created_at), []).append(order)
    return [
        DaySum(
            day=day,
            orders=len(group),
            cancelled=sum(order.status is Status.CANCELLED for order in group),
            net_minor=sum(order.total.minor for order in _live(group)),
        )
        for day, group in sorted(groups.items())
    ]


def _top_items(orders: Iterable[Order]) -> list[ItemSum]:
    groups: dict[str, list[Order]] = {}
    for order in _live(orders):
        groups.setdefault(order.item.casefold(), []).append(order)
    sums = [
        (
            name,
            ItemSum(
                item=max(group, key=lambda order: (order.created_at, order.id)).item,
                orders=len(group),
                units=sum(order.quantity for order in group),
                net_minor=sum(order.total.minor for order in group),
            ),
        )
        for name, group in groups.items()
    ]
    sums.sort(key=lambda pair: (-pair[1].net_minor, pair[0]))
    return [item for _, item in sums[:TOP_ITEMS]]


def _live(orders: Iterable[Order]) -> list[Order]:
    return [order for order in orders if order.status is not Status.CANCELLED]


def _sms_sums(messages: Iterable[Notification]) -> list[SmsSum]:
    groups: dict[str, list[Notification]] = {}
    for message in messages:
        groups.setdefault(message.status, []).append(message)
    return [
        SmsSum(
            status=status,
            messages=len(group),
            segments=sum(message.segments for message in group),
            cost=_costs(group),
        )
        for status, group in sorted(groups.items())
    ]


def _costs(messages: Iterable[Notification]) -> dict[str, int]:
    costs: dict[str, int] = {}
    for message in messages:
        if message.cost is not None:
            currency = message.cost.currency
            costs[currency] = costs.get(currency, 0) + message.cost.units
    return costs
