"""What the desk counts, for Prometheus: orders, texts and their cost, requests, the outbox.

When something is counted is decided where it happens; this file has the names and the labels.
"""

from __future__ import annotations

import platform
from functools import partial
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from savannah.application.ports import Metrics
from savannah.domain.notification import COST_UNITS, RefusalKind, SmsStatus
from savannah.domain.sms_text import SmsEvent

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PAUSING: Final = (RefusalKind.ACCOUNT, RefusalKind.SENDER)
_MOST_CURRENCIES: Final = 20
_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def count_together(name: str) -> None:
    """Count in the files of `PROMETHEUS_MULTIPROC_DIR`, though the library was loaded without it.

    For a process that has counted nothing yet. Its name is that of nobody who runs now; it counts
    on where the last one of that name has ended.
    """
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]  # it has no types


class PrometheusMetrics(Metrics):
    """Counters and gauges on one registry, with the process's own CPU, memory and open files."""

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._orders = Counter("savannah_orders_created", "Orders created.", registry=registry)
        self._sms = Counter(
            "savannah_sms", "Text messages by the state reached.", ["status"], registry=registry
        )
        for status in SmsStatus:  # an increase does not see the beginning of a series
            self._sms.labels(status.value)
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
        self._problems = Counter(
            "savannah_http_problems",
            "Requests refused, by problem code: invalid_credentials, rate_limited and so on.",
            ["code"],
            registry=registry,
        )
        self._replays = Counter(
            "savannah_idempotency_replays",
            "Answers given again under an idempotency key.",
            registry=registry,
        )
        self._slow = Counter(
            "savannah_http_clients_cut",
            "Connections ended because of what the client did, or did not do in time.",
            ["reason"],
            registry=registry,
        )
        self._gateway = Histogram(
            "savannah_gateway_request_duration_seconds",
            "Time from a request to the gateway to its outcome.",
            ["outcome"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        level = partial(Gauge, registry=registry)
        self._paused = level(
            "savannah_gateway_paused",
            "1 while texts wait because the gateway refuses our account or sender.",
            ["kind"],
            multiprocess_mode="mostrecent",
        )
        self._in_use = level(
            "savannah_database_connections_in_use",
            "Database connections that somebody holds.",
            multiprocess_mode="livesum",
        )
        self._most = level(
            "savannah_database_connections_max",
            "Database connections there may be.",
            multiprocess_mode="livesum",
        )
        self._database_up = level(
            "savannah_database_up", "Whether storage answers.", multiprocess_mode="livemin"
        )
        self._lag = level(
            "savannah_event_loop_lag_seconds",
            "How late the loop was for its last appointment.",
            multiprocess_mode="livemax",
        )
        build = level(
            "savannah_build_info",
            "What runs; always 1.",
            ["version", "python"],
            multiprocess_mode="livemax",
        )
        build.labels(version("savannah"), platform.python_version()).set(1)
        # Made when they are first known: without Redis, or without a relay, there are none.
        self._level = level
        self._redis: tuple[Gauge, Gauge] | None = None
        self._relay: Gauge | None = None
        self._currencies: set[str] = set()
        ProcessCollector(registry=registry)

    def order_created(self) -> None:
        self._orders.inc()

    def sms(self, event: SmsEvent, status: SmsStatus) -> None:  # noqa: ARG002  alerts are per state
        self._sms.labels(status.value).inc()

    def sms_cost(self, currency: str, units: int) -> None:
        # Prometheus knows floats only; the books are in storage.
        if currency not in self._currencies:
            if len(self._currencies) >= _MOST_CURRENCIES:  # the word is the gateway's
                currency = "other"
            self._currencies.add(currency)
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

    def relayed(self, depth: int, oldest_age_s: float | None) -> None:
        """As `outbox`, from a relay that has just done a whole round."""
        if self._relay is None:
            self._relay = self._level(
                "savannah_relay_last_round_timestamp_seconds",
                "When the outbox relay last did a whole round, in Unix time.",
                multiprocess_mode="livemin",
            )
        self._relay.set_to_current_time()
        self.outbox(depth, oldest_age_s)

    def problem(self, code: str) -> None:
        """Count a refused request; `code` is one of the documented ones."""
        self._problems.labels(code).inc()

    def replayed(self) -> None:
        self._replays.inc()

    def client_cut(self, reason: str) -> None:
        """Count a connection that was ended; `reason` is one of few words."""
        self._slow.labels(reason).inc()

    def gateway(self, outcome: str, seconds: float) -> None:
        """Count a call of the gateway; `outcome` is one of few words."""
        self._gateway.labels(outcome).observe(seconds)

    def paused(self, kind: str | None) -> None:
        """Say what the gateway refuses, None for nothing."""
        for each in PAUSING:
            self._paused.labels(each.value).set(each.value == kind)

    def connections(self, in_use: int, most: int) -> None:
        self._in_use.set(in_use)
        self._most.set(most)

    def database_up(self, up: bool) -> None:
        self._database_up.set(up)

    def redis(self, queued: int | None) -> None:
        """Set how many jobs wait on Redis; None: it does not answer."""
        if self._redis is None:
            self._redis = (
                self._level(
                    "savannah_redis_up", "Whether Redis answers.", multiprocess_mode="livemin"
                ),
                self._level(
                    "savannah_queue_depth",
                    "Jobs on Redis that nobody has begun.",
                    multiprocess_mode="mostrecent",
                ),
            )
        up, depth = self._redis
        up.set(queued is not None)
        if queued is not None:
            depth.set(queued)

    def loop_lag(self, seconds: float) -> None:
        self._lag.set(seconds)

    def render(self) -> bytes:
        """Everything in the text format, to be served as `content_type`."""
        return generate_latest(self._registry)
