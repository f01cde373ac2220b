"""What the desk counts, for Prometheus: orders, texts and their cost, requests, the outbox.

When something is counted is decided where it happens; this file has the names and the labels.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from savannah.application.ports import Metrics
from savannah.domain.notification import COST_UNITS, SmsStatus
from savannah.domain.sms_text import SmsEvent

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusMetrics(Metrics):
    """Counters and gauges on one registry, with the process's own CPU, memory and open files."""

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._orders = Counter("savannah_orders_created", "Orders created.", registry=registry)
        self._sms = Counter(
            "savannah_sms", "Text messages by the state reached.", ["status"], registry=registry
        )
        self._cost = Counter(
            "savannah_sms_cost",
            "What the gateway charged, in whole units of the currency.",
            ["currency"],
            registry=registry,
        )
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "savannah_http_requests", "HTTP requests answered.", labels, registry=registry
        )
        self._durations = Histogram(
            "savannah_http_request_duration_seconds",
            "Time from the request to its answer.",
            labels,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._answered: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._outbox_depth = Gauge(
            "savannah_outbox_depth",
            "Text messages that wait.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._outbox_age = Gauge(
            "savannah_outbox_oldest_age_seconds",
            "For how long the oldest due text message has been waiting.",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        ProcessCollector(registry=registry)

    def order_created(self) -> None:
        self._orders.inc()

    def sms(self, event: SmsEvent, status: SmsStatus) -> None:  # noqa: ARG002  alerts are per state
        self._sms.labels(status.value).inc()

    def sms_cost(self, currency: str, units: int) -> None:
        # Prometheus knows floats only; the books are in storage.
        self._cost.labels(currency).inc(units / COST_UNITS)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        `route` is the template (`/api/orders/{id}/`), never the path: each value is a series.
        """
        known = method if method in _METHODS else "OTHER"
        values = (known, route, str(status))
        series = self._answered.get(values)
        if series is None:
            series = self._requests.labels(*values), self._durations.labels(*values)
            self._answered[values] = series
        requests, durations = series
        requests.inc()
        durations.observe(seconds)

    def outbox(self, depth: int, oldest_age_s: float | None) -> None:
        """Set how many messages wait, and how long the oldest due one has (None: none is due)."""
        self._outbox_depth.set(depth)
        self._outbox_age.set(oldest_age_s or 0.0)

    def render(self) -> bytes:
        """Everything in the text format, to be served as `content_type`."""
        return generate_latest(self._registry)
