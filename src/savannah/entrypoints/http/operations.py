"""What an endpoint promises: its permission, parameters, body and answers.

A handler carries its `Operation` in Litestar's `opt`. The door enforces it and the OpenAPI
document is made from it, so there is one truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from inspect import signature
from typing import Annotated, Any, Final, Literal, get_type_hints
from urllib.parse import quote

import msgspec
from litestar import Request, route
from litestar.handlers import HTTPRouteHandler
from litestar.types import AnyCallable, Method
from msgspec import Meta

from savannah.domain.access import Scope

Schema = Mapping[str, Any]
Auth = Literal["token", "optional", "none"]

UUID_SCHEMA: Final[Schema] = {"type": "string", "format": "uuid"}

# Values that several bodies and answers hold, as JSON has them.
MoneyText = Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]{2}$", examples=["999.99"])]
CurrencyCode = Annotated[
    str, Meta(pattern="^[A-Z]{3}$", examples=["KES"], extra_json_schema={"format": "iso-4217"})
]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Version = Annotated[int, Meta(ge=1)]
Moment = Annotated[datetime, Meta(tz=True, examples=["2026-11-23T09:15:00Z"])]
EmailText = Annotated[str, Meta(max_length=254, extra_json_schema={"format": "email"})]
# Control characters are refused, save around the text, where blanks of all kinds are trimmed.
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"
LINE: Final = rf"^\s*[^\s{_CONTROL}][^{_CONTROL}]*\s*$"
SHORT_LINE: Final = rf"^\s*[^{_CONTROL}]*\s*$"  # may be blank
SEARCHABLE: Final = rf"^\s*[^\s{_CONTROL}][^{_CONTROL}]*[^\s{_CONTROL}]\s*$"
LINES: Final = r"^\s*[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*\s*$"


# Of one parameter, however they are written.
VALUES_MOST: Final = 100


class MoneySum(msgspec.Struct):
    """What messages have cost in one currency; up to four decimals."""

    currency: CurrencyCode
    amount: Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]{2,4}$")]


@dataclass(frozen=True, slots=True)
class Param:
    """One query parameter. `many`: repeatable, and a comma-separated list counts as repeats."""

    name: str
    schema: Schema
    about: str
    required: bool = False
    many: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One endpoint as its callers see it.

    Attributes:
        errors: the statuses it can answer besides those every operation has.
        conditional: takes `If-Match`.
        idempotent: takes `Idempotency-Key`.
        anonymous_limit: counts against the limit per address for anonymous callers.
        form: the fields of a form-encoded body, in place of a JSON one.
        media: the media type of an answer that is not JSON.
        likewise: statuses besides `status` that carry the same answer.
    """

    id: str
    tag: str
    summary: str
    auth: Auth = "token"
    scope: Scope | None = None
    query: tuple[Param, ...] = ()
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    merge: bool = False
    status: int = 200
    answer: type[msgspec.Struct] | None = None
    etag: bool = False
    location: bool = False
    paged: bool = False
    conditional: bool = False
    idempotent: bool = False
    anonymous_limit: bool = False
    form: tuple[Param, ...] = ()
    media: str | None = None
    likewise: tuple[int, ...] = ()
    errors: tuple[int, ...] = ()
    about: str = ""
    path_schemas: Mapping[str, Schema] = field(default_factory=dict)

    @cached_property
    def query_names(self) -> frozenset[str]:
        return frozenset(param.name for param in self.query)


OPERATION: Final = "operation"

_CALLBACK: Final = re.compile(r"^(/api/sms/africastalking/)[^/]*")


def canonical_path(path: str) -> str:
    """A path as links and problem documents name it: with the slash at its end.

    The secret part of a callback's path is left out.
    """
    if not path.startswith("/api"):
        return quote(path)
    return quote(_CALLBACK.sub(r"\1-", path.rstrip("/")) + "/")


def endpoint(
    method: Method, path: str, operation: Operation
) -> Callable[[AnyCallable], HTTPRouteHandler]:
    """A Litestar handler that carries its operation.

    Its function is given what it asks for by name, see `given_by_name`.
    """

    def decorated(fn: AnyCallable) -> HTTPRouteHandler:
        return route(
            path,
            http_method=[method],
            status_code=operation.status,
            name=operation.id,
            opt={OPERATION: operation},
        )(given_by_name(fn))

    return decorated


def given_by_name(fn: AnyCallable) -> AnyCallable:
    """A handler that gives a function what that names.

    `request`, `door`, the `caller` or the `visitor`, and parts of the path. Litestar's own
    injection would check the types of all that at every request, which costs more than an answer
    from the database.
    """
    names = frozenset(signature(fn).parameters)
    who = next((name for name in ("caller", "visitor") if name in names), None)
    of_path = names - {"request", "door", "caller", "visitor"}

    async def called(request: Request[Any, Any, Any]) -> Any:
        door = request.app.state["door"]
        given: dict[str, Any] = {}
        if "request" in names:
            given["request"] = request
        if "door" in names:
            given["door"] = door
        if who is not None:
            given[who] = await getattr(door, who)(request)
        for name in of_path:
            given[name] = request.scope["path_params"][name]
        return await fn(**given)

    called.__annotations__["return"] = get_type_hints(fn)["return"]
    called.__name__, called.__doc__ = fn.__name__, fn.__doc__
    return called
