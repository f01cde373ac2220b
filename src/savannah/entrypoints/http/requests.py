"""Reading a request: path ids, JSON bodies and query parameters, an exact word for each slip."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException, InternalServerException

from savannah.domain import text
from savannah.domain.errors import BadQuery, FieldProblem, Invalid, NotFound
from savannah.domain.statistics import local_midnight
from savannah.entrypoints.http.operations import (
    OPERATION,
    UUID_SCHEMA,
    VALUES_MOST,
    Operation,
    Param,
)
from savannah.entrypoints.http.problems import DoorError

AnyRequest = Request[Any, Any, Any]
Choice = TypeVar("Choice", bound=StrEnum)

_BOUND: Final = {
    "type": "string",
    "anyOf": [{"format": "date"}, {"format": "date-time"}],
    "examples": ["2026-11-23", "2026-11-23T09:15:00Z"],
}
TZ_PARAM: Final = Param(
    "tz",
    {"type": "string", "format": "time-zone", "examples": ["Africa/Nairobi"]},
    "The IANA time zone that days in other parameters are in.",
)
TIME_PARAMS: Final = (
    Param("created_from", _BOUND, "Created then or later; a day or an instant."),
    Param("created_to", _BOUND, "Created before that instant, or on that day or earlier."),
    Param("updated_since", _BOUND, "Changed then or later; for delta pulls."),
    TZ_PARAM,
)
CURRENCY_PARAM: Final = Param(
    "currency",
    {"type": "string", "pattern": "^[A-Z]{3}$", "format": "iso-4217", "examples": ["KES"]},
    "ISO 4217 code, one of those the business deals in.",
)
CUSTOMER_PARAM: Final = Param("customer", UUID_SCHEMA, "The customer's id.")

BODY_MAX: Final = 64 * 1024
_PARAMETERS_MAX: Final = 10 * VALUES_MOST  # no operation has more lists than that
_JSON_TYPES: Final = frozenset({"application/json"})
_PATCH_TYPES: Final = _JSON_TYPES | {"application/merge-patch+json"}
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+\- ]\d{2}:\d{2})", re.ASCII
)


def operation_of(request: AnyRequest) -> Operation:
    """What the matched endpoint promises."""
    operation: Operation = request.route_handler.opt[OPERATION]
    return operation


def path_id(raw: str, what: str) -> UUID:
    """A path id. Raises: NotFound, when it is no UUID: there is nothing of that name."""
    try:
        return text.uuid(raw)
    except ValueError:
        raise NotFound(what) from None


def cookie_of(request: AnyRequest, name: str) -> str | None:
    """The value of a cookie; the last one, where there are several.

    The framework would unquote all of them, in a time that grows with the square of their length.
    Source: RFC 6265 section 5.4; our own values need no quotes.
    """
    found = None
    for header, value in request.scope["headers"]:
        if header == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, equals, kept = pair.strip(" \t").partition("=")
                if equals and key == name:
                    found = kept
    return found


async def read_object(
    request: AnyRequest, *, exists: Callable[[], Awaitable[object]] | None = None
) -> dict[str, Any]:
    """The body's JSON object as the operation takes it; an absent optional body is `{}`.

    Args:
        exists: looks the path's subject up. A subject that is missing outranks a broken body,
            and this way a sound request pays no extra look-up.

    Raises:
        BadQuery: an unknown parameter. DoorError: 415, 400. HTTPException: 413, of the framework.
        Invalid: shape errors. NotFound: from `exists`.
    """
    try:
        Query(request)
        return await _read_object(request)
    except (BadQuery, DoorError, HTTPException, Invalid):
        if exists is not None:
            await exists()
        raise


async def read_body(request: AnyRequest) -> bytes:
    """The body as it came.

    Raises:
        DoorError: 400, the caller went away half-way. HTTPException: 413, of the framework.
    """
    try:
        return await request.body()
    except InternalServerException:
        raise DoorError(400, "bad_request", "The body broke off") from None


async def _read_object(request: AnyRequest) -> dict[str, Any]:
    operation = operation_of(request)
    raw = await read_body(request)
    if not raw.strip():
        if operation.body_required:
            raise DoorError(400, "malformed_json", "A JSON object is expected")
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_PATCH_TYPES if request.method == "PATCH" else _JSON_TYPES):
        raise DoorError(415, "unsupported_media_type", "Send Content-Type: application/json")
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DoorError(400, "malformed_json", "The body is not well-formed JSON") from None
    if operation.idempotent:
        idempotency_key(request)  # what is broken in the header counts before what the body says
    if not isinstance(found, dict):
        raise Invalid.one("", "wrong_type", "The body must be a JSON object")
    if not operation.merge and operation.body is not None:
        _check_shape(found, operation.body)
    return found


def idempotency_key(request: AnyRequest) -> str | None:
    """Raises: DoorError, 400 `invalid_idempotency_key`."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise DoorError(
            400,
            "invalid_idempotency_key",
            "1 to 255 printable ASCII characters",
            header="Idempotency-Key",
        )
    return key


def require_texts(body: Mapping[str, Any], *names: str) -> None:
    """Raises: Invalid, where one of these members is there and no string."""
    problems = [
        FieldProblem(name, "wrong_type", "This must be a string")
        for name in names
        if body.get(name) is not None and not isinstance(body[name], str)
    ]
    if problems:
        raise Invalid(problems)


def _check_shape(found: Mapping[str, Any], shape: type[msgspec.Struct]) -> None:
    """Unknown, missing and null members; types and rules are the domain's, all together."""
    known = _members(shape)
    read_only: Collection[str] = getattr(shape, "READ_ONLY", ())
    problems: list[FieldProblem] = []
    for name, value in found.items():
        if name in read_only:
            problems.append(FieldProblem(name, "read_only_field", "This is set by the server"))
        elif name not in known:
            problems.append(FieldProblem.unknown(name))
        elif value is None and not known[name].nullable:
            problems.append(FieldProblem(name, "null_not_allowed", "This cannot be null"))
    problems += [
        FieldProblem(name, "required", "This field is required")
        for name, member in known.items()
        if member.required and name not in found
    ]
    if problems:
        raise Invalid(problems)


class _Member(NamedTuple):
    required: bool
    nullable: bool


@cache
def _members(shape: type[msgspec.Struct]) -> Mapping[str, _Member]:
    found = {}
    for each in msgspec.structs.fields(shape):
        kinds = msgspec.inspect.type_info(each.type)
        nullable = isinstance(kinds, msgspec.inspect.UnionType) and kinds.includes_none
        found[each.encode_name] = _Member(each.required, nullable)
    return found


async def read_query(
    request: AnyRequest, *, exists: Callable[[], Awaitable[object]] | None = None
) -> Query:
    """The query string of a request; a path's subject that is missing outranks a slip in it.

    Raises:
        BadQuery: an unknown parameter. NotFound: from `exists`.
    """
    try:
        return Query(request)
    except BadQuery:
        if exists is not None:
            await exists()
        raise


class Query:
    """The query string of a request, read by the rules of its operation."""

    def __init__(self, request: AnyRequest) -> None:
        """Raises: BadQuery, `unknown_parameter`, for a name the operation does not have."""
        operation = operation_of(request)
        raw = request.scope["query_string"].decode("latin-1")
        self._values: dict[str, list[str]] = {}
        if raw.count("&") >= _PARAMETERS_MAX:
            raise BadQuery("", f"At most {_PARAMETERS_MAX} parameters; a list takes commas, too")
        try:
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict")
        except ValueError:
            raise BadQuery("", "The query string is not percent-encoded UTF-8") from None
        known = operation.query_names
        for name, value in pairs:
            if name not in known:
                raise BadQuery(name[:64], "There is no such parameter", code="unknown_parameter")
            self._values.setdefault(name, []).append(value)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Everything that came, in a stable order."""
        return sorted((name, value) for name, values in self._values.items() for value in values)

    def one(self, name: str) -> str | None:
        """A parameter that may come once. Raises: BadQuery."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise BadQuery(name, "This parameter may come only once")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """Raises: BadQuery, `missing_parameter`."""
        value = self.one(name)
        if value is None:
            raise BadQuery(name, "This parameter is required", code="missing_parameter")
        return value

    def many(self, name: str) -> list[str]:
        """The values of a repeatable or comma-listed parameter, without repetition.

        Raises: BadQuery, for more than `VALUES_MOST`.
        """
        parts = [part for value in self._values.get(name, []) for part in value.split(",")]
        if len(parts) > VALUES_MOST:
            raise BadQuery(name, f"At most {VALUES_MOST} values")
        return list(dict.fromkeys(part.strip() for part in parts))

    def choices(self, name: str, among: type[Choice]) -> tuple[Choice, ...]:
        """Raises: BadQuery, naming the words that are allowed."""
        try:
            return tuple(among(value) for value in self.many(name))
        except ValueError:
            raise BadQuery(name, f"Use one of {', '.join(among)}") from None

    def choice(self, name: str, among: type[Choice], *, default: Choice) -> Choice:
        value = self.one(name)
        if value is None:
            return default
        try:
            return among(value)
        except ValueError:
            raise BadQuery(name, f"Use one of {', '.join(among)}") from None

    def flag(self, name: str, *, default: bool | None) -> bool | None:
        value = self.one(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise BadQuery(name, "Use true or false")
        return value == "true"

    def integer(self, name: str, *, least: int, most: int) -> int | None:
        value = self.one(name)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) or not least <= int(value) <= most:
            raise BadQuery(name, f"A whole number from {least} to {most}")
        return int(value)

    def uuid(self, name: str) -> UUID | None:
        """Raises: BadQuery, `invalid_uuid`."""
        value = self.one(name)
        return None if value is None else _uuid(name, value)

    def uuids(self, name: str) -> list[UUID]:
        """Raises: BadQuery, `invalid_uuid`."""
        return [_uuid(name, value) for value in self.many(name)]

    def zone(self, *, default: ZoneInfo) -> ZoneInfo:
        """The IANA zone of `tz`. Raises: BadQuery."""
        value = self.one("tz")
        if value is None:
            return default
        wrong = BadQuery("tz", "This is not an IANA time zone")
        if not re.fullmatch(r"[A-Za-z0-9_+\-/]{1,64}", value, re.ASCII):
            raise wrong
        try:
            return ZoneInfo(value)
        except (ValueError, ZoneInfoNotFoundError, OSError):
            raise wrong from None

    def day(self, name: str) -> date | None:
        """A calendar day, `YYYY-MM-DD`. Raises: BadQuery."""
        value = self.one(name)
        if value is None:
            return None
        wrong = BadQuery(name, "Write a day as YYYY-MM-DD")
        if not _DATE.fullmatch(value):
            raise wrong
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise wrong from None

    def since(self, name: str, zone: ZoneInfo) -> datetime | None:
        """An inclusive lower bound: an instant, or the beginning of a day in `zone`."""
        return self._bound(name, zone, days=0)

    def before(self, name: str, zone: ZoneInfo) -> datetime | None:
        """An exclusive upper bound: an instant, or the end of a day in `zone`."""
        return self._bound(name, zone, days=1)

    def _bound(self, name: str, zone: ZoneInfo, *, days: int) -> datetime | None:
        value = self.one(name)
        if value is None:
            return None
        try:
            if _DATE.fullmatch(value):
                moment = local_midnight(date.fromisoformat(value) + timedelta(days=days), zone)
            else:
                moment = _instant(value)
        except (ValueError, OverflowError):
            raise BadQuery(name, "Write a day as YYYY-MM-DD, or an RFC 3339 date-time") from None
        if not 1 < moment.year < 9999:
            raise BadQuery(name, "The year is out of range")
        return moment


def _uuid(name: str, value: str) -> UUID:
    try:
        return text.uuid(value)
    except ValueError:
        raise BadQuery(name, "This is not a UUID", code="invalid_uuid") from None


def _instant(value: str) -> datetime:
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise ValueError(value)
    day, clock, fraction, offset = match.groups()
    # An unescaped + of an offset arrives as a blank.
    offset = "+00:00" if offset in "Zz" else offset.replace(" ", "+")
    seconds = (fraction or "")[:7]
    return datetime.combine(
        date.fromisoformat(day), time.fromisoformat(f"{clock}{seconds}{offset}")
    ).astimezone(UTC)
