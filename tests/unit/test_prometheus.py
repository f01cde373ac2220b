"""What a scrape shows."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.domain.notification import SmsStatus
from savannah.domain.sms_text import SmsEvent


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics(CollectorRegistry())


def samples(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_orders_are_counted_from_zero(metrics: PrometheusMetrics) -> None:
    assert b"\nsavannah_orders_created_total 0.0\n" in metrics.render()
    metrics.order_created()
    metrics.order_created()
    assert b"\nsavannah_orders_created_total 2.0\n" in metrics.render()


def test_texts_are_counted_by_state_whatever_the_event(metrics: PrometheusMetrics) -> None:
    metrics.sms(SmsEvent.ORDER_CREATED, SmsStatus.SENT)
    metrics.sms(SmsEvent.ORDER_SHIPPED, SmsStatus.SENT)
    metrics.sms(SmsEvent.ORDER_CREATED, SmsStatus.FAILED)
    shown = metrics.render()
    assert b'\nsavannah_sms_total{status="sent"} 2.0\n' in shown
    assert b'\nsavannah_sms_total{status="failed"} 1.0\n' in shown
    assert b'\nsavannah_sms_total{status="dead"} 0.0\n' in shown


def test_costs_are_shown_in_whole_units_of_each_currency(metrics: PrometheusMetrics) -> None:
    for _ in range(5):
        metrics.sms_cost("KES", 8000)
    metrics.sms_cost("UGX", 350_000)
    shown = samples(metrics)
    assert shown["savannah_sms_cost_total", (("currency", "KES"),)] == pytest.approx(4.0)
    assert shown["savannah_sms_cost_total", (("currency", "UGX"),)] == pytest.approx(35.0)


def test_requests_are_counted_and_timed_by_route_and_status(metrics: PrometheusMetrics) -> None:
    metrics.request("GET", "/api/orders/{id}/", 200, 0.004)
    metrics.request("GET", "/api/orders/{id}/", 200, 0.3)
    metrics.request("GET", "/api/orders/{id}/", 404, 0.001)
    shown = samples(metrics)
    found = (("method", "GET"), ("route", "/api/orders/{id}/"), ("status", "200"))
    missing = (*found[:2], ("status", "404"))
    duration = "savannah_http_request_duration_seconds"
    assert shown["savannah_http_requests_total", found] == 2
    assert shown["savannah_http_requests_total", missing] == 1
    assert shown[f"{duration}_count", found] == 2
    assert shown[f"{duration}_sum", found] == pytest.approx(0.304)
    assert shown[f"{duration}_bucket", (("le", "0.005"), *found)] == 1
    assert shown[f"{duration}_bucket", (("le", "0.5"), *found)] == 2


def test_invented_methods_share_one_series(metrics: PrometheusMetrics) -> None:
    metrics.request("BREW", "/", 405, 0.001)
    metrics.request("X" * 500, "/", 405, 0.001)
    labels = (("method", "OTHER"), ("route", "/"), ("status", "405"))
    assert samples(metrics)["savannah_http_requests_total", labels] == 2


def test_the_outbox_shows_its_depth_and_the_age_of_its_oldest_message(
    metrics: PrometheusMetrics,
) -> None:
    metrics.outbox(7, 12.5)
    shown = samples(metrics)
    assert shown["savannah_outbox_depth", ()] == 7
    assert shown["savannah_outbox_oldest_age_seconds", ()] == 12.5
    metrics.outbox(0, None)
    shown = samples(metrics)
    assert shown["savannah_outbox_depth", ()] == 0
    assert shown["savannah_outbox_oldest_age_seconds", ()] == 0


def test_the_process_shows_its_cpu_memory_and_open_files(metrics: PrometheusMetrics) -> None:
    shown = samples(metrics)
    assert shown["process_resident_memory_bytes", ()] > 0
    assert shown["process_cpu_seconds_total", ()] > 0
    assert shown["process_open_fds", ()] > 0


def test_two_registries_do_not_share_counts(metrics: PrometheusMetrics) -> None:
    other = PrometheusMetrics(CollectorRegistry())
    metrics.order_created()
    assert b"\nsavannah_orders_created_total 0.0\n" in other.render()


def test_the_text_format_is_named(metrics: PrometheusMetrics) -> None:
    assert metrics.content_type.startswith("text/plain; version=0.0.4")


def test_refusals_replays_and_cut_clients_are_counted(metrics: PrometheusMetrics) -> None:
    metrics.problem("rate_limited")
    metrics.replayed()
    metrics.client_cut("slow_head")
    shown = samples(metrics)
    assert shown["savannah_http_problems_total", (("code", "rate_limited"),)] == 1
    assert shown["savannah_idempotency_replays_total", ()] == 1
    assert shown["savannah_http_clients_cut_total", (("reason", "slow_head"),)] == 1


def test_a_gateway_that_invents_currencies_makes_few_series(metrics: PrometheusMetrics) -> None:
    for number in range(500):
        metrics.sms_cost(f"X{number:02}", 10_000)
    shown = [name for name in samples(metrics) if name[0] == "savannah_sms_cost_total"]
    assert len(shown) == 21
    assert samples(metrics)["savannah_sms_cost_total", (("currency", "other"),)] == 480


def test_what_an_installation_has_not_is_not_shown_as_down(metrics: PrometheusMetrics) -> None:
    names = {name for name, _ in samples(metrics)}
    absent = {
        "savannah_redis_up",
        "savannah_queue_depth",
        "savannah_relay_last_round_timestamp_seconds",
    }
    assert not absent & names
    metrics.relayed(0, None)
    metrics.redis(3)
    assert absent <= {name for name, _ in samples(metrics)}
    metrics.redis(None)
    shown = samples(metrics)
    assert shown["savannah_redis_up", ()] == 0
    assert shown["savannah_queue_depth", ()] == 3  # the last that was heard


def test_the_version_is_shown(metrics: PrometheusMetrics) -> None:
    [labels] = [labels for name, labels in samples(metrics) if name == "savannah_build_info"]
    assert dict(labels)["version"] == version("savannah")
