"""Postgres with ten thousand and with a million orders: what grows with the tables, and what not.

    uv run python benchmarks/scale.py [--orders 1000000] [--rounds 9]

Both databases are on one private server and are asked in turn, A B A B, through the use cases, so
what is measured is what the product asks. Then the server itself tells (auto_explain) what its
plans touched. It takes some five minutes, most of them to fill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import asyncpg  # type: ignore[import-untyped]
from many_orders import fill

from savannah.adapters.memory import ManualClock, MemoryCache
from savannah.adapters.sql import SqlStorage, migrate
from savannah.application.business import Business
from savannah.application.ports import CustomerFilter, OrderFilter
from savannah.application.reports import Reports
from savannah.domain.access import Caller
from savannah.domain.customer import CustomerId, Reachability
from savannah.domain.notification import SmsStatus
from savannah.domain.order import OrderId, Status
from savannah.domain.paging import Ordering, PageRequest, Position
from savannah.domain.search import SearchQuery
from savannah.domain.sms_text import Locale
from servers import OwnPostgres, own_postgres

SMALL: Final = 10_000
NOW: Final = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
BY: Final = Caller.admin("benchmark")
LARGEST_RATIO: Final = 1.3  # of lists, deep pages and analytics
SERVER: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "512MB",
    "work_mem": "16MB",
}
PLAN: Final = re.compile(r"duration: ([0-9.]+) ms  plan:\n((?:\t.*\n)+)")


@dataclass(slots=True)
class Shop:
    """One database, and rows of it to ask for."""

    url: str
    storage: SqlStorage
    reports: Reports
    cached: Reports
    order: OrderId
    customer: CustomerId
    deep: dict[str, Position] = field(default_factory=dict)


Ask = Callable[[Shop], Awaitable[object]]


def order_list(ordering: str = "-created_at", *, deep: bool = False, **where: Any) -> Ask:
    async def ask(shop: Shop) -> object:
        after = shop.deep[ordering.removeprefix("-")] if deep else None
        page = PageRequest(ordering=Ordering.parse(ordering), after=after)
        async with shop.storage(reading="each") as uow:
            return await uow.orders.list(OrderFilter(**where), page)

    return ask


def customer_list(ordering: str = "-created_at", **where: Any) -> Ask:
    async def ask(shop: Shop) -> object:
        page = PageRequest(ordering=Ordering.parse(ordering))
        async with shop.storage(reading="each") as uow:
            return await uow.customers.list(CustomerFilter(**where), page)

    return ask


def search(q: str, *, orders: bool = True) -> Ask:
    async def ask(shop: Shop) -> object:
        async with shop.storage(reading=True) as uow:
            query = SearchQuery.parse(q)
            if orders:
                return await uow.orders.search(query, OrderFilter(), PageRequest())
            return await uow.customers.search(query, CustomerFilter(), PageRequest())

    return ask


def analytics(days: int, *, cached: bool) -> Ask:
    async def ask(shop: Shop) -> object:
        reports = shop.cached if cached else shop.reports
        end = NOW.date()
        return await reports.analytics(start=end - (days - 1) * DAY, end=end, by=BY)

    return ask


async def get(shop: Shop) -> object:
    async with shop.storage(reading="each") as uow:
        return await uow.orders.get(shop.order)


async def customer_orders(shop: Shop) -> object:
    async with shop.storage(reading="each") as uow:
        return await uow.orders.list(OrderFilter(customer=[shop.customer]), PageRequest())


async def stats(shop: Shop) -> object:
    return await shop.reports.customer_stats(shop.customer, by=BY)


LISTS: Final[dict[str, Ask]] = {
    **{
        f"orders by {name}": order_list(name)
        for name in (
            "-created_at",
            "created_at",
            "-updated_at",
            "-status_changed_at",
            "-total_amount",
            "order_number",
        )
    },
    **{
        f"orders by {name}, deep": order_list(name, deep=True)
        for name in (
            "-created_at",
            "-updated_at",
            "-status_changed_at",
            "-total_amount",
            "order_number",
        )
    },
    "status delivered": order_list(status=[Status.DELIVERED]),
    "status delivered, deep": order_list(deep=True, status=[Status.DELIVERED]),
    "status pending": order_list(status=[Status.PENDING]),
    "status pending by total": order_list("-total_amount", status=[Status.PENDING]),
    "status pending, shipped": order_list(status=[Status.PENDING, Status.SHIPPED]),
    "currency KES": order_list(currency=["KES"]),
    "currency RWF by total": order_list("-total_amount", currency=["RWF"]),
    "sms delivered": order_list(sms_status=[SmsStatus.DELIVERED]),
    "sms dead": order_list(sms_status=[SmsStatus.DEAD]),
    "sms queued by created_at": order_list("created_at", sms_status=[SmsStatus.QUEUED]),
    "total from 1,000": order_list(min_amount=100_000),
    "total from 35,000": order_list(min_amount=3_500_000),
    "total to 60 by updated_at": order_list("-updated_at", max_amount=6_000),
    "created in a week": order_list(created_from=NOW - 30 * DAY, created_before=NOW - 23 * DAY),
    "updated since an hour": order_list("updated_at", updated_since=NOW - DAY / 24),
    "updated since a year": order_list("updated_at", updated_since=NOW - 365 * DAY),
    "one customer's orders": customer_orders,
    "customers": customer_list(),
    "customers by name": customer_list("name"),
    "customers archived": customer_list("name", archived=True),
    "customers opted out": customer_list(sms_opt_out=True),
    "customers blocked": customer_list(sms_reachability=[Reachability.BLOCKED]),
    "customers sw": customer_list(locale=[Locale.SW]),
    "customer by e-mail": customer_list(email=["jane.smith.400@example.com"]),
    "customer by phone": customer_list(phone=["+254700000400"]),
}
SEARCHES: Final[dict[str, Ask]] = {
    **{
        f"search orders {q!r}": search(q)
        for q in (
            "0700000400",
            "4321",
            "laptop",
            "top",
            "laptop computer",
            "kettle john",
            "john",
            "7k3",
            "jane laptop urgent",
            "jane.smith.400",
            "zebra nowhere",
            "qx",
        )
    },
    **{
        f"search customers {q!r}": search(q, orders=False)
        for q in ("0700000400", "4321", "smith", "example", "zebra nowhere")
    },
}
OTHERS: Final[dict[str, Ask]] = {"one order": get, "statistics of a customer": stats}
REPORTS: Final[dict[str, Ask]] = {
    "analytics of 30 days, cached": analytics(30, cached=True),
    "analytics of a year, cached": analytics(365, cached=True),
    "analytics of 30 days": analytics(30, cached=False),
    "analytics of a year": analytics(365, cached=False),
}  # fmt: skip


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Shop]:
    storage = SqlStorage.open(url, pool_size=1, statement_timeout=timedelta(minutes=1))
    connection = await asyncpg.connect(url)
    clock = ManualClock(NOW)
    try:
        customer, order = await connection.fetchrow(
            "SELECT customer_id, (array_agg(id))[1] FROM orders WHERE deleted_at IS NULL"
            " GROUP BY customer_id HAVING count(*) = 10 LIMIT 1"
        )
        shop = Shop(
            url=url,
            storage=storage,
            reports=Reports(storage=storage, clock=clock, business=Business()),
            cached=Reports(
                storage=storage, clock=clock, business=Business(), cache=MemoryCache(clock)
            ),
            order=OrderId(order),
            customer=CustomerId(customer),
        )
        for name, column in {
            "created_at": "created_at",
            "updated_at": "updated_at",
            "status_changed_at": "status_changed_at",
            "total_amount": "total_minor",
            "order_number": "number",
        }.items():
            row = await connection.fetchrow(
                f"SELECT {column}, id FROM orders WHERE deleted_at IS NULL"
                f" ORDER BY {column} OFFSET (SELECT count(*) / 2 FROM orders) LIMIT 1"
            )
            shop.deep[name] = Position((row[0],), row[1])
        yield shop
    finally:
        await connection.close()
        await storage.close()


async def p50(shops: list[Shop], ask: Ask, rounds: int) -> list[float]:
    """Of each shop, in milliseconds; asked in turn, after one round to warm up."""
    took: list[list[float]] = [[] for _ in shops]
    for number in range(rounds + 1):
        for shop, times in zip(shops, took, strict=True):
            began = time.perf_counter()
            await ask(shop)
            if number:
                times.append((time.perf_counter() - began) * 1000)
    return [statistics.median(times) for times in took]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


async def touched(server: OwnPostgres, shop: Shop, ask: Ask) -> str:
    """What the plans of one question touched: indexes or scans, rows and pages."""
    log = server.folder / "log"
    began = log.stat().st_size
    async with told(shop) as telling:
        await ask(telling)
    with log.open(encoding="utf-8", errors="replace") as written:
        written.seek(began)
        found = PLAN.findall(written.read())
    ways: dict[str, int] = {}
    rows = pages = 0
    took = 0.0
    for duration, spelled in found:
        plan = json.loads(spelled)["Plan"]
        took += float(duration)
        pages += plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
        for node in nodes(plan):
            loops = node["Actual Loops"]
            if not loops or ("Relation Name" not in node and "Index Name" not in node):
                continue
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += node.get("Rows Removed by Index Recheck", 0)
            if "Relation Name" in node:
                rows += int(read * loops)
            scan = node["Node Type"] == "Seq Scan"
            way = f"all {node['Relation Name']}" if scan else node.get("Index Name")
            if way:
                ways[way] = ways.get(way, 0) + int(read * loops)
    most = sorted(ways, key=lambda way: -ways[way])[:2]
    return f"{rows:9,}{pages:9,}{took:9.1f}  {', '.join(most)}"


@asynccontextmanager
async def told(shop: Shop) -> AsyncIterator[Shop]:
    """The same shop over connections whose plans the server writes down."""
    storage = SqlStorage.open(shop.url, pool_size=1, statement_timeout=timedelta(minutes=1))
    reports = Reports(storage=storage, clock=ManualClock(NOW), business=Business())
    try:
        yield Shop(shop.url, storage, reports, reports, shop.order, shop.customer, shop.deep)
    finally:
        await storage.close()


async def plans_are_told(url: str, *, on: bool) -> None:
    name = urlsplit(url).path.strip("/")
    settings = {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
        "auto_explain.log_timing": "off",
        "auto_explain.log_format": "json",
    }
    connection = await asyncpg.connect(url)
    if on:
        await connection.execute("LOAD 'auto_explain'")
        for setting, value in settings.items():
            await connection.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    else:
        await connection.execute(f'ALTER DATABASE "{name}" RESET ALL')
    await connection.close()


async def measure(server: OwnPostgres, small: str, large: str, rounds: int) -> None:
    groups = {"lists": LISTS, "others": OTHERS, "reports": REPORTS, "searches": SEARCHES}
    print(f"\n{'p50 in ms, through the use case':36}{'10k':>9}{'large':>9}{'ratio':>7}")
    page_one: dict[str, float] = {}
    async with opened(small) as first, opened(large) as second:
        for group, asks in groups.items():
            for name, ask in asks.items():
                times = await p50([first, second], ask, rounds)
                ratio = times[1] / times[0]
                verdict = ""
                if group != "searches" and "customer" not in name and ratio > LARGEST_RATIO:
                    verdict = "  over 1.3"
                if name.endswith(", deep"):
                    verdict += f"  {times[1] / page_one[name[:-6]]:.2f} of page 1"
                page_one[name] = times[1]
                print(f"{name:36}{times[0]:9.2f}{times[1]:9.2f}{ratio:7.2f}{verdict}", flush=True)
        await plans_are_told(large, on=True)
        print(f"\n{'of the large one':36}{'rows':>9}{'pages':>9}{'ms':>9}  most rows through")
        for asks in groups.values():
            for name, ask in asks.items():
                if not name.endswith("cached"):
                    print(f"{name:36}{await touched(server, second, ask)}", flush=True)
        await plans_are_told(large, on=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with own_postgres(settings=SERVER) as server:
        urls = []
        for orders in (SMALL, given.orders):
            began = time.monotonic()
            urls.append(server.fresh_database())
            asyncio.run(migrate(urls[-1]))
            asyncio.run(fill(urls[-1], orders, until=NOW))
            print(f"{orders:,} orders in {time.monotonic() - began:.0f} s", flush=True)
        asyncio.run(measure(server, *urls, given.rounds))


if __name__ == "__main__":
    main()
