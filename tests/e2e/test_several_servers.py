"""Several servers over one Postgres: they agree with each other, whatever each of them is told."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest

import servers
from database import held, query, waiting

pytestmark = pytest.mark.e2e

LIMITS_OFF = {"SMS_PHONE_LIMIT": "off", "RATE_LIMIT": "off", "RATE_LIMIT_AUTH": "off"}
AT_ONCE = 24


@pytest.fixture(scope="module")
def primary():
    with servers.own_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary):
    with primary.replica() as server:
        yield server


class Desk:
    """A database, a simulated gateway, and web processes without Redis."""

    def __init__(self, processes, database_url, **more):
        self.processes = processes
        self.database_url = database_url
        self.simulator = processes.start("simulator", "--port", "0")
        self.settings = {
            **LIMITS_OFF,
            **more,
            "DEBUG": "true",
            "SECRET_KEY": "k" * 40,
            "PUBLIC_URL": "http://127.0.0.1:8000",
            "DATABASE_URL": database_url,
            "AFRICAS_TALKING_BASE_URL": self.simulator.url,
        }
        assert processes.run("migrate", **self.settings).returncode == 0

    def serve(self, *arguments, **more):
        return self.processes.start("serve", "--port", "0", *arguments, **self.settings, **more)

    def log_in(self, web):
        person = {"username": "johndoe", "password": "securepassword123"}
        web.client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
        app = web.client.post("/api/auth/create-app/", json={"name": "Till"}).json()
        credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
        login = web.client.post("/api/auth/login/", json={**person, **credentials})
        assert login.status_code == 200, login.text
        self.headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        body = {"name": "Jane", "phone_number": "0700123456"}
        made = web.client.post("/api/customers/", json=body, headers=self.headers)
        self.jane = made.json()["id"]

    def order(self, **more):
        return {"customer": self.jane, "item": "Lamp", "amount": "10.00", **more}

    def texts(self):
        return self.simulator.client.get("/state.json").json()["messages"]


# --- idempotency under fire ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(shared, primary):
    """Two servers, one of them with two processes: three processes in all."""
    desk = Desk(shared, primary.fresh_database())
    webs = [desk.serve("--workers", "2"), desk.serve()]
    desk.log_in(webs[0])
    return SimpleNamespace(desk=desk, webs=webs)


def at_once(several, requests):
    """The answers to (key, body) pairs, all sent at once, each repeated until it is final."""
    headers = several.desk.headers

    async def one(number, key, body):
        web = several.webs[number % len(several.webs)]
        # A connection for each, so that the processes of one server share them.
        async with httpx.AsyncClient(base_url=web.url, trust_env=False, timeout=120) as client:
            while True:
                answer = await client.post(
                    "/api/orders/", json=body, headers={**headers, "Idempotency-Key": key}
                )
                if answer.json().get("code") != "idempotency_in_progress":
                    return answer
                assert answer.status_code == 409
                await asyncio.sleep(0.02)

    async def all_of_them():
        return await asyncio.gather(
            *(one(number, key, body) for number, (key, body) in enumerate(requests))
        )

    return asyncio.run(all_of_them())


def test_equal_posts_to_several_processes_at_once_make_one_order_and_one_text(several, until):
    """Fails without the key's lock and record in the order's own transaction."""
    desk = several.desk
    texts = len(desk.texts())
    answers = at_once(several, [("one-key", desk.order(item="Once"))] * AT_ONCE)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    replayed = [answer for answer in answers if "Idempotent-Replayed" in answer.headers]
    assert len(replayed) == AT_ONCE - 1
    assert query(desk.database_url, "SELECT count(*) FROM orders WHERE item = 'Once'") == 1
    until(lambda: len(desk.texts()) > texts)
    settled(desk, until)
    assert len(desk.texts()) == texts + 1


def test_posts_under_different_keys_do_not_get_in_each_others_way(several, until):
    """Fails if the lock of one key held up or answered another one."""
    desk = several.desk
    texts = len(desk.texts())
    requests = [(f"key-{n % 8}", desk.order(item=f"Many {n % 8}")) for n in range(AT_ONCE)]
    answers = at_once(several, requests)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 8
    counted = "SELECT count(*) FROM orders WHERE item LIKE 'Many %'"
    assert query(desk.database_url, counted) == 8
    settled(desk, until)
    assert len(desk.texts()) == texts + 8


def test_one_key_with_two_bodies_takes_one_of_them_and_refuses_the_other(several, until):
    """Fails without the fingerprint that is kept with the key."""
    desk = several.desk
    requests = [("two-bodies", desk.order(item=f"Body {n % 2}")) for n in range(AT_ONCE)]
    answers = at_once(several, requests)
    taken = {answer.json()["item"] for answer in answers if answer.status_code == 201}
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(taken) == 1
    assert {answer.json()["code"] for answer in refused} == {"idempotency_key_reused"}
    assert len(refused) == AT_ONCE // 2
    counted = "SELECT count(*) FROM orders WHERE item LIKE 'Body %'"
    assert query(desk.database_url, counted) == 1
    settled(desk, until)


def test_a_key_whose_first_holder_was_killed_is_free_and_makes_one_order(several, until):
    """Fails if a key were held by anything that outlives its transaction."""
    desk = several.desk
    victim = desk.serve()
    texts = len(desk.texts())
    body, key = desk.order(item="Killed"), {"Idempotency-Key": "killed-holder"}
    locked = "SELECT 1 FROM customers WHERE id = $1 FOR UPDATE"
    with (
        held(desk.database_url, locked, desk.jane),
        httpx.Client(base_url=victim.url, trust_env=False, timeout=120) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        asked = caller.submit(client.post, "/api/orders/", json=body, headers=desk.headers | key)
        until(lambda: waiting(desk.database_url) == 1)
        victim.process.kill()
        victim.process.wait()
        assert isinstance(asked.exception(), httpx.TransportError)
    answers = at_once(several, [("killed-holder", body)] * 6)
    assert {answer.status_code for answer in answers} == {201}
    assert query(desk.database_url, "SELECT count(*) FROM orders WHERE item = 'Killed'") == 1
    settled(desk, until)
    assert len(desk.texts()) == texts + 1


def settled(desk, until):
    busy = "SELECT count(*) FROM notifications WHERE status IN ('queued', 'sending', 'deferred')"
    until(lambda: query(desk.database_url, busy) == 0)


# --- reading one's own writes --------------------------------------------------------------------


def test_a_client_reads_its_writes_through_another_server_while_the_replica_stands_still(
    shared, primary, replica, until
):
    """Fails without the question to the primary how far a replica must be."""
    url = primary.fresh_database()
    there = replica.at(url)
    desk = Desk(shared, url, DATABASE_REPLICA_URLS=there)
    # Without relays, which write, too, so that only the clients do.
    one, other = desk.serve("--no-worker"), desk.serve("--no-worker")
    desk.log_in(one)

    def read(web, path):
        answer = web.client.get(path, headers=desk.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    orders = one.client.post("/api/orders/", json=desk.order(), headers=desk.headers).json()
    path = f"/api/orders/{orders['id']}/"

    def read_there():
        """How many transactions the replica has had; a reader's is among them."""
        counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
        return query(there, counted, url.rpartition("/")[2])

    before = read_there()
    for _ in range(50):
        read(other, path)
    until(lambda: read_there() > before + 20)  # so it is a replica that is read from
    query(there, "SELECT pg_wal_replay_pause()")
    try:
        until(lambda: query(there, "SELECT pg_get_wal_replay_pause_state()") == "paused")
        for web in (one, other):
            read(web, path)  # nothing is written yet, so the replica may still answer
        for number in range(10):
            writer, reader = (one, other) if number % 2 else (other, one)
            note = {"notes": f"Note {number}"}
            moved = writer.client.patch(path, json=note, headers=desk.headers)
            assert moved.status_code == 200, moved.text
            assert read(reader, path)["notes"] == note["notes"]
            body = desk.order(item=f"Lamp {number}")
            made = writer.client.post("/api/orders/", json=body, headers=desk.headers).json()
            newest = read(reader, "/api/orders/?limit=1")
            assert json.dumps(made["id"]) in json.dumps(newest)
    finally:
        query(there, "SELECT pg_wal_replay_resume()")


# --- waking each other ---------------------------------------------------------------------------


# Its relay never looks by itself.
TIMELESS = """
import sys
from datetime import timedelta
from savannah.entrypoints import cli, worker
worker.IDLE = timedelta(days=1)
sys.exit(cli.main())
"""


def test_an_order_taken_where_nothing_is_sent_wakes_the_relay_of_another_server(
    shared, primary, until
):
    """Fails without NOTIFY: the relay would never know."""
    desk = Desk(shared, primary.fresh_database())
    desk.serve(program=("-c", TIMELESS))
    taker = desk.serve("--no-worker")
    desk.log_in(taker)
    for number in range(3):
        body = desk.order(item=f"Wake {number}")
        made = taker.client.post("/api/orders/", json=body, headers=desk.headers)
        assert made.status_code == 201
        settled(desk, until)
    assert len(desk.texts()) == 3
