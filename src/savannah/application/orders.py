"""Use cases on orders. The order, its event and its message commit together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from savannah.application import idempotency, trace
from savannah.application.business import Business
from savannah.application.customers import Hit
from savannah.application.idempotency import Once
from savannah.application.ports import (
    Clock,
    JobQueue,
    Metrics,
    OrderFilter,
    Randomness,
    Storage,
    UnitOfWork,
)
from savannah.application.revision import IfMatch, check_version
from savannah.domain import order as rules
from savannah.domain import text
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.errors import (
    Invalid,
    NotFound,
    OrderNumberTaken,
    Problems,
    Refused,
)
from savannah.domain.events import Event
from savannah.domain.notification import Notification, SmsStatus, dedupe_key
from savannah.domain.notification_policy import SkipReason
from savannah.domain.order import (
    CROCKFORD,
    REFERENCE_SYMBOLS,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    SmsSummary,
    Status,
)
from savannah.domain.paging import Page, PageRequest
from savannah.domain.search import SearchQuery, match_order
from savannah.domain.sms_text import SmsEvent

_DRAWS: Final = 5  # six base-32 symbols; a collision draws again


class Orders:
    """What can be done with orders; every method checks the caller's permission first."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: JobQueue,
        clock: Clock,
        randomness: Randomness,
        metrics: Metrics,
        business: Business,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._clock = clock
        self._randomness = randomness
        self._metrics = metrics
        self._business = business

    async def create(
        self,
        *,
        customer: UUID | str,
        item: str,
        amount: str | int,
        quantity: int = 1,
        currency: str | None = None,
        notes: str = "",
        metadata: Mapping[str, str] | None = None,
        notify: bool = True,
        by: Caller,
        once: Once[Order] | None = None,
    ) -> Order:
        """Take an order and queue its text; the gateway can neither fail nor slow this.

        Args:
            amount: the unit price as a decimal string or an integer.
            notify: False records a skipped message instead.

        Raises:
            InsufficientScope, Invalid (every broken field, `customer_not_found` among them),
            CustomerErased, CustomerArchived; with `once` also AlreadyDone and the refusals of
            a key.
        """
        by.require(Scope.ORDERS_WRITE)
        for _ in range(_DRAWS):
            now = self._clock.now()
            async with self._storage() as uow:
                await idempotency.begin(once, uow, by=by, now=now)
                problems = Problems()
                wanted = problems.check("customer", lambda: _customer_id(customer), default=None)
                wants_text = problems.check("notify", lambda: text.flag(notify), default=True)
                buyer, order = None, None
                if wanted is not None:
                    try:
                        buyer = await uow.customers.get(wanted, lock="share")
                    except NotFound:
                        problems.add("customer", "customer_not_found", "There is no such customer")
                try:
                    order = Order.create(
                        id=OrderId(self._randomness.uuid()),
                        symbols=self._randomness.symbols(CROCKFORD, REFERENCE_SYMBOLS),
                        customer_id=wanted or CustomerId(UUID(int=0)),
                        item=item,
                        amount=amount,
                        quantity=quantity,
                        currency=self._business.currency if currency is None else currency,
                        currencies=self._business.currencies,
                        notes=notes,
                        metadata=metadata,
                        at=now,
                    )
                except Invalid as invalid:
                    problems.extend(invalid)
                problems.raise_if_any()
                assert buyer is not None
                assert order is not None
                buyer.require_editable()
                try:
                    await uow.orders.add(order)
                    order, message = await self._text(
                        uow, order, buyer, SmsEvent.ORDER_CREATED, notify=wants_text, by=by
                    )
                    await self._record(
                        uow,
                        "created",
                        order,
                        by,
                        {"status": order.status, "total": str(order.total), "sms": message.status},
                    )
                    await idempotency.finish(once, uow, order, by=by, now=now)
                    await uow.commit()
                except OrderNumberTaken:
                    continue
            self._metrics.order_created()
            self._announce(message)
            return order
        raise OrderNumberTaken

    async def get(self, order_id: OrderId, *, by: Caller) -> Order:
        """One order. Raises: InsufficientScope, NotFound (deleted ones too)."""
        by.require(Scope.ORDERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.orders.get(order_id)

    async def list(self, where: OrderFilter, page: PageRequest, *, by: Caller) -> Page[Order]:
        """A page of orders. Raises: InsufficientScope, BadQuery for an unknown ordering."""
        by.require(Scope.ORDERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.orders.list(where, page)

    async def search(
        self, q: str, where: OrderFilter, page: PageRequest, *, by: Caller
    ) -> Page[Hit[Order]]:
        """Orders by number, item, notes or customer, best first.

        Raises:
            InsufficientScope; BadQuery when `q` is too short or too long.
        """
        by.require(Scope.ORDERS_READ)
        query = SearchQuery.parse(q, region=self._business.region)
        async with self._storage(reading=True) as uow:
            found = await uow.orders.search(query, where, page)
            buyers = await uow.customers.get_many({order.customer_id for order in found.items})
        return found.map(
            lambda order: Hit(order, match_order(query, order, buyers[order.customer_id]))
        )

    async def update(
        self,
        order_id: OrderId,
        changes: Mapping[str, object],
        *,
        by: Caller,
        if_match: IfMatch = None,
    ) -> Order:
        """Merge changes; an effective no-op changes nothing.

        Raises:
            InsufficientScope, NotFound, Invalid, StaleVersion, OrderNotEditable.
        """
        by.require(Scope.ORDERS_WRITE)
        async with self._storage() as uow:
            order = await uow.orders.get(order_id, lock="update")
            changed = order.checked_changes(changes)
            check_version(order.version, if_match)
            after = order.edited(changed, at=self._clock.now())
            if after is not order:
                await uow.orders.save(after)
                fields = ["amount" if name == "price" else name for name in changed]
                data: dict[str, object] = {"fields": fields, "total": str(after.total)}
                await self._record(uow, "updated", after, by, data)
                await uow.commit()
            return after

    async def update_status(
        self,
        order_id: OrderId,
        status: str,
        *,
        reason: str | None = None,
        note: str | None = None,
        notify: bool = True,
        by: Caller,
        if_match: IfMatch = None,
        once: Once[Order] | None = None,
    ) -> Order:
        """Move an order along the state machine and queue the text that belongs to the step.

        Asking for the current state changes nothing.

        Raises:
            InsufficientScope, NotFound, Invalid, StaleVersion, InvalidTransition; with `once`
            also AlreadyDone and the refusals of a key.
        """
        by.require(Scope.ORDERS_WRITE)
        problems = Problems()
        target = problems.check(
            "status", lambda: text.choice(status, Status), default=Status.PENDING
        )
        cause = problems.check(
            "reason",
            lambda: None if reason is None else text.choice(reason, CancelReason),
            default=None,
        )
        remark = problems.check("note", lambda: rules.note(note), default=None)
        wants_text = problems.check("notify", lambda: text.flag(notify), default=True)
        now = self._clock.now()
        message = None
        async with self._storage() as uow:
            await idempotency.begin(once, uow, by=by, now=now)
            order = await uow.orders.get(order_id, lock="update")
            order.require_scope_for(target, by=by)  # whatever else the body says
            problems.raise_if_any()
            check_version(order.version, if_match)
            after, moved = order.move_to(target, by=by, at=now, reason=cause, note=remark)
            if moved is not None:
                buyer, handled = None, False
                if moved.sms_event is not None:  # asked first, so that all that is written waits
                    buyer = await uow.customers.get(after.customer_id)
                    key = dedupe_key(after.id, moved.sms_event, after.version)
                    handled = await uow.notifications.handled(key)
                await uow.orders.save(after)
                data: dict[str, object] = {"from": moved.source, "to": moved.target}
                if moved.reason is not None:
                    data["reason"] = moved.reason
                if moved.note is not None:
                    data["note"] = moved.note
                if buyer is not None and moved.sms_event is not None:
                    after, message = await self._text(
                        uow,
                        after,
                        buyer,
                        moved.sms_event,
                        notify=wants_text,
                        by=by,
                        handled=handled,
                    )
                    data["sms"] = message.status
                await self._record(uow, "status_changed", after, by, data)
            await idempotency.finish(once, uow, after, by=by, now=now)
            if moved is not None or once is not None:
                await uow.commit()
        if message is not None:
            self._announce(message)
        return after

    async def cancel(
        self,
        order_id: OrderId,
        *,
        reason: str | None = None,
        note: str | None = None,
        notify: bool = True,
        by: Caller,
        if_match: IfMatch = None,
        once: Once[Order] | None = None,
    ) -> Order:
        """Cancel an order for good; cancelling a cancelled one changes nothing.

        Raises:
            As `update_status`.
        """
        return await self.update_status(
            order_id,
            Status.CANCELLED,
            reason=reason,
            note=note,
            notify=notify,
            by=by,
            if_match=if_match,
            once=once,
        )

    async def delete(self, order_id: OrderId, *, by: Caller, if_match: IfMatch = None) -> None:
        """Hide an order from reads and statistics; its queued texts are skipped.

        Raises:
            InsufficientScope, NotFound, StaleVersion, OrderNotDeletable.
        """
        by.require(Scope.ORDERS_DELETE)
        now = self._clock.now()
        async with self._storage() as uow:
            order = await uow.orders.get(order_id, lock="update")
            check_version(order.version, if_match)
            after = order.deleted(at=now)
            await uow.orders.save(after)
            await uow.notifications.skip_waiting(order_id, reason=SkipReason.ORDER_DELETED, at=now)
            await self._record(uow, "deleted", after, by, {"status": order.status})
            await uow.commit()

    async def _text(
        self,
        uow: UnitOfWork,
        order: Order,
        buyer: Customer,
        event: SmsEvent,
        *,
        notify: bool,
        by: Caller,
        handled: bool = False,
    ) -> tuple[Order, Notification]:
        """Add the message about an event; the order as it looks with it."""
        message = Notification.compose(
            id=NotificationId(self._randomness.uuid()),
            event=event,
            order=order,
            customer=buyer,
            policy=self._business.policy,
            notify=notify,
            already_handled=handled,
            request_id=by.request_id,
            **trace.kept(),
            at=order.updated_at,
        )
        await uow.notifications.add(message)
        return rules.with_sms(order, summary(message)), message

    def _announce(self, message: Notification) -> None:
        self._metrics.sms(message.event, message.status)
        if message.status is SmsStatus.QUEUED:
            self._jobs.wake()

    async def _record(
        self, uow: UnitOfWork, what: str, order: Order, by: Caller, data: Mapping[str, object]
    ) -> None:
        await uow.events.add(
            Event(
                id=self._randomness.uuid(),
                at=order.updated_at,
                actor=by.principal,
                action=f"order.{what}",
                subject="order",
                subject_id=order.id,
                version=order.version,
                data=data,
                request_id=by.request_id,
            )
        )


def summary(message: Notification) -> SmsSummary:
    """The picture of a message that its order carries."""
    return SmsSummary(
        event=message.event,
        status=message.status,
        notification=message.id,
        sent_at=message.sent_at,
        delivered_at=message.delivered_at,
    )


def _customer_id(value: object) -> CustomerId | None:
    if isinstance(value, UUID):
        return CustomerId(value)
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be the customer's id")
    try:
        return CustomerId(text.uuid(value))
    except ValueError:
        raise Refused("invalid_uuid", "This is not a UUID") from None
