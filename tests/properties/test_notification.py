"""What becomes of a text: the gateway's answers, retries and delivery reports."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import NotificationNotDead
from savannah.domain.money import DEFAULT_CURRENCIES
from savannah.domain.notification import (
    WAITING,
    Accepted,
    Cost,
    DeliveryReport,
    Notification,
    RefusalKind,
    RefusedSms,
    Report,
    SmsStatus,
    UnknownOutcome,
    lagos_morning,
)
from savannah.domain.notification_policy import (
    Action,
    DeferReason,
    Facts,
    Policy,
    SkipReason,
    decide,
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
    texts,
)

NOW = datetime(2026, 11, 23, 9, 20, tzinfo=UTC)
JANE = PhoneNumber("+254700123456")
STICKY = {SmsStatus.DELIVERED, SmsStatus.FAILED, SmsStatus.SKIPPED}


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


# What is drawn


class Enough(Exception):
    """Ends the drawing; nothing is wrong."""


def drawn_until(strategy, told, wanted):
    """Draw until all of `wanted` was seen; what was still missing after very many."""
    missing = set(wanted)

    @settings(
        max_examples=100_000,
        phases=[Phase.generate],
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def look(value):
        missing.discard(told(value))
        if not missing:
            raise Enough

    with suppress(Enough):
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


# The night in Lagos


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
    @rule(outcome=outcomes(), jitter=st.floats(0, 1, exclude_max=True))
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


def test_a_report_needs_a_moment_with_a_time_zone():
    with pytest.raises(ValueError, match=r"^received_at: must "):
        report("delivered", at=NOW.replace(tzinfo=None))


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
