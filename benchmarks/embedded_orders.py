"""Orders a second through the application layer on the embedded default, by concurrent writers.

    uv run python benchmarks/embedded_orders.py [--writers 8] [--seconds 5] [--url sqlite:///…]

Each order comes with an idempotency key, its message, its event and its stored answer. Another
database than the temporary SQLite file must be there already and may be filled with rubbish.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from itertools import count
from pathlib import Path

from savannah.adapters.memory import InlineQueue, NullMetrics
from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.system import SystemClock, SystemRandomness
from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.idempotency import Once
from savannah.application.orders import Orders
from savannah.domain.access import Caller
from savannah.domain.order import Order


async def measure(url: str, writers: int, seconds: float) -> None:
    await migrate(url)
    storage = SqlStorage.open(url)
    clock, randomness, business = SystemClock(), SystemRandomness(), Business()
    customers = Customers(storage=storage, clock=clock, randomness=randomness, business=business)
    orders = Orders(
        storage=storage,
        jobs=InlineQueue(),
        clock=clock,
        randomness=randomness,
        metrics=NullMetrics(),
        business=business,
    )
    by = Caller.staff("user:benchmark")
    jane = await customers.create(name="Jane Smith", phone_number="0700 123 456", by=by)
    keys = count()
    took: list[float] = []
    ends = time.perf_counter() + seconds

    def render(order: Order) -> bytes:
        return f'{{"id": "{order.id}", "order_number": "{order.number}"}}'.encode()

    async def write() -> None:
        while (began := time.perf_counter()) < ends:
            once = Once(
                operation="POST /api/orders/",
                key=f"{began}-{next(keys)}",
                fingerprint="0" * 64,
                render=render,
            )
            await orders.create(
                customer=jane.id, item="Laptop Computer", amount="999.99", by=by, once=once
            )
            took.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(write() for _ in range(writers)))
    passed, cpu = time.perf_counter() - began, time.process_time() - cpu
    await storage.close()
    took.sort()
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    print(
        f"{len(took) / passed:,.0f} orders/s with {writers} writers;"
        f" p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, worst {took[-1] * 1000:.1f} ms;"
        f" {cpu / len(took) * 1e6:.0f} us of CPU an order"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--url")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'savannah.db'}"
        asyncio.run(measure(url, given.writers, given.seconds))


if __name__ == "__main__":
    main()
