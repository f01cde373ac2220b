"""Pages over HTTP: `limit`, `ordering` and the opaque cursor, next and previous links."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from msgspec import Meta

from savannah.domain.errors import BadQuery
from savannah.domain.paging import (
    COUNT_EXACT_TO,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    NEWEST_FIRST,
    Ordering,
    Page,
    PageRequest,
    Position,
)
from savannah.domain.search import QUERY_MAX, QUERY_MIN
from savannah.entrypoints.http.operations import SEARCHABLE, Param, canonical_path
from savannah.entrypoints.http.requests import AnyRequest, Query, operation_of

T = TypeVar("T")

_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
_OUTSIDE_CURSOR: Final = frozenset({"cursor", "limit", "page_size", "count"})
_TAG_BYTES: Final = 16

PAGE_PARAMS: Final = (
    Param("limit", _LIMIT, "How many rows."),
    Param("page_size", _LIMIT, "Another name for `limit`."),
    Param(
        "cursor",
        {"type": "string", "format": "cursor"},
        "From `next` or `previous`; never built by clients.",
    ),
    Param("count", {"type": "boolean", "default": True}, "`false` leaves the count out."),
)


SEARCH_PARAM: Final = Param(
    "q",
    {
        "type": "string",
        "minLength": QUERY_MIN,
        "maxLength": QUERY_MAX,
        "pattern": SEARCHABLE,
        "examples": ["0700 123 456"],
    },
    "What to look for: every word must be found in some field. Best matches come first.",
    required=True,
)

Link = Annotated[str, Meta(extra_json_schema={"format": "uri"})]


class PageOut(msgspec.Struct):
    """A page of a list; `results` follow in each."""

    count: Annotated[int, Meta(ge=0, le=COUNT_EXACT_TO)] | None
    count_exact: bool
    next: Link | None
    previous: Link | None


def ordering_param(*names: str) -> Param:
    """The `ordering` parameter over these names."""
    words = [word for name in names for word in (name, f"-{name}")]
    return Param(
        "ordering",
        {"type": "string", "enum": words, "default": str(NEWEST_FIRST)},
        "The field to sort by; `-` is descending.",
    )


class Cursors:
    """Makes and reads cursors, signed so that an altered or foreign one is found out."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def page_request(self, request: AnyRequest, query: Query) -> PageRequest:
        """The page that a request asks for. Raises: BadQuery."""
        limit = query.integer("limit", least=1, most=LIMIT_MAX)
        alias = query.integer("page_size", least=1, most=LIMIT_MAX)
        if limit is not None and alias is not None and limit != alias:
            raise BadQuery("page_size", "This is another name for limit; give one of them")
        ordering = NEWEST_FIRST
        if (wanted := query.one("ordering")) is not None:
            allowed: Collection[str] = next(
                param.schema["enum"]
                for param in operation_of(request).query
                if param.name == "ordering"
            )
            if wanted not in allowed:
                raise BadQuery("ordering", f"Use one of {', '.join(allowed)}")
            ordering = Ordering.parse(wanted)
        after = before = None
        if (cursor := query.one("cursor")) is not None:
            backward, position = self._read(cursor, self._context(request, query))
            after, before = (None, position) if backward else (position, None)
        return PageRequest(
            limit=limit or alias or LIMIT_DEFAULT,
            after=after,
            before=before,
            ordering=ordering,
            count=bool(query.flag("count", default=True)),
        )

    def answer(
        self,
        request: AnyRequest,
        query: Query,
        page: Page[T],
        show: Callable[[T], msgspec.Struct],
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The list's JSON object, and the `Link` header (RFC 8288) if there is more."""
        links: dict[str, str | None] = {}
        for name, position in (("next", page.next), ("previous", page.previous)):
            links[name] = None
            if position is not None:
                cursor = self._make(
                    position, self._context(request, query), backward=name == "previous"
                )
                links[name] = self._url(request, query, cursor)
        header = ", ".join(
            f'<{url}>; rel="{"prev" if name == "previous" else name}"'
            for name, url in links.items()
            if url is not None
        )
        body = {
            "count": page.count,
            "count_exact": page.count_exact,
            **links,
            "results": [show(item) for item in page.items],
        }
        return body, {"Link": header} if header else {}

    @staticmethod
    def _url(request: AnyRequest, query: Query, cursor: str) -> str:
        pairs = [(name, value) for name, value in query.pairs if name != "cursor"]
        base = str(request.base_url).rstrip("/")
        path = canonical_path(request.scope["path"])
        return f"{base}{path}?{urlencode([*pairs, ('cursor', cursor)])}"

    @staticmethod
    def _context(request: AnyRequest, query: Query) -> bytes:
        """What a cursor is bound to: the list, its filters and its ordering."""
        bound = [pair for pair in query.pairs if pair[0] not in _OUTSIDE_CURSOR]
        path = request.scope["path"].rstrip("/").lower()
        return msgspec.json.encode([operation_of(request).id, path, bound])

    def _make(self, position: Position, context: bytes, *, backward: bool) -> str:
        payload = msgspec.msgpack.encode([backward, list(position.values), position.id.bytes])
        return _spelled(self._tag(payload, context) + payload)

    def _read(self, cursor: str, context: bytes) -> tuple[bool, Position]:
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise _strange() from None
        tag, payload = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        # Base 64 has several spellings of the same bytes; only ours counts.
        if _spelled(raw) != cursor or not hmac.compare_digest(tag, self._tag(payload, context)):
            raise _strange()
        backward, values, id_ = msgspec.msgpack.decode(payload)
        sort_values = tuple(
            value.astimezone(UTC) if isinstance(value, datetime) else value for value in values
        )
        return bool(backward), Position(sort_values, UUID(bytes=id_))

    def _tag(self, payload: bytes, context: bytes) -> bytes:
        return hmac.new(self._key, context + b"\0" + payload, hashlib.sha256).digest()[:_TAG_BYTES]


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _strange() -> BadQuery:
    return BadQuery("cursor", "The cursor does not belong to this list", code="invalid_cursor")
