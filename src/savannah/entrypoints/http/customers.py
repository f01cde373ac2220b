"""`/api/customers/`: JSON to use case and back; no rule lives here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from savannah.application.customers import Hit
from savannah.application.idempotency import AlreadyDone
from savannah.application.ports import CustomerFilter
from savannah.domain import text
from savannah.domain.access import Scope
from savannah.domain.customer import READ_ONLY, Customer, CustomerId, Reachability
from savannah.domain.errors import BadQuery, StaleVersion
from savannah.domain.phone import PhoneNumber, PhoneRefused
from savannah.domain.sms_text import Locale
from savannah.entrypoints.http import conditional
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
    LINES,
    EmailText,
    Moment,
    Operation,
    Param,
    Version,
    endpoint,
)
from savannah.entrypoints.http.paging import PAGE_PARAMS, SEARCH_PARAM, PageOut, ordering_param
from savannah.entrypoints.http.requests import (
    TIME_PARAMS,
    AnyRequest,
    Query,
    path_id,
    read_object,
    read_query,
)

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=LINE)]
Phone = Annotated[
    str,
    Meta(max_length=32, examples=["0700 123 456"], extra_json_schema={"format": "phone-number"}),
]
CodeIn = Annotated[
    str, Meta(min_length=2, max_length=20, pattern="^[A-Za-z0-9][A-Za-z0-9-]{1,19}$")
]
Notes = Annotated[str, Meta(max_length=2000, pattern=LINES)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=40, pattern=LINE)]
MetadataValue = Annotated[str, Meta(max_length=500, pattern=LINES)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=20)]
MetadataChanges = dict[MetadataKey, MetadataValue | None]


class CustomerIn(msgspec.Struct, forbid_unknown_fields=True):
    """A new customer. Without `code` one is drawn; `locale` follows the business's setting."""

    READ_ONLY: ClassVar[frozenset[str]] = READ_ONLY

    name: Name
    phone_number: Phone
    email: EmailText | None = None
    code: CodeIn | UnsetType = UNSET
    locale: Locale | UnsetType = UNSET
    sms_opt_out: bool = False
    notes: Notes = ""
    metadata: Metadata = {}


class CustomerChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of a customer (RFC 7396): absent fields stay.

    In `metadata` a null removes its key; at most 20 pairs remain.
    """

    name: Name | UnsetType = UNSET
    phone_number: Phone | UnsetType = UNSET
    email: EmailText | UnsetType | None = UNSET
    locale: Locale | UnsetType = UNSET
    sms_opt_out: bool | UnsetType = UNSET
    notes: Notes | UnsetType = UNSET
    metadata: MetadataChanges | UnsetType = UNSET


class CustomerOut(msgspec.Struct):
    """A customer; personal fields are null once it was erased."""

    id: UUID
    code: Annotated[str, Meta(pattern="^[A-Z0-9][A-Z0-9-]{1,19}$")]
    name: str | None
    email: str | None
    phone_number: Annotated[str, Meta(pattern="^\\+[1-9][0-9]{6,14}$")] | None
    locale: Locale
    sms_opt_out: bool
    sms_reachability: Reachability
    notes: str | None
    metadata: dict[str, str]
    created_at: Moment
    updated_at: Moment
    archived_at: Moment | None
    version: Version


class MatchOut(msgspec.Struct):
    """Why a search found a row: the field, and how well it matches."""

    field: Literal[
        "name",
        "email",
        "code",
        "phone_number",
        "order_number",
        "item",
        "notes",
        "customer_name",
        "customer_email",
        "customer_code",
    ]
    kind: Literal["exact", "prefix", "substring", "fuzzy"]


class CustomerHit(CustomerOut):
    """A customer found by a search."""

    match: MatchOut


class CustomerPage(PageOut):
    """A page of customers."""

    results: list[CustomerOut]


class CustomerHitPage(PageOut):
    """A page of customers found, best first."""

    results: list[CustomerHit]


def show(customer: Customer) -> CustomerOut:
    """A customer as JSON has it."""
    return CustomerOut(**_shown(customer))


def _shown(customer: Customer) -> dict[str, Any]:
    return {
        "id": customer.id,
        "code": customer.code,
        "name": customer.name,
        "email": customer.email,
        "phone_number": None if customer.phone is None else customer.phone.e164,
        "locale": customer.locale,
        "sms_opt_out": customer.sms_opt_out,
        "sms_reachability": customer.reachability,
        "notes": customer.notes,
        "metadata": dict(customer.metadata),
        "created_at": customer.created_at,
        "updated_at": customer.updated_at,
        "archived_at": customer.archived_at,
        "version": customer.version,
    }


def _show_hit(hit: Hit[Customer]) -> CustomerHit:
    return CustomerHit(**_shown(hit.item), match=show_match(hit))


def show_match(hit: Hit[Any]) -> MatchOut:
    """Why a row was found; only a fuzzy one has no match by the guaranteed rules."""
    if hit.match is None:
        return MatchOut(field="name", kind="fuzzy")
    return msgspec.convert({"field": hit.match.field, "kind": hit.match.kind}, MatchOut)


def _rendered(customer: Customer, *, status: int) -> conditional.Rendered:
    headers = etag(customer.version)
    if status == 201:
        headers["Location"] = f"/api/customers/{customer.id}/"
    return status, headers, msgspec.json.encode(show(customer))


_FILTERS: Final = (
    Param("email", {"type": "string"}, "The e-mail address, without case.", many=True),
    Param(
        "phone",
        {"type": "string", "format": "phone-number", "examples": ["0700 123 456"]},
        "The phone number in any spelling.",
        many=True,
    ),
    Param("code", {"type": "string"}, "The business's code.", many=True),
    Param("locale", {"type": "string", "enum": [*Locale]}, "The language.", many=True),
    Param("sms_opt_out", {"type": "boolean"}, "Whether texts are refused."),
    Param(
        "sms_reachability",
        {"type": "string", "enum": [*Reachability]},
        "What delivery reports taught.",
        many=True,
    ),
    Param(
        "archived",
        {"type": "string", "enum": ["false", "true", "all"], "default": "false"},
        "Archived customers: none, only, or too.",
    ),
    *TIME_PARAMS,
)


def _filter(door: Door, query: Query) -> CustomerFilter:
    zone = query.zone(default=door.savannah.business.policy.zone)
    archived = query.one("archived")
    if archived not in (None, "false", "true", "all"):
        raise BadQuery("archived", "Use one of false, true, all")
    phones = []
    for typed in query.many("phone"):
        # A + that was not escaped arrives as a blank.
        spelling = f"+{typed}" if f" {typed}" in _values(query, "phone") else typed
        try:
            number = PhoneNumber.parse(spelling, region=door.savannah.business.region)
        except PhoneRefused as refused:
            raise BadQuery("phone", refused.detail) from None
        phones.append(number.e164)
    return CustomerFilter(
        email=[text.email_key(each) for each in query.many("email")],
        phone=phones,
        code=[each.upper() for each in query.many("code")],
        locale=query.choices("locale", Locale),
        sms_opt_out=query.flag("sms_opt_out", default=None),
        sms_reachability=query.choices("sms_reachability", Reachability),
        archived={None: False, "false": False, "true": True, "all": None}[archived],
        created_from=query.since("created_from", zone),
        created_before=query.before("created_to", zone),
        updated_since=query.since("updated_since", zone),
    )


def _values(query: Query, name: str) -> list[str]:
    return [value for found, value in query.pairs if found == name]


def customer_id_of(raw: str) -> CustomerId:
    """The customer a path names. Raises: NotFound."""
    return CustomerId(path_id(raw, "customer"))


def exists(door: Door, customer_id: CustomerId) -> Callable[[], Any]:
    """A look-up that raises NotFound, whatever the caller may read."""
    return partial(door.savannah.customers.get, customer_id, by=LOOKING)


@endpoint(
    "GET",
    "/customers/",
    Operation(
        id="listCustomers",
        tag="Customers",
        summary="List customers",
        scope=Scope.CUSTOMERS_READ,
        query=(*PAGE_PARAMS, ordering_param("created_at", "updated_at", "name"), *_FILTERS),
        answer=CustomerPage,
        paged=True,
        errors=(400,),
    ),
)
async def list_customers(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    where, wanted = _filter(door, query), door.cursors.page_request(request, query)
    page = await door.savannah.customers.list(where, wanted, by=caller)
    body, headers = door.cursors.answer(request, query, page, show)
    return json_response(body, headers=headers)


@endpoint(
    "POST",
    "/customers/",
    Operation(
        id="createCustomer",
        tag="Customers",
        summary="Take a new customer on",
        scope=Scope.CUSTOMERS_WRITE,
        body=CustomerIn,
        status=201,
        answer=CustomerOut,
        etag=True,
        location=True,
        idempotent=True,
        errors=(400, 409, 413, 415, 422),
    ),
)
async def create_customer(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    body = await read_object(request)
    render = partial(_rendered, status=201)
    once = conditional.once(request, body, render)
    try:
        customer = await door.savannah.customers.create(**body, by=caller, once=once)
    except AlreadyDone as done:
        return conditional.replay(done, door.metrics)
    return conditional.respond(render(customer))


@endpoint(
    "GET",
    "/customers/search/",
    Operation(
        id="searchCustomers",
        tag="Customers",
        summary="Search customers by name, e-mail, code or phone",
        scope=Scope.CUSTOMERS_READ,
        query=(
            SEARCH_PARAM,
            *PAGE_PARAMS,
            *_FILTERS,
        ),
        answer=CustomerHitPage,
        paged=True,
        errors=(400,),
    ),
)
async def search_customers(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    q = query.required("q")
    where, wanted = _filter(door, query), door.cursors.page_request(request, query)
    page = await door.savannah.customers.search(q, where, wanted, by=caller)
    body, headers = door.cursors.answer(request, query, page, _show_hit)
    return json_response(body, headers=headers)


@endpoint(
    "GET",
    "/customers/{customer_id:str}/",
    Operation(
        id="getCustomer",
        tag="Customers",
        summary="One customer, archived ones too",
        scope=Scope.CUSTOMERS_READ,
        answer=CustomerOut,
        etag=True,
        errors=(404,),
    ),
)
async def get_customer(
    request: AnyRequest, customer_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    customer = await door.savannah.customers.get(customer_id_of(customer_id), by=caller)
    await read_query(request)
    return conditional.respond(_rendered(customer, status=200))


@endpoint(
    "PATCH",
    "/customers/{customer_id:str}/",
    Operation(
        id="updateCustomer",
        tag="Customers",
        summary="Change some fields of a customer",
        scope=Scope.CUSTOMERS_WRITE,
        body=CustomerChanges,
        merge=True,
        answer=CustomerOut,
        etag=True,
        conditional=True,
        errors=(400, 404, 409, 412, 413, 415, 422, 428),
    ),
)
async def update_customer(
    request: AnyRequest, customer_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    id_ = customer_id_of(customer_id)
    changes = await read_object(request, exists=exists(door, id_))
    if_match = conditional.if_match(request, required=door.options.require_if_match)
    try:
        customer = await door.savannah.customers.update(id_, changes, by=caller, if_match=if_match)
    except StaleVersion as stale:
        raise conditional.stale(request, stale) from None
    return conditional.respond(_rendered(customer, status=200))


@endpoint(
    "DELETE",
    "/customers/{customer_id:str}/",
    Operation(
        id="archiveCustomer",
        tag="Customers",
        summary="Archive a customer",
        scope=Scope.CUSTOMERS_DELETE,
        status=204,
        conditional=True,
        errors=(400, 404, 409, 412, 428),
    ),
)
async def archive_customer(
    request: AnyRequest, customer_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> None:
    id_ = customer_id_of(customer_id)
    await read_query(request, exists=exists(door, id_))
    if_match = conditional.if_match(request, required=door.options.require_if_match)
    try:
        await door.savannah.customers.archive(id_, by=caller, if_match=if_match)
    except StaleVersion as stale:
        raise conditional.stale(request, stale) from None


ROUTES = [
    list_customers,
    create_customer,
    search_customers,
    get_customer,
    update_customer,
    archive_customer,
]
