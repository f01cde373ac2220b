"""How many bytes an order costs on Postgres: rows, indexes, and the write-ahead log.

    uv run python benchmarks/sizes.py [--orders 2000]

Short orders go their whole way, created, shipped and delivered, each step with its text and its
delivery report, through the use cases on a private server. The tables are then packed (`VACUUM
FULL`), so a living one is larger. The figures of docs/explanation/scaling.md come from here; a test
computes the rest of that page from them.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import asyncpg  # type: ignore[import-untyped]

from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.system import SystemClock
from savannah.application.business import Business
from savannah.application.ports import Sms, SmsGateway
from savannah.domain.access import Caller
from savannah.domain.notification import Accepted, Cost, DeliveryReport, Outcome, Report
from savannah.domain.notification_policy import Policy
from savannah.entrypoints.library import in_memory
from servers import own_postgres

TABLES: Final = ("orders", "notifications", "events", "delivery_reports")
SEARCH: Final = re.compile(r"gin", re.IGNORECASE)
AT_ONCE: Final = 8
ORDERS_OF_A_CUSTOMER: Final = 10
TILL: Final = Caller.staff("user:01a211a6-0434-7411-9bc2-f8e3974ab8ac")


class Gateway(SmsGateway):
    """Takes everything, under ids as long as Africa's Talking's."""

    async def send(self, sms: Sms) -> Outcome:
        cost = Cost(currency="KES", units=8000)
        return Accepted(provider_id=f"ATXid_{sms.id.hex}", cost=cost, segments=1)


async def live(url: str, orders: int) -> None:
    """Take so many orders from the first step to the last report."""
    storage = SqlStorage.open(url, pool_size=AT_ONCE)
    app = in_memory(
        storage=storage, gateway=Gateway(), business=Business(policy=Policy(phone_limit=None))
    )
    clock = SystemClock()
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            jane = await app.customers.create(
                name=f"Jane {number}", phone_number=f"+2547{number:08d}", by=TILL
            )
            for _ in range(ORDERS_OF_A_CUSTOMER):
                order = await app.orders.create(
                    customer=jane.id, item="Laptop Computer", amount="999.99", by=TILL
                )
                for status in ("processing", "shipped", "delivered"):
                    await app.orders.update_status(order.id, status, by=TILL)

    try:
        await asyncio.gather(*(one(number) for number in range(orders // ORDERS_OF_A_CUSTOMER)))
        while await app.notifications.dispatch_due():
            pass
        connection = await asyncpg.connect(url)
        rows = await connection.fetch("SELECT provider_id, to_phone FROM notifications")
        await connection.close()
        for provider_id, phone in rows:
            await app.notifications.record_report(
                DeliveryReport(
                    provider_id=provider_id,
                    report=Report.DELIVERED,
                    word="Success",
                    phone=phone,
                    received_at=clock.now(),
                )
            )
    finally:
        await storage.close()


async def sizes(url: str) -> None:
    connection = await asyncpg.connect(url)

    async def value(statement: str, *values: object) -> Any:
        return await connection.fetchval(statement, *values)

    try:
        orders = await value("SELECT count(*) FROM orders")
        print(f"{'':18}{'an order has':>13}{'row':>8}{'indexes':>9}{'of search':>10}  bytes")
        for table in TABLES:
            await connection.execute(f"VACUUM (FULL, ANALYZE) {table}")
            rows = await value(f"SELECT count(*) FROM {table}")
            row = await value("SELECT pg_table_size($1::regclass)", table) / rows
            found = await connection.fetch(
                "SELECT indexdef, pg_relation_size(indexname::regclass) AS size"
                " FROM pg_indexes WHERE tablename = $1",
                table,
            )
            whole = sum(each["size"] for each in found) / rows
            search = sum(each["size"] for each in found if SEARCH.search(each["indexdef"])) / rows
            print(f"{table:18}{rows / orders:13.2f}{row:8.0f}{whole:9.0f}{search:10.0f}")
    finally:
        await connection.close()


async def log_position(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
    finally:
        await connection.close()


async def measure(url: str, orders: int) -> None:
    await migrate(url)
    before = await log_position(url)
    await live(url, orders)
    written = await log_position(url) - before
    await sizes(url)
    print(f"{'write-ahead log':18}{written / orders:13.0f} bytes for each order, no full pages")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--orders", type=int, default=2000)
    with own_postgres() as server:  # without full pages, which depend on the checkpoints
        asyncio.run(measure(server.fresh_database(), arguments.parse_args().orders))


if __name__ == "__main__":
    main()
