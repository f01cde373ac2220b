"""Around every request: its id, its host and scheme, security headers, access line and metrics.

A plain ASGI layer outside the framework, so that it also sees what the framework refuses.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

import msgspec
from litestar.enums import HttpMethod
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.ports import LimitState
from savannah.application.trace import TraceContext, request_id_var, trace_var
from savannah.entrypoints.http import problems
from savannah.entrypoints.http.door import LIMIT_STATE, HttpOptions
from savannah.entrypoints.http.operations import canonical_path
from savannah.entrypoints.variables import is_host_of

if TYPE_CHECKING:
    from savannah.entrypoints.tracing import Tracing

log = logging.getLogger("savannah.access")

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_HOSTS_MOST: Final = 256
_Refusal = tuple[int, list[tuple[bytes, bytes]], bytes]
# Probes come by address and plain http, whatever the public name is.
_SIMULATOR: Final = "/simulator"
_PROBES: Final = ("/api/auth/health", "/health/", "/metrics")
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_ALWAYS_NAMES: Final = frozenset(name for name, _ in _ALWAYS)
_API_CSP: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Gate:
    """The outermost ASGI layer of the REST door.

    Args:
        local: beginnings of paths that this machine may also call without https.
        tracing: records a span for each request; without it, the trace context is passed on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        options: HttpOptions,
        metrics: PrometheusMetrics,
        local: tuple[str, ...] = (),
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._local = local
        self._options = options
        self._hosts: dict[str, bool] = {}  # what was said of those that came
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) == "http":
            await self._answer(cast("HTTPScope", scope), receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method = str(scope["method"])
        # Asked now: the framework shortens the path of what is mounted.
        simulated = bool(self._local) and scope["path"].startswith(_SIMULATOR)
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        request_id = _request_id(headers)
        token = request_id_var.set(request_id)
        trace, cause = _trace_of(headers), None
        if self._tracing is not None:
            cause = self._tracing.request(method, trace)
            trace = cause.context
        elif trace is not None:
            trace = trace.child()
        trace_token = trace_var.set(trace or TraceContext.begin())
        status = 500
        if method == "HEAD":
            # RFC 9110 section 9.3.2: the same as GET, without the body. A copy, because the server
            # goes by its own scope when it counts the bytes.
            scope = cast("HTTPScope", {**scope, "method": HttpMethod.GET})
        forwarded = self._believe_proxy(scope, headers)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *self._headers(scope, message["headers"]),
                ]
            elif message["type"] == "http.response.body" and method == "HEAD":
                message["body"] = b""
            await send(message)

        try:
            refusal = self._refusal(scope, forwarded=forwarded)
            if refusal is None:
                await self._app(scope, receive, send_on)
            else:
                await _refuse(send_on, *refusal)
        finally:
            seconds = time.perf_counter() - started
            known = scope.get("path_template") or "unmatched"
            route = _SIMULATOR if simulated else str(known)
            self._metrics.request(method, route, status, seconds)
            problem: str | None = scope.get("state", {}).get(problems.PROBLEM_STATE)
            if problem is not None:
                self._metrics.problem(problem)
            log.log(
                logging.DEBUG if simulated else logging.INFO,  # its page asks every second
                "request",
                extra={
                    "method": method,
                    "route": route,
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                },
            )
            if cause is not None:
                cause.answered(method, route, status, request_id)
            trace_var.reset(trace_token)
            request_id_var.reset(token)

    def _believe_proxy(self, scope: HTTPScope, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Take address, scheme and host from `X-Forwarded-*`, from trusted proxies only.

        Returns: whether one of them has handed on somebody else's request.
        """
        client = scope.get("client")
        if client is None or not self._trusted(client[0]):
            return False
        found: dict[bytes, str] = {}
        for name, value in headers:  # several lines of one header are one list
            more = value.decode("latin-1")
            found[name] = f"{found[name]},{more}" if name in found else more
        hops = [part.strip() for part in found.get(b"x-forwarded-for", "").split(",")]
        for hop in reversed(hops):
            if not _is_address(hop):
                break
            scope["client"] = (hop, 0)
            if not self._trusted(hop):
                break
        if (scheme := found.get(b"x-forwarded-proto", "").strip().lower()) in ("http", "https"):
            scope["scheme"] = scheme
        if host := found.get(b"x-forwarded-host", "").strip():
            scope["headers"] = [
                *((name, value) for name, value in headers if name != b"host"),
                (b"host", host.encode("latin-1")),
            ]
        return b"x-forwarded-for" in found

    def _trusted(self, address: str) -> bool:
        if not self._options.trusted_proxies or not _is_address(address):
            return False
        found = ip_address(address)
        if isinstance(found, IPv6Address):  # a socket for both kinds writes IPv4 this way
            found = found.ipv4_mapped or found
        return any(found in network for network in self._options.trusted_proxies)

    def _refusal(self, scope: HTTPScope, *, forwarded: bool) -> _Refusal | None:
        path = scope["path"]
        # The router takes several slashes for one, and so would give each path more spellings.
        # Figures are for whoever asks us directly, not for the world behind a proxy.
        if "//" in path or (forwarded and path in ("/metrics", "/metrics/")):
            return _problem(scope, 404, "not_found", problems.TITLES["not_found"][0])
        if path.startswith(_PROBES):
            return None
        # Of several hosts a proxy and we could mean different ones (RFC 9112 section 3.2).
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._host_allowed(host):
            return _problem(scope, 400, "invalid_host", "This host is not served here")
        if path.startswith(self._local) and _from_this_machine(scope):
            return None
        if not self._options.debug and path.startswith(_SIMULATOR):
            # It shows customers' numbers and texts, and asks nobody who they are.
            return _problem(scope, 404, "not_found", problems.TITLES["not_found"][0])
        if not self._options.debug and scope["scheme"] == "http":
            query = scope["query_string"]
            target = f"https://{host}".encode("latin-1") + scope["raw_path"].partition(b"?")[0]
            # 308 keeps method and body (RFC 9110 section 15.4.9).
            return 308, [(b"location", target + (b"?" + query if query else b""))], b""
        return None

    def _host_allowed(self, host: str) -> bool:
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= _HOSTS_MOST:
                self._hosts.clear()
            known = self._hosts[host] = self._is_allowed(host)
        return known

    def _is_allowed(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        return match is not None and is_host_of(match[1], self._options.allowed_hosts)

    def _headers(
        self, scope: HTTPScope, present: Iterable[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in present}
        added = [*_ALWAYS]
        if not names.isdisjoint(_ALWAYS_NAMES):
            added = [header for header in _ALWAYS if header[0] not in names]
        if not self._options.debug and scope["scheme"] == "https":
            added.append(_HSTS)  # RFC 6797 section 7.2: not over plain http
        if _API_CSP[0] not in names:  # pages have a policy of their own
            added.append(_API_CSP)
        if scope["path"].startswith("/api") and b"cache-control" not in names:
            added.append((b"cache-control", b"no-store"))
        state: LimitState | None = scope.get("state", {}).get(LIMIT_STATE)
        if state is not None and b"ratelimit-limit" not in names:
            reset = max(0, -(-int(state.reset_after.total_seconds() * 1000) // 1000))
            added += [
                (b"ratelimit-limit", str(state.limit).encode()),
                (b"ratelimit-remaining", str(state.remaining).encode()),
                (b"ratelimit-reset", str(reset).encode()),
            ]
        return added


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return uuid4().hex


def _trace_of(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """The caller's step of its trace; None when it tells of none, or of several."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = [value for name, value in headers if name == b"tracestate"]
    return TraceContext.parse(parents[0].decode("latin-1"), b",".join(states).decode("latin-1"))


def _from_this_machine(scope: HTTPScope) -> bool:
    client = scope.get("client")
    return client is not None and _is_address(client[0]) and ip_address(client[0]).is_loopback


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _problem(scope: HTTPScope, status: int, code: str, detail: str) -> _Refusal:
    scope.setdefault("state", {})[problems.PROBLEM_STATE] = code
    body = problems.document(
        status=status, code=code, detail=detail, instance=canonical_path(scope["path"])
    )
    kind = (b"content-type", problems.MEDIA_TYPE.encode())
    return status, [kind], msgspec.json.encode(body)


async def _refuse(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
