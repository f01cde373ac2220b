"""From an order to the gateway: how soon a text goes out, and how fast a backlog drains.

    uv run python benchmarks/messages.py [--backlog 6000] [--seconds 10] [--workers 1 2 4]

The gateway is a process of its own that costs next to nothing. How soon is measured at 20 orders a
second on the embedded default, and with one `savannah worker` on a durable Postgres and Redis. How
fast, with one, two and four workers, beside as many of a bare loop over raw asyncpg and httpx
(`bare_sender.py`) on the same tables, with a gateway that answers at once and one that takes 50 ms.
Postgres, Redis and the gateway share the machine's processors with the senders. Everything is on
127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships none
from rest import HERE, Desk, cpu_seconds, fill, memory_mb, settings_of, started

from savannah.entrypoints.settings import environment_for_child
from servers import free_port, own_postgres, own_redis

ORDERS_A_SECOND: Final = 20
CUSTOMERS: Final = 50
IN_FLIGHT: Final = 32
SLOW_S: Final = 0.05
# Of each of the two times in which a text is on its way; the first part of the targets.
LATENCY_TARGET_MS: Final = (7, 25)
DRAIN_TARGET: Final = 1500
SLOW_TARGET: Final = 0.9 * IN_FLIGHT / SLOW_S


class Gateway:
    """The gateway's process, seen from here."""

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.pid = pid

    def heard(self) -> dict[str, float]:
        """When the text about each order came, by the order's number, since the last call."""
        with urllib.request.urlopen(f"{self.url}/heard", timeout=10) as answer:
            found: dict[str, float] = json.load(answer)
        return found


@contextmanager
def gateway(delay_s: float = 0.0) -> Iterator[Gateway]:
    port = free_port()
    command = [sys.executable, HERE / "gateway.py", str(port), str(delay_s)]
    process = subprocess.Popen(command)
    ready = Gateway(port, process.pid)
    try:
        ends_at = time.monotonic() + 20
        while True:
            try:
                ready.heard()
                break
            except OSError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.02)
        yield ready
    finally:
        process.terminate()
        process.wait()


def sending(database: str, gateway_url: str, **more: str) -> dict[str, str]:
    return settings_of(database) | {
        "AFRICAS_TALKING_BASE_URL": gateway_url,
        "AFRICAS_TALKING_API_KEY": "benchmark",
        "SMS_PHONE_LIMIT": "off",
        **more,
    }


# --- how soon ------------------------------------------------------------------------------------


def embedded(seconds: float) -> None:
    """Storage in a file, everything in one process."""
    with tempfile.TemporaryDirectory() as name, gateway() as carrier:
        folder, port = Path(name), free_port()
        database = f"sqlite:///{folder / 'savannah.db'}"
        desk = asyncio.run(fill(database, orders_each=1))
        serve = ["-m", "savannah", "serve", "--port", str(port)]
        with started(serve, port, folder, settings=sending(database, carrier.url)):
            lags("embedded", desk, port, carrier, seconds)


def production(seconds: float) -> None:
    """A web process and a worker, on Postgres and Redis."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(own_postgres(durable=True))
        redis = stack.enter_context(own_redis())
        carrier = stack.enter_context(gateway())
        database, port = postgres.fresh_database(), free_port()
        desk = asyncio.run(fill(database, orders_each=1))
        settings = sending(database, carrier.url, REDIS_URL=redis.url)
        serve = ["-m", "savannah", "serve", "--port", str(port)]
        stack.enter_context(started(serve, port, folder, settings=settings))
        stack.enter_context(announced(["-m", "savannah", "worker"], folder, settings))
        lags("Postgres, Redis, one worker", desk, port, carrier, seconds)


def lags(what: str, desk: Desk, port: int, carrier: Gateway, seconds: float) -> None:
    """Order at a steady pace, and print how long after its 201 each text reached the gateway."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/orders/",
        data=json.dumps(
            {"customer": desk.buyer, "item": "Laptop Computer", "amount": "999.99"}
        ).encode(),
        headers={"Authorization": f"Bearer {desk.token}", "Content-Type": "application/json"},
    )
    answered: dict[str, float] = {}
    for turn in range(-ORDERS_A_SECOND, int(seconds * ORDERS_A_SECOND)):
        if turn <= 0:  # the second before, everything warms up
            began = time.perf_counter() - turn / ORDERS_A_SECOND
        time.sleep(max(0.0, began + turn / ORDERS_A_SECOND - time.perf_counter()))
        with urllib.request.urlopen(request, timeout=10) as answer:
            at = time.perf_counter()
            number = json.loads(answer.read())["order_number"]
        if turn >= 0:
            answered[number] = at
    heard: dict[str, float] = {}
    ends_at = time.monotonic() + 10
    while not answered.keys() <= heard.keys() and time.monotonic() < ends_at:
        time.sleep(0.1)
        heard |= carrier.heard()
    took = [(heard[number] - at) * 1000 for number, at in answered.items()]
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    wanted50, wanted99 = LATENCY_TARGET_MS
    verdict = "" if p50 <= wanted50 and p99 <= wanted99 else "  missed"
    print(
        f"{what + ',':30} from 201 to the gateway at {ORDERS_A_SECOND} orders/s:"
        f" p50 {p50:.1f} ms, p99 {p99:.1f} ms (wanted {wanted50}, {wanted99}){verdict}",
        flush=True,
    )


# --- how fast ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drained:
    """Messages a second from the first request to the last outcome kept, and CPU per message."""

    rate: float
    senders_us: float
    memory_mb: float

    def __str__(self) -> str:
        return f"{self.rate:6.0f}/s {self.senders_us:5.0f} us"


# All texts wait again, as if none had been sent.
AGAIN: Final = """
    UPDATE notifications SET status = 'queued', due_at = created_at, free_at = created_at,
        attempts = 0, handed_at = NULL, sent_at = NULL, provider_id = NULL, cost_currency = NULL,
        cost_units = NULL"""
DONE: Final = """
    UPDATE notifications SET status = 'sent', free_at = NULL, handed_at = now(), sent_at = now()"""
LEFT: Final = "SELECT count(*) FROM notifications WHERE status IN ('queued', 'deferred', 'sending')"


def drains(backlog: int, counts: Sequence[int]) -> None:
    """One table: senders, and how fast they are beside as many of the bare loop."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(own_postgres(durable=True))
        redis = stack.enter_context(own_redis())
        database = postgres.fresh_database()
        asyncio.run(fill(database, orders_each=-(-backlog // CUSTOMERS)))
        print(
            f"backlog of {backlog}: messages a second, CPU of the senders per message\n"
            f"{'gateway':8}{'processes':>10}{'savannah':>19}{'bare loop':>19}   ratio  memory each"
        )
        for delay_s, wanted in ((0.0, DRAIN_TARGET), (SLOW_S, SLOW_TARGET)):
            with gateway(delay_s) as carrier:
                site = Site(database, carrier, folder)
                settings = sending(database, carrier.url, REDIS_URL=redis.url)
                bare_sender = [str(HERE / "bare_sender.py"), database, carrier.url]
                for count in counts:
                    ours = drain(site, ["-m", "savannah", "worker"], settings, count)
                    bare = drain(site, bare_sender, {}, count)
                    verdict = "" if ours.rate >= wanted else f"  below {wanted:.0f}"
                    print(
                        f"{delay_s * 1000:.0f} ms".ljust(8)
                        + f"{count:10}{ours!s:>19}{bare!s:>19}    {ours.rate / bare.rate:.2f}"
                        f"  {ours.memory_mb:6.0f} MB{verdict}",
                        flush=True,
                    )


@dataclass(frozen=True, slots=True)
class Site:
    """Where a backlog is drained."""

    database: str
    carrier: Gateway
    folder: Path


def drain(site: Site, command: list[str], settings: dict[str, str], count: int) -> Drained:
    """Start the senders with nothing to do, give them the backlog, and time its end."""
    asyncio.run(execute(site.database, DONE, "VACUUM (FULL, ANALYZE) notifications", "CHECKPOINT"))
    with ExitStack() as stack:
        senders = [
            stack.enter_context(announced(command, site.folder, settings)) for _ in range(count)
        ]
        site.carrier.heard()
        before = sum(map(cpu_seconds, senders))
        ended_at, messages = asyncio.run(requeue_and_wait(site.database))
        heard = site.carrier.heard()
        used = sum(map(cpu_seconds, senders)) - before
        memory = statistics.mean(map(memory_mb, senders))
    if len(heard) != messages:
        raise SystemExit(f"{messages} texts, and the gateway heard of {len(heard)}")
    took = ended_at - min(heard.values())
    return Drained(messages / took, used / messages * 1e6, memory)


async def requeue_and_wait(database: str) -> tuple[float, int]:
    """Make all texts due, and wait until every outcome is kept; when that was, and how many."""
    connection: Any = await asyncpg.connect(database)
    try:
        messages = int((await connection.execute(AGAIN)).split()[1])
        ends_at = time.monotonic() + 120
        while await connection.fetchval(LEFT):
            if time.monotonic() > ends_at:
                raise SystemExit("the backlog was not drained in two minutes")
            await asyncio.sleep(0.03)
        return time.perf_counter(), messages
    finally:
        await connection.close()


async def execute(database: str, *statements: str) -> None:
    connection: Any = await asyncpg.connect(database)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def announced(command: list[str], folder: Path, settings: dict[str, str]) -> Iterator[int]:
    """A process that prints a line when it is ready; its id."""
    environment = environment_for_child(**settings)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    with (folder / "senders.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit((folder / "senders.log").read_text()[-2000:])
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    given = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors", flush=True)
    if given.seconds:
        embedded(given.seconds)
        production(given.seconds)
    if given.workers:
        drains(given.backlog, given.workers)


if __name__ == "__main__":
    main()
