"""One order followed through every process: its log lines, its spans, and what a scrape shows."""

from __future__ import annotations

import json
import re
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import servers
from collectors import collecting

pytestmark = pytest.mark.e2e

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
REQUEST_ID = "till-3-0001"
PHONE = "0700123456"
ITEM = "A ring for Amina"
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


def log_in(server):
    client = server.client
    person = {"username": "johndoe", "password": "securepassword123"}
    client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
    token = client.post("/api/auth/login/", json={**person, **credentials}).json()["access_token"]
    return {"Authorization": f"Bearer {token}"}


def order(server, headers, **more):
    jane = server.client.post(
        "/api/customers/", json={"name": "Jane Smith", "phone_number": PHONE}, headers=headers
    ).json()
    body = {"customer": jane["id"], "item": ITEM, "amount": "10.00"}
    answer = server.client.post("/api/orders/", json=body, headers={**headers, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def sms_status(server, headers, made):
    return server.client.get(f"/api/orders/{made['id']}/", headers=headers).json()["sms"]["status"]


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def lines(process):
    return [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]


def test_a_trace_goes_from_the_request_to_the_report_through_every_process(  # noqa: PLR0915 - one story
    processes, postgres_server, until
):
    with servers.own_redis() as redis, collecting() as collector:
        port, page = servers.free_port(), servers.free_port()
        settings = {
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "SECRET_KEY": "k" * 40,
            "DEBUG": "true",
            "DATABASE_URL": postgres_server.fresh_database(),
            "REDIS_URL": redis.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        simulator = processes.start("simulator", "--port", "0", **settings)
        settings["AFRICAS_TALKING_BASE_URL"] = simulator.url
        assert processes.run("migrate", **settings).returncode == 0
        web = processes.start("serve", "--port", str(port), **settings)
        worker = processes.start("worker", WORKER_METRICS_PORT=str(page), **settings)
        headers = log_in(web)
        made = order(
            web,
            headers,
            **{
                "X-Request-ID": REQUEST_ID,
                "traceparent": f"00-{TRACE}-{CALLER}-01",
                "tracestate": f"till=3,phone=+254{PHONE[1:]}",
            },
        )
        until(lambda: sms_status(web, headers, made) == "delivered")

        with httpx.Client(
            base_url=f"http://127.0.0.1:{page}", trust_env=False, timeout=120
        ) as watcher:
            assert watcher.get("/health/ready").json() == {"status": "ready"}
            assert watcher.get("/health/live").json() == {"status": "alive"}
            assert watcher.get("/").status_code == 404
            assert watcher.post("/metrics").status_code == 405
            worker_shows = samples(watcher.get("/metrics").text)
        web_shows = samples(web.client.get("/metrics").text)
        assert worker.terminate() == 0
        assert web.terminate() == 0

        spans = [span for span in collector.spans() if span["trace"] == TRACE]
        others = [span for span in collector.spans() if span["trace"] != TRACE]

    # --- figures ---
    assert (
        worker_shows["savannah_gateway_request_duration_seconds_count", (("outcome", "accepted"),)]
        == 1
    )
    assert worker_shows["savannah_sms_total", (("status", "sent"),)] == 1
    assert worker_shows["savannah_redis_up", ()] == web_shows["savannah_redis_up", ()] == 1
    assert worker_shows["savannah_queue_depth", ()] == 0
    assert worker_shows["savannah_database_up", ()] == 1
    assert worker_shows["savannah_database_connections_max", ()] == 10
    assert worker_shows["savannah_relay_last_round_timestamp_seconds", ()] > 1e9
    assert ("savannah_relay_last_round_timestamp_seconds", ()) not in web_shows

    # --- spans ---
    [request] = [span for span in spans if span["kind"] == SERVER]
    assert request["name"] == "POST /api/orders"
    assert request["parent"] == CALLER
    assert request["http.response.status_code"] == 201
    assert request["savannah.request_id"] == REQUEST_ID
    statements = [span for span in spans if "db.query.text" in span]
    assert {"BEGIN", "SELECT", "COMMIT"} <= {span["name"] for span in statements}
    assert {span["parent"] for span in statements} == {request["id"]}
    assert {span["db.system.name"] for span in statements} == {"postgresql"}
    [sent] = [span for span in spans if span["name"] == "send sms"]
    assert (sent["kind"], sent["parent"]) == (CLIENT, request["id"])
    assert sent["savannah.outcome"] == "accepted"
    [batch] = [span for span in others if span["id"] in sent["links"]]
    assert (batch["name"], batch["kind"]) == ("process notifications", CONSUMER)
    assert any(span["kind"] == PRODUCER for span in others)
    assert any(span["name"] == "POST /api/sms/africastalking/{token}/delivery" for span in others)
    told = collector.everything
    for secret in (PHONE, PHONE[1:], ITEM, "Jane Smith", "securepassword123", "Bearer"):
        assert secret.encode() not in told

    # --- log lines ---
    of_order = [line for line in lines(web) if line["trace_id"] == TRACE]
    assert {line["request_id"] for line in of_order} == {REQUEST_ID}
    assert {line["event"] for line in of_order} == {
        "request",
        "a text message was handed over",
        "a delivery report was taken",
    }
    report = of_order[-1]
    assert (report["order"], report["status"]) == (made["id"], "delivered")
    [callback] = [
        line for line in lines(web) if line["request_id"] == report["callback_request_id"]
    ]
    assert callback["route"] == "/api/sms/africastalking/[hidden]/delivery"
    assert re.search(rf"{PHONE[1:]}|{ITEM}", web.log.read_text()) is None


@pytest.mark.parametrize(
    "settings",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "disabled"],
)
def test_without_a_collector_the_trace_is_in_the_log_all_the_same(processes, until, settings):
    server = processes.start("serve", "--port", "0", **settings)
    headers = log_in(server)
    made = order(server, headers, **{"X-Request-ID": REQUEST_ID, "traceparent": "nonsense"})
    until(lambda: sms_status(server, headers, made) == "delivered")

    def lines_of_order():
        return [line for line in lines(server) if line["request_id"] == REQUEST_ID]

    until(lambda: len(lines_of_order()) >= 3)  # a line follows what it tells
    of_order = lines_of_order()
    assert len({line["event"] for line in of_order}) == 3
    assert len({line["trace_id"] for line in of_order}) == 1
    assert re.fullmatch("(?!0{32})[0-9a-f]{32}", of_order[0]["trace_id"])


def test_a_collector_that_never_answers_holds_up_neither_an_order_nor_the_end(processes):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",  # so that many calls are left at the end
        }
        server = processes.start("serve", "--port", "0", **settings)
        order(server, log_in(server))
        server.process.terminate()
        assert server.process.wait(20) == 0  # the SDK alone would wait half a minute


def test_an_error_reaches_sentry_with_its_request_id_and_without_personal_data(processes, until):
    with collecting() as collector:
        simulator = processes.start("simulator", "--port", "0")
        settings = {"AFRICAS_TALKING_BASE_URL": simulator.url, "SENTRY_DSN": collector.dsn}
        server = processes.start("serve", "--port", "0", **settings)
        headers = log_in(server)
        simulator.client.post("/faults", json={"mode": "http_401"})
        order(server, headers)
        [event] = until(collector.events)
        server.terminate()
    assert event["logentry"]["message"] == "the gateway refuses our account or sender"
    assert event["environment"] == "development"
    assert set(event["tags"]) == {"request_id", "trace_id"}
    for secret in (PHONE, PHONE[1:], ITEM, "Jane Smith", "securepassword123"):
        assert secret.encode() not in collector.everything


def test_every_process_of_a_server_shows_the_same_figures_and_its_own_memory(processes, until):
    server = processes.start("serve", "--port", "0", "--workers", "2")
    headers = log_in(server)
    for _ in range(3):
        order(server, headers)

    def scrapes():
        """What both processes show; a new connection goes to either of them."""
        return [
            samples(httpx.get(f"{server.url}/metrics", trust_env=False, timeout=120).text)
            for _ in range(8)
        ]

    for shown in scrapes():
        assert shown["savannah_orders_created_total", ()] == 3
        for name in ("worker-1", "worker-2"):
            own = (("process", name),)
            assert shown["process_resident_memory_bytes", own] > 10_000_000
            assert shown["process_cpu_seconds_total", own] > 0
            assert shown["process_open_fds", own] > 3
        assert shown["savannah_database_up", ()] == 1
        [build] = [name for name in shown if name[0] == "savannah_build_info"]
        assert shown[build] == 1


@pytest.mark.parametrize(
    ("name", "value", "extra"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318", "otel"),
        ("SENTRY_DSN", "https://abc@sentry.example.com/1", "sentry"),
    ],
)
def test_a_setting_without_its_extra_is_refused_at_start(processes, name, value, extra):
    """A module that cannot be imported, before the one that is installed."""
    hidden = processes.folder / "hidden"
    package = {"otel": "opentelemetry", "sentry": "sentry_sdk"}[extra]
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        f"u.find_spec = lambda n, *a: None if n.split('.')[0] == '{package}' else real(n, *a)\n"
    )
    done = processes.run("serve", "--port", "0", **{name: value, "PYTHONPATH": str(hidden)})
    assert done.returncode == 2
    assert f"{name} is set, and needs what is not installed: pip install 'savannah[{extra}]'" in (
        done.stderr
    )
