"""Orders created by one, two and four web processes, beside as many bare ones, and their memory.

    uv run python benchmarks/processes.py [--processes 1 2 4] [--seconds 3] [--rounds 2]

`savannah serve --workers N` on a durable Postgres and Redis, and `benchmarks/bare.py` with as many
processes on the same tables, driven in turn by `wrk` at 32 connections. Postgres and wrk share the
machine's processors with them. The memory of a process is its PSS: what it has to itself, and its
share of what it has in common with others; the one that watches them is told apart. It needs wrk
(apt-get install wrk). How fast as many workers send is in `messages.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rest import CONNECTIONS, HERE, Desk, drive, fill, memory_mb, scripts, settings_of, started

from servers import free_port, own_postgres, own_redis

MEMORY_TARGET_MB: Final = 55


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def compare(
    database: str, settings: dict[str, str], desk: Desk, count: int, *, seconds: float, rounds: int
) -> None:
    """One row of the table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, theirs = free_port(), free_port()
        serve = ["-m", "savannah", "serve", "--port", str(ours), "--workers", str(count)]
        with started(serve, ours, folder, settings=settings):
            pass  # so that the next one finds everything compiled, as installed
        mine = stack.enter_context(started(serve, ours, folder, settings=settings))
        bare = [str(HERE / "bare.py"), database, str(theirs), str(count)]
        other = stack.enter_context(started(bare, theirs, folder))
        everything = scripts(folder, desk)
        path, script = everything["create order"]
        for server in (mine, other):
            drive(server, path, script, 1, connections=CONNECTIONS)
        for warm_path, warm_script in everything.values():  # what it needs for all it does
            drive(mine, warm_path, warm_script, 1, connections=CONNECTIONS)
        rates: dict[int, list[float]] = {mine.pid: [], other.pid: []}
        for _ in range(rounds):
            for server in (mine, other):
                run = drive(server, path, script, seconds, connections=CONNECTIONS)
                rates[server.pid].append(run.rate)
        rate, bare_rate = (statistics.mean(rates[server.pid]) for server in (mine, other))
        workers = children(mine.pid) or [mine.pid]
        memory = [memory_mb(worker) for worker in workers]
        watching = f"{memory_mb(mine.pid):4.0f} MB" if mine.pid not in workers else "      -"
        verdict = "" if max(memory) <= MEMORY_TARGET_MB else f"  above {MEMORY_TARGET_MB}"
        print(
            f"{count:9}{rate:10.0f}/s{bare_rate:10.0f}/s{rate / bare_rate:8.2f}"
            f"{max(memory):9.0f} MB {watching:>11}{verdict}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("This needs wrk: apt-get install wrk")
    with own_postgres(durable=True) as postgres, own_redis() as redis:
        database = postgres.fresh_database()
        desk = asyncio.run(fill(database))
        settings = settings_of(database) | {"REDIS_URL": redis.url}
        print(
            f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n"
            f"{'processes':>9}{'orders':>12}{'bare':>12}{'ratio':>8}{'PSS of one':>12}"
            f"{'of watcher':>12}",
            flush=True,
        )
        for count in given.processes:
            compare(database, settings, desk, count, seconds=given.seconds, rounds=given.rounds)


if __name__ == "__main__":
    main()
