"""`If-Match` and `Idempotency-Key`: the headers of careful writers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from litestar import Response

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.idempotency import AlreadyDone, Once
from savannah.application.revision import IfMatch
from savannah.domain.errors import StaleVersion
from savannah.entrypoints.http.door import JsonResponse
from savannah.entrypoints.http.problems import DoorError
from savannah.entrypoints.http.requests import AnyRequest, idempotency_key

T = TypeVar("T")

_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")

Rendered = tuple[int, dict[str, str], bytes]


def if_match(request: AnyRequest, *, required: bool) -> IfMatch:
    """The versions a writer accepts (RFC 9110 section 13.1.1); None for any.

    A weak or foreign tag is no version and so never matches. Where the header is required and
    absent, nothing matches; `stale` tells that case apart.
    """
    header = request.headers.get("if-match")
    if header is None:
        return frozenset() if required else None
    if header.strip() == "*":
        return None
    return frozenset(
        int(tag) for weak, tag in _ETAG.findall(header) if not weak and _VERSION.fullmatch(tag)
    )


def stale(request: AnyRequest, error: StaleVersion) -> StaleVersion | DoorError:
    """What to answer where no version matched: the header may have been missing altogether."""
    if "if-match" in request.headers:
        return error
    return DoorError(  # RFC 6585 section 3
        428, "precondition_required", "Send If-Match with the ETag you have read", header="If-Match"
    )


def once(
    request: AnyRequest, body: Mapping[str, Any], render: Callable[[T], Rendered]
) -> Once[T] | None:
    """The idempotency key of a request, if it has one.

    Raises:
        DoorError: 400 `invalid_idempotency_key`.
    """
    key = idempotency_key(request)
    if key is None:
        return None
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    path = request.scope["path"].rstrip("/").lower()
    return Once(
        operation=f"{request.method} {path}/",
        key=key,
        fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
        render=lambda result: msgspec.msgpack.encode(render(result)),
    )


def respond(rendered: Rendered) -> Response[bytes]:
    """An answer out of its status, headers and body."""
    status, headers, body = rendered
    return JsonResponse(body, status_code=status, headers=headers)


def replay(done: AlreadyDone, metrics: PrometheusMetrics) -> Response[bytes]:
    """The stored answer of the first call, marked as such."""
    metrics.replayed()
    status, headers, body = msgspec.msgpack.decode(done.answer)
    return respond((status, {**headers, "Idempotent-Replayed": "true"}, body))
