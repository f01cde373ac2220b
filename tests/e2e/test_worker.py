"""The production parts as an operator starts them, and what is left when one of them fails.

Each test of a fault says which mechanism it fails without. After each the books must balance.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import redis as redis_client

import books
import servers
from database import cut, held, query, waiting
from savannah.entrypoints.simulator import Mode, Simulator, SimulatorSettings

pytestmark = pytest.mark.e2e

LIMITS_OFF = {"SMS_PHONE_LIMIT": "off", "RATE_LIMIT": "off", "RATE_LIMIT_AUTH": "off"}
TOKEN = "the-token-of-callbacks"
# A minute and a bit: longer than a lease, and than an attempt may take.
LATER_S = 70


class Site:
    """One installation: a database, Redis, a gateway and a web process; tests start the workers."""

    def __init__(self, processes, database_url, redis):
        self.processes = processes
        self.database_url = database_url
        self.redis = redis
        self.promises = []
        port, gateway_port = servers.free_port(), servers.free_port()
        here = f"http://127.0.0.1:{port}"
        self.simulator = Simulator(
            SimulatorSettings(
                callback_url=f"{here}/api/sms/africastalking/{TOKEN}",
                report_delay_s=0.1,
                slow_s=1.0,
            )
        )
        self.gateway = books.served(self.simulator, gateway_port)
        self.settings = {
            **LIMITS_OFF,
            "PUBLIC_URL": here,
            "SECRET_KEY": "k" * 40,
            "DEBUG": "true",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis.url,
            "AFRICAS_TALKING_BASE_URL": self.gateway.__enter__(),
            "AFRICAS_TALKING_CALLBACK_TOKEN": TOKEN,
        }
        assert processes.run("migrate", **self.settings).returncode == 0
        self.web = self.start_web(port)
        self.headers = self.logged_in()
        self.customers = 0
        self.new_customer()

    def new_customer(self):
        self.customers += 1
        customer = {"name": "Jane", "phone_number": f"+2547001{self.customers:05d}"}
        self.jane = self.post("/api/customers/", customer).json()["id"]

    def close(self):
        self.gateway.__exit__(None, None, None)

    def start_web(self, port=0):
        return self.processes.start("serve", "--port", str(port), **self.settings)

    @contextmanager
    def worker(self, *arguments, clock=None, **settings):
        settings = {**self.settings, **settings}
        if clock is None:
            started = self.processes.start("worker", *arguments, **settings)
        else:
            started = self.processes.start_skewed(clock, "worker", *arguments, **settings)
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

    def post(self, path, body, *, client=None, **headers):
        return (client or self.web.client).post(
            path, json=body, headers={**self.headers, **headers}
        )

    def ask_for_order(self, *, client=None, promise=None, **headers):
        if promise is None:
            promise = books.Promise(f"Lamp {len(self.promises)}")
            self.promises.append(promise)
        body = {"customer": self.jane, "item": promise.key, "amount": "10.00"}
        answer = self.post("/api/orders/", body, client=client, **headers)
        if answer.status_code == 201:
            promise.heard(answer.json())
        return answer

    def order(self, *, web=None):
        answer = self.ask_for_order(client=web and web.client)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def sms(self, order):
        shown = self.web.client.get(f"/api/orders/{order['id']}/", headers=self.headers)
        return shown.json()["sms"]["status"]

    def break_gateway(self, mode):
        self.simulator.faults.turn({"mode": mode, "hang_s": 60})

    def taken(self, order):
        """How many texts about an order the gateway took."""
        return sum(order["order_number"] in shown.text for shown in self.simulator.messages())

    def jobs(self):
        """How many jobs wait in Redis, or are held by workers."""
        with redis_client.Redis.from_url(self.redis.url) as client:
            return sum(
                client.llen(key)
                for state in ("queued", "active")
                for key in client.scan_iter(f"saq:*:{state}")
            )

    def jobs_taken(self):
        """How many jobs the workers hold."""
        with redis_client.Redis.from_url(self.redis.url) as client:
            return sum(client.llen(key) for key in client.scan_iter("saq:*:active"))

    def relay_failures(self):
        return self.web.log.read_text().count("the outbox relay failed")

    def pass_time(self):
        """Make every attempt and every lease older, as waiting would."""
        older = f"interval '{LATER_S} seconds'"
        query(
            self.database_url,
            f"UPDATE notifications SET due_at = due_at - {older}, free_at = free_at - {older}, "
            f"handed_at = handed_at - {older}",
        )

    def leased(self):
        return query(self.database_url, "SELECT count(*) FROM notifications WHERE free_at > due_at")

    def balance(self):
        """What does not balance once nothing is under way; a worker ends what is."""
        kept = asyncio.run(books.read(self.database_url))
        if kept.busy:
            with self.worker():
                asyncio.run(books.settled(self.database_url, within_s=60))
            kept = asyncio.run(books.read(self.database_url))
        received, shown = self.simulator.received, self.simulator.messages()
        return books.imbalances(kept, self.promises, received, shown)


@pytest.fixture(scope="module")
def shared_site(shared, postgres_server):
    with servers.own_redis() as redis:
        site = Site(shared, postgres_server.fresh_database(), redis)
        yield site
        site.close()


@pytest.fixture
def site(shared_site):
    """What a test broke is repaired afterwards, and then nothing may be missing or doubled."""
    shared_site.new_customer()
    yield shared_site
    shared_site.break_gateway(Mode.NORMAL)
    assert shared_site.balance() == []


@pytest.fixture(scope="module")
def own_postgres():
    with servers.own_postgres(durable=True) as postgres:
        yield postgres


@pytest.fixture(scope="module")
def frail_site(shared, own_postgres):
    """One whose Postgres may be stopped."""
    with servers.own_redis() as redis:
        site = Site(shared, own_postgres.fresh_database(), redis)
        yield site
        site.close()


@pytest.fixture
def frail(frail_site):
    yield frail_site
    assert frail_site.balance() == []


def delivered(site, orders):
    return lambda: {site.sms(order) for order in orders} == {"delivered"}


def kill(running):
    running.process.kill()
    running.process.wait()


def test_an_order_is_texted_by_a_worker_and_the_report_comes_back(site, until):
    health = site.web.client.get("/api/auth/health/").json()
    assert (health["status"], health["checks"]["redis"]["status"]) == ("healthy", "ok")
    waits = site.order()
    assert site.sms(waits) == "queued"  # the web process sends nothing
    with site.worker() as worker:
        assert worker.line == "Savannah is sending\n"
        orders = [waits, site.order()]
        until(delivered(site, orders))
    assert [site.taken(order) for order in orders] == [1, 1]


def test_the_page_of_the_queue_is_there_and_for_administrators_only(site):
    get = site.web.client.get
    assert get("/admin/queues/").status_code == 401
    assert get("/admin/queues/", headers=site.headers).status_code == 403  # staff
    create = ("createsuperuser", "--username", "chief", "--email", "chief@example.com")
    password = {"SAVANNAH_SUPERUSER_PASSWORD": "a long enough password"}
    assert site.processes.run(*create, **site.settings, **password).returncode == 0
    app = site.web.client.post("/api/auth/create-app/", json={"name": "Office"}).json()
    login = site.web.client.post(
        "/api/auth/login/",
        json={
            "username": "chief",
            "password": "a long enough password",
            "client_id": app["client_id"],
            "client_secret": app["client_secret"],
        },
    )
    chief = {"Authorization": f"Bearer {login.json()['access_token']}"}
    assert "SAQ" in get("/admin/queues/", headers=chief).text
    listed = get("/admin/queues/api/queues", headers=chief).json()
    assert [queue["name"] for queue in listed["queues"]] == ["{savannah}"]


# --- a worker is killed --------------------------------------------------------------------------


def test_a_worker_killed_before_it_asked_the_gateway_leaves_its_messages_to_another(site, until):
    """Fails without the sweep of a dead worker's jobs: these would wait for their leases."""
    orders = [site.order() for _ in range(3)]
    # A worker looks at the customers before it marks their messages; its relay does not.
    lock = "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"
    with held(site.database_url, lock), site.worker() as worker:
        until(lambda: waiting(site.database_url) and site.jobs() == 3)
        kill(worker)
    assert {site.sms(order) for order in orders} == {"queued"}
    with site.worker():
        until(delivered(site, orders))
    assert [site.taken(order) for order in orders] == [1] * 3


@pytest.mark.parametrize(
    ("redis", "clock_s"),
    [
        ("keeps its jobs", 0),
        ("comes back empty", 0),
        ("keeps its jobs", 3600),
    ],
)
def test_a_worker_killed_while_the_gateway_is_asked_leaves_that_unknown_and_the_rest_to_another(
    site, until, tmp_path, redis, clock_s
):
    """Fails without `sending` before the request, the end of leases, and the database's clock.

    By its own clock, an hour ahead, a worker would lease and mark for an hour.
    """
    (tmp_path / "clock").write_text(str(clock_s))
    site.break_gateway(Mode.HANG)
    before = len(site.simulator.received)
    with site.worker(
        "--concurrency", "1", clock=tmp_path / "clock", SMS_TIMEOUT_S="3,50"
    ) as worker:
        begun = site.order()
        until(lambda: site.sms(begun) == "sending")
        taken = [site.order() for _ in range(3)]
        until(lambda: site.jobs() == 4)
        kill(worker)
    site.break_gateway(Mode.NORMAL)
    if redis == "comes back empty":
        site.redis.kill()
        site.redis.start()
    site.pass_time()
    with site.worker():
        until(lambda: site.sms(begun) == "unknown")
        until(delivered(site, taken))
    assert [site.taken(order) for order in taken] == [1] * 3
    assert site.taken(begun) == 0
    assert len(site.simulator.received) - before == 4


def test_a_text_whose_worker_was_killed_once_the_gateway_took_it_is_settled_by_its_report(
    site, until
):
    """Fails without `sending` committed before the request: the next worker would send again.

    Nor is it delivered if the report, which came before anybody took the text for lost, is forgotten.
    """
    site.break_gateway(Mode.SLOW)
    with site.worker() as worker:
        order = site.order()
        until(lambda: site.sms(order) == "sending")
        row = "SELECT 1 FROM notifications WHERE order_id = $1 FOR UPDATE"
        with held(site.database_url, row, order["id"]):
            until(lambda: site.taken(order) and waiting(site.database_url))
            kill(worker)
    site.break_gateway(Mode.NORMAL)
    assert site.sms(order) == "sending"
    site.pass_time()
    with site.worker():
        until(lambda: site.sms(order) == "delivered")
        later = site.order()
        until(delivered(site, [later]))
    assert [site.taken(order), site.taken(later)] == [1, 1]


def test_a_relay_killed_while_it_holds_leases_delays_its_messages_until_they_end(site, until):
    """Fails without an end of the lease."""
    orders = [site.order() for _ in range(3)]
    site.redis.freeze()  # so that it cannot get rid of what it has leased
    try:
        with site.worker() as worker:
            until(lambda: site.leased() == 3)
            kill(worker)
    finally:
        site.redis.thaw()
    assert site.leased() == 3
    with site.worker():
        on_top = site.order()
        until(delivered(site, [on_top]))
        assert {site.sms(order) for order in orders} == {"queued"}
        site.pass_time()
        until(delivered(site, orders))
    assert [site.taken(order) for order in orders] == [1] * 3


# --- Redis ---------------------------------------------------------------------------------------


def test_jobs_that_redis_forgets_are_queued_anew_and_sent_once(site, until):
    """Fails without the end of the lease, which queues them again, and the row's own state."""
    site.break_gateway(Mode.HANG)
    with site.worker("--concurrency", "1", SMS_TIMEOUT_S="3,6"):
        begun = site.order()
        until(lambda: site.sms(begun) == "sending")
        later = [site.order() for _ in range(3)]
        until(lambda: site.jobs() == 4)
        site.redis.kill()
        site.redis.start()
        site.pass_time()  # the leases end while the first worker still holds the jobs
        site.break_gateway(Mode.NORMAL)
        until(delivered(site, later))
        until(lambda: site.sms(begun) == "unknown")
    assert [site.taken(order) for order in later] == [1] * 3


def test_orders_are_taken_while_redis_is_away_and_texted_one_sweep_after_its_return(site, until):
    """Fails without leases given back at once, or if the relay's pauses grew beyond a sweep.

    What happens in thirty seconds and in an hour is told in virtual time in `test_outbox.py`.
    """
    with site.worker():
        failures = site.relay_failures()
        site.redis.kill()
        orders, took_s = [], []
        while site.relay_failures() < failures + 4:
            asked_at = time.monotonic()
            orders.append(site.order())
            took_s.append(time.monotonic() - asked_at)
            time.sleep(0.2)
        assert sorted(took_s)[len(took_s) // 2] < 2  # whatever else the machine did in between
        health = site.web.client.get("/api/auth/health/")
        assert (health.status_code, health.json()["checks"]["redis"]["status"]) == (503, "down")
        assert health.json()["checks"]["database"]["status"] == "ok"
        site.redis.start()
        until(delivered(site, orders))
    assert [site.taken(order) for order in orders] == [1] * len(orders)


def test_a_web_process_that_dies_before_it_wakes_a_worker_delays_its_text_and_no_more(site, until):
    """Fails without the relay's own look every second: nobody tells it."""
    web = site.start_web()
    with site.worker():
        site.redis.freeze()
        try:
            orders = [site.order(web=web) for _ in range(3)]
            kill(web)
        finally:
            site.redis.thaw()
        until(delivered(site, orders))
    assert [site.taken(order) for order in orders] == [1] * 3


# --- Postgres ------------------------------------------------------------------------------------


def test_a_connection_cut_within_an_order_leaves_nothing_and_a_repeat_makes_one_order(site, until):
    """Fails if a part of the order could be committed without the rest, or the key stayed taken."""
    promise = books.Promise("Cut")
    site.promises.append(promise)
    answers = []
    key = {"Idempotency-Key": "cut-order"}

    def till():
        answers.append(site.ask_for_order(promise=promise, **key))

    thread = threading.Thread(target=till)
    with held(site.database_url, "SELECT 1 FROM customers WHERE id = $1 FOR UPDATE", site.jane):
        thread.start()
        until(lambda: waiting(site.database_url) == 1)
        assert cut(site.database_url, which="wait_event_type = 'Lock'") == 1
        thread.join()
    (refused,) = answers
    assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    assert "Retry-After" in refused.headers
    assert query(site.database_url, "SELECT count(*) FROM orders WHERE item = 'Cut'") == 0
    made = site.ask_for_order(promise=promise, **key)
    assert made.status_code == 201
    assert "Idempotent-Replayed" not in made.headers


def test_a_connection_cut_while_an_outcome_is_written_loses_no_outcome(site, until):
    """Fails without the repeats of a worker that could not write down what the gateway said."""
    site.break_gateway(Mode.SLOW)
    with site.worker():
        order = site.order()
        until(lambda: site.sms(order) == "sending")
        row = "SELECT 1 FROM notifications WHERE order_id = $1 FOR UPDATE"
        with held(site.database_url, row, order["id"]):
            until(lambda: site.taken(order) and waiting(site.database_url))
            assert cut(site.database_url, which="wait_event_type = 'Lock'") >= 1
        until(delivered(site, [order]))
    assert site.taken(order) == 1


def test_while_postgres_is_away_answers_are_503_and_come_back_by_themselves(
    frail, own_postgres, until
):
    """Fails if a lost connection were an error of ours, or one were kept after its end."""
    with frail.worker():
        before = frail.order()
        own_postgres.stop()
        try:
            get = frail.web.client.get
            path = f"/api/orders/{before['id']}/"
            for answer in (
                frail.ask_for_order(),
                get(path, headers=frail.headers),
                get("/api/orders/?limit=1", headers=frail.headers),
                get("/api/orders/?search=lamp", headers=frail.headers),
            ):
                assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
                assert int(answer.headers["Retry-After"]) > 0
            health = get("/api/auth/health/")
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert health.json()["checks"]["database"] == {"status": "down"}
            assert get("/health/live").status_code == 200
            assert get("/health/ready").status_code == 503
        finally:
            own_postgres.start()
        after = frail.order()
        until(delivered(frail, [before, after]))


def test_postgres_restarts_under_load_and_no_acknowledged_order_or_text_is_lost(
    frail, own_postgres, until
):
    """Fails without durable commits before the 201, and without the worker's repeats."""
    statuses, acknowledged, done = [], [], threading.Event()

    def till():
        with httpx.Client(base_url=frail.web.url, trust_env=False, timeout=120) as client:
            while not done.wait(0.02):
                answer = frail.ask_for_order(client=client)
                statuses.append(answer.status_code)
                if answer.status_code == 201:
                    acknowledged.append(answer.json())

    def more_than(count):
        return lambda: len(acknowledged) > count

    tills = [threading.Thread(target=till) for _ in range(3)]
    with frail.worker():
        for each in tills:
            each.start()
        try:
            until(more_than(10))
            own_postgres.stop()
            until(lambda: 503 in statuses)
            own_postgres.start()
            until(more_than(len(acknowledged) + 10))
            own_postgres.kill()
            own_postgres.start()
            until(more_than(len(acknowledged) + 10))
        finally:
            done.set()
            for each in tills:
                each.join()
        assert set(statuses) == {201, 503}
    assert {frail.taken(order) for order in acknowledged} <= {0, 1}
