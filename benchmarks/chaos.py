"""Does Savannah lose anything? Orders, moves and opt-outs while its production parts are killed.

Run by `uv run nox -s chaos`. Everything is real and private: a durable Postgres, Redis, two
`savannah serve`, two `savannah worker`; the simulated gateway and the tills run in here. Processes
are killed, servers stopped, frozen and emptied, connections cut, clocks set wrong, and the gateway
hangs, fails, refuses and loses answers. Ends with what was counted, and 1 for broken promises. A
seed repeats the order of the faults, no timing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for servers and books

import servers
from books import GatewayServer, Promise, imbalances, read, settled, verdict_of
from database import cut
from savannah.entrypoints.settings import environment_for_child
from savannah.entrypoints.simulator import (
    Mode,
    ReceivedSend,
    ReportMode,
    Simulator,
    SimulatorSettings,
)

TILLS: Final = 8
SKEWED: Final = Path(servers.__file__).with_name("skewed.py")
# As long as the longest absence that must be survived; once, and in long runs only.
AWAY_S: Final = 30.0
AWAY_FROM_S: Final = 120.0
PATIENCE_S: Final = 2.0  # of a till, with one answer
GIVE_UP_S: Final = 25.0  # of a till, with one request and all its repetitions
START_S: Final = 60.0
SETTLE_S: Final = 120.0
TIMEOUTS: Final = "0.5,0.7"
TOKEN: Final = "chaos-callback-token"
STATUSES: Final = ("processing", "shipped", "delivered")
GATEWAY_FAULTS: Final = (
    Mode.HANG,
    Mode.SLOW,
    Mode.LOST_ANSWER,
    Mode.RUBBISH,
    Mode.HTTP_500,
    Mode.HTTP_503,
    Mode.INSUFFICIENT_BALANCE,
)
REPORT_FAULTS: Final = (
    ReportMode.NORMAL,
    ReportMode.DELAYED,
    ReportMode.DUPLICATED,
    ReportMode.OUT_OF_ORDER,
    ReportMode.MISSING,
    ReportMode.EARLY,
)


# --- the parts -----------------------------------------------------------------------------------


class Program:
    """One `savannah` process that can be killed and started again, with a clock of its own."""

    def __init__(self, name: str, arguments: list[str], folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._clock = folder / f"{name}.clock"
        self._arguments = arguments
        self._folder = folder
        self._env = env
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it says it is ready; again when its parts were away."""
        ends_at = time.monotonic() + START_S
        while True:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    SKEWED,
                    self._clock,
                    *self._arguments,
                    cwd=self._folder,
                    env=self._env,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                )
            assert self._process.stdout is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(START_S):
                    if await self._process.stdout.readline():
                        return
            await self.kill()
            if time.monotonic() > ends_at:
                raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.3)

    def set_clock(self, wrong_by_s: float) -> None:
        """Let its machine's clock be wrong by so much from now on."""
        self._clock.write_text(str(wrong_by_s))

    async def kill(self) -> None:
        """End it as a crash does."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int | None:
        """Ask it to end; its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(START_S):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the run consists of. Servers are handled in one thread, whose end would end them."""

    postgres: servers.OwnPostgres
    redis: servers.OwnRedis
    database_url: str
    simulator: Simulator
    webs: list[Program]
    workers: list[Program]
    urls: list[str]
    thread: ThreadPoolExecutor
    server_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def at_servers(self, *work: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        async with self.server_lock:
            for each in work:
                await loop.run_in_executor(self.thread, each)


# --- the load ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ledger:
    """Everything that was promised to the tills."""

    seed: int
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    sales: list[Promise] = field(default_factory=list)
    customers: list[str] = field(default_factory=list)
    opted_out: dict[str, datetime] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    made: int = 0


class Till:
    """Takes orders and moves them on; repeats what got no answer, with the same key."""

    def __init__(self, ledger: Ledger, client: httpx.AsyncClient, urls: list[str]) -> None:
        self._ledger = ledger
        self._client = client
        self._urls = urls

    async def ask(
        self, method: str, path: str, body: dict[str, Any], *, key: str
    ) -> dict[str, Any] | None:
        """The answer's body, at last; None when nobody gave one in time."""
        counts, choice = self._ledger.counts, self._ledger.random.choice
        ends_at = time.monotonic() + GIVE_UP_S
        headers = {**self._ledger.headers, "Idempotency-Key": key}
        while time.monotonic() < ends_at:
            try:
                answer = await self._client.request(
                    method, choice(self._urls) + path, json=body, headers=headers
                )
            except httpx.TimeoutException:
                counts["no answer in time"] += 1
            except httpx.HTTPError:
                counts["connection refused or lost"] += 1
            else:
                counts[f"HTTP {answer.status_code}"] += 1
                if answer.is_success:
                    if "Idempotent-Replayed" in answer.headers:
                        counts["answers given again"] += 1
                    found: dict[str, Any] = answer.json()
                    return found
                waits = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                if not waits and answer.json().get("code") != "idempotency_in_progress":
                    self._ledger.surprises.append(f"{method} {path}: {answer.text[:300]}")
                    return None
            await asyncio.sleep(self._ledger.random.uniform(0.05, 0.4))
        counts["given up"] += 1
        return None

    async def new_customer(self) -> None:
        ledger = self._ledger
        ledger.made += 1
        number = ledger.made
        body = {"name": f"Buyer {number}", "phone_number": f"+254711{100000 + number}"}
        found = await self.ask("POST", "/api/customers/", body, key=f"customer-{number}")
        if found is not None:
            ledger.customers.append(found["id"])

    async def opt_out(self) -> None:
        ledger = self._ledger
        customer = ledger.random.choice(ledger.customers)
        ledger.customers.remove(customer)
        path = f"/api/customers/{customer}/"
        found = await self.ask("PATCH", path, {"sms_opt_out": True}, key=secrets.token_hex(8))
        if found is not None:
            ledger.opted_out[customer] = datetime.now(UTC)

    async def sell(self) -> None:
        ledger = self._ledger
        sale = Promise(f"sale-{len(ledger.sales)}", ledger.random.choice(ledger.customers))
        ledger.sales.append(sale)
        body = {"customer": sale.customer, "item": sale.key, "amount": "10.00"}
        made = await self.ask("POST", "/api/orders/", body, key=sale.key)
        if made is None:
            return
        sale.heard(made)
        if ledger.random.random() < 0.15:  # the answer was lost on its way: the till asks again
            again = await self.ask("POST", "/api/orders/", body, key=sale.key)
            if again is not None:
                sale.heard(again)
        steps = ledger.random.randint(0, len(STATUSES))
        for step in STATUSES[:steps]:
            await asyncio.sleep(ledger.random.uniform(0.05, 0.6))
            path = f"/api/orders/{sale.id}/update_status/"
            moved = await self.ask("PATCH", path, {"status": step}, key=f"{sale.key}-{step}")
            if moved is None:
                return
            sale.heard(moved)
        if steps <= 1 and ledger.random.random() < 0.4:
            path = f"/api/orders/{sale.id}/cancel/"
            moved = await self.ask("POST", path, {}, key=f"{sale.key}-cancel")
            if moved is not None:
                sale.heard(moved)


async def keep_busy(till: Till, ledger: Ledger, pause_s: float, ends_at: float) -> None:
    while time.monotonic() < ends_at:
        dice = ledger.random.random()
        if dice < 0.04 and len(ledger.customers) > 10:
            await till.opt_out()
        elif dice < 0.10:
            await till.new_customer()
        else:
            await till.sell()
        await asyncio.sleep(ledger.random.uniform(0.5, 1.5) * pause_s)


# --- the faults ----------------------------------------------------------------------------------


class Breaker:
    """The faults of processes and servers, one after the other, all once before any comes again."""

    def __init__(self, parts: Parts, ledger: Ledger) -> None:
        self._parts = parts
        self._counts = ledger.faults
        self._chance = random.Random(ledger.seed + 1)

    async def run(self, ends_at: float) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [
            self.kill_web, self.kill_worker, self.kill_both_workers, self.empty_redis,
            self.freeze_redis, self.restart_postgres, self.crash_postgres, self.freeze_postgres,
            self.cut_connections, self.set_clocks,
        ]  # fmt: skip
        once = [self.take_redis_away] if ends_at - time.monotonic() >= AWAY_FROM_S else []
        while time.monotonic() < ends_at:
            self._chance.shuffle(faults)
            for fault in [*once, *faults]:
                if time.monotonic() < ends_at:
                    await fault()
                    await self._pause(0.2, 2)
            once = []

    async def _pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self._chance.uniform(least_s, most_s))

    async def _kill(self, name: str, program: Program) -> None:
        self._counts[f"{name} killed"] += 1
        await program.kill()
        await self._pause(0, 1.5)
        await program.start()

    async def kill_web(self) -> None:
        await self._kill("web", self._chance.choice(self._parts.webs))

    async def kill_worker(self) -> None:
        await self._kill("worker", self._chance.choice(self._parts.workers))

    async def kill_both_workers(self) -> None:
        self._counts["both workers killed"] += 1
        await asyncio.gather(*(worker.kill() for worker in self._parts.workers))
        await asyncio.gather(*(worker.start() for worker in self._parts.workers))

    async def empty_redis(self) -> None:
        self._counts["Redis killed, back empty"] += 1
        await self._parts.at_servers(self._parts.redis.kill)
        await self._pause(0, 2)
        await self._parts.at_servers(self._parts.redis.start)

    async def take_redis_away(self) -> None:
        self._counts[f"Redis away for {AWAY_S:g} s"] += 1
        await self._parts.at_servers(self._parts.redis.kill)
        await asyncio.sleep(AWAY_S)
        await self._parts.at_servers(self._parts.redis.start)

    async def freeze_redis(self) -> None:
        self._counts["Redis frozen"] += 1
        self._parts.redis.freeze()
        try:
            await self._pause(1, 5)
        finally:
            self._parts.redis.thaw()

    async def restart_postgres(self) -> None:
        self._counts["Postgres restarted"] += 1
        await self._parts.at_servers(self._parts.postgres.stop)
        await self._pause(0, 1.5)
        await self._parts.at_servers(self._parts.postgres.start)

    async def crash_postgres(self) -> None:
        self._counts["Postgres crashed"] += 1
        await self._parts.at_servers(self._parts.postgres.kill, self._parts.postgres.start)

    async def freeze_postgres(self) -> None:
        self._counts["Postgres frozen"] += 1
        await self._parts.at_servers(self._parts.postgres.freeze)
        try:
            await self._pause(0.5, 3)
        finally:
            await self._parts.at_servers(self._parts.postgres.thaw)

    async def cut_connections(self) -> None:
        """Some within a transaction, if there are such."""
        which = self._chance.choice(("true", "state <> 'idle'", "random() < 0.5"))
        for _ in range(self._chance.randint(1, 5)):
            cut_now = await asyncio.to_thread(cut, self._parts.database_url, which=which)
            self._counts["connections cut"] += cut_now
            await self._pause(0, 0.2)

    async def set_clocks(self) -> None:
        programs = [*self._parts.webs, *self._parts.workers]
        for program in self._chance.sample(programs, 2):
            self._counts["clocks set wrong"] += 1
            program.set_clock(self._chance.choice((-1, 1)) * self._chance.choice((2, 90, 3600)))
        await self._pause(0.5, 4)
        if self._chance.random() < 0.5:
            for program in programs:
                program.set_clock(0)


async def break_gateway(parts: Parts, ledger: Ledger, ends_at: float) -> None:
    chance = random.Random(ledger.seed + 2)
    switches = parts.simulator.faults
    while time.monotonic() < ends_at:
        for mode in chance.sample(GATEWAY_FAULTS, len(GATEWAY_FAULTS)):
            report_mode = chance.choice(REPORT_FAULTS)
            ledger.faults[f"gateway {mode}"] += 1
            ledger.faults[f"reports {report_mode}"] += 1
            switches.turn({"mode": mode, "report_mode": report_mode})
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            switches.turn({"mode": Mode.NORMAL})
            await asyncio.sleep(chance.uniform(0.5, 3))
            if time.monotonic() > ends_at:
                break
    switches.turn({"mode": Mode.NORMAL, "report_mode": ReportMode.NORMAL})


# --- the run -------------------------------------------------------------------------------------


async def log_in(url: str) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        person = {"username": "johndoe", "password": "securepassword123"}
        await client.post("/api/auth/register/", json={**person, "email": "john@example.com"})
        app = (await client.post("/api/auth/create-app/", json={"name": "Till"})).json()
        credentials = {"client_id": app["client_id"], "client_secret": app["client_secret"]}
        login = await client.post("/api/auth/login/", json={**person, **credentials})
        login.raise_for_status()
        return {"Authorization": f"Bearer {login.json()['access_token']}"}


def assemble(thread: ThreadPoolExecutor, folder: Path) -> Parts:
    postgres = thread.submit(
        lambda: servers.OwnPostgres(servers.postgres_binaries(), durable=True)
    ).result()
    redis = thread.submit(lambda: servers.OwnRedis(servers.redis_binary())).result()
    ports = [servers.free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports[:2]]
    database_url = postgres.fresh_database()
    env = environment_for_child(
        DATABASE_URL=database_url,
        REDIS_URL=redis.url,
        DEBUG="true",
        SECRET_KEY=secrets.token_hex(32),
        PUBLIC_URL=urls[0],
        AFRICAS_TALKING_BASE_URL=f"http://127.0.0.1:{ports[2]}",
        AFRICAS_TALKING_CALLBACK_TOKEN=TOKEN,
        RATE_LIMIT="off",
        RATE_LIMIT_AUTH="off",
        SMS_PHONE_LIMIT="off",
        SMS_TIMEOUT_S=TIMEOUTS,
        SMS_RETRY_BASE_S="1",
        SMS_PAUSE_S="1",
        LOG_FORMAT="json",
        LOG_LEVEL="WARNING",
    )
    if env.pop("PYTHONDONTWRITEBYTECODE", None):  # starting would take three times as long
        env.setdefault("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
    simulator = Simulator(
        SimulatorSettings(
            callback_url=f"{urls[0]}/api/sms/africastalking/{TOKEN}",
            report_delay_s=0.3,
            slow_s=0.4,
            hang_s=3,
            late_s=4,
            keep=1_000_000,
        )
    )
    return Parts(
        postgres=postgres,
        redis=redis,
        database_url=database_url,
        simulator=simulator,
        webs=[
            Program(f"web-{number}", ["serve", "--port", str(port)], folder, env)
            for number, port in enumerate(ports[:2], start=1)
        ],
        workers=[Program(f"worker-{number}", ["worker"], folder, env) for number in (1, 2)],
        urls=[*urls, f"http://127.0.0.1:{ports[2]}"],
        thread=thread,
    )


async def stir(parts: Parts, folder: Path, ledger: Ledger, seconds: float, rate: float) -> None:
    """Start everything, break it for that long, repair it and wait until all is done."""
    migrate = Program("migrate", ["migrate"], folder, parts.webs[0]._env)  # noqa: SLF001  same settings
    await migrate.start()
    await migrate.terminate()
    await asyncio.gather(*(program.start() for program in [*parts.webs, *parts.workers]))
    ledger.headers = await log_in(parts.urls[0])
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        tills = [Till(ledger, client, parts.urls[:2]) for _ in range(TILLS)]
        await asyncio.gather(*(till.new_customer() for till in tills for _ in range(3)))
        ends_at = time.monotonic() + seconds
        # A sale is about three requests and a second long.
        pause_s = max(TILLS * 3 / rate - 1, 0.02)
        await asyncio.gather(
            Breaker(parts, ledger).run(ends_at),
            break_gateway(parts, ledger, ends_at),
            *(keep_busy(till, ledger, pause_s, ends_at) for till in tills),
        )
    took = await settled(parts.database_url, within_s=SETTLE_S)
    print(f"settled after {took:.1f} s")


async def run(seconds: float, rate: float, seed: int, folder: Path) -> list[str]:
    ledger = Ledger(seed, random.Random(seed))
    with ThreadPoolExecutor(1) as thread:
        parts = assemble(thread, folder)
        port = int(parts.urls[2].rpartition(":")[2])
        gateway = GatewayServer(parts.simulator, port)
        serving = asyncio.create_task(gateway.serve())
        programs = [*parts.webs, *parts.workers]
        try:
            await stir(parts, folder, ledger, seconds, rate)
            codes = await asyncio.gather(*(program.terminate() for program in programs))
            books = await read(parts.database_url)
        finally:
            await asyncio.gather(*(program.kill() for program in programs))
            gateway.should_exit = True
            await serving
            thread.submit(parts.redis.close).result()
            thread.submit(parts.postgres.close).result()
    received, shown = list(parts.simulator.received), list(parts.simulator.messages())
    for name, listed in {"messages": books.messages, "sends": received, "handsets": shown}.items():
        (folder / f"{name}.txt").write_text("\n".join(map(str, listed)))
    broken = [f"unexpected answer: {each}" for each in ledger.surprises]
    broken += imbalances(books, ledger.sales, received, shown, opted_out=ledger.opted_out)
    if any(codes):
        broken.append(f"programs did not end in order: {codes}")
    tell(ledger, books.messages, received, [program.log for program in programs])
    return broken


def tell(
    ledger: Ledger, rows: Sequence[Any], received: list[ReceivedSend], logs: list[Path]
) -> None:
    acknowledged = sum(sale.id is not None for sale in ledger.sales)
    print(f"orders                {len(ledger.sales)} asked for, {acknowledged} acknowledged")
    print(f"customers opted out   {len(ledger.opted_out)}")
    told = {
        "answers": ledger.counts,
        "faults": ledger.faults,
        "messages": Counter(row["status"] for row in rows),
        "unknown because": Counter(
            row["outcome_code"] for row in rows if row["status"] == "unknown"
        ),
        "sends": Counter(verdict_of(send) for send in received),
    }
    for title, counts in told.items():
        print(f"{title:21} " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    said: Counter[str] = Counter()
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError, LookupError):
                entry = json.loads(line)
                said[f"{entry['level']} {entry['logger']}: {entry['event'][:70]}"] += 1
    for line, count in sorted(said.items()):
        print(f"{count:6} times {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of faults (%(default)s)")
    parser.add_argument("--rate", type=float, default=15, help="requests a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the faults of a run")
    # The simulated gateway breaks connections on purpose, and its server would complain.
    for noisy in ("uvicorn", "savannah.simulator"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    parser.add_argument("--keep", metavar="FOLDER", help="keep logs and lists there")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="savannah-chaos-") as made:
        folder = Path(options.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        broken = asyncio.run(run(options.seconds, options.rate, seed, folder))
    for each in broken[:50]:
        print(f"BROKEN {each}")
    print(f"{len(broken)} broken promises (seed {seed})" if broken else "nothing was lost")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
