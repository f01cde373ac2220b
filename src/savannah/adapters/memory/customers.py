"""Customers in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Final

from savannah.adapters.memory.tables import Tables, by_rank, detached, page_of
from savannah.application.ports import CustomerFilter, Customers, Lock
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.errors import CodeTaken, EmailTaken, NotFound
from savannah.domain.order import OPEN
from savannah.domain.paging import Page, PageRequest, Position, SortValue
from savannah.domain.search import Rank, SearchQuery, match_customer
from savannah.domain.text import email_key


def _name(customer: Customer) -> SortValue:
    return customer.name or ""


def _created_at(customer: Customer) -> SortValue:
    return customer.created_at


def _updated_at(customer: Customer) -> SortValue:
    return customer.updated_at


_ORDERINGS: Final = {"created_at": _created_at, "updated_at": _updated_at, "name": _name}


class MemoryCustomers(Customers):
    """Customers as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, customer_id: CustomerId, *, lock: Lock | None = None) -> Customer:
        del lock  # a unit of work that writes has all of the storage for itself
        customer = self._tables.customers.get(customer_id)
        if customer is None:
            raise NotFound("customer")
        return detached(customer)

    async def get_many(self, ids: Collection[CustomerId]) -> Mapping[CustomerId, Customer]:
        found = {customer_id: self._tables.customers.get(customer_id) for customer_id in ids}
        return {key: detached(customer) for key, customer in found.items() if customer is not None}

    async def add(self, customer: Customer) -> None:
        if customer.code in self._tables.customer_by_code:
            raise CodeTaken
        self._put(customer, before=None)
        self._tables.customer_by_code.put(customer.code, customer.id)

    async def save(self, customer: Customer) -> None:
        self._put(customer, before=await self.get(customer.id))

    def _put(self, customer: Customer, *, before: Customer | None) -> None:
        old, new = _claimed_email(before), _claimed_email(customer)
        if old != new:
            if new is not None:
                if new in self._tables.customer_by_email:
                    raise EmailTaken
                self._tables.customer_by_email.put(new, customer.id)
            if old is not None:
                self._tables.customer_by_email.drop(old)
        self._tables.customers.put(customer.id, detached(customer))

    async def list(self, where: CustomerFilter, page: PageRequest) -> Page[Customer]:
        value = page.ordering.among(_ORDERINGS)
        return page_of(
            self._matching(where),
            page,
            position=lambda customer: Position((value(customer),), customer.id),
            descending=page.ordering.descending,
        ).map(detached)

    async def search(
        self, query: SearchQuery, where: CustomerFilter, page: PageRequest
    ) -> Page[Customer]:
        ranked: list[tuple[Rank, Customer]] = []
        for customer in self._matching(where):
            match = match_customer(query, customer)
            if match is not None:
                ranked.append((match.rank, customer))
        ranks = {customer.id: rank for rank, customer in ranked}
        return page_of(
            (customer for _, customer in ranked),
            page,
            position=lambda customer: Position(
                (ranks[customer.id].value, customer.updated_at), customer.id
            ),
            sort_key=by_rank,
        ).map(detached)

    def _matching(self, where: CustomerFilter) -> Iterator[Customer]:
        emails = {email_key(email) for email in where.email}
        for customer in self._tables.customers.values():
            if (
                (not emails or (customer.email and email_key(customer.email) in emails))
                and (not where.phone or (customer.phone and customer.phone.e164 in where.phone))
                and (not where.code or customer.code in where.code)
                and (not where.locale or customer.locale in where.locale)
                and where.sms_opt_out in (None, customer.sms_opt_out)
                and (not where.sms_reachability or customer.reachability in where.sms_reachability)
                and where.archived in (None, customer.archived_at is not None)
                and within(customer.created_at, where.created_from, where.created_before)
                and within(customer.updated_at, where.updated_since, None)
            ):
                yield customer

    async def open_orders(self, customer_id: CustomerId) -> int:
        return sum(
            order.customer_id == customer_id and order.deleted_at is None and order.status in OPEN
            for order in self._tables.orders.values()
        )


def within(moment: datetime, start: datetime | None, before: datetime | None) -> bool:
    """Whether a moment lies between an inclusive and an exclusive bound; None is no bound."""
    return (start is None or moment >= start) and (before is None or moment < before)


def _claimed_email(customer: Customer | None) -> str | None:
    """The address nobody else may have meanwhile: an archived customer claims none."""
    if customer is None or customer.email is None or customer.archived_at is not None:
        return None
    return email_key(customer.email)
