"""Whether a text is sent, skipped or waits, and until when."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from savannah.domain.notification_policy import (
    Action,
    BudgetAction,
    DeferReason,
    Facts,
    Policy,
    QuietHours,
    Rate,
    RuleOutcome,
    RuleResult,
    SkipReason,
    Spending,
    budget_free_at,
    decide,
    price_of_segment,
    resend_free_at,
    retry_delay,
)
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import SmsEvent
from savannah.testing import (
    facts,
    moments,
    policies,
    quiet_hours,
    waits,
    zones,
)

NOW = datetime(2026, 11, 23, 9, 20, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
JANE = PhoneNumber("+254700123456")
NAIROBI, BERLIN = ZoneInfo("Africa/Nairobi"), ZoneInfo("Europe/Berlin")
NIGHT = QuietHours(time(21), time(7))

jitters = st.floats(0, 1, exclude_max=True)


# The rules


def is_quiet(quiet, moment, zone):
    """Quiet hours as a set of minutes of the local day."""
    start, end = (at.hour * 60 + at.minute for at in (quiet.start, quiet.end))
    local = moment.astimezone(zone)
    return (local.hour * 60 + local.minute - start) % 1440 < (end - start) % 1440


def matching(facts, policy):
    """Which rules match, each said in one line."""
    asked, limit, quiet = facts.asked_by_human, policy.phone_limit, policy.quiet_hours
    zone = policy.zone
    if facts.phone is not None and facts.phone.time_zone is not None:
        zone = ZoneInfo(facts.phone.time_zone)
    spent = [
        (facts.spent_today, policy.budget_daily),
        (facts.spent_this_month, policy.budget_monthly),
    ]
    return {
        "order_deleted": facts.order_deleted,
        "customer_erased": facts.customer_erased or facts.phone is None,
        "notify": not facts.notify,
        "opted_out": facts.opted_out,
        "blocked": facts.blocked,
        "duplicate": facts.already_handled and not asked,
        "budget": any(None not in pair and pair[0] >= pair[1] for pair in spent),
        "phone_limit": limit is not None
        and sum(facts.now - at < limit.window for at in facts.texted_at or ()) >= limit.count,
        "quiet_hours": quiet is not None
        and not asked
        and facts.event is not SmsEvent.ORDER_CREATED
        and is_quiet(quiet, facts.now, zone),
    }


REASONS = {
    "order_deleted": SkipReason.ORDER_DELETED,
    "customer_erased": SkipReason.CUSTOMER_ERASED,
    "notify": SkipReason.SUPPRESSED_BY_USER,
    "opted_out": SkipReason.OPTED_OUT,
    "blocked": SkipReason.BLOCKED_BY_NETWORK,
    "duplicate": SkipReason.DUPLICATE,
    "budget": DeferReason.BUDGET,
    "phone_limit": DeferReason.PHONE_LIMIT,
    "quiet_hours": DeferReason.QUIET_HOURS,
}


@given(facts(), policies())
def test_the_first_rule_that_matches_decides_and_all_are_on_record(facts, policy):
    matched = matching(facts, policy)
    verdict = decide(facts, policy)
    later = {
        "budget": policy.has_budget and facts.spent_today is None,
        "phone_limit": policy.phone_limit is not None and facts.texted_at is None,
    }
    assert verdict.rules == tuple(
        RuleOutcome(
            name,
            RuleResult.MATCHED
            if matches
            else RuleResult.LATER
            if later.get(name)
            else RuleResult.PASSED,
        )
        for name, matches in matched.items()
    )
    first = next((name for name, matches in matched.items() if matches), None)
    if first is None:
        assert (verdict.action, verdict.reason, verdict.until) == (Action.SEND, None, None)
        return
    skips = isinstance(REASONS[first], SkipReason)
    if first == "budget" and policy.budget_action is BudgetAction.SKIP:
        skips = True
        assert verdict.reason is SkipReason.BUDGET
    else:
        assert verdict.reason is REASONS[first]
    assert verdict.action is (Action.SKIP if skips else Action.DEFER)
    assert (verdict.until is None) == skips
    assert skips or verdict.until > facts.now


@given(facts(opted_out=True), policies())
def test_nothing_is_ever_sent_to_somebody_who_opted_out(facts, policy):
    assert decide(facts, policy).action is Action.SKIP


@given(facts(asked_by_human=True, already_handled=True), policies())
def test_quiet_hours_and_duplicates_do_not_stop_what_a_person_asks_for(facts, policy):
    matched = {each.rule for each in decide(facts, policy).rules if each.result == "matched"}
    assert not {"duplicate", "quiet_hours"} & matched


@given(facts(), policies(), quiet_hours())
def test_a_text_put_off_by_a_budget_or_a_limit_comes_when_its_customer_is_awake(
    facts, policy, quiet
):
    noisy, policy = replace(policy, quiet_hours=None), replace(policy, quiet_hours=quiet)
    free, verdict = decide(facts, noisy), decide(facts, policy)
    if free.action is not Action.DEFER:
        return
    assert verdict.reason is free.reason
    if facts.asked_by_human:
        assert verdict.until == free.until
        return
    zone = policy.zone
    if facts.phone.time_zone is not None:
        zone = ZoneInfo(facts.phone.time_zone)
    assert not is_quiet(quiet, verdict.until, zone)
    if is_quiet(quiet, free.until, zone):
        assert verdict.until == quiet.ends_after(free.until, zone)
    else:
        assert verdict.until == free.until


@pytest.mark.parametrize("event", SmsEvent)
def test_a_budget_that_is_free_at_midnight_wakes_nobody(event):
    policy = Policy(quiet_hours=NIGHT, budget_daily=100, zone=NAIROBI)
    late = Facts(now=NOW, event=event, phone=JANE, spent_today=100, spent_this_month=100)
    verdict = decide(late, policy)
    assert (verdict.action, verdict.reason) == (Action.DEFER, DeferReason.BUDGET)
    assert verdict.until.astimezone(NAIROBI) == datetime(2026, 11, 24, 7, tzinfo=NAIROBI)


@pytest.mark.parametrize(
    ("phone", "zone"),
    [
        (JANE, "Africa/Nairobi"),
        (PhoneNumber("+2348031234567"), "Africa/Lagos"),
        (PhoneNumber("+12125550123"), "Asia/Kathmandu"),
        (PhoneNumber("+4915123456789"), "Asia/Kathmandu"),
    ],
)
def test_quiet_hours_are_the_recipients_or_else_the_business_s_own(phone, zone):
    policy = Policy(quiet_hours=NIGHT, zone=ZoneInfo("Asia/Kathmandu"))
    for hour in range(24):
        local = datetime(2026, 11, 23, hour, 30, tzinfo=ZoneInfo(zone))
        shipped = Facts(now=local.astimezone(UTC), event=SmsEvent.ORDER_SHIPPED, phone=phone)
        quiet = hour >= 21 or hour < 7
        verdict = decide(shipped, policy)
        assert verdict.action is (Action.DEFER if quiet else Action.SEND)
        if quiet:
            ends = verdict.until.astimezone(ZoneInfo(zone))
            assert (ends.hour, ends.minute) == (7, 0)
        created = replace(shipped, event=SmsEvent.ORDER_CREATED)
        assert decide(created, policy).action is Action.SEND


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("quiet_hours", "21:00-07:00", TypeError),
        ("phone_limit", "20/h", TypeError),
        ("budget_daily", "100", TypeError),
        ("budget_monthly", 1.5, TypeError),
        ("budget_action", "skip", TypeError),
        ("max_segments", None, TypeError),
        ("retry_base", 15, TypeError),
        ("zone", "Africa/Nairobi", TypeError),
        ("budget_daily", -1, ValueError),
        ("max_segments", 0, ValueError),
        ("max_attempts", 0, ValueError),
        ("retry_base", timedelta(seconds=-1), ValueError),
        ("pause", timedelta(seconds=-1), ValueError),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_when_the_policy_is_made(field, value, error):
    with pytest.raises(error, match=f"^{field}: must be "):
        Policy(**{field: value})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Rate(0, timedelta(hours=1)), "count"),
        (lambda: Rate(1, timedelta(0)), "window"),
        (lambda: QuietHours(time(7), time(7)), "start, end"),
        (lambda: QuietHours(time(21, tzinfo=UTC), time(7)), "start, end"),
        (lambda: QuietHours(time(21), time(7, tzinfo=UTC)), "start, end"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(make, field):
    with pytest.raises(ValueError, match=f"^{field}: must "):
        make()


# Quiet hours


def test_quiet_hours_end_the_first_time_where_the_clock_shows_the_end_twice():
    zone = ZoneInfo("Australia/Lord_Howe")  # back from 02:00 to 01:30 at 15:00 UTC on 1 April 2023
    quarter_to = datetime(2023, 4, 1, 14, 45, tzinfo=UTC)
    for end in (time(1, 46), time(1, 46, fold=1)):
        until = QuietHours(time(0), end).ends_after(quarter_to, zone)
        assert until == quarter_to + timedelta(minutes=1)


@given(quiet_hours())
def test_drawn_quiet_hours_are_what_can_be_written(quiet):
    again = QuietHours.parse(f"{quiet.start:%H:%M}-{quiet.end:%H:%M}")
    assert again == quiet
    assert (quiet.start.fold, quiet.end.fold) == (0, 0)


@given(quiet_hours(), moments())
def test_quiet_hours_end_at_the_next_time_their_end_is_on_the_clock(quiet, moment):
    zone = ZoneInfo("Asia/Kathmandu")  # no daylight saving, and an odd offset
    until = quiet.ends_after(moment, zone)
    assert (until is not None) == is_quiet(quiet, moment, zone)
    if until is not None:
        assert moment < until <= moment + timedelta(days=1)
        assert until.astimezone(zone).time() == quiet.end
        assert until.tzinfo is UTC
        assert is_quiet(quiet, until - INSTANT, zone)
        assert not is_quiet(quiet, until, zone)


@given(quiet_hours(), moments(), zones())
def test_quiet_hours_always_end_later_whatever_the_clocks_do(quiet, moment, zone):
    until = quiet.ends_after(moment, zone)
    assert (until is not None) == is_quiet(quiet, moment, zone)
    assert until is None or moment < until <= moment + timedelta(hours=25)


@pytest.mark.parametrize(
    ("typed", "moment", "until"),
    [
        # The clock goes back at 01:00 UTC: 02:00-03:00 comes twice.
        ("01:00-02:30", "2026-10-25T00:10", "2026-10-25T00:30"),
        ("01:00-02:30", "2026-10-25T01:10", "2026-10-25T01:30"),
        ("21:00-07:00", "2026-10-24T22:00", "2026-10-25T06:00"),
        ("21:00-07:00", "2026-10-25T05:59", "2026-10-25T06:00"),
        # It goes forward at 01:00 UTC.
        ("21:00-07:00", "2026-03-28T22:00", "2026-03-29T05:00"),
        ("13:00-14:00", "2026-03-29T11:30", "2026-03-29T12:00"),
        ("13:00-14:00", "2026-03-29T12:00", None),
        ("13:00-14:00", "2026-03-29T10:59", None),
    ],
)
def test_quiet_hours_follow_the_clock_on_the_wall(typed, moment, until):
    ends = QuietHours.parse(typed).ends_after(datetime.fromisoformat(f"{moment}+00:00"), BERLIN)
    assert ends == (until and datetime.fromisoformat(f"{until}+00:00"))


@given(quiet_hours())
def test_quiet_hours_read_back_as_they_are_written(quiet):
    assert QuietHours.parse(f" {quiet.start:%H:%M}-{quiet.end:%H:%M} ") == quiet


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "21-07",
        "21:00",
        "21:00-7:00",
        "24:00-07:00",
        "21:60-07:00",
        "21:00-21:00",
        "٢١:00-07:00",
    ],
)
def test_other_quiet_hours_are_refused(typed):
    with pytest.raises(ValueError, match=r"\w"):
        QuietHours.parse(typed)


# Rates


@given(st.integers(1, 999_999_999), st.integers(1, 9999), st.sampled_from(["s", "min", "h", "d"]))
def test_a_rate_means_the_same_when_it_is_printed_and_read_again(count, many, unit):
    rate = Rate.parse(f" {count}/{many}{unit} ")
    seconds = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit] * many
    assert (rate.count, rate.window) == (count, timedelta(seconds=seconds))
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize("typed", ["20/h", "600/min", "5/15min", "1/d", "9/90s", "3/25h"])
def test_a_rate_prints_in_its_largest_whole_unit(typed):
    assert str(Rate.parse(typed)) == typed


@pytest.mark.parametrize("typed", ["", "20", "0/h", "20/0h", "-1/h", "20/w", "20 /h", "a/h", "/h"])
def test_other_rates_are_refused(typed):
    with pytest.raises(ValueError, match="COUNT/PERIOD"):
        Rate.parse(typed)


@given(
    moments(),
    st.lists(waits(most=timedelta(hours=2)), max_size=8),
    st.integers(1, 4),
)
@example(NOW, [timedelta(hours=1)], 1)  # just free again
@example(NOW, [timedelta(hours=1) - INSTANT], 1)
def test_the_phone_limit_lets_the_next_text_go_at_the_first_free_moment(now, ago, count):
    window = timedelta(hours=1)
    texted = [now - wait for wait in ago]
    policy = Policy(phone_limit=Rate(count, window))
    verdict = decide(
        Facts(now=now, event=SmsEvent.ORDER_CREATED, phone=JANE, texted_at=texted), policy
    )

    def full(moment):
        return sum(moment - at < window for at in texted) >= count

    assert (verdict.reason is DeferReason.PHONE_LIMIT) == full(now)
    if verdict.until is not None:
        assert full(verdict.until - INSTANT)
        assert not full(verdict.until)


# Budgets


@given(moments(), zones(), st.integers(0, 20), st.integers(0, 20))
def test_a_budget_is_free_again_when_the_local_day_or_month_begins(now, zone, today, month):
    policy = Policy(budget_daily=10, budget_monthly=15, zone=zone)
    facts = Facts(
        now=now,
        event=SmsEvent.ORDER_SHIPPED,
        phone=JANE,
        spent_today=today,
        spent_this_month=month,
    )
    until = budget_free_at(facts, policy)
    if month < 15 and today < 10:
        assert until is None
        return
    local, free, before = (at.astimezone(zone) for at in (now, until, until - INSTANT))
    assert until > now
    assert before.date() < free.date()  # the very first moment of a local day
    if month >= 15:
        assert free.day == 1
        assert (free.year * 12 + free.month) - (local.year * 12 + local.month) == 1
    else:
        assert before.date() == local.date()


@pytest.mark.parametrize(
    ("daily", "monthly", "until"),
    [
        (100, None, "2026-11-23T21:00+00:00"),
        (None, 100, "2026-11-30T21:00+00:00"),
        (100, 100, "2026-11-30T21:00+00:00"),
        (101, None, None),
        (0, None, "2026-11-23T21:00+00:00"),
    ],
)
def test_the_month_waits_longer_than_the_day(daily, monthly, until):
    facts = Facts(
        now=NOW, event=SmsEvent.ORDER_CREATED, phone=JANE, spent_today=100, spent_this_month=100
    )
    policy = Policy(budget_daily=daily, budget_monthly=monthly, zone=NAIROBI)
    assert policy.has_budget
    assert budget_free_at(facts, policy) == (until and datetime.fromisoformat(until))


sizes = st.lists(st.integers(1, 3), max_size=30)
spendings = st.builds(
    Spending,
    quoted_today=st.integers(0, 100),
    quoted_this_month=st.integers(100, 200),
    open_today=st.integers(0, 10),
    open_this_month=st.integers(10, 20),
    price=st.integers(0, 30),
)


@given(spendings, sizes, st.integers(0, 300), st.integers(0, 300))
def test_texts_judged_together_exceed_a_budget_by_no_more_than_the_last_of_them(
    spending, segments, daily, monthly
):
    policy = Policy(budget_daily=daily, budget_monthly=monthly)
    for size in segments:
        facts = Facts(
            now=NOW,
            event=SmsEvent.ORDER_CREATED,
            phone=JANE,
            spent_today=spending.today,
            spent_this_month=spending.this_month,
        )
        if decide(facts, policy).action is Action.SEND:
            spending = spending.started(size)
            assert spending.today < daily + size * spending.price
            assert spending.this_month < monthly + size * spending.price


@given(spendings, sizes)
def test_what_nobody_has_quoted_counts_by_the_newest_price(spending, segments):
    after = spending
    for size in segments:
        after = after.started(size)
    assert after.today - spending.today == sum(segments) * spending.price
    assert after.this_month - spending.this_month == sum(segments) * spending.price
    assert (after.quoted_today, after.quoted_this_month) == (
        spending.quoted_today,
        spending.quoted_this_month,
    )


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_the_price_of_a_segment_is_rounded_up(units, segments):
    price = price_of_segment(units, segments)
    assert price * max(1, segments) >= units
    assert (price - 1) * max(1, segments) < units


# Delays


@given(jitters, jitters, st.integers(1, 8))
def test_each_retry_waits_longer_than_the_one_before(jitter, other, attempt):
    base = timedelta(seconds=15)
    first = retry_delay(attempt, base=base, jitter=jitter)
    assert base <= first < retry_delay(attempt + 1, base=base, jitter=other)


@given(st.lists(jitters, min_size=5, max_size=5))
def test_six_tries_spread_over_about_two_hours(drawn):
    policy = Policy()
    waited = sum(
        (
            retry_delay(attempt, base=policy.retry_base, jitter=jitter)
            for attempt, jitter in enumerate(drawn[: policy.max_attempts - 1], start=1)
        ),
        timedelta(0),
    )
    assert timedelta(minutes=80) <= waited <= timedelta(minutes=130)


def test_a_hundredth_retry_still_has_a_date():
    assert retry_delay(100, base=timedelta(hours=1), jitter=0.9) < timedelta(days=5000)


@given(moments(), st.lists(waits(most=timedelta(hours=26)), max_size=8))
def test_a_person_may_resend_once_a_minute_and_five_times_a_day(now, ago):
    resent = [now - wait for wait in ago]
    limits = [(1, timedelta(seconds=60)), (5, timedelta(hours=24))]

    def allowed(moment):
        return all(sum(moment - at < window for at in resent) < most for most, window in limits)

    ends = (at + window for at in resent for _, window in limits)
    first = min(moment for moment in [now, *ends] if moment >= now and allowed(moment))
    assert resend_free_at(resent, now=now) == (None if first == now else first)
