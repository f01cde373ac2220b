"""What operators and probes read."""

import asyncio
import re
from importlib.metadata import version

import pytest

from savannah.adapters.memory import MemoryStorage
from savannah.domain.errors import Unavailable
from savannah.entrypoints import health as health_module
from savannah.entrypoints.health import Health
from savannah.entrypoints.http import problems
from virtual_time import VirtualLoop

PROBES = ("/api/auth/health/", "/health/ready")


async def fine():
    return None


async def broken():
    raise ConnectionError("redis://:secret@10.0.0.5:6379 refused")


async def hanging():
    await asyncio.Event().wait()


async def deaf():
    """Hangs, and does not even end when it is told to."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling() > 1:
                raise


class Away(MemoryStorage):
    """Storage nobody can reach."""

    async def ping(self):
        raise Unavailable("postgresql://savannah:secret@db.internal/ is away")

    def __call__(self, *, reading=False):
        raise Unavailable("postgresql://savannah:secret@db.internal/ is away")


def test_a_healthy_desk_says_so(desk):
    answer = desk.get("/api/auth/health/")
    assert answer.status_code == 200
    latency = answer.json()["checks"]["database"]["latency_ms"]
    assert answer.json() == {
        "status": "healthy",
        "service": "savannah",
        "version": version("savannah"),
        "timestamp": "2026-11-23T09:00:00Z",
        "checks": {
            "database": {"status": "ok", "latency_ms": latency},
            "redis": {"status": "disabled"},
            "queue": {"status": "ok", "oldest_age_s": 0},
        },
    }
    assert desk.get("/health/live").json() == {"status": "alive"}
    assert desk.get("/health/ready").json() == {"status": "ready"}


def test_parts_that_are_there_are_asked(open_desk):
    checks = open_desk(checks={"redis": fine}).get("/api/auth/health/").json()["checks"]
    assert checks["redis"]["status"] == "ok"
    assert checks["redis"]["latency_ms"] >= 0


def test_an_old_queue_is_degraded_and_serves(desk):
    desk.order()
    desk.advance(seconds=300)
    assert desk.get("/api/auth/health/").json()["status"] == "healthy"
    desk.advance(seconds=1)
    answer = desk.get("/api/auth/health/")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["queue"] == {"status": "degraded", "oldest_age_s": 301}
    assert desk.get("/health/ready").status_code == 200
    desk.dispatch()
    assert desk.get("/api/auth/health/").json()["status"] == "healthy"


def test_storage_that_is_away_is_unhealthy(open_desk):
    desk = open_desk(storage=Away())
    answer = desk.get("/api/auth/health/")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert answer.json()["checks"]["database"] == {"status": "down"}
    assert answer.json()["checks"]["queue"] == {"status": "down"}
    ready = desk.get("/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "not_ready"})
    assert desk.get("/health/live").status_code == 200


def test_a_part_that_is_down_is_unhealthy_and_says_nothing_about_its_host(open_desk, caplog):
    answer = open_desk(checks={"redis": broken}).get("/api/auth/health/")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert answer.json()["checks"]["redis"] == {"status": "down"}
    assert "10.0.0.5" not in answer.text
    assert "secret" not in caplog.text


def test_without_redis_a_balancer_goes_on_sending_orders(open_desk):
    """They are taken; only their texts wait. Not ready, all web processes would be so at once."""
    for check in (broken, hanging):
        desk = open_desk(checks={"redis": check}, loop_factory=VirtualLoop)
        ready = desk.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("ping", [hanging, deaf])
def test_storage_that_hangs_is_not_ready_in_time(open_desk, ping):
    storage = MemoryStorage()
    storage.ping = ping
    desk = open_desk(storage=storage, loop_factory=VirtualLoop)
    answer = desk.get("/health/ready")
    assert 1 < desk.time() < 2
    assert (answer.status_code, answer.json()) == (503, {"status": "not_ready"})


@pytest.mark.parametrize("check", [hanging, deaf])
def test_parts_that_hang_do_not_hold_the_probe(open_desk, check):
    desk = open_desk(checks={"redis": check, "cache": check}, loop_factory=VirtualLoop)
    answer = desk.get("/api/auth/health/")
    assert 1 < desk.time() < 2
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["redis"] == checks["cache"] == {"status": "down"}
    assert checks["database"]["status"] == "ok"


def test_a_flood_of_probes_is_one_question_at_a_time():
    asked = []

    async def flooded():
        answer = asyncio.Event()

        async def database():
            asked.append("database")
            await answer.wait()

        health = Health({"database": database})
        flood = [asyncio.create_task(health.parts()) for _ in range(50)]
        await asyncio.sleep(0)
        flood[0].cancel()  # whoever goes away takes nothing from the others
        await asyncio.sleep(0)
        answer.set()
        found = [await task for task in flood[1:]]
        assert {parts["database"].status for parts in found} == {"ok"}
        assert asked == ["database"]
        await health.parts()

    asyncio.run(flooded())
    assert asked == ["database", "database"]


@pytest.mark.parametrize("check", [hanging, deaf])
def test_a_part_that_hung_is_asked_anew(monkeypatch, check):
    monkeypatch.setattr(health_module, "CHECK_S", 0.05)
    answers = iter([check, fine])

    async def database():
        return await next(answers)()

    async def asked():
        health = Health({"database": database})
        first, second = await asyncio.gather(health.parts(), health.parts())
        return [found["database"].status for found in (first, second, await health.parts())]

    assert asyncio.run(asked()) == ["down", "down", "ok"]


@pytest.mark.parametrize("probe", [*PROBES, "/health/live", "/metrics", "/problems/not_found"])
def test_probes_need_no_token_and_do_not_look_at_one(desk, probe):
    assert desk.get(probe).status_code == 200
    assert desk.get(probe, by="Bearer nonsense").status_code == 200
    assert desk.get(probe.removesuffix("/") + "/").status_code == 200


def test_metrics_tell_requests_by_route_and_status_and_the_outbox(open_desk):
    desk = open_desk()
    order = desk.order()
    desk.get(f"/api/orders/{order['id']}/", by="viewer")
    desk.get(f"/api/orders/{order['id']}", by="viewer")
    desk.get("/api/nothing/here/")
    desk.request("HEAD", "/health/live")
    desk.advance(seconds=42)
    answer = desk.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["content-type"].count("charset") == 1
    lines = answer.text.splitlines()
    requests = "savannah_http_requests_total"
    one = 'method="GET",route="/api/orders/{order_id}",status="200"'
    assert f"{requests}{{{one}}} 2.0" in lines
    assert f'{requests}{{method="GET",route="unmatched",status="404"}} 1.0' in lines
    assert f'{requests}{{method="HEAD",route="/health/live",status="200"}} 1.0' in lines
    assert f"savannah_http_request_duration_seconds_count{{{one}}} 2.0" in lines
    assert "savannah_orders_created_total 1.0" in lines
    assert 'savannah_sms_total{status="queued"} 1.0' in lines
    assert "savannah_outbox_depth 1.0" in lines
    assert "savannah_outbox_oldest_age_seconds 42.0" in lines
    assert order["id"] not in answer.text
    desk.dispatch()
    assert "savannah_outbox_depth 0.0" in desk.get("/metrics").text.splitlines()


def test_metrics_are_there_while_storage_is_away(open_desk):
    answer = open_desk(storage=Away()).get("/metrics")
    assert answer.status_code == 200
    assert "savannah_outbox_depth" in answer.text


@pytest.mark.parametrize("code", sorted(problems.TITLES))
def test_every_problem_code_has_a_page_that_needs_nothing_else(desk, code):
    answer = desk.get(f"/problems/{code}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert code in answer.text
    assert not re.search(r"src=|href=|@import|url\(|<script", answer.text)
    style = re.search("<style>(.*)</style>", answer.text)[1]
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "`" not in answer.text
    assert style


def test_an_unknown_problem_has_no_page(desk, refused):
    refused(desk.get("/problems/nothing"), 404, "not_found")
    answer = desk.get("/problems/%3Cscript%3E")
    assert "<script>" not in refused(answer, 404, "not_found")["instance"]
