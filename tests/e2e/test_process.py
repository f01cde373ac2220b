"""How the process starts and ends: settings, signals, crashes, several workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e

LIMITS_OFF = {"SMS_PHONE_LIMIT": "off", "RATE_LIMIT": "off", "RATE_LIMIT_AUTH": "off"}


def logged_in(server) -> dict[str, str]:
    client = server.client
    person = {"username": "johndoe", "password": "securepassword123"}
    client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
    login = client.post("/api/auth/login/", json={**person, **credentials})
    assert login.status_code == 200, login.text
    return {"Authorization": f"Bearer {login.json()['access_token']}"}


def take_orders(server, *, at_least: int) -> tuple[list[str], list[threading.Thread]]:
    """Take orders from several tills without an end; the acknowledged ones, as they come."""
    headers = logged_in(server)
    jane = server.client.post(
        "/api/customers/", json={"name": "Jane", "phone_number": "0700123456"}, headers=headers
    ).json()
    acknowledged: list[str] = []
    enough = threading.Event()

    def till() -> None:
        with httpx.Client(
            base_url=server.url, trust_env=False, headers=headers, timeout=120
        ) as client:
            while True:
                order = {"customer": jane["id"], "item": "Lamp", "amount": "10.00"}
                try:
                    answer = client.post("/api/orders/", json=order)
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    acknowledged.append(answer.json()["order_number"])
                if len(acknowledged) >= at_least:
                    enough.set()

    tills = [threading.Thread(target=till) for _ in range(3)]
    for each in tills:
        each.start()
    assert enough.wait(120)
    return acknowledged, tills


def texts_by_order(simulator) -> dict[str, int]:
    counted: dict[str, int] = {}
    for text in simulator.client.get("/state.json").json()["messages"]:
        number = re.search(r"ORD-[0-9A-Z]{6}-[0-9A-Z]", text["text"])[0]
        counted[number] = counted.get(number, 0) + 1
    return counted


def test_a_kill_loses_no_acknowledged_order_and_no_text(processes, until):
    simulator = processes.start("simulator", "--port", "0")
    settings = {"AFRICAS_TALKING_BASE_URL": simulator.url, **LIMITS_OFF}
    server = processes.start("serve", "--port", "0", "--no-worker", **settings)
    acknowledged, tills = take_orders(server, at_least=15)
    server.process.send_signal(signal.SIGKILL)
    for till in tills:
        till.join()
    assert texts_by_order(simulator) == {}

    processes.start("serve", "--port", "0", **settings)
    until(lambda: set(acknowledged) <= set(texts_by_order(simulator)))
    assert set(texts_by_order(simulator).values()) == {1}


def test_a_stop_in_the_middle_of_business_is_orderly(processes, until):
    simulator = processes.start("simulator", "--port", "0")
    settings = {"AFRICAS_TALKING_BASE_URL": simulator.url, **LIMITS_OFF}
    server = processes.start("serve", "--port", "0", **settings)
    acknowledged, tills = take_orders(server, at_least=15)
    assert server.terminate() == 0
    for till in tills:
        till.join()
    assert "Traceback" not in server.log.read_text()
    checked = processes.run("check", **settings)
    assert re.search(r"^gateway +ok +balance KES", checked.stdout, re.MULTILINE)

    # Nothing is left behind a lease or in the middle of an attempt: it goes on at once.
    processes.start("serve", "--port", "0", **settings)
    until(lambda: set(acknowledged) <= set(texts_by_order(simulator)))
    assert set(texts_by_order(simulator).values()) == {1}


@pytest.mark.parametrize("command", [("serve", "--workers", "2"), ("serve",), ("worker",)])
def test_a_stop_before_it_is_ready_is_orderly_too(processes, command):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        database = f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/none?sslmode=disable"
        settings = {
            "DATABASE_URL": database,
            "REDIS_URL": "redis://127.0.0.1:1",
            "DEBUG": "true",
            "AFRICAS_TALKING_API_KEY": "never-used",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "savannah", *command],
            cwd=processes.folder,
            env=processes.environment(settings),
            stderr=subprocess.PIPE,
            text=True,
        )
        mute.settimeout(120)
        try:
            with mute.accept()[0]:  # it waits for a database that says nothing
                process.terminate()
                said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
            process.communicate()
    assert (process.returncode, "Traceback" in said) == (0, False), said


def test_several_workers_serve_count_together_and_end_together(processes, until):
    server = processes.start("serve", "--port", "0", "--workers", "2", **LIMITS_OFF)
    acknowledged, tills = take_orders(server, at_least=10)

    def delivered():
        shown = server.client.get("/simulator/state.json").json()["messages"]
        return len([text for text in shown if text["status"] == "delivered"]) >= 10

    until(delivered)
    counted = re.search(
        r"^savannah_orders_created_total (\d+)", server.client.get("/metrics").text, re.MULTILINE
    )
    assert int(counted[1]) >= 10
    assert server.client.get("/simulator/").status_code == 200
    assert server.terminate() == 0
    for till in tills:
        till.join()
    assert "Traceback" not in server.log.read_text()
    assert len(acknowledged) >= 10


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; elsewhere nothing is forked")
def test_workers_share_what_is_loaded_are_replaced_and_end_with_their_supervisor(
    processes, postgres_server, until, tmp_path
):
    settings = {
        "DATABASE_URL": postgres_server.fresh_database(),
        "DEBUG": "true",
        "AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:1",
        "TMPDIR": str(tmp_path),
    }
    refused = processes.run("serve", "--port", "0", "--workers", "2", **settings)
    assert refused.returncode == 1
    assert "run `savannah migrate`" in refused.stderr
    assert processes.run("migrate", **settings).returncode == 0

    def counting():
        return {
            (file.parent.name, file.stem.rpartition("_")[2])
            for file in tmp_path.glob("savannah-metrics-*/*.db")
        }

    server = processes.start("serve", "--port", "0", "--workers", "2", **settings)
    first = counting()
    assert len(first) == 2
    workers = children(server.process.pid)
    assert len(workers) == 2
    for worker in workers:
        rollup = Path(f"/proc/{worker}/smaps_rollup").read_text()
        shared_kb = int(re.search(r"^Shared_Dirty: +(\d+)", rollup, re.MULTILINE)[1])
        assert shared_kb > 20_000
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(set(children(server.process.pid)) - set(workers)) == 1)
    replaced = children(server.process.pid)
    until(lambda: server.client.get("/health/ready").status_code == 200)
    assert counting() == first
    server.process.kill()
    until(lambda: not any(map(is_there, replaced)))
    assert counting() == first  # nobody was left to remove them
    server = processes.start("serve", "--port", "0", "--workers", "2", **settings)
    assert len(counting()) == 2
    assert not counting() & first
    assert server.terminate() == 0
    assert not counting()


def test_a_bad_setting_ends_the_start_with_its_name_and_rule(processes):
    refused = processes.run("serve", "--port", "0", RATE_LIMIT="lots", SECRET_KEY="hush-hush")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("savannah: RATE_LIMIT must be COUNT/PERIOD")
    assert "hush-hush" not in refused.stderr


def test_production_without_a_secret_key_does_not_start(processes):
    refused = processes.run("serve", DATABASE_URL="postgresql://desk:hunter2@127.0.0.1:1/desk")
    assert refused.returncode == 2
    assert "SECRET_KEY must be set" in refused.stderr
    assert "hunter2" not in refused.stderr


def test_a_database_that_does_not_answer_is_a_failure_and_not_a_traceback(processes):
    url = "postgresql://desk:hunter2@127.0.0.1:1/desk"
    failed = processes.run("migrate", "--check", DATABASE_URL=url, DEBUG="true")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "hunter2" not in failed.stderr


def test_a_database_server_is_migrated_by_the_command_and_not_by_serving(
    processes, postgres_server
):
    settings = {
        "DATABASE_URL": postgres_server.fresh_database(),
        "DEBUG": "true",
        "AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:1",
    }
    refused = processes.run("serve", "--port", "0", **settings)
    assert refused.returncode == 1
    assert "run `savannah migrate`" in refused.stderr
    assert processes.run("migrate", **settings).returncode == 0
    server = processes.start("serve", "--port", "0", **settings)
    assert server.client.get("/api/auth/health/").json()["status"] == "healthy"
    assert server.terminate() == 0


def test_a_taken_port_is_told(processes):
    server = processes.start("serve", "--port", "0")
    port = server.url.rpartition(":")[2]
    failed = processes.run("serve", "--port", port)
    assert failed.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in failed.stderr
    assert server.terminate() == 0


def test_an_empty_folder_needs_a_migration_and_gets_it(processes):
    assert processes.run("migrate", "--check").returncode == 1
    assert processes.run("migrate").returncode == 0
    assert processes.run("migrate", "--check").returncode == 0


def test_numbers_are_normalized_or_refused_with_a_reason(processes):
    done = processes.run("normalize", "0700 123 456", "+256 712 345678")
    assert (done.returncode, done.stdout) == (0, "+254700123456\n+256712345678\n")
    refused = processes.run("normalize", "0700 123 456", "12")
    assert refused.returncode == 1
    assert refused.stdout.splitlines()[1].startswith("invalid_phone: ")
    assert processes.run("normalize", "0712 345678", "--region", "ug").stdout == "+256712345678\n"
    assert processes.run("normalize").returncode == 2


def test_the_version_is_that_of_the_project(processes):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    printed = processes.run("--version", DATABASE_URL="no url at all")
    assert (printed.returncode, printed.stdout) == (0, f"savannah {project['version']}\n")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("serve", "--port", "65536"), "argument --port: must be a port from 0 to 65535"),
        (("serve", "--workers", "0"), "argument --workers: must be a whole number from 1"),
        (("worker", "--metrics-port", "x"), "argument --metrics-port: must be a port from 0"),
        (("sms", "list", "--limit", "-1"), "argument --limit: must be a whole number from 1"),
        (("users", "set-role", "jane", "king"), "argument role: invalid choice"),
        (("no-such-command",), "invalid choice: 'no-such-command'"),
        ((), "required: COMMAND"),
    ],
)
def test_wrong_usage_names_the_argument_and_the_rule(processes, arguments, rule):
    refused = processes.run(*arguments)
    assert refused.returncode == 2
    assert rule in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_openapi_document_is_printed_and_written(processes):
    printed = processes.run("openapi")
    assert printed.returncode == 0, printed.stderr
    assert '"openapi": "3.1' in printed.stdout
    assert processes.run("openapi", "--output", "api.json").stdout == ""
    assert (processes.folder / "api.json").read_text() == printed.stdout


def test_the_demo_tells_the_whole_story(processes):
    told = processes.run("demo")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("✓ ") >= 9
    assert "+254700123456" in told.stdout
    assert list(processes.folder.iterdir()) == []
