"""Savannah over HTTP on a durable Postgres, beside a bare handler that leaves the same rows.

    uv run python benchmarks/rest.py [--seconds 3] [--rounds 2]

Both are driven in turn by `wrk`, A B A B, so that what else the machine does hits both. Rates are
of this machine at this moment; what counts is the ratio. Everything is on 127.0.0.1 and ends by
itself, after a minute and a half as it is called above. It needs wrk (apt-get install wrk).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from savannah.adapters.sql import migrate  # noqa: E402
from savannah.domain.access import Caller  # noqa: E402
from savannah.entrypoints.container import Place, opened  # noqa: E402
from savannah.entrypoints.settings import environment_for_child, parse  # noqa: E402
from servers import free_port, own_postgres  # noqa: E402  the tests' own Postgres

CUSTOMERS: Final = 50
ORDERS_EACH: Final = 20
CONNECTIONS: Final = 32
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
PASSWORD: Final = "only-here-and-only-now-1"
# What is wanted of each, as a share of the bare handler's rate.
TARGETS: Final = {"create order": 0.45, "get order": 0.45, "list page": 0.43, "stats": 0.45}
REPORT: Final = """
done = function(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout
  print(string.format('REPORT {"requests": %d, "us": %d, "p50": %d, "p99": %d, "failed": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Requests a second, two percentiles in milliseconds, and CPU of the server per request."""

    rate: float
    p50: float
    p99: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.rate:8.0f}/s{self.p50:6.1f}{self.p99:7.1f} ms{self.cpu_us:6.0f} us"


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two that are driven."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Desk:
    """What the requests need: a token, a customer, orders of all, and another one who buys more."""

    token: str
    customer: str
    orders: list[str]
    buyer: str


def settings_of(database: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database,
        "SECRET_KEY": "a secret for one benchmark, thrown away with it",
        "PUBLIC_URL": "http://127.0.0.1:8000",
        "DEBUG": "true",  # plain http
        "RATE_LIMIT": "off",
        "RATE_LIMIT_AUTH": "off",
        "LOG_FORMAT": "json",
    }


async def fill(database: str, *, orders_each: int = ORDERS_EACH) -> Desk:
    """A schema, customers with orders, and somebody who is logged in."""
    await migrate(database)
    settings = parse(settings_of(database)).prepared()
    by = Caller.admin("benchmark")
    async with opened(settings, Place(public_url=settings.public_url or "")) as container:
        savannah, identity = container.savannah(), container.identity()
        await identity.accounts.create_superuser(username="bench", password=PASSWORD)
        client, secret = await identity.apps.create_client(name="Bench", by=by)
        login = await identity.logins.login(
            username="bench",
            password=PASSWORD,
            client_id=client.client_id,
            client_secret=secret,
            address="127.0.0.1",
        )

        async def buyer(number: int) -> tuple[str, list[str]]:
            jane = await savannah.customers.create(
                name=f"Jane Smith {number}", phone_number=f"0700 123 {number:03}", by=by
            )
            bought = [
                await savannah.orders.create(
                    customer=jane.id, item="Laptop Computer", amount="999.99", by=by
                )
                for _ in range(orders_each)
            ]
            return str(jane.id), [str(order.id) for order in bought]

        made = await asyncio.gather(*(buyer(number) for number in range(CUSTOMERS)))
    orders = [order for _, bought in made for order in bought]
    return Desk(login.access_token, made[0][0], orders, made[-1][0])


@contextmanager
def started(
    command: list[str],
    port: int,
    folder: Path,
    *,
    settings: Mapping[str, str] = NOTHING,
    waits: bool = True,
) -> Iterator[Server]:
    """A process of ours; where it has a port, once that answers."""
    environment = environment_for_child(**settings)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        if waits:
            _await_answer(process, port, folder)
        yield Server(process.pid, port)
    finally:
        process.terminate()
        process.wait(20)


def _await_answer(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    ends_at = time.monotonic() + 20
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/auth/health", timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit((folder / f"{port}.log").read_text()[-2000:])


def memory_mb(pid: int) -> float:
    """What a process has to itself, and its share of what it has with others (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drive(server: Server, path: str, script: Path, seconds: float, *, connections: int) -> Run:
    """Load from one thread of wrk. Raises: SystemExit, when anything but 2xx came back."""
    before = cpu_seconds(server.pid)
    told = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "-s",
            script,
            f"http://127.0.0.1:{server.port}{path}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    report = json.loads(told.rpartition("REPORT ")[2])
    if report["failed"] or not report["requests"]:
        raise SystemExit(f"{path} of process {server.pid}:\n{told}")
    return Run(
        rate=report["requests"] / report["us"] * 1e6,
        p50=report["p50"] / 1000,
        p99=report["p99"] / 1000,
        cpu_us=(cpu_seconds(server.pid) - before) / report["requests"] * 1e6,
    )


def scripts(folder: Path, desk: Desk) -> dict[str, tuple[str, Path]]:
    """Path and wrk script of each kind of request."""
    body = json.dumps(
        {"customer": desk.buyer, "item": "Laptop Computer", "amount": "999.99", "quantity": 2}
    )
    reading = f"wrk.headers['Authorization'] = 'Bearer {desk.token}'\n{REPORT}"
    writing = (
        f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n"
        f"wrk.headers['Content-Type'] = 'application/json'\n{reading}"
    )
    # Another order each time: who asks for the same one at once could share an answer.
    paths = ", ".join(f"'/api/orders/{order}/'" for order in desk.orders)
    reading_each = (
        f"{reading}\nlocal paths, turn = {{{paths}}}, 0\n"
        "request = function()\n"
        "  turn = turn % #paths + 1\n  return wrk.format('GET', paths[turn])\nend\n"
    )
    read, read_each, write = (folder / f"{name}.lua" for name in ("read", "read_each", "write"))
    read.write_text(reading)
    read_each.write_text(reading_each)
    write.write_text(writing)
    return {
        "get order": ("/", read_each),
        "list page": ("/api/orders/", read),
        "stats": (f"/api/customers/{desk.customer}/stats/", read),
        "create order": ("/api/orders/", write),  # last, so that the others read the same tables
    }


def measure(seconds: float, rounds: int, only: list[str], *, connections: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(own_postgres(durable=True))
        database = postgres.fresh_database()
        desk = asyncio.run(fill(database))
        ours, theirs = free_port(), free_port()
        serve = ["-m", "savannah", "serve", "--no-worker", "--port", str(ours)]
        bare = [str(HERE / "bare.py"), database, str(theirs)]
        servers = (
            stack.enter_context(started(serve, ours, folder, settings=settings_of(database))),
            stack.enter_context(started(bare, theirs, folder)),
        )
        print(f"load of the machine {os.getloadavg()[0]:.1f}; process {servers[0].pid}", flush=True)
        print(f"{'':13}{'savannah':>35}{'bare':>35}   ratio  target")
        for what, (path, script) in scripts(folder, desk).items():
            if only and what.split()[0] not in only:
                continue
            runs: dict[Server, list[Run]] = {server: [] for server in servers}
            for server in servers:
                drive(server, path, script, 1, connections=connections)  # warm
            for _ in range(rounds):
                for server in servers:
                    run = drive(server, path, script, seconds, connections=connections)
                    runs[server].append(run)
            mine, other = (mean(runs[server]) for server in servers)
            ratio, target = mine.rate / other.rate, TARGETS[what]
            verdict = "" if ratio >= target else "  missed"
            print(f"{what:13}{mine}{other}    {ratio:.2f}    {target:.2f}{verdict}", flush=True)
        print(
            f"memory of the process (PSS): savannah {memory_mb(servers[0].pid):.0f} MB,"
            f" bare {memory_mb(servers[1].pid):.0f} MB"
        )


def mean(runs: list[Run]) -> Run:
    return Run(
        rate=statistics.mean(run.rate for run in runs),
        p50=statistics.mean(run.p50 for run in runs),
        p99=statistics.mean(run.p99 for run in runs),
        cpu_us=statistics.mean(run.cpu_us for run in runs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--only", action="append", default=[], metavar="create|get|list|stats")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("This needs wrk: apt-get install wrk")
    print("rate, p50, p99, CPU of the server per request; the ratio is of the rates")
    measure(given.seconds, given.rounds, given.only, connections=given.connections)


if __name__ == "__main__":
    main()
