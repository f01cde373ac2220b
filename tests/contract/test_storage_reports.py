"""The statistics: what storages sum must give the numbers that plain counting gives."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from zoneinfo import ZoneInfo

import pytest

from savannah.domain.notification import Cost, SmsStatus
from savannah.domain.order import Status
from savannah.domain.statistics import Interval, Period, analytics, customer_stats

LIVE = [status for status in Status if status is not Status.CANCELLED]
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Desk:
    """A year's worth of random orders and messages around a moment."""

    def __init__(self, make, *, seed, around, days, orders=60):
        random = Random(seed)
        self.customers = [make.customer(at=around - 400 * DAY) for _ in range(6)]
        self.orders, self.messages = [], []
        for _ in range(orders):
            # Whole seconds, crowded at the edges of days.
            at = around + timedelta(days=random.randint(-days, days))
            at = at.replace(minute=0, second=0, microsecond=0)
            at += timedelta(seconds=random.choice([-1, 0, 0, 1, 1799, random.randrange(86400)]))
            status = random.choice(list(Status))
            shipped = status in (Status.SHIPPED, Status.DELIVERED) or random.random() < 0.1
            order = make.order(
                random.choice(self.customers),
                at=at,
                status=status,
                item=random.choice(["Desk", "DESK", "Straße", "STRASSE", "Café", "Cafe", "a b"]),
                price=random.choice([1, 50, 999_99, 12_345]),
                quantity=random.randint(1, 5),
                currency=random.choice(["KES", "KES", "USD", "UGX"]),
                shipped_at=at + random.randrange(10**6) * timedelta(seconds=1) if shipped else None,
                delivered_at=at + 40 * DAY if status is Status.DELIVERED else None,
            )
            if random.random() < 0.1:
                order = replace(order, deleted_at=order.updated_at)
            self.orders.append(order)
            for _ in range(random.randrange(3)):
                cost = Cost(currency=random.choice(["KES", "USD"]), units=random.randrange(20_000))
                self.messages.append(
                    make.message(
                        order,
                        at=at + random.randrange(3) * 12 * HOUR,
                        status=random.choice(list(SmsStatus)),
                        segments=random.randrange(4),
                        cost=random.choice([cost, None]),
                    )
                )

    @property
    def rows(self):
        live = [replace(order, deleted_at=None) for order in self.orders]
        return [*self.customers, *live, *self.messages]

    async def keep(self, storage, keep):
        await keep(*self.rows)
        async with storage() as uow:
            for order in self.orders:
                if order.deleted_at is not None:
                    await uow.orders.save(order)
            await uow.commit()

    def kept(self, customer=None):
        return [
            order
            for order in self.orders
            if order.deleted_at is None and customer in (None, order.customer_id)
        ]

    def sms(self, customer=None, start=None, before=None):
        """The figures on messages, counted plainly."""
        shown = {order.id for order in self.kept(customer)}
        rows = [
            row
            for row in self.messages
            if row.order_id in shown and (start is None or start <= row.created_at < before)
        ]
        states = Counter(row.status for row in rows)
        cost = defaultdict(Decimal)
        for row in rows:
            if row.cost is not None:
                cost[row.cost.currency] += Decimal(row.cost.units) / 10_000
        return len(rows), states, dict(cost)


def net(orders):
    return sum(order.total.minor for order in orders if order.status in LIVE)


def check_sms(figures, expected):
    total, states, cost = expected
    assert figures.total == total
    assert figures.delivered == states[SmsStatus.DELIVERED]
    assert figures.failed == states[SmsStatus.FAILED]
    assert figures.skipped == states[SmsStatus.SKIPPED]
    assert figures.unknown == states[SmsStatus.UNKNOWN]
    assert {currency: Decimal(amount) for currency, amount in figures.cost} == cost


@pytest.mark.parametrize("seed", range(3))
async def test_the_sums_of_a_customer_agree_with_counting(storage, make, keep, seed):
    desk = Desk(make, seed=seed, around=datetime(2026, 6, 1, tzinfo=UTC), days=90)
    await desk.keep(storage, keep)
    for customer in [*(customer.id for customer in desk.customers), make.id()]:
        every = desk.kept(customer)
        own = [order for order in every if order.price.currency == "KES"]
        async with storage(reading=True) as uow:
            stats = customer_stats(
                customer=customer,
                currency="KES",
                sums=await uow.reports.customer(customer),
                as_of=datetime(2026, 6, 1, tzinfo=UTC),
            )
        assert stats.total_orders == len(own) == sum(stats.orders_by_status.values())
        assert stats.orders_by_status == {
            status: sum(order.status is status for order in own) for status in Status
        }
        assert stats.gross_minor == sum(order.total.minor for order in own)
        assert stats.net_minor == net(own)
        assert stats.cancelled_minor == stats.gross_minor - stats.net_minor
        assert stats.largest_minor == max((order.total.minor for order in own), default=None)
        assert stats.first_order_at == min((order.created_at for order in own), default=None)
        assert stats.last_order_at == max((order.created_at for order in own), default=None)
        others = {
            currency: [order for order in every if order.price.currency == currency]
            for currency in sorted({order.price.currency for order in every} - {"KES"})
        }
        assert [(row.currency, row.orders, row.net_minor) for row in stats.other_currencies] == [
            (currency, len(orders), net(orders)) for currency, orders in others.items()
        ]
        check_sms(stats.sms, desk.sms(customer))


PERIODS = [
    # zone, around, first day, last day, interval
    ("Africa/Nairobi", "2026-06-01", "2026-05-20", "2026-06-10", Interval.DAY),
    ("Europe/Berlin", "2026-10-25", "2026-10-23", "2026-10-27", Interval.DAY),
    ("Europe/Berlin", "2026-03-29", "2026-03-29", "2026-03-29", Interval.DAY),
    ("Europe/Berlin", "2026-03-29", "2026-03-20", "2026-04-10", Interval.WEEK),
    ("America/St_Johns", "2026-11-01", "2026-10-25", "2026-11-05", Interval.DAY),
    ("Asia/Kathmandu", "2026-02-28", "2026-02-01", "2026-03-15", Interval.MONTH),
    ("Pacific/Apia", "2011-12-30", "2011-12-25", "2012-01-05", Interval.DAY),
    ("UTC", "2026-06-01", "2026-05-25", "2026-06-07", Interval.NONE),
]


@pytest.mark.parametrize("case", PERIODS, ids=lambda case: f"{case[0]}-{case[4]}-{case[2]}")
async def test_the_sums_of_a_period_agree_with_counting(storage, make, keep, case):
    zone, around, first, last, interval = case
    middle = datetime.fromisoformat(around).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    desk = Desk(make, seed=7, around=middle, days=14, orders=80)
    await desk.keep(storage, keep)
    now = middle + 5 * DAY + timedelta(seconds=90)
    period = Period.of(
        start=date.fromisoformat(first),
        end=date.fromisoformat(last),
        zone=ZoneInfo(zone),
        interval=interval,
        now=now,
    )
    for customer in (None, desk.customers[0].id):
        async with storage(reading=True) as uow:
            sums = await uow.reports.analytics(
                period=period, currency="KES", customer=customer, now=now
            )
        found = analytics(period=period, currency="KES", sums=sums, as_of=now)
        check_analytics(found, desk, period, customer, now)


def check_analytics(found, desk, period, customer, now):
    def day(order):
        return order.created_at.astimezone(period.zone).date()

    ever = desk.kept(customer)
    every = [order for order in ever if period.start <= day(order) <= period.end]
    own = [order for order in every if order.price.currency == "KES"]
    live = [order for order in own if order.status in LIVE]
    assert found.total_orders == len(own)
    assert found.live_orders == len(live)
    assert found.net_minor == net(own)
    assert found.cancelled_minor == sum(order.total.minor for order in own) - net(own)
    assert found.units == sum(order.quantity for order in live)
    assert found.customers == len({order.customer_id for order in own})
    earlier = {order.customer_id for order in ever if day(order) < period.start}
    assert found.new_customers == len({order.customer_id for order in own} - earlier)
    assert found.recent_orders_7_days == sum(
        order.price.currency == "KES" and now - 7 * DAY < order.created_at <= now for order in ever
    )
    for hours, reached in [
        (found.median_hours_to_ship, [(o.shipped_at, o.created_at) for o in own if o.shipped_at]),
        (
            found.median_hours_to_deliver,
            [(o.delivered_at, o.created_at) for o in own if o.delivered_at],
        ),
    ]:
        assert hours == median([(there - created) / HOUR for there, created in reached])
    assert {status: count for status, count in found.orders_by_status.items() if count} == Counter(
        order.status for order in own
    )
    # The invariants, and each bucket.
    if period.interval is Interval.NONE:
        assert found.series == ()
    else:
        assert sum(bucket.orders for bucket in found.series) == found.total_orders
        assert sum(bucket.net_minor for bucket in found.series) == found.net_minor
        assert [bucket.start for bucket in found.series] == list(period.buckets())
        for bucket in found.series:
            inside = [order for order in own if period.bucket_of(day(order)) == bucket.start]
            assert bucket.orders == len(inside)
            assert bucket.net_minor == net(inside)
            assert bucket.cancelled == sum(order.status is Status.CANCELLED for order in inside)
    assert [
        (row.item, row.orders, row.units, row.net_minor) for row in found.top_items
    ] == top_items(live)
    others = sorted({order.price.currency for order in every} - {"KES"})
    assert [(row.currency, row.orders, row.net_minor) for row in found.other_currencies] == [
        (currency, len(orders), net(orders))
        for currency in others
        if (orders := [order for order in every if order.price.currency == currency])
    ]
    check_sms(found.sms, desk.sms(customer, period.starts_at, period.ends_before))


def median(values):
    values = sorted(values)
    if not values:
        return None
    half = len(values) // 2
    middle = values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
    return pytest.approx(middle, abs=0.05001)


def top_items(live):
    groups = defaultdict(list)
    for order in live:
        groups[order.item.casefold()].append(order)
    rows = [
        (
            name,
            max(group, key=lambda order: (order.created_at, order.id)).item,
            len(group),
            sum(order.quantity for order in group),
            net(group),
        )
        for name, group in groups.items()
    ]
    rows.sort(key=lambda row: (-row[4], row[0]))
    return [row[1:] for row in rows[:10]]


async def test_a_period_begins_and_ends_at_local_midnight(storage, make, keep):
    zone = ZoneInfo("Africa/Nairobi")
    midnight = datetime(2026, 6, 1, tzinfo=zone).astimezone(UTC)
    instant = timedelta(microseconds=1)
    early, first, last, late = (make.customer() for _ in range(4))
    await keep(
        *(early, first, last, late),
        make.order(early, at=midnight - instant),
        make.order(first, at=midnight),
        make.order(last, at=midnight + DAY - instant),
        make.order(late, at=midnight + DAY),
    )
    day = date(2026, 6, 1)
    period = Period(start=day, end=day, zone=zone, interval=Interval.DAY)
    async with storage(reading=True) as uow:
        sums = await uow.reports.analytics(
            period=period, currency="KES", customer=None, now=midnight + 2 * DAY
        )
    assert [(row.day, row.orders) for row in sums.days] == [(day, 2)]
    assert (sums.customers, sums.new_customers) == (2, 2)


async def test_only_ten_items_are_on_top_and_names_break_ties(storage, make, keep):
    jane = make.customer()
    names = [f"item {letter}" for letter in "lkjihgfedcba"]
    orders = [make.order(jane, item=name, price=100) for name in names]
    await keep(
        jane,
        *orders,
        make.order(jane, item="ITEM L", price=5),
        make.order(jane, item="gone", price=10**6, status=Status.CANCELLED),
    )
    now = orders[-1].created_at
    period = Period.of(start=None, end=None, zone=ZoneInfo("UTC"), interval=Interval.DAY, now=now)
    async with storage(reading=True) as uow:
        sums = await uow.reports.analytics(period=period, currency="KES", customer=None, now=now)
    assert [row.item for row in sums.top_items] == ["ITEM L", *sorted(names)[:9]]


async def test_cancelled_orders_change_neither_revenue_nor_average(storage, make, keep):
    jane = make.customer()
    await keep(jane, make.order(jane, price=300), make.order(jane, price=100, quantity=2))

    async def stats():
        async with storage(reading=True) as uow:
            found = customer_stats(
                customer=jane.id,
                currency="KES",
                sums=await uow.reports.customer(jane.id),
                as_of=jane.created_at,
            )
        return found.net_minor, found.live_orders

    assert await stats() == (500, 2)
    await keep(make.order(jane, price=7_000, status=Status.CANCELLED))
    assert await stats() == (500, 2)


async def test_nothing_sums_to_nothing(storage, make):
    now = datetime(2026, 6, 1, tzinfo=UTC)
    period = Period.of(start=None, end=None, zone=ZoneInfo("UTC"), interval=Interval.DAY, now=now)
    async with storage(reading=True) as uow:
        none = await uow.reports.customer(make.id())
        assert (list(none.by_status), list(none.sms)) == ([], [])
        sums = await uow.reports.analytics(period=period, currency="KES", customer=None, now=now)
    found = analytics(period=period, currency="KES", sums=sums, as_of=now)
    assert (found.total_orders, found.customers, found.recent_orders_7_days) == (0, 0, 0)
    assert found.median_hours_to_ship is None
    assert found.top_items == ()
    assert len(found.series) == 30
