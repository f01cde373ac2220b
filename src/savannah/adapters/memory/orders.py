"""Orders in memory; what is stored has no `sms` picture, what is read has the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from savannah.adapters.memory.customers import within
from savannah.adapters.memory.tables import Tables, by_rank, detached, page_of
from savannah.application.ports import Lock, OrderFilter, Orders
from savannah.domain.errors import NotFound, OrderNumberTaken
from savannah.domain.notification import Notification
from savannah.domain.order import Order, OrderId, SmsSummary
from savannah.domain.paging import Page, PageRequest, Position, SortValue
from savannah.domain.search import Rank, SearchQuery, match_order

_ORDERINGS: Final[dict[str, Callable[[Order], SortValue]]] = {
    "created_at": lambda order: order.created_at,
    "updated_at": lambda order: order.updated_at,
    "status_changed_at": lambda order: order.status_changed_at,
    "total_amount": lambda order: order.total.minor,
    "order_number": lambda order: order.number,
}


class MemoryOrders(Orders):
    """Orders as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, order_id: OrderId, *, lock: Lock | None = None) -> Order:
        del lock  # a unit of work that writes has all of the storage for itself
        order = self._tables.orders.get(order_id)
        if order is None or order.deleted_at is not None:
            raise NotFound("order")
        return self._with_sms(order)

    async def add(self, order: Order) -> None:
        if order.number in self._tables.order_by_number:
            raise OrderNumberTaken
        self._tables.order_by_number.put(order.number, order.id)
        await self.save(order)

    async def save(self, order: Order) -> None:
        self._tables.orders.put(order.id, detached(replace(order, sms=None)))

    async def list(self, where: OrderFilter, page: PageRequest) -> Page[Order]:
        value = page.ordering.among(_ORDERINGS)
        found = page_of(
            self._matching(where),
            page,
            position=lambda order: Position((value(order),), order.id),
            descending=page.ordering.descending,
        )
        return self._pictured(found)

    async def search(
        self, query: SearchQuery, where: OrderFilter, page: PageRequest
    ) -> Page[Order]:
        ranks: dict[OrderId, Rank] = {}
        matching: list[Order] = []
        for order in self._matching(where):
            customer = self._tables.customers.get(order.customer_id)
            assert customer is not None
            match = match_order(query, order, customer)
            if match is not None:
                ranks[order.id] = match.rank
                matching.append(order)
        found = page_of(
            matching,
            page,
            position=lambda order: Position((ranks[order.id].value, order.updated_at), order.id),
            sort_key=by_rank,
        )
        return self._pictured(found)

    def _matching(self, where: OrderFilter) -> Iterator[Order]:
        for order in self._tables.orders.values():
            if (
                order.deleted_at is None
                and (not where.status or order.status in where.status)
                and (not where.customer or order.customer_id in where.customer)
                and (not where.currency or order.price.currency in where.currency)
                and (where.min_amount is None or order.total.minor >= where.min_amount)
                and (where.max_amount is None or order.total.minor <= where.max_amount)
                and within(order.created_at, where.created_from, where.created_before)
                and within(order.updated_at, where.updated_since, None)
                and (not where.sms_status or self._sms_status(order) in where.sms_status)
            ):
                yield order

    def _sms_status(self, order: Order) -> str | None:
        newest = newest_of(self._tables, order.id)
        return None if newest is None else newest.status

    def _with_sms(self, order: Order) -> Order:
        newest = newest_of(self._tables, order.id)
        if newest is None:
            return detached(order)
        sms = SmsSummary(
            event=newest.event,
            status=newest.status,
            notification=newest.id,
            sent_at=newest.sent_at,
            delivered_at=newest.delivered_at,
        )
        return detached(replace(order, sms=sms))

    def _pictured(self, page: Page[Order]) -> Page[Order]:
        return replace(page, items=tuple(self._with_sms(order) for order in page.items))


def newest_of(tables: Tables, order_id: OrderId) -> Notification | None:
    """The message an order's `sms` picture shows."""
    newest = tables.newest.get(order_id)
    return None if newest is None else tables.notifications.get(newest)
