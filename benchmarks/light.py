"""How light the embedded default is: import, `normalize`, start, orders per second.

Run by `uv run nox -s bench`. Figures are of this machine at this moment; the ratios, taken in the
same run, say more. Traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 15


def seconds(command: list[str], **more: object) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    return time.perf_counter() - started


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def imports() -> None:
    bare = median(lambda: seconds([sys.executable, "-c", "pass"]))
    package = median(lambda: seconds([sys.executable, "-c", "import savannah"]))
    used = median(lambda: seconds([sys.executable, "-c", "from savannah import in_memory"]))
    print(f"bare interpreter               {bare * 1000:7.1f} ms")
    print(f"import savannah                {(package - bare) * 1000:+7.1f} ms over bare")
    print(f"from savannah import in_memory {(used - bare) * 1000:+7.1f} ms over bare")


def normalize() -> None:
    savannah = str(Path(sys.executable).parent / "savannah")
    took = median(lambda: seconds([savannah, "normalize", "0700 123 456"]))
    print(f"savannah normalize             {took * 1000:7.1f} ms")


def start() -> None:
    savannah = str(Path(sys.executable).parent / "savannah")
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(6):
            started = time.perf_counter()
            process = subprocess.Popen(
                [savannah, "serve", "--port", "0"],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdout is not None
            line = process.stdout.readline()
            times.append(time.perf_counter() - started)
            assert "ready" in line, line
            process.terminate()
            assert process.wait(20) == 0
        print(f"serve ready, empty folder      {times[0]:7.2f} s")
        print(f"serve ready, existing folder   {statistics.median(times[1:]):7.2f} s")


async def orders(writers: int, count: int) -> None:
    """Orders through the use cases onto the embedded storage, as the server makes them."""
    from savannah import Business, Caller
    from savannah.adapters.in_process import InProcessQueue
    from savannah.adapters.memory import NullMetrics
    from savannah.adapters.sql import SqlStorage, migrate
    from savannah.adapters.system import SystemClock, SystemRandomness
    from savannah.application.customers import Customers
    from savannah.application.orders import Orders

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/bench.db"
        await migrate(url)
        storage = SqlStorage.open(url)
        clock, randomness, business = SystemClock(), SystemRandomness(), Business()
        desk = Orders(
            storage=storage,
            jobs=InProcessQueue(),
            clock=clock,
            randomness=randomness,
            metrics=NullMetrics(),
            business=business,
        )
        people = Customers(storage=storage, clock=clock, randomness=randomness, business=business)
        by = Caller.staff("bench")
        jane = await people.create(name="Jane Smith", phone_number="0700123456", by=by)
        times: list[float] = []

        async def writer() -> None:
            for _ in range(count // writers):
                began = time.perf_counter()
                await desk.create(customer=jane.id, item="Laptop", amount="999.99", by=by)
                times.append(time.perf_counter() - began)

        await writer()
        times.clear()
        started = time.perf_counter()
        await asyncio.gather(*(writer() for _ in range(writers)))
        took = time.perf_counter() - started
        await storage.close()
    p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    print(
        f"orders, {writers} writers              {len(times) / took:7.0f} /s,"
        f" p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms"
    )


def main() -> None:
    imports()
    normalize()
    start()
    try:
        import uvloop
    except ImportError:
        asyncio.run(orders(writers=8, count=4000))
    else:
        uvloop.run(orders(writers=8, count=4000))


main()
