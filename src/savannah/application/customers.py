"""Use cases on customers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from savannah.application import idempotency
from savannah.application.business import Business
from savannah.application.idempotency import Once
from savannah.application.ports import (
    Clock,
    CustomerFilter,
    Randomness,
    Storage,
    UnitOfWork,
)
from savannah.application.revision import IfMatch, check_version
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import (
    CODE_SYMBOLS,
    Customer,
    CustomerId,
    Reachability,
    generated_code,
)
from savannah.domain.errors import CodeTaken, CustomerHasOpenOrders
from savannah.domain.events import Event
from savannah.domain.paging import LIMIT_MAX, Page, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.search import Match, SearchQuery, match_customer

T = TypeVar("T")

_DRAWS = 5  # six base-32 symbols collide about once in a billion


@dataclass(frozen=True, slots=True)
class Hit(Generic[T]):
    """A row of a search and why it was found; `match` is None for a fuzzy one."""

    item: T
    match: Match | None


class Customers:
    """What can be done with customers; every method checks the caller's permission first."""

    def __init__(
        self, *, storage: Storage, clock: Clock, randomness: Randomness, business: Business
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._randomness = randomness
        self._business = business

    async def create(
        self,
        *,
        name: str,
        phone_number: str,
        email: str | None = None,
        code: str | None = None,
        locale: str | None = None,
        sms_opt_out: bool = False,
        notes: str = "",
        metadata: Mapping[str, str] | None = None,
        by: Caller,
        once: Once[Customer] | None = None,
    ) -> Customer:
        """Take a new customer on; without a `code` one is drawn.

        Raises:
            InsufficientScope, Invalid, EmailTaken, CodeTaken; with `once` also AlreadyDone and
            the refusals of an idempotency key.
        """
        by.require(Scope.CUSTOMERS_WRITE)
        for _ in range(_DRAWS):
            now = self._clock.now()
            async with self._storage() as uow:
                await idempotency.begin(once, uow, by=by, now=now)
                customer = Customer.create(
                    id=CustomerId(self._randomness.uuid()),
                    name=name,
                    phone_number=phone_number,
                    email=email,
                    code=generated_code(self._randomness.symbols(CODE_SYMBOLS, 6))
                    if code is None
                    else code,
                    locale=self._business.locale if locale is None else locale,
                    sms_opt_out=sms_opt_out,
                    notes=notes,
                    metadata=metadata,
                    region=self._business.region,
                    at=now,
                )
                try:
                    await uow.customers.add(customer)
                    await self._record(uow, "created", customer, by)
                    await idempotency.finish(once, uow, customer, by=by, now=now)
                    await uow.commit()
                except CodeTaken:
                    if code is not None:
                        raise
                else:
                    return customer
        raise CodeTaken

    async def get(self, customer_id: CustomerId, *, by: Caller) -> Customer:
        """One customer, archived ones too. Raises: InsufficientScope, NotFound."""
        by.require(Scope.CUSTOMERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.customers.get(customer_id)

    async def get_many(
        self, ids: Collection[CustomerId], *, by: Caller
    ) -> Mapping[CustomerId, Customer]:
        """Those of the customers that exist. Raises: InsufficientScope."""
        by.require(Scope.CUSTOMERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.customers.get_many(ids)

    async def list(self, where: CustomerFilter, page: PageRequest, *, by: Caller) -> Page[Customer]:
        """A page of customers. Raises: InsufficientScope, BadQuery for an unknown ordering."""
        by.require(Scope.CUSTOMERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.customers.list(where, page)

    async def search(
        self, q: str, where: CustomerFilter, page: PageRequest, *, by: Caller
    ) -> Page[Hit[Customer]]:
        """Customers by name, e-mail, code or phone, best first.

        Raises:
            InsufficientScope; BadQuery when `q` is too short or too long.
        """
        by.require(Scope.CUSTOMERS_READ)
        query = SearchQuery.parse(q, region=self._business.region)
        async with self._storage(reading=True) as uow:
            found = await uow.customers.search(query, where, page)
        return found.map(lambda customer: Hit(customer, match_customer(query, customer)))

    async def update(
        self,
        customer_id: CustomerId,
        changes: Mapping[str, object],
        *,
        by: Caller,
        if_match: IfMatch = None,
    ) -> Customer:
        """Merge changes; an effective no-op changes nothing.

        Raises:
            InsufficientScope, NotFound, Invalid, StaleVersion, CustomerErased,
            CustomerArchived, EmailTaken.
        """
        by.require(Scope.CUSTOMERS_WRITE)
        async with self._storage() as uow:
            customer = await uow.customers.get(customer_id, lock="update")
            after, changed = customer.updated(
                changes, region=self._business.region, at=self._clock.now()
            )
            check_version(customer.version, if_match)
            customer.require_editable()
            if changed:
                await uow.customers.save(after)
                data: dict[str, object] = {"fields": list(changed)}
                if "sms_opt_out" in changed:
                    data["sms_opt_out"] = after.sms_opt_out
                await self._record(uow, "updated", after, by, data)
                await uow.commit()
            return after

    async def archive(
        self, customer_id: CustomerId, *, by: Caller, if_match: IfMatch = None
    ) -> None:
        """Take a customer out of the way; history, code and totals stay. A repeat is fine.

        Raises:
            InsufficientScope, NotFound, StaleVersion, CustomerHasOpenOrders.
        """
        by.require(Scope.CUSTOMERS_DELETE)
        async with self._storage() as uow:
            customer = await uow.customers.get(customer_id, lock="update")
            check_version(customer.version, if_match)
            after = customer.archived(at=self._clock.now())
            if after is customer:
                return
            if open_orders := await uow.customers.open_orders(customer_id):
                raise CustomerHasOpenOrders(open_orders)
            await uow.customers.save(after)
            await self._record(uow, "archived", after, by)
            await uow.commit()

    async def restore(
        self,
        customer_id: CustomerId,
        *,
        by: Caller,
        if_match: IfMatch = None,
        once: Once[Customer] | None = None,
    ) -> Customer:
        """Bring an archived customer back.

        Raises:
            InsufficientScope, NotFound, StaleVersion, CustomerErased; EmailTaken when the
            address was given to another one meanwhile.
        """
        by.require(Scope.CUSTOMERS_DELETE)
        now = self._clock.now()
        async with self._storage() as uow:
            await idempotency.begin(once, uow, by=by, now=now)
            customer = await uow.customers.get(customer_id, lock="update")
            check_version(customer.version, if_match)
            after = customer.restored(at=now)
            if after is not customer:
                await uow.customers.save(after)
                await self._record(uow, "restored", after, by)
            await idempotency.finish(once, uow, after, by=by, now=now)
            await uow.commit()
            return after

    async def opt_out(self, phone: str, *, source: str) -> int:
        """Respect a subscriber's wish told to the gateway: no more texts to this number.

        Args:
            phone: E.164.
            source: who told us, for the audit log.

        Returns:
            How many customers have that phone and were still getting texts.
        """
        by = Caller(principal=source, permissions=frozenset())
        where = CustomerFilter(phone=(phone,), archived=None, sms_opt_out=False)
        opted_out = 0
        page: PageRequest | None = PageRequest(limit=LIMIT_MAX, count=False)
        async with self._storage() as uow:
            while page is not None:
                found = await uow.customers.list(where, page)
                for listed in found.items:
                    customer = await uow.customers.get(listed.id, lock="update")
                    after, changed = customer.updated(
                        {"sms_opt_out": True}, region=self._business.region, at=self._clock.now()
                    )
                    if changed:  # else somebody else did it between the list and the lock
                        await uow.customers.save(after)
                        data = {"fields": list(changed), "sms_opt_out": True}
                        await self._record(uow, "updated", after, by, data)
                        opted_out += 1
                page = None if found.next is None else replace(page, after=found.next)
            await uow.commit()
        return opted_out

    async def _record(
        self,
        uow: UnitOfWork,
        what: str,
        customer: Customer,
        by: Caller,
        data: Mapping[str, object] | None = None,
    ) -> None:
        await uow.events.add(
            Event(
                id=self._randomness.uuid(),
                at=customer.updated_at,
                actor=by.principal,
                action=f"customer.{what}",
                subject="customer",
                subject_id=customer.id,
                version=customer.version,
                data=data or {},
                request_id=by.request_id,
            )
        )


async def learn_reachability(
    uow: UnitOfWork,
    customer_id: CustomerId,
    reachability: Reachability,
    *,
    phone: PhoneNumber | None,
) -> None:
    """Keep what a report or refusal taught about a customer's phone; not a revision.

    Nothing is learnt about a `phone` that the customer has no longer.
    """
    customer = await uow.customers.get(customer_id, lock="update")
    if customer.phone == phone and customer.reachability is not reachability:
        await uow.customers.save(customer.reached(reachability))
