"""The production parts as an operator starts them, and what is left when one of them fails."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager

import asyncpg
import httpx
import pytest
import redis as redis_client

import servers

pytestmark = pytest.mark.e2e

LIMITS_OFF = {"SMS_PHONE_LIMIT": "off", "RATE_LIMIT": "off", "RATE_LIMIT_AUTH": "off"}
# A minute and a bit: longer than a lease, and than an attempt may take.
LATER_S = 70


class Site:
    """One installation: a database, Redis, a gateway and a web process; tests start the workers."""

    def __init__(self, processes, database_url, redis):
        self.processes = processes
        self.database_url = database_url
        self.redis = redis
        port = servers.free_port()
        settings = {"PUBLIC_URL": f"http://127.0.0.1:{port}", "SECRET_KEY": "k" * 40}
        self.simulator = processes.start("simulator", "--port", "0", **settings)
        self.settings = {
            **settings,
            **LIMITS_OFF,
            "DEBUG": "true",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis.url,
            "AFRICAS_TALKING_BASE_URL": self.simulator.url,
        }
        assert processes.run("migrate", **self.settings).returncode == 0
        self.web = self.start_web(port)
        self.headers = self.logged_in()
        customer = {"name": "Jane", "phone_number": "0700123456"}
        self.jane = self.post("/api/customers/", customer).json()["id"]

    def start_web(self, port=0):
        return self.processes.start("serve", "--port", str(port), **self.settings)

    @contextmanager
    def worker(self, *arguments, **settings):
        started = self.processes.start("worker", *arguments, **{**self.settings, **settings})
        try:
            yield started
        finally:
            if started.process.poll() is None:
                assert started.terminate() == 0
            else:
                started.end()

    def logged_in(self):
        client = self.web.client
        person = {"username": "johndoe", "password": "securepassword123"}
        client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
        app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
        credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
        login = client.post("/api/auth/login/", json={**person, **credentials})
        assert login.status_code == 200, login.text
        return {"Authorization": f"Bearer {login.json()['access_token']}"}

    def post(self, path, body, *, web=None):
        return (web or self.web).client.post(path, json=body, headers=self.headers)

    def ask_for_order(self, *, web=None):
        order = {"customer": self.jane, "item": "Lamp", "amount": "10.00"}
        return self.post("/api/orders/", order, web=web)

    def order(self, *, web=None):
        answer = self.ask_for_order(web=web)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def sms(self, order):
        shown = self.web.client.get(f"/api/orders/{order['id']}/", headers=self.headers)
        return shown.json()["sms"]["status"]

    def break_gateway(self, mode):
        self.simulator.client.post("/faults", json={"mode": mode, "hang_s": 60})

    def texts(self):
        """How many texts about each order were accepted."""
        counted = {}
        for text in self.simulator.client.get("/state.json").json()["messages"]:
            number = re.search(r"ORD-[0-9A-Z]{6}-[0-9A-Z]", text["text"])[0]
            counted[number] = counted.get(number, 0) + 1
        return counted

    def requests(self):
        """How many requests to send the gateway has dealt with."""
        journal = self.simulator.client.get("/state.json").json()["journal"]
        return sum(entry["kind"] == "send" for entry in journal)

    def jobs(self):
        """How many jobs wait in Redis, or are held by workers."""
        with redis_client.Redis.from_url(self.redis.url) as client:
            return sum(
                client.llen(key)
                for state in ("queued", "active")
                for key in client.scan_iter(f"saq:*:{state}")
            )

    def relay_failures(self):
        return self.web.log.read_text().count("the outbox relay failed")

    def pass_time(self):
        """Make every attempt and every lease older, as waiting would."""
        older = f"interval '{LATER_S} seconds'"
        asyncio.run(
            self._execute(
                f"UPDATE notifications SET due_at = due_at - {older}, free_at = free_at - {older}, "
                f"handed_at = handed_at - {older}"
            )
        )

    async def _execute(self, statement):
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def site(shared, postgres_server):
    with servers.own_redis() as redis:
        yield Site(shared, postgres_server.fresh_database(), redis)


def delivered(site, orders):
    return lambda: {site.sms(order) for order in orders} == {"delivered"}


def each_once(site, orders):
    counted = site.texts()
    assert [counted.get(order["order_number"], 0) for order in orders] == [1] * len(orders)


def test_an_order_is_texted_by_a_worker_and_the_report_comes_back(site, until):
    health = site.web.client.get("/api/auth/health/").json()
    assert (health["status"], health["checks"]["redis"]["status"]) == ("healthy", "ok")
    waiting = site.order()
    assert site.sms(waiting) == "queued"  # the web process sends nothing
    with site.worker() as worker:
        assert worker.line == "Savannah is sending\n"
        orders = [waiting, site.order()]
        until(delivered(site, orders))
    each_once(site, orders)


@pytest.mark.parametrize("redis", ["keeps its jobs", "comes back empty"])
def test_a_killed_worker_leaves_what_it_had_begun_unknown_and_the_rest_to_another(
    site, until, redis
):
    site.break_gateway("hang")
    before = site.requests()
    with site.worker("--concurrency", "1", SMS_TIMEOUT_S="3,50") as worker:
        begun = site.order()
        until(lambda: site.sms(begun) == "sending")
        taken = [site.order() for _ in range(3)]
        until(lambda: site.jobs() == 4)
        worker.process.kill()
        worker.process.wait()
    site.break_gateway("normal")
    if redis == "comes back empty":
        site.redis.kill()
        site.redis.start()
    site.pass_time()
    with site.worker():
        until(lambda: site.sms(begun) == "unknown")
        until(delivered(site, taken), within_s=20)
    each_once(site, taken)
    assert begun["order_number"] not in site.texts()
    assert site.requests() - before == 4


def test_jobs_that_redis_forgets_are_queued_anew_and_sent_once(site, until):
    site.break_gateway("hang")
    with site.worker("--concurrency", "1", SMS_TIMEOUT_S="1,2"):
        begun = site.order()
        until(lambda: site.sms(begun) == "sending")
        waiting = [site.order() for _ in range(3)]
        until(lambda: site.jobs() == 4)
        site.redis.kill()
        site.redis.start()
        site.pass_time()  # the leases end while the first worker still holds the jobs
        site.break_gateway("normal")
        until(delivered(site, waiting), within_s=20)
        until(lambda: site.sms(begun) == "unknown")
    each_once(site, waiting)


def test_orders_are_taken_while_redis_is_away_and_texted_when_it_is_back(site, until):
    with site.worker():
        failures = site.relay_failures()
        site.redis.kill()
        orders = [site.order() for _ in range(3)]
        health = site.web.client.get("/api/auth/health/")
        assert (health.status_code, health.json()["checks"]["redis"]["status"]) == (503, "down")
        assert (
            site.web.client.get("/api/auth/health/").json()["checks"]["database"]["status"] == "ok"
        )
        until(lambda: site.relay_failures() > failures)
        site.redis.start()
        until(delivered(site, orders), within_s=20)
    each_once(site, orders)


def test_a_web_process_that_dies_before_it_wakes_a_worker_delays_its_text_and_no_more(site, until):
    web = site.start_web()
    with site.worker():
        site.redis.freeze()
        try:
            orders = [site.order(web=web) for _ in range(3)]
            web.process.kill()
            web.process.wait()
        finally:
            site.redis.thaw()
        until(delivered(site, orders), within_s=20)
    each_once(site, orders)


def test_postgres_restarts_under_load_and_no_acknowledged_order_or_text_is_lost(processes, until):
    with servers.own_redis() as redis, servers.own_postgres(durable=True) as postgres:
        site = Site(processes, postgres.fresh_database(), redis)
        acknowledged, statuses, done = [], [], threading.Event()

        def till():
            with httpx.Client(
                base_url=site.web.url, trust_env=False, headers=site.headers, timeout=30
            ) as client:
                while not done.wait(0.02):
                    body = {"customer": site.jane, "item": "Lamp", "amount": "10.00"}
                    answer = client.post("/api/orders/", json=body)
                    statuses.append(answer.status_code)
                    if answer.status_code == 201:
                        acknowledged.append(answer.json())

        def more_than(count):
            return lambda: len(acknowledged) > count

        tills = [threading.Thread(target=till) for _ in range(3)]
        with site.worker():
            for each in tills:
                each.start()
            try:
                until(more_than(10))
                postgres.stop()
                refused = site.ask_for_order()
                assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
                assert "Retry-After" in refused.headers
                postgres.start()
                until(more_than(len(acknowledged) + 10))
                postgres.kill()
                postgres.start()
                until(more_than(len(acknowledged) + 10))
            finally:
                done.set()
                for each in tills:
                    each.join()
            assert set(statuses) == {201, 503}

            def settled():
                return {site.sms(order) for order in acknowledged} <= {
                    "sent",
                    "delivered",
                    "unknown",
                }

            until(settled, within_s=30)
        counted = site.texts()
        assert max(counted.values()) == 1
        told = {order["order_number"] for order in acknowledged if site.sms(order) != "unknown"}
        assert told <= counted.keys()
