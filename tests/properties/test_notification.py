"""Whether a text is sent, what becomes of it, and when it is tried again."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import NotificationNotDead
from savannah.domain.money import DEFAULT_CURRENCIES
from savannah.domain.notification import (
    WAITING,
    Accepted,
    Action,
    BudgetAction,
    Cost,
    DeferReason,
    DeliveryReport,
    Facts,
    Notification,
    Policy,
    QuietHours,
    Rate,
    RefusalKind,
    RefusedSms,
    Report,
    RuleOutcome,
    RuleResult,
    SkipReason,
    SmsStatus,
    UnknownOutcome,
    budget_free_at,
    decide,
    lagos_morning,
    resend_free_at,
    retry_delay,
)
from savannah.domain.order import NotificationId, Order, OrderId
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Encoding, SmsEvent
from savannah.testing import (
    customers,
    delivery_reports,
    facts,
    moments,
    notifications,
    orders,
    outcomes,
    policies,
    quiet_hours,
    texts,
    waits,
    zones,
)

NOW = datetime(2026, 11, 23, 9, 20, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
JANE = PhoneNumber("+254700123456")
NAIROBI, BERLIN = ZoneInfo("Africa/Nairobi"), ZoneInfo("Europe/Berlin")
NIGHT = QuietHours(time(21), time(7))
STICKY = {SmsStatus.DELIVERED, SmsStatus.FAILED, SmsStatus.SKIPPED}

jitters = st.floats(0, 1, exclude_max=True)


def make_customer(**fields):
    given = {
        "id": CustomerId(UUID(int=2)),
        "name": "Jane Smith",
        "phone_number": JANE.e164,
        "code": "CUST-4F7K2Q",
        "locale": "en",
        "region": "KE",
        "at": NOW,
    }
    return Customer.create(**given | fields)


def make_order():
    return Order.create(
        id=OrderId(UUID(int=1)),
        symbols="7K3Q9D",
        customer_id=CustomerId(UUID(int=2)),
        item="Laptop Computer",
        amount="999.99",
        currency="KES",
        currencies=DEFAULT_CURRENCIES,
        at=NOW,
    )


def compose(**fields):
    given = {
        "id": NotificationId(UUID(int=3)),
        "event": SmsEvent.ORDER_CREATED,
        "order": make_order(),
        "customer": make_customer(),
        "policy": Policy(),
        "at": NOW,
    }
    return Notification.compose(**given | fields)


def sending(**fields):
    return replace(compose().started(to=JANE, at=NOW), **fields)


def report(word, *, at=NOW, **fields):
    return DeliveryReport(
        provider_id="ATXid_1",
        report=None if word is None else Report(word),
        word=word or "Expiring",
        phone=JANE.e164,
        received_at=at,
        **fields,
    )


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
        (lambda: report("delivered", at=NOW.replace(tzinfo=None)), "received_at"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(make, field):
    with pytest.raises(ValueError, match=f"^{field}: must "):
        make()


# What is drawn


def drawn_until(strategy, told, wanted):
    """Draw until all of `wanted` was seen; what was still missing after many."""
    missing = set(wanted)

    @settings(
        max_examples=1000,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def look(value):
        missing.discard(told(value))

    for _ in range(8):
        if missing:
            look()
    return missing


def test_messages_are_drawn_in_every_state():
    assert not drawn_until(notifications(), lambda message: message.status, SmsStatus)


def test_messages_are_drawn_in_every_number_of_parts():
    parts = {(Encoding.GSM7, 1), (Encoding.GSM7, 2), (Encoding.GSM7, 3)}
    parts |= {(Encoding.UCS2, 2), (Encoding.UCS2, 3)}  # no text of ours fits into 70 units
    fresh = notifications().filter(lambda message: message.attempts == 0)
    assert not drawn_until(fresh, lambda message: (message.encoding, message.segments), parts)


@pytest.mark.parametrize("strategy", [customers(), orders(), facts(), notifications()])
def test_strategies_stay_short_where_hypothesis_spells_them(strategy):
    """From 30,000 characters on it warns, which fails a run that takes warnings for errors."""
    assert len(repr(strategy)) < 20_000


def test_texts_are_drawn_up_to_their_limit():
    assert not drawn_until(texts(most=255), len, {1, 255})


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


@given(moments())
def test_texts_of_the_night_wait_for_eight_in_lagos(moment):
    morning = lagos_morning(moment)
    assert moment < morning <= moment + timedelta(days=1)
    assert morning.astimezone(ZoneInfo("Africa/Lagos")).time() == time(8)
    assert morning.tzinfo is UTC


# A new message


@given(
    order=orders(),
    customer=customers(),
    policy=policies(),
    notify=st.booleans(),
    handled=st.booleans(),
    resend=st.booleans(),
)
def test_a_message_begins_as_the_policy_says(*, order, customer, policy, notify, handled, resend):
    customer = replace(customer, id=order.customer_id)
    message = compose(
        event=order.default_sms_event,
        order=order,
        customer=customer,
        policy=policy,
        notify=notify,
        already_handled=handled,
        resend_of=NotificationId(UUID(int=9)) if resend else None,
        request_id="r",
    )
    asked = Facts(
        now=NOW,
        event=order.default_sms_event,
        phone=customer.phone,
        notify=notify,
        opted_out=customer.sms_opt_out,
        blocked=customer.reachability is Reachability.BLOCKED,
        already_handled=handled,
        asked_by_human=resend,
    )
    verdict = decide(asked, policy)
    assert message.rules == verdict.rules
    status = {
        Action.SEND: SmsStatus.QUEUED,
        Action.SKIP: SmsStatus.SKIPPED,
        Action.DEFER: SmsStatus.DEFERRED,
    }
    assert message.status is status[verdict.action]
    assert message.due_at == (verdict.until or NOW)
    assert verdict.reason in {message.skip_reason, message.defer_reason}
    assert (message.to, message.locale) == (customer.phone, customer.locale)
    assert order.number in message.text
    assert order.total.text in message.text
    assert message.segments <= policy.max_segments
    assert (message.attempts, message.request_id) == (0, "r")
    plain_key = f"{order.id}:{order.default_sms_event}:{order.version}"
    assert message.dedupe_key == (f"{plain_key}:{message.id}" if resend or handled else plain_key)


def test_the_first_message_of_an_order_reads_like_this():
    message = compose()
    assert message.status is SmsStatus.QUEUED
    assert message.text.startswith("Hi Jane Smith, thank you for your order ORD-7K3Q9D-")
    assert "KES 999.99" in message.text
    assert (message.encoding, message.segments) == (Encoding.GSM7, 1)


def test_an_erased_customer_gets_no_text_and_leaves_none():
    erased = replace(make_customer(), name=None, phone=None, email=None, notes=None, erased_at=NOW)
    message = compose(customer=erased)
    assert (message.status, message.skip_reason) == (
        SmsStatus.SKIPPED,
        SkipReason.CUSTOMER_ERASED,
    )
    assert (message.text, message.to) == (None, None)


def test_a_deleted_order_is_not_texted_about():
    deleted = make_order().deleted(at=NOW)
    assert compose(order=deleted).skip_reason is SkipReason.ORDER_DELETED


# The life of a message


def test_an_accepted_message_was_sent_and_knows_its_cost():
    cost = Cost(currency="KES", units=8000)
    sent = sending(outcome_code="500").settled(
        Accepted(provider_id="ATXid_1", cost=cost, segments=2), policy=Policy(), jitter=0, at=NOW
    )
    assert (sent.status, sent.provider_id, sent.cost, sent.segments) == (
        SmsStatus.SENT,
        "ATXid_1",
        cost,
        2,
    )
    assert (sent.sent_at, sent.outcome_code, sent.attempts) == (NOW, None, 1)


def test_our_own_count_of_parts_stands_where_the_gateway_names_none():
    sent = sending().settled(Accepted(provider_id="x"), policy=Policy(), jitter=0, at=NOW)
    assert sent.segments == sending().segments


@pytest.mark.parametrize("kind", [RefusalKind.NUMBER, RefusalKind.BLOCKED])
def test_a_number_that_cannot_work_fails_at_once(kind):
    failed = sending().settled(RefusedSms(kind=kind, code="403"), policy=Policy(), jitter=0, at=NOW)
    assert (failed.status, failed.outcome_code, failed.attempts) == (SmsStatus.FAILED, "403", 1)


def test_trouble_with_the_account_spends_no_attempt_however_long_it_lasts():
    policy, message, now = Policy(), compose(), NOW
    for _ in range(50):
        message = message.started(to=JANE, at=now).settled(
            RefusedSms(kind=RefusalKind.ACCOUNT, code="405"), policy=policy, jitter=0, at=now
        )
        now += policy.pause
        assert (message.status, message.defer_reason) == (SmsStatus.DEFERRED, DeferReason.PAUSED)
        assert (message.attempts, message.due_at, message.outcome_code) == (0, now, "405")


def test_a_text_of_the_night_waits_for_the_morning_and_spends_no_attempt():
    message = sending().settled(
        RefusedSms(kind=RefusalKind.NIGHT, code="409"), policy=Policy(), jitter=0, at=NOW
    )
    assert (message.status, message.attempts) == (SmsStatus.DEFERRED, 0)
    assert message.due_at == datetime(2026, 11, 24, 7, tzinfo=UTC)
    assert message.defer_reason is DeferReason.QUIET_HOURS


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (RefusalKind.SENDER, DeferReason.PAUSED),
        (RefusalKind.TEMPORARY, DeferReason.RETRY),
    ],
)
def test_other_trouble_spends_an_attempt_each_time_until_the_message_is_dead(kind, reason):
    policy, message, now = Policy(max_attempts=3), compose(), NOW
    refusal = RefusedSms(kind=kind, code="500")
    for attempt in (1, 2, 3):
        message = message.started(to=JANE, at=now)
        assert (message.attempts, message.handed_at) == (attempt, now)
        message = message.settled(refusal, policy=policy, jitter=0.5, at=now)
        if attempt < 3:
            assert (message.status, message.defer_reason) == (SmsStatus.DEFERRED, reason)
            assert message.due_at > now
            now = message.due_at
    assert (message.status, message.outcome_code) == (SmsStatus.DEAD, "500")


def test_an_attempt_nobody_knows_the_end_of_is_unknown():
    lost = sending().settled(
        UnknownOutcome(cause="read_timeout"), policy=Policy(), jitter=0, at=NOW
    )
    assert (lost.status, lost.outcome_code) == (SmsStatus.UNKNOWN, "read_timeout")


def test_a_blind_retry_ends_with_the_attempts():
    lost = sending(attempts=5).lost_sight("interrupted", at=NOW)
    policy = Policy(max_attempts=6)
    again = lost.retried_blindly(policy=policy, at=NOW)
    assert (again.status, again.due_at) == (SmsStatus.QUEUED, NOW)
    last = again.started(to=JANE, at=NOW).lost_sight("interrupted", at=NOW)
    assert last.retried_blindly(policy=policy, at=NOW).status is SmsStatus.DEAD


@given(notifications())
def test_only_a_dead_message_is_replayed_and_gets_all_its_attempts_back(message):
    if message.status is SmsStatus.DEAD:
        again = message.replayed(at=NOW)
        assert (again.status, again.attempts, again.due_at) == (SmsStatus.QUEUED, 0, NOW)
    else:
        with pytest.raises(NotificationNotDead) as refused:
            message.replayed(at=NOW)
        assert refused.value.current_status == message.status


def test_a_dead_message_is_queued_again_with_all_its_attempts():
    dead = sending(status=SmsStatus.DEAD, attempts=6)
    again = dead.replayed(at=NOW)
    assert (again.status, again.attempts, again.due_at) == (SmsStatus.QUEUED, 0, NOW)


class MessageLife(RuleBasedStateMachine):
    """Anything that can happen to a message, in any order."""

    @initialize(policy=policies(), silent=st.booleans())
    def queue(self, policy, silent):
        self.now = NOW
        self.policy = policy
        self.message = compose(policy=policy, notify=not silent)
        self.before = self.message

    def _becomes(self, after):
        self.before, self.message = self.message, after

    @rule(seconds=st.integers(1, 10**5))
    def wait(self, seconds):
        self._becomes(self.message)
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.message.status in WAITING)
    @rule(facts=facts())
    def judge(self, facts):
        verdict = decide(replace(facts, now=self.now), self.policy)
        self._becomes(self.message.judged(verdict, at=self.now))

    @precondition(lambda self: self.message.status in WAITING)
    @rule(outcome=outcomes(), jitter=jitters)
    def send(self, outcome, jitter):
        started = self.message.started(to=JANE, at=self.now)
        assert started.status is SmsStatus.SENDING
        assert started.defer_reason is None
        self._becomes(started.settled(outcome, policy=self.policy, jitter=jitter, at=self.now))
        assert self.message.status not in {SmsStatus.SENDING, SmsStatus.QUEUED}

    @precondition(lambda self: self.message.status in WAITING)
    @rule(outcome=outcomes())
    def crash_and_hear_of_it_later(self, outcome):
        lost = self.message.started(to=JANE, at=self.now).lost_sight("interrupted", at=self.now)
        self._becomes(lost.settled(outcome, policy=self.policy, jitter=0, at=self.now))

    @precondition(lambda self: self.message.status in WAITING)
    @rule()
    def stop_before_the_gateway_is_asked(self):
        again = self.message.started(to=JANE, at=self.now).taken_back(at=self.now)
        assert (again.status, again.due_at) == (SmsStatus.QUEUED, self.now)
        assert again.attempts == self.message.attempts
        self._becomes(again)

    @precondition(lambda self: self.message.status is SmsStatus.UNKNOWN)
    @rule()
    def retry_blindly(self):
        self._becomes(self.message.retried_blindly(policy=self.policy, at=self.now))

    @precondition(lambda self: self.message.status is SmsStatus.DEAD)
    @rule()
    def replay(self):
        self._becomes(self.message.replayed(at=self.now))

    @rule(report=delivery_reports())
    def hear(self, report):
        after = self.message.reported(replace(report, received_at=self.now))
        telling = {
            SmsStatus.UNKNOWN: set(Report),
            SmsStatus.SENT: {Report.DELIVERED, Report.FAILED},
            SmsStatus.FAILED: {Report.DELIVERED},
        }
        if report.report in telling.get(self.message.status, set()):
            assert (after.status.value, after.updated_at) == (report.report.value, self.now)
        else:
            assert after is self.message
        self._becomes(after)

    @invariant()
    def nothing_sticky_is_reopened(self):
        before, after = self.before.status, self.message.status
        if before in STICKY and after is not before:
            assert (before, after) == (SmsStatus.FAILED, SmsStatus.DELIVERED)
        if before is SmsStatus.DEAD and after is not before:
            assert after is SmsStatus.QUEUED

    @invariant()
    def attempts_stay_within_their_limit(self):
        assert 0 <= self.message.attempts <= self.policy.max_attempts

    @invariant()
    def the_fields_fit_the_state(self):
        message = self.message
        assert (message.skip_reason is not None) == (message.status is SmsStatus.SKIPPED)
        assert (message.delivered_at is not None) == (message.status is SmsStatus.DELIVERED)
        if message.status is SmsStatus.DEFERRED:
            assert message.due_at > message.updated_at
        if message.status in {SmsStatus.SENT, SmsStatus.DELIVERED}:
            assert message.sent_at is not None
            assert message.provider_id is not None
        assert message.dedupe_key == self.before.dedupe_key


TestMessageLife = MessageLife.TestCase
TestMessageLife.settings = settings(max_examples=40, stateful_step_count=20)


# Reports


@given(
    st.sampled_from([SmsStatus.SENT, SmsStatus.UNKNOWN]),
    st.lists(st.sampled_from(["sent", "delivered", "failed", None]), max_size=5),
    st.randoms(),
)
def test_the_order_and_repetition_of_reports_do_not_change_the_final_state(status, words, random):
    def heard(words):
        message = sending(status=status)
        for word in words:
            message = message.reported(report(word))
        return message.status

    final = heard(words)
    shuffled = words * 2
    random.shuffle(shuffled)
    assert heard(shuffled) is final
    told = next((word for word in ("delivered", "failed", "sent") if word in words), status)
    assert final == told


@pytest.mark.parametrize(
    "status",
    [
        SmsStatus.QUEUED,
        SmsStatus.SENDING,
        SmsStatus.DEFERRED,
        SmsStatus.SKIPPED,
        SmsStatus.DELIVERED,
        SmsStatus.DEAD,
    ],
)
def test_a_report_changes_nothing_where_none_is_expected(status):
    message = replace(compose(), status=status)
    for word in ("sent", "delivered", "failed", None):
        assert message.reported(report(word)) is message


def test_a_failed_message_may_still_turn_out_to_be_delivered():
    later = NOW + timedelta(minutes=5)
    failed = (
        sending()
        .lost_sight("read_timeout", at=NOW)
        .reported(report("failed", failure_reason="AbsentSubscriber"))
    )
    assert (failed.status, failed.outcome_code) == (SmsStatus.FAILED, "AbsentSubscriber")
    assert failed.reported(report("sent")) is failed
    delivered = failed.reported(report("delivered", at=later))
    assert (delivered.status, delivered.delivered_at) == (SmsStatus.DELIVERED, later)
    assert (delivered.outcome_code, delivered.sent_at) == (None, NOW)


def test_a_failure_without_a_reason_keeps_the_gateways_word():
    assert sending(status=SmsStatus.SENT).reported(report("failed")).outcome_code == "failed"


def test_a_report_gives_an_unknown_message_the_id_it_lacked():
    for word in ("sent", "delivered", "failed"):
        settled = sending(status=SmsStatus.UNKNOWN).reported(report(word))
        assert (settled.provider_id, settled.sent_at) == ("ATXid_1", NOW)


@pytest.mark.parametrize(
    ("word", "reason", "learnt"),
    [
        ("delivered", None, Reachability.REACHABLE),
        ("sent", None, None),
        (None, "UserInBlacklist", None),
        ("failed", None, None),
        ("failed", "DeliveryFailure", None),
        ("failed", "UserInBlackList", Reachability.BLOCKED),
        ("failed", "UserInBlacklist", Reachability.BLOCKED),
        ("failed", "AbsentSubscriber", Reachability.UNREACHABLE),
        ("failed", "UserDoesNotExist", Reachability.UNREACHABLE),
        ("failed", "UserIsInactive", Reachability.UNREACHABLE),
        ("failed", "UserNotNetworkSubscriber", Reachability.UNREACHABLE),
    ],
)
def test_a_report_teaches_whether_the_phone_can_be_reached(word, reason, learnt):
    assert report(word, failure_reason=reason).reachability is learnt
