"""`/api/orders/`: JSON to use case and back; no rule lives here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Final
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from savannah.application.customers import Hit
from savannah.application.idempotency import AlreadyDone
from savannah.application.ports import OrderFilter
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import Customer, CustomerId
from savannah.domain.errors import BadQuery, StaleVersion
from savannah.domain.money import QUANTITY_MAX
from savannah.domain.notification import SmsStatus
from savannah.domain.order import READ_ONLY, CancelReason, Order, OrderId, Status
from savannah.domain.paging import Page
from savannah.domain.sms_text import SmsEvent
from savannah.entrypoints.http import conditional, customers
from savannah.entrypoints.http.door import (
    LOOKING,
    AnyResponse,
    Door,
    TheCaller,
    TheDoor,
    etag,
    json_response,
)
from savannah.entrypoints.http.operations import (
    LINE,
    UUID_SCHEMA,
    CurrencyCode,
    Moment,
    MoneyText,
    Operation,
    Param,
    Version,
    endpoint,
)
from savannah.entrypoints.http.paging import PAGE_PARAMS, SEARCH_PARAM, PageOut, ordering_param
from savannah.entrypoints.http.requests import (
    CURRENCY_PARAM,
    TIME_PARAMS,
    AnyRequest,
    Query,
    path_id,
    read_object,
    read_query,
)

_AMOUNT_PATTERN: Final = r"^(0*[1-9][0-9]{0,7}(\.[0-9]{1,2})?|0+\.(0[1-9]|[1-9][0-9]?))$"
AmountText = Annotated[str, Meta(pattern=_AMOUNT_PATTERN, max_length=20, examples=["999.99"])]
Amount = AmountText | Annotated[int, Meta(ge=1, le=99_999_999)]
Item = Annotated[str, Meta(min_length=1, max_length=255, pattern=LINE)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
OrderNumber = Annotated[
    str, Meta(pattern="^ORD-[0-9A-HJKMNP-TV-Z]{6}-[0-9A-HJKMNP-TV-Z]$", examples=["ORD-7K3Q9D-X"])
]


class OrderIn(msgspec.Struct, forbid_unknown_fields=True):
    """A new order; `amount` is the unit price, `amount` times `quantity` at most 9999999999.99.

    Without `currency` it is in the business's; UGX and RWF amounts are whole.
    """

    READ_ONLY: ClassVar[frozenset[str]] = READ_ONLY | {"status"}

    customer: UUID
    item: Item
    amount: Amount
    quantity: Quantity = 1
    currency: CurrencyCode | UnsetType = UNSET
    notes: customers.Notes = ""
    metadata: customers.Metadata = {}
    notify: bool = True


class OrderChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of an order (RFC 7396): absent fields stay.

    In `metadata` a null removes its key; at most 20 pairs remain.
    """

    item: Item | UnsetType = UNSET
    amount: Amount | UnsetType = UNSET
    quantity: Quantity | UnsetType = UNSET
    notes: customers.Notes | UnsetType = UNSET
    metadata: customers.MetadataChanges | UnsetType = UNSET


class StatusChange(msgspec.Struct, forbid_unknown_fields=True):
    """Where to take the order; `reason` goes with cancelling only."""

    status: Status
    reason: CancelReason | UnsetType = UNSET
    note: customers.Notes | UnsetType = UNSET
    notify: bool = True


class CancelIn(msgspec.Struct, forbid_unknown_fields=True):
    """Why the order is cancelled: `other` where nothing is said, save for a shipped order."""

    reason: CancelReason | UnsetType = UNSET
    note: customers.Notes | UnsetType = UNSET
    notify: bool = True


class CancellationOut(msgspec.Struct):
    """Why, when and by whom the order was cancelled."""

    reason: CancelReason
    note: str | None
    cancelled_at: Moment
    cancelled_by: str


class SmsOut(msgspec.Struct):
    """The newest message about the order."""

    event: SmsEvent
    status: SmsStatus
    notification: UUID
    sent_at: Moment | None
    delivered_at: Moment | None


class OrderOut(msgspec.Struct, kw_only=True):
    """An order; `customer_details` is there with `expand=customer`."""

    id: UUID
    order_number: OrderNumber
    customer: UUID
    item: str
    amount: MoneyText
    quantity: Quantity
    total_amount: MoneyText
    currency: CurrencyCode
    status: Status
    allowed_transitions: list[Status]
    can_be_cancelled: bool
    notes: str | None
    cancellation: CancellationOut | None
    metadata: dict[str, str]
    sms: SmsOut | None
    created_at: Moment
    updated_at: Moment
    status_changed_at: Moment
    version: Version
    customer_details: customers.CustomerOut | UnsetType = UNSET


class OrderHit(OrderOut, kw_only=True):
    """An order found by a search."""

    match: customers.MatchOut


class OrderPage(PageOut):
    """A page of orders."""

    results: list[OrderOut]


class OrderHitPage(PageOut):
    """A page of orders found, best first."""

    results: list[OrderHit]


def show(order: Order, *, by: Caller, customer: Customer | None = None) -> OrderOut:
    """An order as JSON has it, with what this caller may do next."""
    return OrderOut(**_shown(order, by, customer))


def _shown(order: Order, by: Caller, customer: Customer | None) -> dict[str, Any]:
    gone, sms = order.cancellation, order.sms
    return {
        "id": order.id,
        "order_number": order.number,
        "customer": order.customer_id,
        "item": order.item,
        "amount": order.price.text,
        "quantity": order.quantity,
        "total_amount": order.total.text,
        "currency": order.price.currency,
        "status": order.status,
        "allowed_transitions": list(order.allowed_transitions(by)),
        "can_be_cancelled": order.can_be_cancelled(by),
        "notes": order.notes,
        "cancellation": None
        if gone is None
        else CancellationOut(gone.reason, gone.note, gone.cancelled_at, gone.cancelled_by),
        "metadata": dict(order.metadata),
        "sms": None
        if sms is None
        else SmsOut(
            sms.event, SmsStatus(sms.status), sms.notification, sms.sent_at, sms.delivered_at
        ),
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "status_changed_at": order.status_changed_at,
        "version": order.version,
        "customer_details": UNSET if customer is None else customers.show(customer),
    }


def _rendered(order: Order, *, by: Caller, status: int = 200) -> conditional.Rendered:
    headers = etag(order.version)
    if status == 201:
        headers["Location"] = f"/api/orders/{order.id}/"
    return status, headers, msgspec.json.encode(show(order, by=by))


EXPAND_PARAM: Final = Param(
    "expand", {"type": "string", "enum": ["customer"]}, "`customer` adds `customer_details`."
)
_AMOUNT: Final = {"type": "string", "pattern": r"^[0-9]{1,13}(\.[0-9]{1,2})?$"}
_FILTERS: Final = (
    Param("status", {"type": "string", "enum": [*Status]}, "The status.", many=True),
    Param("customer", UUID_SCHEMA, "The customer's id.", many=True),
    Param("currency", CURRENCY_PARAM.schema, "ISO 4217 code.", many=True),
    Param("min_amount", _AMOUNT, "The total is at least this."),
    Param("max_amount", _AMOUNT, "The total is at most this."),
    Param(
        "sms_status",
        {"type": "string", "enum": [*SmsStatus]},
        "The state of the newest message.",
        many=True,
    ),
    *TIME_PARAMS,
)
_ORDERING: Final = ordering_param(
    "created_at", "updated_at", "status_changed_at", "total_amount", "order_number"
)
LIST_PARAMS: Final = (*PAGE_PARAMS, _ORDERING, EXPAND_PARAM, *_FILTERS)


def _filter(door: Door, query: Query, *, customer: CustomerId | None = None) -> OrderFilter:
    zone = query.zone(default=door.savannah.business.policy.zone)
    currencies = query.many("currency")
    if any(each not in door.savannah.business.currencies for each in currencies):
        known = ", ".join(door.savannah.business.currencies)
        raise BadQuery("currency", f"Use one of {known}")
    wanted = (
        [CustomerId(each) for each in query.uuids("customer")] if customer is None else [customer]
    )
    return OrderFilter(
        status=query.choices("status", Status),
        customer=wanted,
        currency=currencies,
        min_amount=_amount(query, "min_amount"),
        max_amount=_amount(query, "max_amount"),
        sms_status=query.choices("sms_status", SmsStatus),
        created_from=query.since("created_from", zone),
        created_before=query.before("created_to", zone),
        updated_since=query.since("updated_since", zone),
    )


def _amount(query: Query, name: str) -> int | None:
    value = query.one(name)
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,13}(\.[0-9]{1,2})?", value, re.ASCII):
        raise BadQuery(name, "Up to 13 digits and two decimals, such as 999.99")
    whole, _, fraction = value.partition(".")
    return int(whole) * 100 + int(fraction.ljust(2, "0"))


def _order_id(raw: str) -> OrderId:
    return OrderId(path_id(raw, "order"))


def exists(door: Door, order_id: OrderId) -> Callable[[], Any]:
    """A look-up that raises NotFound, whatever the caller may read."""
    return partial(door.savannah.orders.get, order_id, by=LOOKING)


def _wants_customer(query: Query) -> bool:
    expand = query.one("expand")
    if expand not in (None, "customer"):
        raise BadQuery("expand", "Use customer")
    return expand is not None


async def _buyers(door: Door, caller: Caller, orders: Page[Order]) -> Mapping[CustomerId, Customer]:
    ids = {order.customer_id for order in orders.items}
    return await door.savannah.customers.get_many(ids, by=caller)


async def _list_answer(
    request: AnyRequest, door: Door, caller: Caller, query: Query, where: OrderFilter
) -> AnyResponse:
    expand = _wants_customer(query)
    wanted = door.cursors.page_request(request, query)
    page = await door.savannah.orders.list(where, wanted, by=caller)
    buyers = await _buyers(door, caller, page) if expand else {}
    body, headers = door.cursors.answer(
        request,
        query,
        page,
        lambda order: show(order, by=caller, customer=buyers.get(order.customer_id)),
    )
    return json_response(body, headers=headers)


@endpoint(
    "GET",
    "/orders/",
    Operation(
        id="listOrders",
        tag="Orders",
        summary="List orders",
        scope=Scope.ORDERS_READ,
        query=LIST_PARAMS,
        answer=OrderPage,
        paged=True,
        errors=(400,),
    ),
)
async def list_orders(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    return await _list_answer(request, door, caller, query, _filter(door, query))


@endpoint(
    "GET",
    "/customers/{customer_id:str}/orders/",
    Operation(
        id="listOrdersOfCustomer",
        tag="Customers",
        summary="A customer's orders",
        scope=Scope.ORDERS_READ,
        query=tuple(param for param in LIST_PARAMS if param.name != "customer"),
        answer=OrderPage,
        paged=True,
        errors=(400, 404),
    ),
)
async def list_orders_of_customer(
    request: AnyRequest, customer_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    id_ = customers.customer_id_of(customer_id)
    await customers.exists(door, id_)()
    query = Query(request)
    where = _filter(door, query, customer=id_)
    return await _list_answer(request, door, caller, query, where)


@endpoint(
    "POST",
    "/orders/",
    Operation(
        id="createOrder",
        tag="Orders",
        summary="Take an order and queue its text",
        scope=Scope.ORDERS_WRITE,
        body=OrderIn,
        status=201,
        answer=OrderOut,
        etag=True,
        location=True,
        idempotent=True,
        errors=(400, 409, 413, 415, 422),
    ),
)
async def create_order(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    body = await read_object(request)
    render = partial(_rendered, by=caller, status=201)
    once = conditional.once(request, body, render)
    try:
        order = await door.savannah.orders.create(**body, by=caller, once=once)
    except AlreadyDone as done:
        return conditional.replay(done, door.metrics)
    return conditional.respond(render(order))


@endpoint(
    "GET",
    "/orders/search/",
    Operation(
        id="searchOrders",
        tag="Orders",
        summary="Search orders by number, item, notes or customer",
        scope=Scope.ORDERS_READ,
        query=(
            SEARCH_PARAM,
            *PAGE_PARAMS,
            EXPAND_PARAM,
            *_FILTERS,
        ),
        answer=OrderHitPage,
        paged=True,
        errors=(400,),
    ),
)
async def search_orders(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    q = query.required("q")
    where, expand = _filter(door, query), _wants_customer(query)
    wanted = door.cursors.page_request(request, query)
    page = await door.savannah.orders.search(q, where, wanted, by=caller)
    buyers = await _buyers(door, caller, page.map(lambda hit: hit.item)) if expand else {}

    def show_hit(hit: Hit[Order]) -> OrderHit:
        customer = buyers.get(hit.item.customer_id)
        return OrderHit(**_shown(hit.item, caller, customer), match=customers.show_match(hit))

    body, headers = door.cursors.answer(request, query, page, show_hit)
    return json_response(body, headers=headers)


@endpoint(
    "GET",
    "/orders/{order_id:str}/",
    Operation(
        id="getOrder",
        tag="Orders",
        summary="One order",
        scope=Scope.ORDERS_READ,
        query=(EXPAND_PARAM,),
        answer=OrderOut,
        etag=True,
        errors=(400, 404),
    ),
)
async def get_order(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    order = await door.savannah.orders.get(_order_id(order_id), by=caller)
    customer = None
    if _wants_customer(Query(request)):
        customer = await door.savannah.customers.get(order.customer_id, by=caller)
    return json_response(show(order, by=caller, customer=customer), headers=etag(order.version))


@endpoint(
    "PATCH",
    "/orders/{order_id:str}/",
    Operation(
        id="updateOrder",
        tag="Orders",
        summary="Change some fields of an order",
        scope=Scope.ORDERS_WRITE,
        body=OrderChanges,
        merge=True,
        answer=OrderOut,
        etag=True,
        conditional=True,
        errors=(400, 404, 409, 412, 413, 415, 422, 428),
    ),
)
async def update_order(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    id_ = _order_id(order_id)
    changes = await read_object(request, exists=exists(door, id_))
    if_match = conditional.if_match(request, required=door.options.require_if_match)
    try:
        order = await door.savannah.orders.update(id_, changes, by=caller, if_match=if_match)
    except StaleVersion as stale:
        raise conditional.stale(request, stale) from None
    return conditional.respond(_rendered(order, by=caller))


@endpoint(
    "DELETE",
    "/orders/{order_id:str}/",
    Operation(
        id="deleteOrder",
        tag="Orders",
        summary="Delete a pending or cancelled order",
        scope=Scope.ORDERS_DELETE,
        status=204,
        conditional=True,
        errors=(400, 404, 409, 412, 428),
    ),
)
async def delete_order(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> None:
    id_ = _order_id(order_id)
    await read_query(request, exists=exists(door, id_))
    if_match = conditional.if_match(request, required=door.options.require_if_match)
    try:
        await door.savannah.orders.delete(id_, by=caller, if_match=if_match)
    except StaleVersion as stale:
        raise conditional.stale(request, stale) from None


async def _move(
    request: AnyRequest,
    door: Door,
    caller: Caller,
    order_id: str,
    move: Callable[..., Any],
    *,
    target: Status | None = None,
) -> AnyResponse:
    id_ = _order_id(order_id)

    async def outranking() -> None:
        """A missing order and a missing permission count before anything about the body."""
        order = await door.savannah.orders.get(id_, by=LOOKING)
        if target is not None:
            order.require_scope_for(target, by=caller)

    body = await read_object(request, exists=outranking)
    if_match = conditional.if_match(request, required=door.options.require_if_match)
    render = partial(_rendered, by=caller)
    once = conditional.once(request, body, render)
    try:
        order = await move(id_, **body, by=caller, if_match=if_match, once=once)
    except AlreadyDone as done:
        return conditional.replay(done, door.metrics)
    except StaleVersion as stale:
        raise conditional.stale(request, stale) from None
    return conditional.respond(render(order))


@endpoint(
    "PATCH",
    "/orders/{order_id:str}/update_status/",
    Operation(
        id="updateOrderStatus",
        tag="Orders",
        summary="Move an order along and queue the text that belongs to the step",
        scope=Scope.ORDERS_WRITE,
        body=StatusChange,
        answer=OrderOut,
        etag=True,
        conditional=True,
        idempotent=True,
        errors=(400, 404, 409, 412, 413, 415, 422, 428),
    ),
)
async def update_order_status(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    return await _move(request, door, caller, order_id, door.savannah.orders.update_status)


@endpoint(
    "POST",
    "/orders/{order_id:str}/cancel/",
    Operation(
        id="cancelOrder",
        tag="Orders",
        summary="Cancel an order for good",
        scope=Scope.ORDERS_WRITE,
        body=CancelIn,
        body_required=False,
        answer=OrderOut,
        etag=True,
        conditional=True,
        idempotent=True,
        errors=(400, 404, 409, 412, 413, 415, 422, 428),
    ),
)
async def cancel_order(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    cancel = door.savannah.orders.cancel
    return await _move(request, door, caller, order_id, cancel, target=Status.CANCELLED)


ROUTES = [
    list_orders,
    list_orders_of_customer,
    create_order,
    search_orders,
    get_order,
    update_order,
    delete_order,
    update_order_status,
    cancel_order,
]
