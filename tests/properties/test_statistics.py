"""The numbers: every formula against plain counting, and periods that lose no moment."""

import statistics as oracle
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from savannah.domain.customer import CustomerId
from savannah.domain.errors import BadQuery
from savannah.domain.money import average_text
from savannah.domain.order import OPEN, Status
from savannah.domain.statistics import (
    AnalyticsSums,
    CustomerSums,
    DaySum,
    Interval,
    ItemSum,
    Period,
    SmsSum,
    StatusSum,
    analytics,
    cost_text,
    customer_stats,
    local_midnight,
    median_hours,
    middle,
    ratio,
    sms_figures,
)
from savannah.testing import ZONES

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
NAIROBI = ZoneInfo("Africa/Nairobi")
SECOND = timedelta(seconds=1)
CUSTOMER = CustomerId(UUID(int=1))

# Besides the usual: two midnights (Havana), a day left out (Apia), an offset with seconds (Monrovia).
zones = st.sampled_from([*ZONES, "America/Havana", "Pacific/Apia", "Africa/Monrovia"]).map(ZoneInfo)
days = st.dates(date(1971, 1, 1), date(2037, 12, 31))

# An order as far as the numbers go: currency, status, total in hundredths, pieces, day.
sold = st.lists(
    st.tuples(
        st.sampled_from(["KES", "KES", "USD", "UGX"]),
        st.sampled_from(Status),
        st.integers(1, 10**12),
        st.integers(1, 100),
        st.dates(date(2026, 1, 1), date(2026, 3, 1)),
    ),
    max_size=12,
)


def status_sums(sold):
    groups = {}
    for currency, status, minor, units, day in sold:
        groups.setdefault((currency, status), []).append((minor, units, at(day)))
    return [
        StatusSum(
            currency=currency,
            status=status,
            orders=len(group),
            total_minor=sum(minor for minor, _, _ in group),
            units=sum(units for _, units, _ in group),
            largest_minor=max(minor for minor, _, _ in group),
            first_at=min(moment for *_, moment in group),
            last_at=max(moment for *_, moment in group),
        )
        for (currency, status), group in groups.items()
    ]


def day_sums(sold, currency):
    return [
        DaySum(
            day=day,
            orders=1,
            cancelled=int(status is Status.CANCELLED),
            net_minor=0 if status is Status.CANCELLED else minor,
        )
        for code, status, minor, _, day in sold
        if code == currency
    ]


def at(day):
    return datetime.combine(day, time(12), UTC)


def stats(sold, currency="KES"):
    return customer_stats(
        customer=CUSTOMER,
        currency=currency,
        sums=CustomerSums(by_status=status_sums(sold), sms=()),
        as_of=NOW,
    )


def numbers(sold, currency="KES", interval=Interval.DAY, **sums):
    period = Period(start=date(2026, 1, 1), end=date(2026, 3, 1), zone=NAIROBI, interval=interval)
    given = {
        "by_status": status_sums(sold),
        "days": day_sums(sold, currency),
        "top_items": [],
        "customers": 0,
        "new_customers": 0,
        "recent_orders": 0,
        "seconds_to_ship": [],
        "seconds_to_deliver": [],
        "sms": [],
    }
    return analytics(
        period=period, currency=currency, sums=AnalyticsSums(**given | sums), as_of=NOW
    )


# One customer


@given(sold)
def test_a_customers_numbers_are_plain_counting(sold):
    found = stats(sold)
    own = [(status, minor, day) for currency, status, minor, _, day in sold if currency == "KES"]
    net = [minor for status, minor, _ in own if status is not Status.CANCELLED]
    assert found.total_orders == len(own)
    assert found.open_orders == sum(status in OPEN for status, *_ in own)
    assert found.gross_minor == sum(minor for _, minor, _ in own)
    assert found.net_minor == sum(net) == found.gross_minor - found.cancelled_minor
    assert found.live_orders == len(net)
    assert found.largest_minor == max((minor for _, minor, _ in own), default=None)
    assert found.orders_by_status == {
        status: sum(each is status for each, *_ in own) for status in Status
    }
    assert found.first_order_at == min((at(day) for *_, day in own), default=None)
    assert found.last_order_at == max((at(day) for *_, day in own), default=None)
    assert (found.customer, found.currency, found.as_of) == (CUSTOMER, "KES", NOW)


@given(sold, st.sampled_from(["KES", "USD", "EUR"]))
def test_currencies_are_never_mixed(sold, currency):
    found = stats(sold, currency)
    others = {each.currency: (each.orders, each.net_minor) for each in found.other_currencies}
    assert others == {
        code: (
            sum(each[0] == code for each in sold),
            sum(each[2] for each in sold if each[0] == code and each[1] is not Status.CANCELLED),
        )
        for code in {each[0] for each in sold} - {currency}
    }
    assert list(others) == sorted(others)
    assert found.total_orders + sum(orders for orders, _ in others.values()) == len(sold)
    assert numbers(sold, currency).other_currencies == found.other_currencies


@given(sold, st.integers(1, 10**10))
def test_a_cancelled_order_changes_neither_revenue_nor_average(sold, minor):
    more = [*sold, ("KES", Status.CANCELLED, minor, 1, date(2026, 2, 1))]
    for before, after in ((stats(sold), stats(more)), (numbers(sold), numbers(more))):
        assert after.net_minor == before.net_minor
        assert average_text(after.net_minor, after.live_orders) == average_text(
            before.net_minor, before.live_orders
        )
        assert after.total_orders == before.total_orders + 1
        assert after.cancelled_minor == before.cancelled_minor + minor


def test_a_group_of_no_orders_leaves_no_trace():
    nothing = StatusSum(currency="USD", status=Status.PENDING, orders=0, total_minor=0)
    none_of_ours = StatusSum(currency="KES", status=Status.PENDING, orders=0, total_minor=0)
    found = customer_stats(
        customer=CUSTOMER,
        currency="KES",
        sums=CustomerSums(by_status=[nothing, none_of_ours], sms=()),
        as_of=NOW,
    )
    assert (found.total_orders, found.largest_minor, found.other_currencies) == (0, None, ())


# The business


@given(sold, st.sampled_from([Interval.DAY, Interval.WEEK, Interval.MONTH]))
def test_the_series_and_the_statuses_add_up_to_the_summary(sold, interval):
    found = numbers(sold, interval=interval)
    assert sum(bucket.orders for bucket in found.series) == found.total_orders
    assert sum(bucket.net_minor for bucket in found.series) == found.net_minor
    assert sum(bucket.cancelled for bucket in found.series) == found.orders_by_status["cancelled"]
    assert sum(found.orders_by_status.values()) == found.total_orders
    assert tuple(bucket.start for bucket in found.series) == found.period.buckets()
    for bucket, following in zip(found.series, [*found.series[1:], None], strict=True):
        inside = [
            each
            for each in sold
            if each[0] == "KES"
            and bucket.start <= each[4]
            and (following is None or each[4] < following.start)
        ]
        assert bucket.orders == len(inside)


@given(sold)
def test_the_summary_is_plain_counting(sold):
    found = numbers(sold, interval=Interval.NONE)
    own = [each for each in sold if each[0] == "KES"]
    live = [each for each in own if each[1] is not Status.CANCELLED]
    assert found.series == ()
    assert found.net_minor == sum(each[2] for each in live)
    assert (found.total_orders, found.live_orders) == (len(own), len(live))
    assert found.units == sum(each[3] for each in live)
    assert found.cancelled_minor == sum(each[2] for each in own) - found.net_minor
    assert found.cancellation_rate == ratio(len(own) - len(live), len(own))
    delivered = sum(each[1] is Status.DELIVERED for each in live)
    assert found.delivery_rate == ratio(delivered, len(live))


def test_what_a_storage_counted_is_passed_on():
    items = [ItemSum(item="Tea", orders=1, units=2, net_minor=3)]
    found = numbers(
        [],
        top_items=items,
        customers=4,
        new_customers=3,
        recent_orders=9,
        seconds_to_ship=[19_800],
        seconds_to_deliver=[90_000, 97_200],
        sms=[SmsSum(status="sent", messages=2, segments=3)],
    )
    assert found.top_items == tuple(items)
    assert (found.customers, found.new_customers, found.recent_orders_7_days) == (4, 3, 9)
    assert (found.median_hours_to_ship, found.median_hours_to_deliver) == (5.5, 26.0)
    assert (found.sms.total, found.sms.segments) == (2, 3)
    assert (found.cancellation_rate, found.delivery_rate) == (None, None)


# Formulas


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_ratio_has_at_most_four_decimals(part, whole):
    found = ratio(part, whole)
    assert abs(Decimal(repr(found)) - Decimal(part) / whole) <= Decimal("0.00005")
    assert round(found, 4) == found


def test_there_is_no_ratio_to_nothing():
    assert ratio(0, 0) is None


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=9))
def test_the_middle_values_are_all_a_median_needs(seconds):
    assert middle(seconds) == middle(sorted(seconds))
    assert median_hours(middle(seconds)) == round(oracle.median(seconds) / 3600, 1)


def test_there_is_no_median_of_nothing():
    assert middle([]) == ()
    assert median_hours(()) is None


@given(
    st.lists(
        st.builds(
            SmsSum,
            status=st.sampled_from(["queued", "sent", "delivered", "failed", "skipped", "unknown"]),
            messages=st.integers(1, 9),
            segments=st.integers(0, 9),
            cost=st.dictionaries(st.sampled_from(["KES", "UGX"]), st.integers(0, 10**6)),
        ),
        max_size=6,
    )
)
def test_messages_are_counted_by_what_became_of_them(sums):
    found = sms_figures(sums)
    counts = Counter()
    for each in sums:
        counts[each.status] += each.messages
    assert found.total == counts.total()
    assert (found.delivered, found.failed) == (counts["delivered"], counts["failed"])
    assert (found.skipped, found.unknown) == (counts["skipped"], counts["unknown"])
    assert found.segments == sum(each.segments for each in sums if each.status != "skipped")
    known = counts["delivered"] + counts["failed"] + counts["unknown"]
    assert found.delivery_rate == ratio(counts["delivered"], known)
    assert found.cost == tuple(
        (code, cost_text(sum(each.cost.get(code, 0) for each in sums)))
        for code in ("KES", "UGX")
        if any(code in each.cost for each in sums)
    )


@given(st.integers(0, 10**9))
@example(8000)
@example(8050)
@example(1)
@example(0)
def test_a_cost_is_printed_exactly_with_two_to_four_decimals(units):
    printed = cost_text(units)
    assert Decimal(printed) * 10_000 == units
    decimals = printed.partition(".")[2]
    assert 2 <= len(decimals) <= 4
    assert len(decimals) == 2 or not decimals.endswith("0")


# Periods


@st.composite
def periods(draw):
    start = draw(days)
    length = draw(st.integers(0, 365))
    return Period(
        start=start,
        end=start + timedelta(days=length),
        zone=draw(zones),
        interval=draw(st.sampled_from(Interval)),
    )


def apia(start, end):
    zone, interval = ZoneInfo("Pacific/Apia"), Interval.DAY
    return Period(start=start, end=end, zone=zone, interval=interval)


BEIRUT = Period(
    start=date(2026, 3, 1),
    end=date(2026, 3, 28),  # the clock is put forward at the very midnight that ends it
    zone=ZoneInfo("Asia/Beirut"),
    interval=Interval.DAY,
)


@given(periods())
@example(apia(date(2011, 12, 29), date(2011, 12, 31)))
@example(apia(date(2011, 12, 30), date(2011, 12, 30)))  # a day that never was
@example(BEIRUT)
@settings(max_examples=60)
def test_spans_cover_the_period_exactly_and_within_one_the_offset_stays(period):
    spans = period.spans()
    assert [start for start, *_ in spans[1:]] == [end for _, end, _ in spans[:-1]]
    if period.starts_at == period.ends_before:
        assert spans == ()
        return
    assert (spans[0][0], spans[-1][1]) == (period.starts_at, period.ends_before)
    for start, end, offset in spans:
        assert start < end
        for moment in (start, start + (end - start) / 2, end - SECOND):
            local = moment.astimezone(period.zone)
            assert local.utcoffset() == timedelta(seconds=offset)
            assert local.date() == (moment + timedelta(seconds=offset)).date()
            assert period.start <= local.date() <= period.end
    offsets = [offset for *_, offset in spans]
    assert all(before != after for before, after in pairwise(offsets))


def test_a_change_of_the_clock_at_the_very_end_is_no_span():
    assert [(end - start).days for start, end, _ in BEIRUT.spans()] == [28]


def test_a_year_with_daylight_saving_has_three_spans():
    year = Period(
        start=date(2026, 1, 1),
        end=date(2026, 12, 31),
        zone=ZoneInfo("Europe/Berlin"),
        interval=Interval.MONTH,
    )
    assert [offset for *_, offset in year.spans()] == [3600, 7200, 3600]
    changes = [start for start, *_ in year.spans()][1:]
    assert changes == [
        datetime(2026, 3, 29, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 1, tzinfo=UTC),
    ]


@given(days, zones)
def test_a_local_day_begins_at_its_first_moment(day, zone):
    begin = local_midnight(day, zone)
    assert begin.tzinfo is UTC
    assert (begin - SECOND).astimezone(zone).date() < day <= begin.astimezone(zone).date()


@given(periods())
@settings(max_examples=60)
def test_buckets_follow_each_other_and_every_day_falls_in_one(period):
    starts = period.buckets()
    if period.interval is Interval.NONE:
        assert starts == ()
        return
    assert len(set(starts)) == len(starts)
    assert list(starts) == sorted(starts)
    every_day = [
        period.start + timedelta(days=number)
        for number in range((period.end - period.start).days + 1)
    ]
    assert {period.bucket_of(day) for day in every_day} == set(starts)
    for day in every_day:
        begins = period.bucket_of(day)
        if period.interval is Interval.DAY:
            assert begins == day
        elif period.interval is Interval.WEEK:
            assert begins.isocalendar()[:2] == day.isocalendar()[:2]
            assert begins.weekday() == 0
        else:
            assert (begins.year, begins.month, begins.day) == (day.year, day.month, 1)


def asked(start=None, end=None, interval=Interval.DAY, now=NOW, zone=NAIROBI):
    return Period.of(start=start, end=end, zone=zone, interval=interval, now=now)


def test_the_default_is_the_last_thirty_local_days_including_today():
    late = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)  # already tomorrow in Nairobi
    assert (asked(now=late).start, asked(now=late).end) == (date(2026, 10, 26), date(2026, 11, 24))
    assert (asked().end - asked().start).days == 29


def test_one_end_alone_is_enough():
    assert asked(start=date(2026, 11, 1)).end == date(2026, 11, 23)
    assert asked(end=date(2026, 11, 1)).start == date(2026, 10, 3)
    tomorrow = date(2026, 11, 24)
    assert (asked(start=tomorrow).start, asked(start=tomorrow).end) == (tomorrow, tomorrow)


@given(days, st.integers(-3, 4000), st.sampled_from(Interval))
def test_a_period_is_as_asked_or_refused_by_name(start, more, interval):
    end = start + timedelta(days=more)
    if 0 <= more < (366 if interval is Interval.DAY else 3653):
        period = asked(start, end, interval)
        assert (period.start, period.end, period.interval) == (start, end, interval)
        return
    with pytest.raises(BadQuery) as refused:
        asked(start, end, interval)
    assert refused.value.parameter == "end_date"
    assert refused.value.code == ("invalid_parameter" if more < 0 else "range_too_large")


@pytest.mark.parametrize(
    ("interval", "most"),
    [(Interval.DAY, 366), (Interval.WEEK, 3653), (Interval.MONTH, 3653), (Interval.NONE, 3653)],
)
def test_a_period_may_be_a_year_by_day_and_ten_otherwise(interval, most):
    start = date(2016, 1, 1)
    last = start + timedelta(days=most - 1)
    assert asked(start, last, interval).end == last
    with pytest.raises(BadQuery) as refused:
        asked(start, last + timedelta(days=1), interval)
    assert refused.value.code == "range_too_large"


@pytest.mark.parametrize(
    ("start", "end", "parameter"),
    [
        (date(1970, 12, 31), date(1971, 1, 1), "start_date"),
        (date.min, date.min, "start_date"),
        (None, date.min, "end_date"),
        (None, date(1, 1, 15), "end_date"),
        (date.max, date.max, "start_date"),
        (date(2026, 1, 1), date.max, "end_date"),
        (date.max, None, "start_date"),
        (None, date.max, "end_date"),
    ],
)
def test_years_beyond_all_clocks_are_refused(start, end, parameter):
    with pytest.raises(BadQuery) as refused:
        asked(start, end)
    assert refused.value.parameter == parameter


@given(st.none() | st.dates(), st.none() | st.dates(), zones)
def test_any_dates_are_a_period_or_a_refusal(start, end, zone):
    try:
        period = asked(start, end, zone=zone)
    except BadQuery:
        return
    assert period.starts_at <= period.ends_before
    assert period.buckets()
