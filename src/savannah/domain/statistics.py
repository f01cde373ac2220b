"""The numbers: formulas over raw sums, so that every storage answers alike.

A storage gives counts and sums in hundredths; here they become the answers. All of it covers
non-deleted orders. gross = every order, cancelled = the cancelled part, net = the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from savannah.domain.customer import CustomerId
from savannah.domain.errors import BadQuery
from savannah.domain.notification import COST_UNITS
from savannah.domain.order import OPEN, Status

RANGE_MAX_DAYS: Final = 366
RANGE_MAX_DAYS_COARSE: Final = 3653
DEFAULT_DAYS: Final = 30
TOP_ITEMS: Final = 10


class Interval(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSum:
    """Orders of one currency in one status: how many, their totals and pieces."""

    currency: str
    status: Status
    orders: int
    total_minor: int
    units: int = 0
    largest_minor: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySum:
    """Orders created on one local day: all, the cancelled ones, and the net amount."""

    day: date
    orders: int
    cancelled: int
    net_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSum:
    """One item over non-cancelled orders; `item` is the newest order's spelling."""

    item: str
    orders: int
    units: int
    net_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsSum:
    """Messages in one state; `cost` in ten-thousandths by currency."""

    status: str
    messages: int
    segments: int
    cost: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerSums:
    """What a storage finds of one customer's non-deleted orders, and of the messages on them."""

    by_status: Sequence[StatusSum]
    sms: Sequence[SmsSum]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmsFigures:
    total: int
    delivered: int
    failed: int
    skipped: int
    unknown: int
    segments: int
    delivery_rate: float | None
    cost: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrencyNet:
    currency: str
    orders: int
    net_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerStats:
    """One customer's numbers; money in hundredths of `currency`."""

    customer: CustomerId
    as_of: datetime
    currency: str
    total_orders: int
    open_orders: int
    net_minor: int
    live_orders: int
    gross_minor: int
    cancelled_minor: int
    largest_minor: int | None
    orders_by_status: Mapping[Status, int]
    first_order_at: datetime | None
    last_order_at: datetime | None
    other_currencies: tuple[CurrencyNet, ...]
    sms: SmsFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Local calendar days, both inclusive."""

    start: date
    end: date
    zone: ZoneInfo
    interval: Interval

    @classmethod
    def of(
        cls,
        *,
        start: date | None,
        end: date | None,
        zone: ZoneInfo,
        interval: Interval,
        now: datetime,
    ) -> Period:
        """The period asked for; by default the last 30 local days including today.

        Raises:
            BadQuery: `invalid_parameter` when it ends before it starts, `range_too_large` over
                366 days by day or ten years otherwise.
        """
        for name, day in (("start_date", start), ("end_date", end)):
            if day is not None and not 1971 <= day.year <= 9990:  # zones need room on both sides
                raise BadQuery(name, "The year is out of range")
        today = now.astimezone(zone).date()
        if end is None:
            end = today if start is None else max(today, start)
        if start is None:
            start = end - timedelta(days=DEFAULT_DAYS - 1)
        if end < start:
            raise BadQuery("end_date", "The period ends before it starts")
        days = (end - start).days + 1
        most = RANGE_MAX_DAYS if interval is Interval.DAY else RANGE_MAX_DAYS_COARSE
        if days > most:
            raise BadQuery("end_date", f"At most {most} days", code="range_too_large")
        return cls(start=start, end=end, zone=zone, interval=interval)

    @property
    def starts_at(self) -> datetime:
        return local_midnight(self.start, self.zone)

    @property
    def ends_before(self) -> datetime:
        return local_midnight(self.end + timedelta(days=1), self.zone)

    def buckets(self) -> tuple[date, ...]:
        """The first day of every bucket; the first bucket may begin before the period does."""
        if self.interval is Interval.NONE:
            return ()
        starts: list[date] = []
        day = self.bucket_of(self.start)
        while day <= self.end:
            starts.append(day)
            if self.interval is Interval.MONTH:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            else:
                day += timedelta(days=7 if self.interval is Interval.WEEK else 1)
        return tuple(starts)

    def bucket_of(self, day: date) -> date:
        """The first day of the bucket that `day` falls in; weeks start on Monday."""
        if self.interval is Interval.WEEK:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.interval is Interval.MONTH else day

    def spans(self) -> tuple[tuple[datetime, datetime, int], ...]:
        """The period cut where the zone's offset changes: (from, before, offset in seconds).

        Within one span a local day is plain arithmetic, which any database can do.
        """
        spans: list[tuple[datetime, datetime, int]] = []
        start, offset = self.starts_at, _offset(self.starts_at, self.zone)
        moment = start
        while moment < self.ends_before:
            following = min(moment + timedelta(days=1), self.ends_before)
            if (new := _offset(following, self.zone)) != offset:
                change = _offset_change(moment, following, self.zone)
                spans.append((start, change, offset))
                start, offset = change, new
            moment = following
        if start < self.ends_before:
            spans.append((start, self.ends_before, offset))
        return tuple(spans)


def local_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant a local day begins, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _offset(moment: datetime, zone: ZoneInfo) -> int:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _offset_change(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    before = _offset(low, zone)
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticsSums:
    """What a storage finds for one period; `days` and the rest cover one currency.

    Attributes:
        by_status: every currency of the period.
        hours: created to first shipped / delivered: the middle one or two values, in seconds.
        recent_orders: created in the seven days before now, whatever the period.
    """

    by_status: Sequence[StatusSum]
    days: Sequence[DaySum]
    top_items: Sequence[ItemSum]
    customers: int
    new_customers: int
    recent_orders: int
    seconds_to_ship: Sequence[int]
    seconds_to_deliver: Sequence[int]
    sms: Sequence[SmsSum]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    start: date
    orders: int
    net_minor: int
    cancelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics:
    """The business's numbers over one period; money in hundredths of `currency`."""

    period: Period
    as_of: datetime
    currency: str
    total_orders: int
    live_orders: int
    net_minor: int
    cancelled_minor: int
    units: int
    cancellation_rate: float | None
    delivery_rate: float | None
    customers: int
    new_customers: int
    recent_orders_7_days: int
    median_hours_to_ship: float | None
    median_hours_to_deliver: float | None
    orders_by_status: Mapping[Status, int]
    series: tuple[Bucket, ...]
    top_items: tuple[ItemSum, ...]
    other_currencies: tuple[CurrencyNet, ...]
    sms: SmsFigures


def customer_stats(
    *,
    customer: CustomerId,
    currency: str,
    sums: CustomerSums,
    as_of: datetime,
) -> CustomerStats:
    """One customer's numbers out of the sums of their orders in every currency."""
    own = [row for row in sums.by_status if row.currency == currency and row.orders]
    firsts = [row.first_at for row in own if row.first_at is not None]
    lasts = [row.last_at for row in own if row.last_at is not None]
    gross, cancelled = _gross_and_cancelled(own)
    by_status = _by_status(own)
    return CustomerStats(
        customer=customer,
        as_of=as_of,
        currency=currency,
        total_orders=sum(by_status.values()),
        open_orders=sum(by_status[status] for status in OPEN),
        net_minor=gross - cancelled,
        live_orders=sum(by_status.values()) - by_status[Status.CANCELLED],
        gross_minor=gross,
        cancelled_minor=cancelled,
        largest_minor=max((row.largest_minor for row in own), default=None),
        orders_by_status=by_status,
        first_order_at=min(firsts, default=None),
        last_order_at=max(lasts, default=None),
        other_currencies=_other_currencies(sums.by_status, currency),
        sms=sms_figures(sums.sms),
    )


def analytics(*, period: Period, currency: str, sums: AnalyticsSums, as_of: datetime) -> Analytics:
    """The business's numbers out of what a storage found."""
    own = [row for row in sums.by_status if row.currency == currency and row.orders]
    gross, cancelled = _gross_and_cancelled(own)
    by_status = _by_status(own)
    total = sum(by_status.values())
    live = total - by_status[Status.CANCELLED]
    buckets = {start: [0, 0, 0] for start in period.buckets()}
    for row in sums.days if buckets else ():
        bucket = buckets[period.bucket_of(row.day)]
        bucket[0] += row.orders
        bucket[1] += row.net_minor
        bucket[2] += row.cancelled
    return Analytics(
        period=period,
        as_of=as_of,
        currency=currency,
        total_orders=total,
        live_orders=live,
        net_minor=gross - cancelled,
        cancelled_minor=cancelled,
        units=sum(row.units for row in own if row.status is not Status.CANCELLED),
        cancellation_rate=ratio(by_status[Status.CANCELLED], total),
        delivery_rate=ratio(by_status[Status.DELIVERED], live),
        customers=sums.customers,
        new_customers=sums.new_customers,
        recent_orders_7_days=sums.recent_orders,
        median_hours_to_ship=median_hours(sums.seconds_to_ship),
        median_hours_to_deliver=median_hours(sums.seconds_to_deliver),
        orders_by_status=by_status,
        series=tuple(
            Bucket(start=start, orders=orders, net_minor=net, cancelled=gone)
            for start, (orders, net, gone) in buckets.items()
        ),
        top_items=tuple(sums.top_items),
        other_currencies=_other_currencies(sums.by_status, currency),
        sms=sms_figures(sums.sms),
    )


def ratio(part: int, whole: int) -> float | None:
    """A share with at most four decimals; None where the whole is nothing."""
    return None if whole == 0 else round(part / whole, 4)


def median_hours(middle_seconds: Sequence[int]) -> float | None:
    """The median in hours, one decimal, of the middle one or two values; None of none."""
    if not middle_seconds:
        return None
    return round(sum(middle_seconds) / len(middle_seconds) / 3600, 1)


def middle(values: Iterable[int]) -> tuple[int, ...]:
    """The middle one or two of the values, which is all a median needs."""
    ordered = sorted(values)
    count = len(ordered)
    return tuple(ordered[(count - 1) // 2 : count // 2 + 1])


def sms_figures(sums: Iterable[SmsSum]) -> SmsFigures:
    """Messages by what became of them; the rate leaves out what is still under way."""
    counts: dict[str, int] = {}
    segments = 0
    cost: dict[str, int] = {}
    for row in sums:
        counts[row.status] = counts.get(row.status, 0) + row.messages
        segments += 0 if row.status == "skipped" else row.segments  # a skipped one was never sent
        for currency, units in row.cost.items():
            cost[currency] = cost.get(currency, 0) + units
    delivered, failed = counts.get("delivered", 0), counts.get("failed", 0)
    unknown = counts.get("unknown", 0)
    return SmsFigures(
        total=sum(counts.values()),
        delivered=delivered,
        failed=failed,
        skipped=counts.get("skipped", 0),
        unknown=unknown,
        segments=segments,
        delivery_rate=ratio(delivered, delivered + failed + unknown),
        cost=tuple(sorted((currency, cost_text(units)) for currency, units in cost.items())),
    )


def cost_text(units: int) -> str:
    """Ten-thousandths of a currency with two decimals, or up to four where they matter."""
    whole, rest = divmod(units, COST_UNITS)
    digits = f"{rest:04d}"
    return f"{whole}.{digits[:2]}{digits[2:].rstrip('0')}"


def _by_status(rows: Iterable[StatusSum]) -> dict[Status, int]:
    counts = dict.fromkeys(Status, 0)
    for row in rows:
        counts[row.status] += row.orders
    return counts


def _gross_and_cancelled(rows: Sequence[StatusSum]) -> tuple[int, int]:
    gross = sum(row.total_minor for row in rows)
    return gross, sum(row.total_minor for row in rows if row.status is Status.CANCELLED)


def _other_currencies(rows: Iterable[StatusSum], own: str) -> tuple[CurrencyNet, ...]:
    found: dict[str, list[StatusSum]] = {}
    for row in rows:
        if row.currency != own and row.orders:
            found.setdefault(row.currency, []).append(row)
    return tuple(
        CurrencyNet(
            currency=currency,
            orders=sum(row.orders for row in group),
            net_minor=_gross_and_cancelled(group)[0] - _gross_and_cancelled(group)[1],
        )
        for currency, group in sorted(found.items())
    )
