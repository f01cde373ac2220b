"""Spans for OpenTelemetry, when an endpoint is set: requests, statements, jobs, gateway calls.

Needs the extra `otel`; imported only where tracing is on. What a span says comes from a short list
written here: templates, names and counts, never a path, a parameter, a number or a text. Names
follow https://opentelemetry.io/docs/specs/semconv/.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from importlib.metadata import version
from threading import Thread
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState
from sqlalchemy import Engine, event

from savannah.application.ports import JobQueue, Sms, SmsGateway
from savannah.application.trace import TraceContext, trace_var
from savannah.domain.notification import Outcome
from savannah.domain.order import NotificationId
from savannah.entrypoints.logs import mask
from savannah.entrypoints.watch import outcome_word
from savannah.entrypoints.worker import Carrier

VERSION: Final = version("savannah")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUEUE: Final = "notifications"
_STATEMENT_MAX: Final = 2000
_FLUSH: Final = timedelta(seconds=5)

Handler = Callable[[Sequence[NotificationId]], Awaitable[None]]


class Tracing:
    """Records the spans of one process and hands them to a collector over OTLP/HTTP.

    The SDK reads its other variables itself: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
    `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`.

    Args:
        endpoint: the collector's root; spans go to `/v1/traces` below it.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource({SERVICE_NAME: "savannah", SERVICE_VERSION: VERSION})
        self._provider = TracerProvider(
            resource=resource.merge(Resource.create()), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("savannah", VERSION)
        for name, listener in self._listeners.items():
            event.listen(Engine, name, listener)

    async def stop(self) -> None:
        """Hand over what is left, as far as that goes quickly, and record nothing from now on."""
        for name, listener in self._listeners.items():
            event.remove(Engine, name, listener)
        # The SDK waits half a minute for a collector that is away. Neither the event loop nor the
        # interpreter waits at its end for a thread of this kind.
        flushing = Thread(target=self._provider.shutdown, name="savannah-spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH.total_seconds())

    @property
    def _listeners(self) -> dict[str, Callable[..., None]]:
        return {
            "before_cursor_execute": self._statement_begins,
            "after_cursor_execute": self._statement_ends,
            "handle_error": self._statement_fails,
            "connect": self._connected,
        }

    # --- requests --------------------------------------------------------------------------------

    def request(self, method: str, cause: TraceContext | None) -> RequestSpan:
        """Begin the span of a request, below the caller's own if it told of one."""
        word = method if method in METHODS else "_OTHER"
        span = self._tracer.start_span(word, context=_below(cause), kind=SpanKind.SERVER)
        return RequestSpan(span, word, "" if cause is None else cause.state)

    # --- statements ------------------------------------------------------------------------------

    def _statement_begins(
        self, connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: Any
    ) -> None:
        # asyncpg tells by itself; the relay's looks at the outbox belong to no trace.
        if connection.dialect.driver != "asyncpg" and otel.get_current_span().is_recording():
            context.savannah_span = self._statement(connection.dialect.name, statement)

    def _statement_ends(self, *arguments: Any) -> None:
        _end(getattr(arguments[4], "savannah_span", None))

    def _statement_fails(self, failure: Any) -> None:
        span: Span | None = getattr(failure.execution_context, "savannah_span", None)
        if span is not None:
            _failed(span, type(failure.original_exception).__name__)
            _end(span)

    def _connected(self, connection: Any, _record: Any) -> None:
        driver = getattr(connection, "driver_connection", None)
        if driver is not None:
            driver.add_query_logger(self._statement_told)

    def _statement_told(self, told: Any) -> None:
        """A statement that asyncpg has done, in the context of whoever asked for it."""
        if not otel.get_current_span().get_span_context().trace_flags.sampled:
            return
        ended = time.time_ns()
        started = ended - int(told.elapsed * 1e9)
        span = self._statement("postgresql", told.query, started=started)
        if told.exception is not None:
            _failed(span, type(told.exception).__name__)
        span.end(ended)

    def _statement(self, system: str, text: str, *, started: int | None = None) -> Span:
        operation = text.lstrip()[:20].partition(" ")[0].rstrip(";").upper()
        return self._tracer.start_span(
            operation,
            kind=SpanKind.CLIENT,
            start_time=started,
            attributes={
                "db.system.name": system,
                "db.operation.name": operation,
                # As it was prepared: the values are not in it.
                "db.query.text": text[:_STATEMENT_MAX],
            },
        )

    # --- jobs ------------------------------------------------------------------------------------

    def queue(self, queue: JobQueue) -> JobQueue:
        """The same queue, with a span for each batch that is put into it."""
        return _TracedQueue(queue, self._tracer)

    def carrier(self, carrier: Carrier) -> Carrier:
        """The same carrier, with a span for each batch that comes out of the queue."""
        return _TracedCarrier(carrier, self._tracer)

    # --- gateway calls ---------------------------------------------------------------------------

    def gateway(self, gateway: SmsGateway) -> SmsGateway:
        """The same gateway, with a span for each call, in the trace of the request behind it."""
        return _TracedGateway(gateway, self._tracer)


class RequestSpan:
    """The span of a request under way; `context` is what its causes and its log lines name."""

    def __init__(self, span: Span, method: str, state: str) -> None:
        self._span = span
        self._method = method
        self._token = contexts.attach(otel.set_span_in_context(span))
        self.context = _context_of(span)._replace(state=state)

    def answered(self, method: str, route: str, status: int, request_id: str) -> None:
        """End it. `route` is the template, never the path."""
        del method
        span = self._span
        span.update_name(f"{self._method} {route}")
        span.set_attributes(
            {
                "http.request.method": self._method,
                "http.route": route,
                "http.response.status_code": status,
                "savannah.request_id": mask(request_id),  # whatever a caller may put there
            }
        )
        if status >= 500:
            _failed(span, str(status))
        contexts.detach(self._token)
        span.end()


class _TracedQueue(JobQueue):
    def __init__(self, queue: JobQueue, tracer: otel.Tracer) -> None:
        self._queue = queue
        self._tracer = tracer

    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        with self._tracer.start_as_current_span(
            f"publish {_QUEUE}",
            kind=SpanKind.PRODUCER,
            attributes=_messaging("publish", "send", len(ids)),
            record_exception=False,
        ):
            await self._queue.enqueue(ids)

    def wake(self) -> None:
        self._queue.wake()


class _TracedCarrier:
    def __init__(self, carrier: Carrier, tracer: otel.Tracer) -> None:
        self._carrier = carrier
        self._tracer = tracer

    def bind(self, handler: Handler) -> None:
        async def traced(ids: Sequence[NotificationId]) -> None:
            with self._tracer.start_as_current_span(
                f"process {_QUEUE}",
                kind=SpanKind.CONSUMER,
                attributes=_messaging("process", "process", len(ids)),
                record_exception=False,
            ):
                await handler(ids)

        self._carrier.bind(traced)

    async def start(self) -> None:
        await self._carrier.start()

    async def stop(self, *, grace: timedelta) -> Sequence[NotificationId] | None:
        return await self._carrier.stop(grace=grace)


class _TracedGateway(SmsGateway):
    def __init__(self, gateway: SmsGateway, tracer: otel.Tracer) -> None:
        self._gateway = gateway
        self._tracer = tracer

    async def send(self, sms: Sms) -> Outcome:
        batch = otel.get_current_span().get_span_context()
        cause = trace_var.get()
        with self._tracer.start_as_current_span(
            "send sms",
            context=_below(cause),
            kind=SpanKind.CLIENT,
            links=[otel.Link(batch)] if batch.is_valid else (),
            attributes={"savannah.notification": str(sms.id)},
            record_exception=False,
        ) as span:
            token = trace_var.set(_context_of(span))
            try:
                outcome = await self._gateway.send(sms)
            finally:
                trace_var.reset(token)
            word = outcome_word(outcome)
            span.set_attribute("savannah.outcome", word)
            if word != "accepted":
                _failed(span, word)
            return outcome


def _messaging(operation: str, kind: str, count: int) -> dict[str, str | int]:
    return {
        "messaging.system": "savannah",
        "messaging.destination.name": _QUEUE,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.batch.message_count": count,
    }


def _below(cause: TraceContext | None) -> contexts.Context:
    """A context whose current span is that step, wherever it ran; an empty one for None."""
    if cause is None:
        return contexts.Context()
    # Not one that holds somebody's number, as a caller's own could.
    state = cause.state if mask(cause.state) == cause.state else ""
    remote = SpanContext(
        int(cause.trace_id, 16),
        int(cause.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(cause.flags),
        trace_state=TraceState.from_header([state]),
    )
    return otel.set_span_in_context(otel.NonRecordingSpan(remote), contexts.Context())


def _context_of(span: Span) -> TraceContext:
    found = span.get_span_context()
    if not found.is_valid:  # OTEL_SDK_DISABLED, a variable of the SDK's own
        return TraceContext.begin()
    return TraceContext(
        f"{found.trace_id:032x}", f"{found.span_id:016x}", int(found.trace_flags) & 0b11
    )


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _end(span: Span | None) -> None:
    if span is not None:
        span.end()
