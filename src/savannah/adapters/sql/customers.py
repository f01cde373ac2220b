"""Customers in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import eq, ge, lt
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Executable,
    Row,
    bindparam,
    func,
    insert,
    select,
    true,
    update,
)

from savannah.adapters.sql.engines import Lookup
from savannah.adapters.sql.paging import Listing
from savannah.adapters.sql.search import Search, SearchedTable, read_search
from savannah.adapters.sql.tables import (
    CUSTOMER_DOCUMENT,
    CUSTOMER_NAME,
    CUSTOMER_WHOLES,
    customers,
    orders,
)
from savannah.adapters.sql.transaction import Params, Transaction
from savannah.application.ports import CustomerFilter, Customers, Lock
from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import NotFound
from savannah.domain.order import OPEN
from savannah.domain.paging import Page, PageRequest
from savannah.domain.phone import PhoneNumber, search_digits
from savannah.domain.search import SearchQuery, fold
from savannah.domain.sms_text import Locale
from savannah.domain.text import email_key

_DERIVED: Final = {
    "email_key",
    "name_folded",
    "email_folded",
    "code_folded",
    "phone_digits",
}
_SELECT: Final = select(*(column for column in customers.c if column.name not in _DERIVED))
_GET: Final = Lookup(_SELECT, customers.c.id)
_GET_LOCKED: Final[dict[Lock, Any]] = {
    "share": _GET.one.with_for_update(read=True),
    "update": _GET.one.with_for_update(),
}
_INSERT: Final = insert(customers)
# The columns to set are those of the values it is executed with.
_UPDATE: Final = update(customers).where(customers.c.id == bindparam("customer_id"))
_OPEN_ORDERS: Final = select(func.count()).where(
    orders.c.customer_id == bindparam("customer_id"),
    orders.c.deleted_at.is_(None),
    orders.c.status.in_(sorted(OPEN)),
)
_ORDERINGS: Final[dict[str, ColumnElement[Any]]] = {
    "created_at": customers.c.created_at,
    "updated_at": customers.c.updated_at,
    "name": CUSTOMER_NAME,
}
_LISTING: Final = Listing(
    _SELECT,
    ids=customers.c.id,
    orderings=_ORDERINGS,
    among={
        "email": customers.c.email_key,
        "phone": customers.c.phone,
        "code": customers.c.code,
        "locale": customers.c.locale,
        "sms_reachability": customers.c.reachability,
    },
    compared={
        "sms_opt_out": (customers.c.sms_opt_out, eq),
        "created_from": (customers.c.created_at, ge),
        "created_before": (customers.c.created_at, lt),
        "updated_since": (customers.c.updated_at, ge),
    },
    plain={
        "live": customers.c.archived_at.is_(None),
        "archived": customers.c.archived_at.is_not(None),
    },
    even=("email", "phone", "code"),
)
SEARCHED_CUSTOMER: Final = SearchedTable(
    fields=(customers.c.name_folded, customers.c.email_folded, customers.c.code_folded),
    document=CUSTOMER_DOCUMENT,
    wholes=CUSTOMER_WHOLES,
    phone=customers.c.phone,
    phone_digits=customers.c.phone_digits,
)
_SEARCH: Final = Search(
    main=customers,
    rows=customers,
    id=customers.c.id,
    updated_at=customers.c.updated_at,
    tables=(SEARCHED_CUSTOMER,),
    kept=true(),
)


class SqlCustomers(Customers):
    """Customers as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, customer_id: CustomerId, *, lock: Lock | None = None) -> Customer:
        if lock is None:
            row = await self._transaction.find(_GET, customer_id)
        else:
            row = await self._transaction.first(_GET_LOCKED[lock], {"key": customer_id})
        if row is None:
            raise NotFound("customer")
        return customer_of(row)

    async def get_many(self, ids: Collection[CustomerId]) -> Mapping[CustomerId, Customer]:
        if not ids:
            return {}
        rows = await self._transaction.all(customers_among(ids))
        return {row.id: customer_of(row) for row in rows}

    async def add(self, customer: Customer) -> None:
        await self._write(_INSERT, {**_values(customer), "id": customer.id})

    async def save(self, customer: Customer) -> None:
        await self._write(_UPDATE, {**_values(customer), "customer_id": customer.id})

    async def _write(self, statement: Executable, values: Params) -> None:
        """Write now: a taken address is refused where it was given, not at the commit."""
        self._transaction.later(statement, values)
        await self._transaction.flush()

    async def list(self, where: CustomerFilter, page: PageRequest) -> Page[Customer]:
        name = page.ordering.name
        found = await _LISTING.page(
            self._transaction, _wanted(where), page, lambda row: getattr(row, name) or ""
        )
        return found.map(customer_of)

    async def search(
        self, query: SearchQuery, where: CustomerFilter, page: PageRequest
    ) -> Page[Customer]:
        found = await read_search(
            self._transaction,
            _SEARCH,
            query,
            page,
            columns=_SELECT,
            conditions=_LISTING.conditions(_wanted(where)),
        )
        return found.map(customer_of)

    async def open_orders(self, customer_id: CustomerId) -> int:
        row = await self._transaction.first(_OPEN_ORDERS, {"customer_id": customer_id})
        return 0 if row is None else int(row[0])


def customers_among(ids: Collection[CustomerId]) -> Any:
    """The query for customers by their ids."""
    return _SELECT.where(customers.c.id.in_(sorted(ids)))


def _wanted(where: CustomerFilter) -> Params:
    """The filters that apply, by their names in `_LISTING`."""
    wanted: Params = {
        name: sorted(among)
        for name, among in (
            ("email", {email_key(email) for email in where.email}),
            ("phone", where.phone),
            ("code", where.code),
            ("locale", where.locale),
            ("sms_reachability", where.sms_reachability),
        )
        if among
    }
    if where.archived is not None:
        wanted["archived" if where.archived else "live"] = None
    for name in ("sms_opt_out", "created_from", "created_before", "updated_since"):
        if (value := getattr(where, name)) is not None:
            wanted[name] = value
    return wanted


def _values(customer: Customer) -> Params:
    email, phone = customer.email, customer.phone
    return {
        "code": customer.code,
        "name": customer.name,
        "email": email,
        "phone": None if phone is None else phone.e164,
        "locale": customer.locale,
        "sms_opt_out": customer.sms_opt_out,
        "reachability": customer.reachability,
        "notes": customer.notes,
        "metadata": dict(customer.metadata),
        "created_at": customer.created_at,
        "updated_at": customer.updated_at,
        "archived_at": customer.archived_at,
        "erased_at": customer.erased_at,
        "version": customer.version,
        "email_key": None if email is None else email_key(email),
        "name_folded": None if customer.name is None else fold(customer.name),
        "email_folded": None if email is None else fold(email),
        "code_folded": fold(customer.code),
        "phone_digits": None if phone is None else search_digits(phone),
    }


def customer_of(row: Row[Any]) -> Customer:
    """The customer of a row of `customers`."""
    return Customer(
        id=row.id,
        code=row.code,
        name=row.name,
        email=row.email,
        phone=None if row.phone is None else PhoneNumber.from_e164(row.phone),
        locale=Locale(row.locale),
        sms_opt_out=row.sms_opt_out,
        reachability=Reachability(row.reachability),
        notes=row.notes,
        metadata=row.metadata,
        created_at=row.created_at,
        updated_at=row.updated_at,
        archived_at=row.archived_at,
        erased_at=row.erased_at,
        version=row.version,
    )
