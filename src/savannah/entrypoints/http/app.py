"""The Litestar application: routes, refusals, and the gate around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from litestar import Litestar, Response, Router, asgi, route
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.ports import Clock, RateLimiter
from savannah.application.savannah import Savannah
from savannah.domain.errors import SavannahError
from savannah.domain.oauth import API_PATH
from savannah.entrypoints.health import HealthCheck
from savannah.entrypoints.http import browser, oauth, openapi, ops, problems
from savannah.entrypoints.http.deadline import Deadline
from savannah.entrypoints.http.door import Door, HttpOptions
from savannah.entrypoints.http.gate import Gate
from savannah.entrypoints.http.paging import Cursors
from savannah.entrypoints.http.problems import with_head
from savannah.entrypoints.http.requests import BODY_MAX, AnyRequest
from savannah.entrypoints.http.routes import API_PREFIX, API_ROUTES
from savannah.entrypoints.watch import Watch

if TYPE_CHECKING:
    from savannah.adapters.saq_queue.board import QueueBoard
    from savannah.entrypoints.tracing import Tracing


def create_app(
    savannah: Savannah,
    *,
    options: HttpOptions,
    limiter: RateLimiter,
    clock: Clock,
    metrics: PrometheusMetrics,
    checks: Mapping[str, HealthCheck],
    simulator: ASGIApp | None = None,
    queues: QueueBoard | None = None,
    watch: Watch | None = None,
    tracing: Tracing | None = None,
) -> Litestar:
    """The ASGI application of the REST door.

    Args:
        checks: of parts besides storage and the queue of texts, by name.
        queues: shown to administrators at `/admin/queues/` when given.
        simulator: mounted at `/simulator` when given.
        watch: what a scrape measures; by default the outbox alone.
        tracing: records a span for each request.
    """
    door = Door(
        savannah=savannah,
        options=options,
        limiter=limiter,
        clock=clock,
        metrics=metrics,
        cursors=Cursors(options.cursor_key),
        health=ops.health_of(savannah, checks),
        watch=watch or Watch(metrics, notifications=savannah.notifications),
    )
    outside = [*ops.ROUTES, *openapi.ROUTES, *oauth.ROUTES, *browser.ROUTES]
    routes: list[Any] = [
        Router(prefix, route_handlers=[*_options(handlers), *handlers])
        for prefix, handlers in ((API_PREFIX, API_ROUTES), ("/", outside))
    ]
    if queues is not None:
        from savannah.entrypoints.http import queues as queue_pages  # with SAQ behind it

        routes.append(queue_pages.routes(queues))
    if simulator is not None:
        routes.append(_mounted(simulator))
    app = Litestar(
        routes,
        exception_handlers={
            SavannahError: problems.refuse,
            problems.DoorError: problems.refuse_shape,
            HTTPException: _refuse_framework,
            Exception: problems.crash,
        },
        state=State(
            {"door": door, problems.RESOURCE_METADATA: _resource_metadata(options.issuer)},
            deep_copy=False,
        ),
        cors_config=_cors(options.cors_origins),
        request_max_body_size=BODY_MAX,
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    if options.request_timeout is not None:
        # The simulator's faults include answers that do not come.
        app.asgi_handler = Deadline(app.asgi_handler, options.request_timeout, exempt="/simulator/")
    app.asgi_handler = Gate(
        app.asgi_handler,
        options=options,
        metrics=metrics,
        # The mounted simulator and this service call each other by address.
        local=() if simulator is None else ("/simulator/", "/api/sms/"),
        tracing=tracing,
    )
    return app


def _refuse_framework(request: AnyRequest, error: HTTPException) -> Response[Any]:
    """A refusal before any handler was found, in the words of whoever has the path."""
    theirs = browser.error_handler_for(request.scope["path"])
    if theirs is None:
        return problems.refuse_framework(request, error)
    answer: Response[Any] = theirs[HTTPException](request, error)
    return answer


def _resource_metadata(issuer: str) -> str:
    """Where the metadata of our API stands (RFC 9728 section 3.1)."""
    parts = urlsplit(issuer + API_PATH)
    return parts._replace(path=f"/.well-known/oauth-protected-resource{parts.path}").geturl()


def _options(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """An answer to OPTIONS per path; the framework's own names the methods of one handler only."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    return [_allowing(path, with_head(found)) for path, found in methods.items()]


def _allowing(path: str, methods: str) -> HTTPRouteHandler:
    @route(path, http_method=[HttpMethod.OPTIONS], status_code=204)
    async def options() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": methods})

    return options


def _mounted(simulator: ASGIApp) -> Any:
    @asgi("/simulator", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await simulator(scope, receive, send)

    return mounted


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "DPoP",
            "If-Match",
            "Idempotency-Key",
            "X-Request-ID",
            "traceparent",
            "tracestate",
        ],
        expose_headers=[
            "ETag",
            "Idempotent-Replayed",
            "Link",
            "Location",
            "RateLimit-Limit",
            "RateLimit-Remaining",
            "RateLimit-Reset",
            "Retry-After",
            "WWW-Authenticate",
            "X-Request-ID",
        ],
    )
