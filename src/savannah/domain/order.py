"""The order: its reference, its fields, and the state machine as data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, NewType, Self
from uuid import UUID

from savannah.domain import money, text
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import CustomerId
from savannah.domain.errors import (
    Invalid,
    InvalidTransition,
    OrderNotDeletable,
    OrderNotEditable,
    Problems,
    Refused,
)
from savannah.domain.money import Money
from savannah.domain.sms_text import SmsEvent

OrderId = NewType("OrderId", UUID)
NotificationId = NewType("NotificationId", UUID)

CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
REFERENCE_SYMBOLS: Final = 6
_READ_AS: Final = str.maketrans({"O": "0", "I": "1", "L": "1"})


class Status(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (Status.DELIVERED, Status.CANCELLED)


OPEN: Final = frozenset({Status.PENDING, Status.PROCESSING, Status.SHIPPED})


class CancelReason(StrEnum):
    CUSTOMER_REQUEST = "customer_request"
    OUT_OF_STOCK = "out_of_stock"
    DUPLICATE = "duplicate"
    PAYMENT_FAILED = "payment_failed"
    FRAUD = "fraud"
    DELIVERY_FAILED = "delivery_failed"
    RETURNED = "returned"
    LOST = "lost"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Transition:
    """One edge of the state machine: who may take it, which SMS it sends, which reasons it takes.

    With `reasons` given, the caller must name one of them.
    """

    source: Status
    target: Status
    scope: Scope
    sms_event: SmsEvent | None
    reasons: frozenset[CancelReason] | None = None


TRANSITIONS: Final = (
    Transition(Status.PENDING, Status.PROCESSING, Scope.ORDERS_WRITE, None),
    Transition(Status.PENDING, Status.CANCELLED, Scope.ORDERS_WRITE, SmsEvent.ORDER_CANCELLED),
    Transition(Status.PROCESSING, Status.SHIPPED, Scope.ORDERS_WRITE, SmsEvent.ORDER_SHIPPED),
    Transition(Status.PROCESSING, Status.CANCELLED, Scope.ORDERS_WRITE, SmsEvent.ORDER_CANCELLED),
    Transition(Status.SHIPPED, Status.DELIVERED, Scope.ORDERS_WRITE, SmsEvent.ORDER_DELIVERED),
    Transition(
        Status.SHIPPED,
        Status.CANCELLED,
        Scope.ORDERS_OVERRIDE,
        SmsEvent.ORDER_CANCELLED,
        frozenset({CancelReason.DELIVERY_FAILED, CancelReason.RETURNED, CancelReason.LOST}),
    ),
)
_EDGES: Final = {(edge.source, edge.target): edge for edge in TRANSITIONS}
_EDGES_FROM: Final = {
    status: tuple(edge for edge in TRANSITIONS if edge.source is status) for status in Status
}

# The message that tells where an order now stands; used when a text is sent again.
_EVENT_OF_STATUS: Final = {
    Status.PENDING: SmsEvent.ORDER_CREATED,
    Status.PROCESSING: SmsEvent.ORDER_CREATED,
    Status.SHIPPED: SmsEvent.ORDER_SHIPPED,
    Status.DELIVERED: SmsEvent.ORDER_DELIVERED,
    Status.CANCELLED: SmsEvent.ORDER_CANCELLED,
}


class Reference:
    """Order numbers `ORD-XXXXXX-C`: six base-32 symbols and a Luhn mod 32 check symbol."""

    @staticmethod
    def make(symbols: str) -> str:
        """The order number of six symbols of `CROCKFORD`."""
        return f"ORD-{symbols}-{check_symbol(symbols)}"

    @staticmethod
    def compact(typed: str) -> str:
        """Symbols of a number or a part of one as people write it: no `ORD`, dashes or blanks."""
        bare = "".join(typed.split()).replace("-", "").upper()
        return bare.removeprefix("ORD").translate(_READ_AS)

    @staticmethod
    def parse(typed: str) -> str:
        """The canonical order number behind a forgiving spelling.

        Raises:
            Refused: `invalid_format`, when it is no order number or the check symbol is wrong.
        """
        symbols = Reference.compact(typed)
        if (
            len(symbols) != REFERENCE_SYMBOLS + 1
            or any(symbol not in CROCKFORD for symbol in symbols)
            or check_symbol(symbols[:-1]) != symbols[-1]
        ):
            raise Refused("invalid_format", "Not an order number")
        return Reference.make(symbols[:-1])


def check_symbol(symbols: str) -> str:
    """The Luhn mod N check symbol over base-32 symbols: finds every single-symbol slip."""
    total = 0
    for place, symbol in enumerate(reversed(symbols)):
        addend = CROCKFORD.index(symbol) * (2 if place % 2 == 0 else 1)
        total += addend // 32 + addend % 32
    return CROCKFORD[-total % 32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Why, when and by whom an order was cancelled."""

    reason: CancelReason
    note: str | None
    cancelled_at: datetime
    cancelled_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsSummary:
    """A picture of the order's newest notification; not part of the order's revision."""

    event: SmsEvent
    status: str
    notification: NotificationId
    sent_at: datetime | None = None
    delivered_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a status change means to the rest: the edge taken and the note that came with it."""

    source: Status
    target: Status
    sms_event: SmsEvent | None
    reason: CancelReason | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as stored; `version` grows by one per effective change."""

    id: OrderId
    number: str
    customer_id: CustomerId
    item: str
    price: Money
    quantity: int
    status: Status = Status.PENDING
    notes: str | None = ""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    cancellation: Cancellation | None = None
    created_at: datetime
    updated_at: datetime
    status_changed_at: datetime
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    sms: SmsSummary | None = None

    @property
    def total(self) -> Money:
        return self.price * self.quantity

    @classmethod
    def create(
        cls,
        *,
        id: OrderId,
        symbols: str,
        customer_id: CustomerId,
        item: object,
        amount: object,
        quantity: object = 1,
        currency: object,
        currencies: Collection[str],
        notes: object = "",
        metadata: object = None,
        at: datetime,
    ) -> Self:
        """A new pending order from what a caller typed.

        Args:
            symbols: six random symbols of `CROCKFORD` for the order number.
            currencies: the codes this business deals in.

        Raises:
            Invalid: with every broken field.
        """
        problems = Problems()
        code = problems.check(
            "currency", lambda: money.currency(currency, allowed=currencies), default=""
        )
        order = cls(
            id=id,
            number=Reference.make(symbols),
            customer_id=customer_id,
            item=problems.check("item", lambda: text.clean(item, most=255), default=""),
            price=problems.check(
                "amount", lambda: Money.parse(amount, code), default=Money(0, code)
            ),
            quantity=problems.check("quantity", lambda: money.quantity(quantity), default=0),
            notes=problems.check("notes", lambda: text.notes(notes), default=""),
            metadata=problems.check(
                "metadata",
                lambda: text.metadata({} if metadata is None else metadata),
                default={},
            ),
            created_at=at,
            updated_at=at,
            status_changed_at=at,
        )
        _check_total(order.total, problems)
        problems.raise_if_any()
        return order

    @property
    def editable_fields(self) -> tuple[str, ...]:
        """What can be edited in the current state."""
        if self.status is Status.PENDING:
            return ("item", "amount", "quantity", "notes", "metadata")
        return () if self.status.terminal else ("notes", "metadata")

    def checked_changes(self, changes: Mapping[str, object]) -> dict[str, Any]:
        """The attributes that a merge of `changes` would really change, whatever the state.

        Raises:
            Invalid: with every broken, unknown, read-only or immutable field.
        """
        problems = Problems()
        rules: dict[str, Callable[[object], object]] = {
            "item": lambda value: text.clean(value, most=255),
            "amount": lambda value: Money.parse(value, self.price.currency),
            "quantity": money.quantity,
            "notes": text.notes,
            "metadata": lambda value: text.metadata(value, onto=self.metadata),
        }
        new: dict[str, Any] = {}
        for name, value in changes.items():
            if name == "status":
                problems.add(name, "use_update_status", "Use update_status to move an order")
            elif name == "customer":
                if str(value).lower() != str(self.customer_id):
                    problems.add(name, "immutable_field", "An order stays with its customer")
            elif name == "currency":
                if value != self.price.currency:
                    problems.add(name, "immutable_field", "The currency cannot be changed")
            elif name in READ_ONLY:
                problems.add(name, "read_only_field", "This is set by the server")
            elif name not in rules:
                problems.add_unknown(name)
            elif value is None:
                problems.add(name, "null_not_allowed", "This cannot be null")
            else:
                attribute = "price" if name == "amount" else name
                new[attribute] = problems.check(
                    name,
                    partial(rules[name], value),
                    default=getattr(self, attribute),
                )
        _check_total(replace(self, **new).total, problems)
        problems.raise_if_any()
        return {name: value for name, value in new.items() if value != getattr(self, name)}

    def edited(self, changed: Mapping[str, Any], *, at: datetime) -> Self:
        """The order with what `checked_changes` found; nothing changed means the same object.

        Raises:
            OrderNotEditable: a field is closed in this state.
        """
        if not changed:
            return self
        public = {"amount" if name == "price" else name for name in changed}
        if not public <= set(self.editable_fields):
            raise OrderNotEditable(self.status, self.editable_fields)
        return replace(self, **changed, updated_at=at, version=self.version + 1)

    def allowed_transitions(self, by: Caller) -> tuple[Status, ...]:
        """Where this caller may take the order from here."""
        return tuple(edge.target for edge in _EDGES_FROM[self.status] if by.may(edge.scope))

    def can_be_cancelled(self, by: Caller) -> bool:
        return Status.CANCELLED in self.allowed_transitions(by)

    def require_scope_for(self, target: Status, *, by: Caller) -> None:
        """Refuse whoever lacks the scope of the edge to `target`, if there is such an edge.

        Raises:
            InsufficientScope: the edge is privileged and the caller is not.
        """
        if (edge := _EDGES.get((self.status, target))) is not None:
            by.require(edge.scope)

    def move_to(
        self,
        target: Status,
        *,
        by: Caller,
        at: datetime,
        reason: CancelReason | None = None,
        note: str | None = None,
    ) -> tuple[Self, Moved | None]:
        """The order in its new state and what happened; asking for the current state is nothing.

        Raises:
            InvalidTransition: the state machine has no such edge.
            InsufficientScope: the edge is privileged and the caller is not.
            Invalid: the edge needs a reason (`reason_required`) or another one
                (`invalid_choice`).
        """
        if target is self.status:
            return self, None
        edge = _EDGES.get((self.status, target))
        if edge is None:
            raise InvalidTransition(self.status, target, self.allowed_transitions(by))
        by.require(edge.scope)
        cancelling = target is Status.CANCELLED
        if edge.reasons is not None and reason not in edge.reasons:
            names = ", ".join(sorted(edge.reasons))
            if reason is None:
                raise Invalid.one("reason", "reason_required", f"Give one of {names}")
            raise Invalid.one("reason", "invalid_choice", f"From here only {names}")
        if cancelling:
            reason = reason or CancelReason.OTHER
        elif reason is not None:
            raise Invalid.one("reason", "invalid_choice", "A reason goes with cancelling only")
        after = replace(
            self,
            status=target,
            status_changed_at=at,
            updated_at=at,
            version=self.version + 1,
            shipped_at=at if target is Status.SHIPPED else self.shipped_at,
            delivered_at=at if target is Status.DELIVERED else self.delivered_at,
            cancellation=(
                Cancellation(
                    reason=reason or CancelReason.OTHER,
                    note=note,
                    cancelled_at=at,
                    cancelled_by=by.principal,
                )
                if cancelling
                else None
            ),
        )
        moved = Moved(
            source=self.status, target=target, sms_event=edge.sms_event, reason=reason, note=note
        )
        return after, moved

    def deleted(self, *, at: datetime) -> Self:
        """Hidden from reads and statistics.

        Raises:
            OrderNotDeletable: it is neither pending nor cancelled.
        """
        if self.status not in (Status.PENDING, Status.CANCELLED):
            raise OrderNotDeletable(self.status)
        return replace(self, deleted_at=at, updated_at=at, version=self.version + 1)

    @property
    def default_sms_event(self) -> SmsEvent:
        """The event a text is about when it is sent again without naming one."""
        return _EVENT_OF_STATUS[self.status]

    @property
    def reached_events(self) -> tuple[SmsEvent, ...]:
        """The events this order has been through."""
        reached = [SmsEvent.ORDER_CREATED]
        if self.shipped_at is not None:
            reached.append(SmsEvent.ORDER_SHIPPED)
        if self.delivered_at is not None:
            reached.append(SmsEvent.ORDER_DELIVERED)
        if self.status is Status.CANCELLED:
            reached.append(SmsEvent.ORDER_CANCELLED)
        return tuple(reached)


READ_ONLY: Final = frozenset(
    {
        "id",
        "order_number",
        "total_amount",
        "allowed_transitions",
        "can_be_cancelled",
        "cancellation",
        "sms",
        "created_at",
        "updated_at",
        "status_changed_at",
        "version",
    }
)


def _check_total(total: Money, problems: Problems) -> None:
    if total.minor > money.TOTAL_MAX_MINOR:
        limit = money.amount_text(money.TOTAL_MAX_MINOR)
        problems.add("amount", "total_out_of_range", f"The total must be at most {limit}")


def with_sms(order: Order, sms: SmsSummary) -> Order:
    """The same revision of the order with another picture of its newest message."""
    return replace(order, sms=sms)


def note(value: object) -> str | None:
    """A remark on a status change, up to 2000 characters; a blank one is none.

    Raises:
        Refused: as `text.clean`.
    """
    return None if value is None else text.notes(value) or None
