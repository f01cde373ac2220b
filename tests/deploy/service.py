"""The real service as child processes, for checks that need one to talk to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fresh_debian
import httpx

import servers

PATIENCE_S: Final = 180  # on a busy machine; what is waited for takes a fraction of it
_READY: Final = re.compile(r"^.* is (?:ready on|sending).*(?=\n)", re.MULTILINE)


@contextmanager
def serving(folder: Path, *arguments: str, **settings: str) -> Iterator[str]:
    """The address of `savannah serve` with these settings, on a free port of this machine."""
    with running(folder, "serve", "--port", "0", *arguments, **settings) as (_, line):
        yield line.rpartition(" ")[2]


def start(folder: Path, command: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    """A `savannah` command with these settings and no others.

    What it says goes to `<command>.output` and `<command>.log` in `folder`.
    """
    with (
        (folder / f"{command}.output").open("w") as out,
        (folder / f"{command}.log").open("w") as err,
    ):
        return subprocess.Popen(
            [sys.executable, "-m", "savannah", command, *arguments],
            cwd=folder,
            env=_environment(folder, settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


@contextmanager
def running(
    folder: Path, command: str, *arguments: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A `savannah` command that stays, and the line by which it says that it is ready."""
    process = start(folder, command, *arguments, **settings)
    output, log = folder / f"{command}.output", folder / f"{command}.log"
    try:
        ends_at = time.monotonic() + PATIENCE_S
        while (found := _READY.search(output.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.05)
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _environment(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SAVANNAH_DATA_DIR": str(folder / "data"), **settings}


def until(
    see: Callable[[], Any],
    *,
    within_s: float = PATIENCE_S,
    instead: Callable[[], object] = lambda: "",
) -> Any:
    """Look again and again until what is seen is true, and give that; or say what is `instead`."""
    ends_at = time.monotonic() + within_s
    while not (seen := see()):
        assert time.monotonic() < ends_at, f"it did not come true in time: {instead()}"
        time.sleep(0.1)
    return seen


@dataclass(frozen=True)
class Installation:
    """Web processes and a worker on one database and Redis, with a simulated gateway.

    Attributes:
        web, worker: the addresses that show `/metrics`.
        worker_process: the worker's.
        client: of somebody who has logged in.
        gateway: the address of the simulated one.
    """

    web: str
    worker: str
    worker_process: subprocess.Popen[bytes]
    client: httpx.Client
    gateway: str

    def order(self, *, phone: str) -> str:
        """The path of a new order, asked for twice under one key."""
        post = self.client.post
        customer = post("/api/customers/", json={"name": "Jane Smith", "phone_number": phone})
        assert customer.status_code == 201, customer.text
        body = {"customer": customer.json()["id"], "item": "Lamp", "amount": "10.00"}
        key = {"Idempotency-Key": customer.json()["id"]}
        first, again = (post("/api/orders/", json=body, headers=key) for _ in range(2))
        assert (first.status_code, again.json()) == (201, first.json())
        return f"/api/orders/{first.json()['id']}/"

    def sms(self, order: str) -> str:
        """The state of its text."""
        return str(self.client.get(order).json()["sms"]["status"])

    def trade(self, *, phone: str) -> None:
        """Do once whatever has a figure: order, text, report, repeat, refusal, a client cut."""
        order = self.order(phone=phone)
        until(lambda: self.sms(order) == "delivered")
        assert self.client.get("/api/orders/none/").status_code == 404
        host, port = self.web.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as chatty:
            chatty.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
            assert chatty.recv(16).startswith(b"HTTP/1.1 431")

    def gateway_answers(self, mode: str) -> None:
        """Have the gateway do that from now on, `normal` to end it."""
        answer = httpx.post(f"{self.gateway}/faults", json={"mode": mode}, trust_env=False)
        assert answer.is_success, answer.text


@contextmanager
def installation(folder: Path, database_url: str, redis_url: str) -> Iterator[Installation]:
    """What an operator watches: two web processes, and a worker that shows its figures."""
    port, page = servers.free_port(), servers.free_port()
    settings = {
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SECRET_KEY": "k" * 40,
        "DEBUG": "true",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "RATE_LIMIT": "off",
        "RATE_LIMIT_AUTH": "off",
        "SMS_PAUSE_S": "1",
    }
    with ExitStack() as stack:
        _, line = stack.enter_context(running(folder, "simulator", "--port", "0", **settings))
        settings["AFRICAS_TALKING_BASE_URL"] = gateway = line.rpartition(" ")[2]
        migrate = (sys.executable, "-m", "savannah", "migrate")
        fresh_debian.run(*migrate, cwd=folder, env=_environment(folder, settings))
        serve = ("serve", "--port", str(port), "--workers", "2")
        stack.enter_context(running(folder, *serve, **settings))
        work = ("worker", "--metrics-port", str(page))
        worker, _ = stack.enter_context(running(folder, *work, **settings))
        web = settings["PUBLIC_URL"]
        client = stack.enter_context(
            httpx.Client(base_url=web, timeout=PATIENCE_S, trust_env=False)
        )
        client.headers["Authorization"] = f"Bearer {_token(client)}"
        yield Installation(web, f"http://127.0.0.1:{page}", worker, client, gateway)


def _token(client: httpx.Client) -> str:
    person = {"username": "johndoe", "password": "securepassword123"}
    client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
    login = client.post("/api/auth/login/", json={**person, **credentials})
    assert login.status_code == 200, login.text
    return str(login.json()["access_token"])
