"""Use cases on messages: relayed, sent, reported, resent; and what every kind of trouble leaves."""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from savannah.adapters.memory import MemoryGateway
from savannah.application.business import Business
from savannah.application.notifications import Notifications
from savannah.application.ports import NotificationFilter, SmsGateway
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.customer import Reachability
from savannah.domain.errors import (
    CustomerErased,
    CustomerOptedOut,
    InsufficientScope,
    Invalid,
    NoSmsForStatus,
    NotFound,
    NotificationNotDead,
    ResendThrottled,
    SmsBudgetExhausted,
    Unavailable,
)
from savannah.domain.notification import (
    Accepted,
    Cost,
    DeliveryReport,
    RefusalKind,
    RefusedSms,
    Report,
    SmsStatus,
    UnknownOutcome,
)
from savannah.domain.notification_policy import (
    BudgetAction,
    DeferReason,
    QuietHours,
    Rate,
    SkipReason,
)
from savannah.domain.order import Status
from savannah.domain.paging import PageRequest
from savannah.domain.sms_text import SmsEvent

JANE, JOHN = "+254700123456", "+254711111111"
SECOND, MINUTE, HOUR, DAY = (
    timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)
PENDING, PROCESSING, SHIPPED, DELIVERED, CANCELLED = Status
NO_BALANCE = RefusedSms(kind=RefusalKind.ACCOUNT, code="405")
BAD_SENDER = RefusedSms(kind=RefusalKind.SENDER, code="402")
BUSY = RefusedSms(kind=RefusalKind.TEMPORARY, code="500")
TIMEOUT = UnknownOutcome(cause="read_timeout")


class Gate(MemoryGateway):
    """Answers when the test says so, number by number."""

    def __init__(self):
        super().__init__()
        self.waiting = {}
        self.arrived = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0

    async def send(self, sms):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(sms.to, []).append(answer)
        self.arrived.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            outcome = await answer
        finally:
            self.at_once -= 1
        self.sent.append(sms)
        return outcome

    def answer(self, to, outcome):
        self.waiting[to].pop(0).set_result(outcome)

    async def reached_by(self, *numbers):
        """Wait until texts to these numbers are under way, two where a number stands twice."""
        while Counter(numbers) - Counter(to for to in self.waiting for _ in self.waiting[to]):
            self.arrived.clear()
            await self.arrived.wait()


class Broken(SmsGateway):
    async def send(self, sms):
        raise ConnectionError("no way out")


class Eager(MemoryGateway):
    """Reports before it answers, as fast gateways do."""

    def __init__(self, *words):
        super().__init__()
        self.words = words
        self.desk = None

    async def send(self, sms):
        answer = await super().send(sms)
        for word in self.words:
            await self.desk.notifications.record_report(
                report(answer.provider_id, word, at=self.desk.clock.now())
            )
        return answer


def report(provider_id, word, *, phone=JANE, at=datetime(2026, 11, 23, 10, tzinfo=UTC), **fields):
    known = Report(word) if word in set(Report) else None
    return DeliveryReport(
        provider_id=provider_id, report=known, word=word, phone=phone, received_at=at, **fields
    )


async def turns(many=50):
    """Let everything that can go on go on."""
    for _ in range(many):
        await asyncio.sleep(0)


async def sent_order(desk):
    order = await desk.order()
    await desk.notifications.dispatch_due()
    return order, await desk.message(order)


def statuses(messages):
    return [message.status.value for message in messages]


# The way of a message


async def test_a_message_is_sent_once_and_its_order_shows_it(desk):
    order = await desk.order()
    desk.clock.advance(SECOND)
    assert await desk.notifications.dispatch_due() == 1
    (sms,) = desk.gateway.sent
    message = await desk.message(order)
    assert (sms.id, sms.to, sms.text) == (message.id, JANE, message.text)
    assert (message.status, message.attempts, message.provider_id) == (
        SmsStatus.SENT,
        1,
        "memory-1",
    )
    assert message.sent_at == message.handed_at == desk.clock.now()
    assert message.cost == Cost(currency="KES", units=8000)
    shown = await desk.orders.get(order.id, by=desk.viewer)
    assert (shown.sms.status, shown.sms.sent_at) == ("sent", message.sent_at)
    assert shown.version == order.version
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.SENT] == 1
    assert desk.counts.cost == {"KES": 8000}

    desk.clock.advance(MINUTE)
    await desk.notifications.record_report(report("memory-1", "delivered", at=desk.clock.now()))
    shown = await desk.orders.get(order.id, by=desk.viewer)
    assert (shown.sms.status, shown.sms.delivered_at) == ("delivered", desk.clock.now())
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.DELIVERED] == 1
    assert await desk.notifications.dispatch_due() == 0
    assert len(desk.gateway.sent) == 1


async def test_every_rule_is_on_record_once_the_message_was_judged(desk):
    order = await desk.order()
    assert {each.rule for each in (await desk.message(order)).rules if each.result == "later"} == {
        "phone_limit"
    }
    await desk.notifications.dispatch_due()
    assert {each.result for each in (await desk.message(order)).rules} == {"passed"}


async def test_the_relay_takes_as_many_as_it_is_told_oldest_first(desk):
    jane = await desk.customer()
    orders = []
    for _ in range(5):
        orders.append(await desk.order(jane))
        desk.clock.advance(SECOND)
    assert await desk.notifications.dispatch_due(most=2) == 2
    assert [sms.id for sms in desk.gateway.sent] == [o.sms.notification for o in orders[:2]]
    assert await desk.notifications.dispatch_due(most=9) == 3
    assert await desk.notifications.dispatch_due() == 0


async def test_no_more_than_the_allowed_number_of_texts_are_under_way_at_once(open_desk):
    desk = open_desk(gateway=Gate(), in_flight=2)
    for number in range(5):
        await desk.order(await desk.customer(phone_number=f"070000000{number}"))
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    while not sending.done():
        await turns(5)
        for to in [to for to, answers in desk.gateway.waiting.items() if answers]:
            desk.gateway.answer(to, Accepted(provider_id=to))
    assert desk.gateway.most_at_once == 2
    assert statuses(await desk.messages()) == ["sent"] * 5


async def test_the_backlog_tells_how_many_wait_and_since_when(desk):
    assert await desk.notifications.backlog() == (0, timedelta(0))
    jane = await desk.customer()
    await desk.order(jane)
    desk.clock.advance(MINUTE)
    await desk.order(jane)
    assert await desk.notifications.backlog() == (2, MINUTE)
    await desk.notifications.dispatch_due()
    assert await desk.notifications.backlog() == (0, timedelta(0))


async def test_a_backlog_that_is_due_later_has_no_age(desk):
    desk.gateway.answer(BUSY)
    await sent_order(desk)
    depth, age = await desk.notifications.backlog()
    assert (depth, age) == (1, timedelta(0))


# What is judged just before it is handed over


async def test_an_opt_out_between_queueing_and_sending_is_respected(desk):
    jane = await desk.customer()
    order = await desk.order(jane)
    await desk.customers.opt_out(JANE, source="gateway")
    await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.status, message.skip_reason) == (SmsStatus.SKIPPED, SkipReason.OPTED_OUT)
    assert desk.gateway.sent == []
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.SKIPPED] == 1


async def test_the_phone_valid_when_the_text_is_sent_gets_it(desk):
    jane = await desk.customer()
    order = await desk.order(jane)
    await desk.customers.update(jane.id, {"phone_number": JOHN}, by=desk.staff)
    await desk.notifications.dispatch_due()
    assert [sms.to for sms in desk.gateway.sent] == [JOHN]
    assert (await desk.message(order)).to.e164 == JOHN


async def test_a_text_that_waits_says_what_its_order_has_become(desk):
    desk.gateway.answer(NO_BALANCE)
    order = await desk.order(item="Kettle", amount="999.99")
    await desk.notifications.dispatch_due()
    before = await desk.message(order)
    changes = {"item": "Teapot “Lamu”", "amount": "10", "quantity": 2}
    await desk.orders.update(order.id, changes, by=desk.staff)
    desk.clock.advance(desk.policy.pause)
    await desk.notifications.dispatch_due()
    said = desk.gateway.sent[0].text
    assert '2 x Teapot "Lamu". Total KES 20.00.' in said
    assert "Kettle" not in said
    after = await desk.message(order)
    assert (after.id, after.text, after.due_at) == (before.id, said, before.due_at)


async def test_every_text_that_waits_says_what_its_order_has_become(desk):
    order = await desk.order(item="Kettle")
    desk.clock.advance(MINUTE)
    await desk.notifications.resend(order.id, by=desk.staff)
    await desk.orders.update(order.id, {"item": "Teapot"}, by=desk.staff)
    await desk.notifications.dispatch_due()
    assert ["Teapot" in sms.text for sms in desk.gateway.sent] == [True, True]


async def test_a_text_under_way_or_sent_stays_what_it_was(open_desk):
    desk = open_desk(gateway=Gate())
    order = await desk.order(item="Kettle")
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.orders.update(order.id, {"item": "Teapot"}, by=desk.staff)
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_1"))
    await sending
    await desk.orders.update(order.id, {"item": "Teapot for two"}, by=desk.staff)
    message = await desk.message(order)
    assert (message.status, "Kettle" in message.text) == (SmsStatus.SENT, True)


async def test_a_retry_says_what_its_order_became_during_the_attempt_before(open_desk):
    desk = open_desk(gateway=Gate())
    order = await desk.order(item="Kettle")
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.orders.update(order.id, {"item": "Teapot"}, by=desk.staff)
    desk.gateway.answer(JANE, BUSY)
    await sending
    desk.clock.advance(MINUTE)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_1"))
    await sending
    assert "Teapot" in desk.gateway.sent[-1].text


async def test_an_order_deleted_during_an_attempt_is_not_texted_about_again(open_desk):
    desk = open_desk(gateway=Gate())
    order = await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.orders.delete(order.id, by=desk.admin)
    desk.gateway.answer(JANE, BUSY)
    await sending
    assert (await desk.message(order)).status is SmsStatus.DEFERRED
    desk.clock.advance(MINUTE)
    await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.status, message.skip_reason) == (SmsStatus.SKIPPED, SkipReason.ORDER_DELETED)


async def test_an_erased_customer_gets_nothing_that_was_still_queued(desk):
    jane = await desk.customer()
    order = await desk.order(jane)
    message = await desk.message(order)
    await desk.keep(
        replace(jane, name=None, phone=None, notes=None, erased_at=desk.clock.now()),
        replace(message, text=None, to=None),
    )
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).skip_reason is SkipReason.CUSTOMER_ERASED
    assert desk.gateway.sent == []


async def test_a_phone_gets_no_more_than_its_limit_even_in_one_batch(open_desk):
    desk = open_desk(phone_limit=Rate(2, HOUR))
    jane = await desk.customer()
    for _ in range(3):
        await desk.order(jane)
    await desk.notifications.dispatch_due()
    messages = await desk.messages()
    assert statuses(messages) == ["sent", "sent", "deferred"]
    assert messages[2].defer_reason is DeferReason.PHONE_LIMIT
    assert messages[2].due_at == desk.clock.now() + HOUR
    assert await desk.notifications.next_due_at() == messages[2].due_at
    desk.clock.advance(HOUR)
    await desk.notifications.dispatch_due()
    assert statuses(await desk.messages()) == ["sent"] * 3


async def test_without_a_limit_a_phone_gets_everything(open_desk):
    desk = open_desk(phone_limit=None)
    jane = await desk.customer()
    for _ in range(30):
        await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert len(desk.gateway.sent) == 30


async def test_the_limit_of_one_phone_is_not_that_of_another(open_desk):
    desk = open_desk(phone_limit=Rate(1, HOUR))
    jane, john = await desk.customer(), await desk.customer(phone_number=JOHN)
    for buyer in (jane, john, jane, john):
        await desk.order(buyer)
    await desk.notifications.dispatch_due()
    assert statuses(await desk.messages()) == ["sent", "sent", "deferred", "deferred"]


@pytest.mark.parametrize(
    ("budget", "until"),
    [
        ({"budget_daily": 10_000}, datetime(2026, 11, 23, 21, tzinfo=UTC)),
        ({"budget_monthly": 10_000}, datetime(2026, 11, 30, 21, tzinfo=UTC)),
    ],
)
async def test_a_spent_budget_holds_texts_until_there_is_a_new_one(open_desk, budget, until):
    desk = open_desk(**budget)
    jane = await desk.customer()
    for _ in range(3):
        order = await desk.order(jane)
        await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert statuses(await desk.messages()) == ["sent", "sent", "deferred"]
    assert (message.defer_reason, message.due_at) == (DeferReason.BUDGET, until)
    desk.clock.set(until)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.SENT


@pytest.mark.parametrize("kind", ["budget_daily", "budget_monthly"])
async def test_one_batch_exceeds_a_budget_by_no_more_than_its_last_text(open_desk, kind):
    desk = open_desk(**{kind: 30_000})
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()  # now the price is known: 8,000
    for _ in range(10):
        await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert Counter(statuses(await desk.messages())) == {"sent": 4, "deferred": 7}


async def test_texts_under_way_count_for_a_budget(open_desk):
    desk = open_desk(gateway=Gate(), budget_daily=16_000)
    price = Cost(currency="KES", units=8_000)
    jane = await desk.customer()
    sent, under_way = await desk.order(jane), await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE, JANE)
    desk.gateway.answer(JANE, Accepted(provider_id="1", cost=price))
    while (await desk.message(sent)).status is not SmsStatus.SENT:
        await turns(1)
    late = await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert (await desk.message(late)).defer_reason is DeferReason.BUDGET
    desk.gateway.answer(JANE, Accepted(provider_id="2", cost=price))
    await sending
    assert (await desk.message(under_way)).status is SmsStatus.SENT


@pytest.mark.parametrize("word", [None, "sent", "delivered", "failed"])
async def test_a_text_whose_answer_was_lost_counts_for_a_budget_whatever_is_reported(
    open_desk, word
):
    desk = open_desk(budget_daily=16_000)
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    desk.gateway.answer(TIMEOUT)
    lost = await desk.order(jane)
    await desk.notifications.dispatch_due()
    if word is not None:
        at = desk.clock.now()
        await desk.notifications.record_report(report("ATXid_9", word, at=at))
    assert (await desk.message(lost)).cost is None
    late = await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert (await desk.message(late)).defer_reason is DeferReason.BUDGET


async def test_a_text_that_surely_did_not_leave_costs_nothing(open_desk):
    desk = open_desk(budget_daily=16_000)
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    desk.gateway.answer(RefusedSms(kind=RefusalKind.NUMBER, code="403"))
    for _ in range(2):
        order = await desk.order(jane)
        await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.SENT


async def test_a_text_that_a_budget_put_off_does_not_ring_at_midnight(open_desk):
    desk = open_desk(budget_daily=1, quiet_hours=QuietHours(time(21), time(7)))
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    order = await desk.order(jane)
    await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.event, message.defer_reason) == (SmsEvent.ORDER_CREATED, DeferReason.BUDGET)
    assert message.due_at == datetime(2026, 11, 24, 4, tzinfo=UTC)  # seven in Nairobi
    desk.clock.set(message.due_at)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.SENT


async def test_a_day_whose_first_hour_comes_twice_has_one_budget(open_desk):
    havana = ZoneInfo("America/Havana")  # back from 01:00 to 00:00 at 05:00 UTC
    desk = open_desk(now=datetime(2026, 11, 1, 4, 30, tzinfo=UTC), budget_daily=1, zone=havana)
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    desk.clock.advance(HOUR)
    order = await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).defer_reason is DeferReason.BUDGET


async def test_a_spent_budget_may_skip_texts_instead(open_desk):
    desk = open_desk(budget_daily=0, budget_action=BudgetAction.SKIP)
    order = await desk.order()
    assert order.sms.status == "queued"  # judged when it is due
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).skip_reason is SkipReason.BUDGET


async def test_costs_in_another_currency_do_not_spend_the_budget(open_desk):
    desk = open_desk(budget_daily=1, gateway=MemoryGateway(cost=Cost(currency="UGX", units=9)))
    jane = await desk.customer()
    for _ in range(3):
        await desk.order(jane)
        await desk.notifications.dispatch_due()
    assert statuses(await desk.messages()) == ["sent"] * 3


# What a gateway answers


async def test_a_number_that_cannot_work_fails_and_is_not_tried_again(desk):
    desk.gateway.answer(RefusedSms(kind=RefusalKind.NUMBER, code="403"))
    _, message = await sent_order(desk)
    assert (message.status, message.outcome_code) == (SmsStatus.FAILED, "403")
    desk.clock.advance(DAY)
    assert await desk.notifications.dispatch_due() == 0


async def test_a_subscriber_who_blocked_us_is_remembered_and_left_alone(desk):
    desk.gateway.answer(RefusedSms(kind=RefusalKind.BLOCKED, code="406"))
    jane = await desk.customer()
    order = await desk.order(jane)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.FAILED
    after = await desk.customers.get(jane.id, by=desk.viewer)
    assert (after.reachability, after.version) == (Reachability.BLOCKED, jane.version)
    again = await desk.order(jane)
    assert (await desk.message(again)).skip_reason is SkipReason.BLOCKED_BY_NETWORK


async def test_temporary_trouble_is_retried_with_growing_waits_until_the_message_is_dead(desk):
    desk.gateway.always_answer(BUSY)
    order = await desk.order()
    began, waits = desk.clock.now(), []
    while (due := await desk.notifications.next_due_at()) is not None:
        waits.append(due - desk.clock.now())
        desk.clock.set(due)
        await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.status, message.attempts, message.outcome_code) == (SmsStatus.DEAD, 6, "500")
    assert len(desk.gateway.refused) == 6
    assert waits[1:] == sorted(waits[1:])
    assert 80 * MINUTE < desk.clock.now() - began < 130 * MINUTE
    assert await desk.notifications.dead(by=desk.viewer) == [message.id]


async def test_temporary_trouble_that_passes_ends_in_one_text(desk):
    desk.gateway.answer(BUSY, BUSY)
    order = await desk.order()
    for _ in range(3):
        desk.clock.set(await desk.notifications.next_due_at())
        await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.status, message.attempts, message.outcome_code) == (SmsStatus.SENT, 3, None)
    assert len(desk.gateway.sent) == 1


async def test_texts_of_the_nigerian_night_wait_for_the_morning(open_desk):
    desk = open_desk(now=datetime(2026, 11, 23, 22, tzinfo=UTC))
    desk.gateway.answer(RefusedSms(kind=RefusalKind.NIGHT, code="409"))
    order, message = await sent_order(desk)
    assert (message.due_at, message.attempts) == (datetime(2026, 11, 24, 7, tzinfo=UTC), 0)
    desk.clock.set(message.due_at)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.SENT


async def test_a_timeout_is_never_followed_by_a_blind_second_send(desk):
    desk.gateway.answer(TIMEOUT)
    order, message = await sent_order(desk)
    assert (message.status, message.outcome_code) == (SmsStatus.UNKNOWN, "read_timeout")
    for _ in range(50):
        desk.clock.advance(HOUR)
        await desk.notifications.sweep()
        assert await desk.notifications.dispatch_due() == 0
    assert await desk.message(order) == message
    assert len(desk.gateway.sent) == 1


async def test_an_adapter_that_raises_may_have_sent_the_text(open_desk, caplog):
    desk = open_desk(gateway=Broken())
    _, message = await sent_order(desk)
    assert (message.status, message.outcome_code) == (SmsStatus.UNKNOWN, "adapter_error")
    assert "the gateway adapter failed" in caplog.messages


@pytest.mark.parametrize("answer", [None, True, "ok", SmsStatus.SENT])
async def test_an_answer_that_is_no_outcome_may_have_sent_its_text_and_harms_no_other(
    desk, caplog, answer
):
    desk.gateway.answer(answer, to="+254700000001")
    odd = await desk.order(await desk.customer(phone_number="0700000001"))
    fine = await desk.order(await desk.customer(phone_number="0700000002"))
    await desk.notifications.dispatch_due()
    message = await desk.message(odd)
    assert (message.status, message.outcome_code) == (SmsStatus.UNKNOWN, "adapter_error")
    assert (await desk.message(fine)).status is SmsStatus.SENT
    assert f"send() must give an Outcome, not {type(answer).__name__}" in caplog.text


# Trouble with the account or the sender


async def test_an_hour_without_balance_loses_nothing_and_spends_no_attempt(desk):
    desk.gateway.always_answer(NO_BALANCE)
    for number in range(5):
        await desk.order(await desk.customer(phone_number=f"070000000{number}"))
    await desk.notifications.dispatch_due()
    assert len(desk.gateway.refused) == 5
    messages = await desk.messages()
    assert {message.defer_reason for message in messages} == {DeferReason.PAUSED}

    probes = 0
    end = desk.clock.now() + HOUR
    while (due := await desk.notifications.next_due_at()) < end:
        assert due == desk.clock.now() + desk.policy.pause
        desk.clock.set(due)
        while await desk.notifications.dispatch_due():
            pass
        probes += 1
        assert len(desk.gateway.refused) == 5 + probes  # one text each time feels the way
        assert {message.attempts for message in await desk.messages()} == {0}
    assert probes == 11

    desk.gateway.always_answer(None)
    desk.clock.set(end)
    wakes = desk.queue.wakes
    assert await desk.notifications.dispatch_due() == 1
    assert desk.queue.wakes == wakes + 1  # the rest may go now
    assert await desk.notifications.dispatch_due() == 4
    messages = await desk.messages()
    assert statuses(messages) == ["sent"] * 5
    assert {message.attempts for message in messages} == {1}
    assert len({sms.id for sms in desk.gateway.sent}) == 5


async def test_each_probe_of_a_bad_sender_spends_an_attempt(open_desk):
    desk = open_desk(max_attempts=3)
    desk.gateway.always_answer(BAD_SENDER)
    order = await desk.order()
    for _ in range(3):
        desk.clock.set(await desk.notifications.next_due_at())
        await desk.notifications.dispatch_due()
    message = await desk.message(order)
    assert (message.status, message.attempts) == (SmsStatus.DEAD, 3)


async def test_while_the_gateway_is_paused_nothing_goes_out(desk):
    desk.gateway.answer(NO_BALANCE)
    first, _ = await sent_order(desk)
    second = await desk.order(await desk.customer(name="John"))
    assert await desk.notifications.dispatch_due() == 0
    # Somebody else's queue had carried it already.
    await desk.notifications.send([second.sms.notification, first.sms.notification])
    assert desk.gateway.sent == []
    assert (await desk.message(second)).status is SmsStatus.QUEUED
    desk.clock.advance(desk.policy.pause)
    assert await desk.notifications.dispatch_due() == 1
    assert await desk.notifications.dispatch_due() == 1
    assert len(desk.gateway.sent) == 2


async def test_only_one_probe_is_under_way_after_a_pause(open_desk):
    desk = open_desk(gateway=Gate())
    jane, john = await desk.customer(), await desk.customer(phone_number=JOHN)
    first = await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, NO_BALANCE)
    await sending
    second = await desk.order(john)
    desk.clock.advance(desk.policy.pause)
    ids = [first.sms.notification, second.sms.notification]
    probing = asyncio.create_task(desk.notifications.send(ids))
    await desk.gateway.reached_by(JANE)
    await desk.notifications.send(ids)  # another worker, at the same time
    assert await desk.notifications.dispatch_due() == 0
    assert not desk.gateway.waiting.get(JOHN)
    desk.gateway.answer(JANE, Accepted(provider_id="x"))
    await probing
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JOHN)
    desk.gateway.answer(JOHN, Accepted(provider_id="y"))
    await sending
    assert statuses(await desk.messages()) == ["sent", "sent"]


async def test_a_probe_that_is_not_sent_after_all_leaves_the_way_free_for_the_next(desk):
    desk.gateway.answer(NO_BALANCE)
    await sent_order(desk)
    john = await desk.customer(phone_number=JOHN)
    await desk.order(john)
    desk.clock.advance(desk.policy.pause)
    await desk.customers.opt_out(JANE, source="gateway")
    await desk.customers.opt_out(JOHN, source="gateway")
    await desk.order(await desk.customer(phone_number="0722222222"))
    for _ in range(3):
        assert await desk.notifications.dispatch_due() == 1
    assert statuses(await desk.messages()) == ["skipped", "skipped", "sent"]


async def test_a_text_that_was_on_its_way_when_the_trouble_began_does_not_end_the_pause(open_desk):
    desk = open_desk(gateway=Gate())
    await desk.order(await desk.customer())
    await desk.order(await desk.customer(phone_number=JOHN))
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE, JOHN)
    desk.clock.advance(SECOND)
    desk.gateway.answer(JANE, NO_BALANCE)
    await turns()
    desk.gateway.answer(JOHN, Accepted(provider_id="x"))
    await sending
    assert sorted(statuses(await desk.messages())) == ["deferred", "sent"]
    assert await desk.notifications.next_due_at() == desk.clock.now() + desk.policy.pause
    await desk.order(await desk.customer(phone_number=JOHN))
    assert await desk.notifications.dispatch_due() == 0


async def test_the_relay_looks_again_when_something_is_due_and_the_pause_is_over(desk):
    assert await desk.notifications.next_due_at() is None
    order = await desk.order()
    assert await desk.notifications.next_due_at() == order.created_at
    desk.gateway.answer(NO_BALANCE)
    await desk.notifications.dispatch_due()
    over = desk.clock.now() + desk.policy.pause
    await desk.order(await desk.customer(phone_number=JOHN))
    assert await desk.notifications.next_due_at() == over
    desk.clock.set(over + HOUR)  # nobody looked for an hour
    assert await desk.notifications.next_due_at() == over


# Crashes


async def test_a_message_the_queue_lost_comes_back_when_its_lease_ends(desk):
    desk.queue.loses = True
    order = await desk.order()
    assert await desk.notifications.dispatch_due() == 1
    assert await desk.notifications.dispatch_due() == 0
    desk.queue.loses = False
    desk.clock.advance(29 * SECOND)
    assert await desk.notifications.dispatch_due() == 0
    desk.clock.advance(SECOND)
    assert await desk.notifications.dispatch_due() == 1
    assert (await desk.message(order)).status is SmsStatus.SENT
    assert len(desk.gateway.sent) == 1


async def test_messages_that_the_queue_cannot_take_now_are_due_at_once_and_not_after_a_lease(
    desk, refusal
):
    desk.queue.away = True
    order = await desk.order()
    await refusal(Unavailable, desk.notifications.dispatch_due())
    assert await desk.notifications.next_due_at() == order.created_at
    desk.queue.away = False
    assert await desk.notifications.dispatch_due() == 1
    assert len(desk.gateway.sent) == 1


async def crashed(desk):
    """An order whose message was being sent when the process died."""
    order = await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    await turns()
    desk.gateway.waiting.clear()
    return order


async def test_an_attempt_that_died_with_its_process_is_unknown_and_never_blindly_repeated(
    open_desk,
):
    desk = open_desk(gateway=Gate())
    order = await crashed(desk)
    assert desk.gateway.at_once == 0  # what was under way is given up with the process
    assert (await desk.message(order)).status is SmsStatus.SENDING
    desk.clock.advance(MINUTE)
    assert (await desk.notifications.sweep()).stuck == 0  # it may still answer
    desk.clock.advance(SECOND)
    swept = await desk.notifications.sweep()
    assert (swept.stuck, swept.retried, swept.expired_keys) == (1, 0, 0)
    message = await desk.message(order)
    assert (message.status, message.outcome_code) == (SmsStatus.UNKNOWN, "interrupted")
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.UNKNOWN] == 1
    for _ in range(5):
        desk.clock.advance(DAY)
        assert (await desk.notifications.sweep()).stuck == 0
        assert await desk.notifications.dispatch_due() == 0
    assert await desk.message(order) == message


async def test_unknown_messages_are_sent_again_where_the_business_prefers_twice_to_never(
    open_desk,
):
    desk = open_desk(resend_unknown=True, max_attempts=3)
    desk.gateway.always_answer(TIMEOUT)
    order = await desk.order()
    await desk.notifications.dispatch_due()
    for attempt in (1, 2, 3):
        message = await desk.message(order)
        assert (message.status, message.attempts) == (SmsStatus.UNKNOWN, attempt)
        desk.clock.advance(desk.policy.unknown_wait)
        assert (await desk.notifications.sweep()).retried == 0  # a report may still come
        desk.clock.advance(SECOND)
        wakes = desk.queue.wakes
        assert (await desk.notifications.sweep()).retried == 1
        assert desk.queue.wakes == wakes + 1
        await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.DEAD
    assert len(desk.gateway.sent) == 3


async def test_an_answer_that_comes_after_the_sweep_still_counts(open_desk):
    desk = open_desk(gateway=Gate())
    order = await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.clock.advance(2 * MINUTE)
    assert (await desk.notifications.sweep()).stuck == 1
    desk.gateway.answer(JANE, Accepted(provider_id="late"))
    await sending
    message = await desk.message(order)
    assert (message.status, message.provider_id) == (SmsStatus.SENT, "late")


async def test_the_answer_to_an_attempt_that_was_given_up_changes_nothing(open_desk):
    desk = open_desk(gateway=Gate(), resend_unknown=True)
    order = await desk.order()
    first = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.clock.advance(DAY)
    await desk.notifications.sweep()
    await desk.notifications.sweep()
    second = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE, JANE)
    to_first, to_second = desk.gateway.waiting[JANE]
    to_first.set_result(RefusedSms(kind=RefusalKind.NUMBER, code="403"))
    await first
    assert (await desk.message(order)).status is SmsStatus.SENDING
    to_second.set_result(Accepted(provider_id="second"))
    await second
    message = await desk.message(order)
    assert (message.status, message.attempts) == (SmsStatus.SENT, 2)


async def test_outcomes_that_cannot_be_kept_do_not_stop_the_others(open_desk, rigged, caplog):
    desk = open_desk(gateway=Gate(), storage=rigged)
    numbers = [f"+25470000000{number}" for number in range(3)]
    for number in numbers:
        await desk.order(await desk.customer(phone_number=number))
    rigged.fail(3)  # the lease, the start, and then the first outcome
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(*numbers)
    for number in numbers:
        desk.gateway.answer(number, Accepted(provider_id=number))
        await turns()
    await sending
    assert statuses(await desk.messages()) == ["sending", "sent", "sent"]
    assert "outcomes were not kept" in caplog.messages
    desk.clock.advance(2 * MINUTE)
    assert (await desk.notifications.sweep()).stuck == 1
    # The report of the one whose outcome was lost still finds it.
    await desk.notifications.record_report(
        report(numbers[0], "delivered", phone=numbers[0], at=desk.clock.now())
    )
    assert statuses(await desk.messages()) == ["delivered", "sent", "sent"]


async def test_an_outcome_is_kept_as_soon_as_storage_is_back(open_desk, rigged, caplog):
    desk = open_desk(storage=rigged, keep_again_after=[timedelta(0)] * 2)
    order = await desk.order()
    rigged.fail(3, 4)  # the lease, the start, and then the outcome, twice
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.SENT
    assert "outcomes were not kept" not in caplog.messages
    assert len(desk.gateway.sent) == 1


async def under_way(desk, gate):
    """Three texts on their way, each sent by itself: the tasks, by the number they go to."""
    numbers = ["+254700000001", "+254700000002", "+254700000003"]
    desk.queue.loses = True
    for number in numbers:
        await desk.order(await desk.customer(phone_number=number))
    await desk.notifications.dispatch_due()
    tasks = {
        message.to.e164: asyncio.create_task(desk.notifications.send([message.id]))
        for message in await desk.messages()
    }
    await gate.reached_by(*numbers)
    return tasks


async def test_outcomes_that_come_shortly_after_each_other_are_kept_together(open_desk, rigged):
    gate = Gate()
    desk = open_desk(gateway=gate, storage=rigged, gather=timedelta(milliseconds=50))
    tasks = await under_way(desk, gate)
    rigged.fail()  # counts commits from here
    for number in tasks:
        gate.answer(number, Accepted(provider_id=number))
        await turns()
    await asyncio.gather(*tasks.values())
    assert rigged.commits == 1
    assert statuses(await desk.messages()) == ["sent"] * 3


async def test_outcomes_are_kept_though_the_one_who_kept_them_for_all_is_cut_off(open_desk, rigged):
    gate = Gate()
    desk = open_desk(
        gateway=gate,
        storage=rigged,
        gather=timedelta(milliseconds=50),
        keep_again_after=[timedelta(minutes=1)],
    )
    first, second, third = (await under_way(desk, gate)).items()
    rigged.fail(1)
    for number, _ in (first, second):
        gate.answer(number, Accepted(provider_id=number))
        await turns()
    while not rigged.commits:  # noqa: ASYNC110  refused; it waits for storage now
        await asyncio.sleep(0.001)
    first[1].cancel()
    await second[1]
    assert statuses(await desk.messages()) == ["sent", "sent", "sending"]
    gate.answer(third[0], Accepted(provider_id=third[0]))
    await third[1]
    assert statuses(await desk.messages()) == ["sent"] * 3


async def test_a_start_that_cannot_be_kept_sends_nothing(open_desk, rigged, refusal):
    desk = open_desk(storage=rigged)
    order = await desk.order()
    rigged.fail(2)
    await refusal(Unavailable, desk.notifications.dispatch_due())
    assert desk.gateway.sent == []
    assert (await desk.message(order)).status is SmsStatus.QUEUED
    desk.clock.advance(MINUTE)
    await desk.notifications.dispatch_due()
    assert len(desk.gateway.sent) == 1


@pytest.mark.parametrize("together", [True, False])
async def test_the_same_message_given_twice_is_handed_over_once(open_desk, together):
    desk = open_desk(gateway=Gate())
    order = await desk.order()
    id_ = order.sms.notification
    ids = [[id_, id_]] if together else [[id_], [id_]]
    sending = asyncio.gather(*(desk.notifications.send(each) for each in ids))
    await desk.gateway.reached_by(JANE)
    await turns()
    assert len(desk.gateway.waiting[JANE]) == 1
    desk.gateway.answer(JANE, Accepted(provider_id="x"))
    await sending
    assert len(desk.gateway.sent) == 1
    await desk.notifications.send([id_, uuid4()])
    assert len(desk.gateway.sent) == 1


async def test_an_id_that_comes_again_does_not_shorten_the_wait_before_a_retry(desk):
    desk.gateway.answer(BUSY)
    order, message = await sent_order(desk)
    await desk.notifications.send([message.id])  # a queue may double what it carries
    assert await desk.message(order) == message
    desk.clock.advance(message.due_at - desk.clock.now())
    assert await desk.notifications.dispatch_due() == 1
    assert statuses(await desk.messages()) == ["sent"]


async def test_a_message_that_is_due_by_a_clock_slightly_ahead_is_sent(desk):
    order = await desk.order()
    message = await desk.message(order)
    desk.clock.advance(-SECOND / 2)
    await desk.notifications.send([message.id])
    assert statuses(await desk.messages()) == ["sent"]


async def test_a_message_leased_before_the_clock_went_back_is_not_held_by_its_lease(desk):
    order = await desk.order()
    message = await desk.message(order)
    async with desk.storage() as uow:
        now = desk.clock.now()
        await uow.notifications.lease_due(now=now, until=now + HOUR, most=1)
        await uow.commit()
    desk.clock.advance(-MINUTE)
    await desk.notifications.send([message.id])
    assert statuses(await desk.messages()) == ["queued"]
    desk.clock.advance(MINUTE)
    assert await desk.notifications.dispatch_due() == 1


async def cut_off(desk):
    """Stop where one request is under way and the other texts wait for their turn."""
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await turns()
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending


async def test_texts_whose_requests_had_not_begun_when_the_process_stops_are_due_at_once(open_desk):
    desk = open_desk(gateway=Gate(), in_flight=1)
    for _ in range(3):
        await desk.order()
    await cut_off(desk)
    assert statuses(await desk.messages()) == ["sending", "queued", "queued"]
    assert [message.attempts for message in await desk.messages()] == [1, 0, 0]
    assert len(desk.gateway.waiting[JANE]) == 1
    desk.gateway.waiting.clear()
    again = asyncio.create_task(desk.notifications.dispatch_due())
    for number in (2, 3):
        await desk.gateway.reached_by(JANE)
        desk.gateway.answer(JANE, Accepted(provider_id=f"ATXid_{number}"))
        await turns()
    assert await again == 2
    assert statuses(await desk.messages()) == ["sending", "sent", "sent"]


async def test_what_cannot_be_taken_back_when_the_process_stops_is_left_to_the_sweep(
    open_desk, rigged, caplog
):
    desk = open_desk(gateway=Gate(), in_flight=1, storage=rigged)
    for _ in range(2):
        await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await turns()
    rigged.fail(1)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    assert sending.cancelled()
    assert statuses(await desk.messages()) == ["sending", "sending"]
    assert "texts that had not begun were not taken back" in caplog.messages


async def test_expired_answers_are_forgotten_by_the_sweep(desk, once):
    await desk.customer(once=once())
    desk.clock.advance(DAY - SECOND)
    assert (await desk.notifications.sweep()).expired_keys == 0
    desk.clock.advance(SECOND)
    assert (await desk.notifications.sweep()).expired_keys == 1


async def test_a_sweep_takes_so_many_expired_answers_and_tells_that_there_are_more(desk, once):
    for number in range(5):
        await desk.customer(once=once(f"key-{number}"))
    desk.clock.advance(DAY)
    swept = [await desk.notifications.sweep(most=2) for _ in range(4)]
    assert [(each.expired_keys, each.more) for each in swept] == [
        (2, True),
        (2, True),
        (1, False),
        (0, False),
    ]


# Reports


async def kept(desk):
    return {row.report.provider_id for row in await desk._rows("reports")}


async def test_reports_are_kept_for_thirty_days_matched_or_not(desk):
    now = desk.clock.now()
    order, _ = await sent_order(desk)
    await desk.notifications.record_report(report("memory-1", "delivered", at=now))
    await desk.notifications.record_report(report("ATXid_9", "failed", at=now))
    await desk.notifications.record_report(report("ATXid_8", "failed", at=now + SECOND))
    message = await desk.message(order)
    desk.clock.advance(30 * DAY - SECOND)
    assert (await desk.notifications.sweep()).old_reports == 0
    desk.clock.advance(SECOND)
    assert (await desk.notifications.sweep()).old_reports == 2
    assert await kept(desk) == {"ATXid_8"}
    assert await desk.message(order) == message


async def test_what_was_reported_stands_when_the_report_is_gone_and_comes_again(desk):
    order, _ = await sent_order(desk)
    await desk.notifications.record_report(report("memory-1", "delivered"))
    message = await desk.message(order)
    assert message.status is SmsStatus.DELIVERED
    desk.clock.advance(31 * DAY)
    assert (await desk.notifications.sweep()).old_reports == 1
    for word in ("sent", "delivered", "failed"):
        again = report("memory-1", word, at=desk.clock.now(), failure_reason="UserInBlackList")
        await desk.notifications.record_report(again)
    assert await desk.message(order) == message
    buyer = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert buyer.reachability is Reachability.REACHABLE


async def test_many_old_reports_go_in_batches(desk):
    for number in range(5):
        await desk.notifications.record_report(report(f"ATXid_{number}", "sent"))
    desk.clock.advance(31 * DAY)
    swept = [await desk.notifications.sweep(most=2) for _ in range(4)]
    assert [(each.old_reports, each.more) for each in swept] == [
        (2, True),
        (2, True),
        (1, False),
        (0, False),
    ]
    assert await kept(desk) == set()


def test_a_report_cannot_be_given_up_while_it_may_wait_for_its_message(desk):
    world = dict.fromkeys(("storage", "gateway", "jobs", "clock", "randomness", "metrics"))
    business = Business(policy=desk.policy)
    Notifications(**world, business=business, report_retention=DAY)
    with pytest.raises(ValueError, match="a day or longer"):
        Notifications(**world, business=business, report_retention=DAY - SECOND)


async def test_repeated_and_belated_reports_change_nothing(desk):
    order, _ = await sent_order(desk)
    for word in ("sent", "delivered", "delivered", "sent", "failed"):
        await desk.notifications.record_report(report("memory-1", word))
    assert (await desk.message(order)).status is SmsStatus.DELIVERED
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.DELIVERED] == 1
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.FAILED] == 0


async def test_a_failure_may_be_corrected_by_a_later_delivery(desk):
    order, _ = await sent_order(desk)
    await desk.notifications.record_report(
        report("memory-1", "failed", failure_reason="AbsentSubscriber")
    )
    message = await desk.message(order)
    assert (message.status, message.outcome_code) == (SmsStatus.FAILED, "AbsentSubscriber")
    await desk.notifications.record_report(report("memory-1", "delivered"))
    assert (await desk.message(order)).status is SmsStatus.DELIVERED


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("delivered",), SmsStatus.DELIVERED),
        (("sent", "delivered", "sent"), SmsStatus.DELIVERED),
        (("failed",), SmsStatus.FAILED),
        (("Expiring",), SmsStatus.SENT),
    ],
)
async def test_a_report_that_comes_before_the_answer_is_not_lost(open_desk, words, status):
    gateway = Eager(*words)
    desk = gateway.desk = open_desk(gateway=gateway)
    order, message = await sent_order(desk)
    assert message.status is status
    buyer = await desk.customers.get(order.customer_id, by=desk.viewer)
    reached = status is SmsStatus.DELIVERED
    assert desk.counts.cost == {"KES": 8000}
    assert buyer.reachability is (Reachability.REACHABLE if reached else Reachability.UNKNOWN)
    await desk.notifications.record_report(report("memory-1", words[0]))
    assert await desk.message(order) == message


@pytest.mark.parametrize(
    ("word", "status"), [("delivered", SmsStatus.DELIVERED), ("sent", SmsStatus.SENT)]
)
async def test_a_report_committed_in_the_instant_of_the_answer_is_found_by_the_sweep(
    desk, word, status
):
    order, message = await sent_order(desk)
    async with desk.storage() as uow:  # it had looked for the id before that was known
        await uow.notifications.keep_report(report(message.provider_id, word), matched=False)
        await uow.commit()
    await desk.notifications.sweep()
    assert (await desk.message(order)).status is status
    await desk.notifications.sweep()
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus.SENT] == 1


async def test_a_report_with_an_unknown_word_is_kept_and_changes_nothing(desk, caplog):
    order, message = await sent_order(desk)
    await desk.notifications.record_report(report("memory-1", "Teleported"))
    assert await desk.message(order) == message
    assert "a delivery report with an unknown word" in caplog.messages


@pytest.mark.parametrize("word", ["sent", "delivered", "failed"])
async def test_a_report_with_an_unknown_id_settles_the_one_unknown_message_to_that_phone(
    desk, word
):
    desk.gateway.answer(TIMEOUT)
    order, _ = await sent_order(desk)
    await desk.notifications.record_report(report("ATXid_9", "Teleported"))
    await desk.notifications.record_report(report("ATXid_9", word, phone=JOHN))
    assert (await desk.message(order)).status is SmsStatus.UNKNOWN
    await desk.notifications.record_report(report("ATXid_8", word))
    message = await desk.message(order)
    assert (message.status, message.provider_id) == (SmsStatus(word), "ATXid_8")


async def test_a_report_that_could_mean_two_messages_is_kept_for_later(desk):
    desk.gateway.answer(TIMEOUT, TIMEOUT)
    jane = await desk.customer()
    await desk.order(jane)
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    await desk.notifications.record_report(report("ATXid_9", "delivered"))
    assert statuses(await desk.messages()) == ["unknown", "unknown"]


async def test_a_report_that_may_belong_to_a_text_under_way_does_not_settle_an_unknown_one(
    open_desk,
):
    desk = open_desk(gateway=Gate())
    jane = await desk.customer()
    lost = await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    following = await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.notifications.record_report(report("ATXid_2", "delivered"))
    assert (await desk.message(lost)).status is SmsStatus.UNKNOWN
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_2"))
    await sending
    assert (await desk.message(following)).status is SmsStatus.DELIVERED
    assert (await desk.message(lost)).status is SmsStatus.UNKNOWN


@pytest.mark.parametrize("word", ["sent", "delivered", "failed"])
async def test_a_report_that_comes_before_the_answer_is_lost_settles_the_message(open_desk, word):
    desk = open_desk(gateway=Gate())
    order = await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.notifications.record_report(report("ATXid_9", word, at=desk.clock.now()))
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    await desk.notifications.sweep()
    message = await desk.message(order)
    assert (message.status, message.provider_id) == (SmsStatus(word), "ATXid_9")
    assert desk.counts.texts[SmsEvent.ORDER_CREATED, SmsStatus(word)] == 1


async def test_reports_about_an_attempt_that_died_with_its_process_settle_it(open_desk):
    desk = open_desk(gateway=Gate(), resend_unknown=True, unknown_wait=MINUTE)
    order = await crashed(desk)
    for word in ("sent", "delivered"):
        await desk.notifications.record_report(report("ATXid_9", word, at=desk.clock.now()))
    desk.clock.advance(2 * MINUTE)
    await desk.notifications.sweep()
    desk.clock.advance(DAY / 2)
    assert (await desk.notifications.sweep()).retried == 0  # it has arrived
    message = await desk.message(order)
    assert (message.status, message.provider_id) == (SmsStatus.DELIVERED, "ATXid_9")
    buyer = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert buyer.reachability is Reachability.REACHABLE


async def test_a_kept_report_settles_neither_of_two_messages_nor_one_that_came_after_it(open_desk):
    desk = open_desk(gateway=Gate())
    jane = await desk.customer()
    await desk.notifications.record_report(report("ATXid_7", "delivered", at=desk.clock.now()))
    desk.clock.advance(SECOND)
    first = await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    await desk.notifications.sweep()
    assert (await desk.message(first)).status is SmsStatus.UNKNOWN
    await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.notifications.record_report(report("ATXid_8", "delivered", at=desk.clock.now()))
    await desk.notifications.sweep()
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    await desk.notifications.sweep()
    assert statuses(await desk.messages()) == ["unknown", "unknown"]


async def test_a_kept_report_settles_an_unknown_message_once_the_other_text_is_settled(open_desk):
    desk = open_desk(gateway=Gate())
    jane = await desk.customer()
    lost = await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    await desk.order(jane)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.notifications.record_report(report("ATXid_1", "delivered", at=desk.clock.now()))
    await desk.notifications.sweep()
    assert (await desk.message(lost)).status is SmsStatus.UNKNOWN  # it may be the other one's
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_2"))
    await sending
    await desk.notifications.sweep()
    assert (await desk.message(lost)).status is SmsStatus.DELIVERED


async def test_a_failure_that_is_told_after_the_delivery_teaches_nothing(desk):
    order, _ = await sent_order(desk)
    await desk.notifications.record_report(report("memory-1", "delivered"))
    await desk.notifications.record_report(
        report("memory-1", "failed", failure_reason="UserInBlackList")
    )
    buyer = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert buyer.reachability is Reachability.REACHABLE


async def test_a_failure_that_came_with_the_delivery_before_the_answer_teaches_nothing(open_desk):
    desk = open_desk(gateway=Gate())
    order = await desk.order()
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    blocked = {"failure_reason": "UserInBlackList"}
    for second, (word, fields) in enumerate((("delivered", {}), ("failed", blocked))):
        at = desk.clock.now() + second * SECOND
        await desk.notifications.record_report(report("ATXid_9", word, at=at, **fields))
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_9"))
    await sending
    buyer = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert buyer.reachability is Reachability.REACHABLE


async def test_a_report_that_may_be_about_a_text_to_somebody_else_at_that_phone_is_kept(open_desk):
    desk = open_desk(gateway=Gate())
    lost = await desk.order(await desk.customer())
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    desk.gateway.answer(JANE, TIMEOUT)
    await sending
    following = await desk.order(await desk.customer(name="John Smith"))
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE)
    await desk.notifications.record_report(report("ATXid_2", "delivered", at=desk.clock.now()))
    await desk.notifications.sweep()
    assert (await desk.message(lost)).status is SmsStatus.UNKNOWN
    desk.gateway.answer(JANE, Accepted(provider_id="ATXid_2"))
    await sending
    await desk.notifications.sweep()
    assert (await desk.message(following)).status is SmsStatus.DELIVERED
    assert (await desk.message(lost)).status is SmsStatus.UNKNOWN


async def test_a_report_does_not_settle_what_was_sent_more_than_a_day_before(desk):
    desk.gateway.answer(TIMEOUT)
    order, _ = await sent_order(desk)
    late = desk.clock.now() + DAY
    await desk.notifications.record_report(report("ATXid_9", "delivered", at=late))
    assert (await desk.message(order)).status is SmsStatus.UNKNOWN
    await desk.notifications.record_report(report("ATXid_8", "delivered", at=late - SECOND))
    assert (await desk.message(order)).status is SmsStatus.DELIVERED


@pytest.mark.parametrize(
    ("word", "reason", "learnt"),
    [
        ("delivered", None, Reachability.REACHABLE),
        ("failed", "AbsentSubscriber", Reachability.UNREACHABLE),
        ("failed", "UserInBlackList", Reachability.BLOCKED),
        ("failed", "DeliveryFailure", Reachability.UNKNOWN),
    ],
)
async def test_reports_teach_whether_a_phone_can_be_reached(desk, word, reason, learnt):
    order, _ = await sent_order(desk)
    before = await desk.customers.get(order.customer_id, by=desk.viewer)
    await desk.notifications.record_report(report("memory-1", word, failure_reason=reason))
    after = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert (after.reachability, after.version) == (learnt, before.version)


async def test_a_repeated_report_does_not_unlearn_what_came_after_it(desk):
    jane = await desk.customer()
    absent = report("memory-1", "failed", failure_reason="AbsentSubscriber")
    for heard in (absent, report("memory-2", "delivered"), absent):
        await desk.order(jane)
        await desk.notifications.dispatch_due()
        await desk.notifications.record_report(heard)
    after = await desk.customers.get(jane.id, by=desk.viewer)
    assert after.reachability is Reachability.REACHABLE


async def test_a_report_about_an_old_phone_teaches_nothing_about_the_new_one(desk):
    order, _ = await sent_order(desk)
    await desk.customers.update(order.customer_id, {"phone_number": JOHN}, by=desk.staff)
    await desk.notifications.record_report(
        report("memory-1", "failed", failure_reason="UserInBlackList")
    )
    assert (await desk.message(order)).status is SmsStatus.FAILED
    after = await desk.customers.get(order.customer_id, by=desk.viewer)
    assert after.reachability is Reachability.UNKNOWN


# Sending again


async def test_a_text_is_sent_again_because_a_person_asks(desk):
    order, first = await sent_order(desk)
    desk.clock.advance(HOUR)
    by = replace(desk.staff, request_id="req-2")
    again = await desk.notifications.resend(order.id, by=by)
    assert (again.status, again.event, again.resend_of) == (
        SmsStatus.QUEUED,
        SmsEvent.ORDER_CREATED,
        first.id,
    )
    assert (again.text, again.request_id) == (first.text, "req-2")
    shown = await desk.orders.get(order.id, by=desk.viewer)
    assert (shown.sms.notification, shown.version) == (again.id, order.version)
    (event,) = await desk.events("notification", again.id)
    assert (event.action, event.actor, event.request_id) == (
        "notification.resent",
        "user:ann",
        "req-2",
    )
    assert event.data == {"event": "order_created", "order": str(order.id)}
    assert desk.queue.wakes == 2
    await desk.notifications.dispatch_due()
    assert [sms.id for sms in desk.gateway.sent] == [first.id, again.id]


async def test_texts_about_one_order_that_waited_for_the_morning_go_out_one_after_the_other(
    open_desk,
):
    night = datetime(2026, 11, 23, 19, tzinfo=UTC)
    quiet = QuietHours(time(21), time(7))
    desk = open_desk(gateway=Gate(), quiet_hours=quiet, now=night)
    desk.clock.advance(-2 * HOUR)
    orders = [await desk.order(), await desk.order(await desk.customer(phone_number=JOHN))]
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    for number in (JANE, JOHN):
        await desk.gateway.reached_by(number)
        desk.gateway.answer(number, Accepted(provider_id=number))
    await sending
    desk.gateway.sent.clear()
    desk.clock.advance(3 * HOUR)
    for target in (PROCESSING, SHIPPED, DELIVERED):
        desk.clock.advance(HOUR)
        for order in orders:
            await desk.moved(order, target)
    desk.clock.advance(12 * HOUR)
    sending = asyncio.create_task(desk.notifications.dispatch_due())
    await desk.gateway.reached_by(JANE, JOHN)
    await turns()
    assert desk.gateway.at_once == 2  # what is about another order does not wait
    for about in ("shipped", "delivered"):
        for number in (JANE, JOHN):
            await desk.gateway.reached_by(number)
            assert len(desk.gateway.waiting[number]) == 1
            desk.gateway.answer(number, Accepted(provider_id=f"{number} {about}"))
        await turns()
    assert await sending == 4
    said = [sms.text for sms in desk.gateway.sent if sms.to == JANE]
    assert ["has been shipped" in said[0], "has been delivered" in said[1]] == [True, True]


async def test_a_resent_text_goes_out_at_night(open_desk):
    night = datetime(2026, 11, 23, 22, tzinfo=UTC)
    desk = open_desk(now=night, quiet_hours=QuietHours(time(21), time(7)))
    order = await desk.moved(await desk.order(), PROCESSING, SHIPPED)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).status is SmsStatus.DEFERRED
    again = await desk.notifications.resend(order.id, by=desk.staff)
    await desk.notifications.dispatch_due()
    assert (await desk.message(order)).id == again.id
    assert (await desk.message(order)).status is SmsStatus.SENT


@pytest.mark.parametrize(
    ("path", "default", "reached"),
    [
        ([], "order_created", {"order_created"}),
        ([PROCESSING], "order_created", {"order_created"}),
        ([PROCESSING, SHIPPED], "order_shipped", {"order_created", "order_shipped"}),
        (
            [PROCESSING, SHIPPED, DELIVERED],
            "order_delivered",
            {"order_created", "order_shipped", "order_delivered"},
        ),
        ([CANCELLED], "order_cancelled", {"order_created", "order_cancelled"}),
    ],
)
async def test_only_events_the_order_has_reached_are_texted_about(
    desk, refusal, path, default, reached
):
    order = await desk.moved(await desk.order(), *path)
    for event in SmsEvent:
        desk.clock.advance(6 * HOUR)
        if event in reached:
            sent = await desk.notifications.resend(order.id, event=str(event), by=desk.staff)
            assert sent.event is event
        else:
            refused = await refusal(
                NoSmsForStatus, desk.notifications.resend(order.id, event=event, by=desk.staff)
            )
            assert refused.current_status == order.status
            assert set(refused.available_events) == reached
    desk.clock.advance(DAY)
    assert (await desk.notifications.resend(order.id, by=desk.staff)).event == default


async def test_a_person_may_ask_once_a_minute_and_five_times_a_day(desk, refusal):
    order = await desk.order()
    for number in range(5):
        assert (await desk.notifications.resend(order.id, by=desk.staff)).resend_of
        throttled = await refusal(
            ResendThrottled, desk.notifications.resend(order.id, by=desk.staff)
        )
        wait = MINUTE if number < 4 else DAY - 4 * MINUTE
        assert throttled.retry_after == wait
        desk.clock.advance(MINUTE)
    throttled = await refusal(ResendThrottled, desk.notifications.resend(order.id, by=desk.staff))
    assert throttled.retry_after == DAY - 5 * MINUTE
    assert len(await desk.messages()) == 6
    desk.clock.advance(throttled.retry_after)
    await desk.notifications.resend(order.id, by=desk.staff)


async def test_what_stands_against_sending_again(desk, refusal):
    jane = await desk.customer()
    order = await desk.order(jane)
    resend = desk.notifications.resend
    await refusal(NotFound, resend(uuid4(), event="nonsense", by=desk.staff))
    invalid = await refusal(Invalid, resend(order.id, event="nonsense", by=desk.staff))
    assert [(each.field, each.code) for each in invalid.problems] == [("event", "invalid_choice")]
    await desk.keep(jane.reached(Reachability.BLOCKED))
    await refusal(CustomerOptedOut, resend(order.id, by=desk.staff))
    await desk.keep(replace(jane, sms_opt_out=True))
    await refusal(CustomerOptedOut, resend(order.id, by=desk.staff))
    await desk.keep(replace(jane, erased_at=desk.clock.now(), phone=None, name=None))
    await refusal(CustomerErased, resend(order.id, by=desk.staff))
    await desk.orders.delete(order.id, by=desk.admin)
    await refusal(NotFound, resend(order.id, by=desk.staff))
    assert len(await desk.messages()) == 1


async def test_a_spent_budget_stands_against_sending_again(open_desk, refusal):
    desk = open_desk(budget_daily=8_000)
    order, _ = await sent_order(desk)
    spent = await refusal(SmsBudgetExhausted, desk.notifications.resend(order.id, by=desk.staff))
    assert spent.retry_after == datetime(2026, 11, 23, 21, tzinfo=UTC) - desk.clock.now()
    desk.clock.advance(spent.retry_after)
    await desk.notifications.resend(order.id, by=desk.staff)


async def test_a_resend_that_cannot_be_kept_leaves_nothing(open_desk, rigged, refusal):
    desk = open_desk(storage=rigged)
    order = await desk.order()
    rigged.fail(1)
    await refusal(Unavailable, desk.notifications.resend(order.id, by=desk.staff))
    assert await desk.message(order) == (await desk.messages())[0]
    assert desk.queue.wakes == 1


# Replaying the dead


async def dead_message(desk):
    order = await desk.order()
    message = replace(await desk.message(order), status=SmsStatus.DEAD, attempts=6)
    await desk.keep(message)
    return message


async def test_a_dead_message_is_queued_again_with_all_its_attempts(desk):
    first, second = await dead_message(desk), await dead_message(desk)
    assert await desk.notifications.dead(by=desk.viewer) == [first.id, second.id]
    by = desk.staff
    assert await desk.notifications.replay([first.id, second.id, first.id], by=by) == 2
    assert await desk.notifications.dead(by=desk.viewer) == []
    (event,) = await desk.events("notification", first.id)
    assert event.action == "notification.replayed"
    await desk.notifications.dispatch_due()
    assert [(each.status, each.attempts) for each in await desk.messages()] == [
        (SmsStatus.SENT, 1)
    ] * 2


async def test_one_message_that_is_not_dead_keeps_them_all_as_they_are(desk, refusal):
    dead = await dead_message(desk)
    _, sent = await sent_order(desk)
    replay = desk.notifications.replay
    refused = await refusal(NotificationNotDead, replay([dead.id, sent.id], by=desk.staff))
    assert refused.current_status == "sent"
    await refusal(NotFound, replay([dead.id, uuid4()], by=desk.staff))
    assert await desk.notifications.dead(by=desk.viewer) == [dead.id]
    assert await replay([], by=desk.staff) == 0


# Reading, and who may


async def test_messages_are_read_one_by_one_and_in_lists(desk, refusal):
    order, message = await sent_order(desk)
    await desk.order(await desk.customer(), notify=False)
    by = desk.viewer
    assert await desk.notifications.get(message.id, by=by) == message
    where = NotificationFilter(status=(SmsStatus.SENT,), order=(order.id,))
    page = await desk.notifications.list(where, PageRequest(), by=by)
    assert page.items == (message,)
    page = await desk.notifications.list(NotificationFilter(), PageRequest(), by=by)
    assert page.count == 2
    await refusal(NotFound, desk.notifications.get(uuid4(), by=by))


CALLS = {
    "get": (Scope.ORDERS_READ, lambda use, by: use.get(uuid4(), by=by)),
    "list": (
        Scope.ORDERS_READ,
        lambda use, by: use.list(NotificationFilter(), PageRequest(), by=by),
    ),
    "dead": (Scope.ORDERS_READ, lambda use, by: use.dead(by=by)),
    "resend": (Scope.NOTIFICATIONS_WRITE, lambda use, by: use.resend(uuid4(), by=by)),
    "replay": (Scope.NOTIFICATIONS_WRITE, lambda use, by: use.replay([uuid4()], by=by)),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_what_its_scopes_cover(desk, role, method):
    scope, call = CALLS[method]
    try:
        await call(desk.notifications, Caller.with_role("user:x", role))
    except InsufficientScope:
        allowed = False
    except NotFound:
        allowed = True
    else:
        allowed = True
    assert allowed == (scope in ROLE_SCOPES[role])


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_needs_its_scope_and_no_other(desk, method, refusal):
    scope, call = CALLS[method]
    others = Caller(principal="client:x", permissions=frozenset(Scope) - {scope})
    denied = await refusal(InsufficientScope, call(desk.notifications, others))
    assert denied.required_scope == scope


async def test_no_phone_number_and_no_text_gets_into_the_log(desk, caplog):
    caplog.set_level(logging.DEBUG)
    desk.gateway.answer(NO_BALANCE, TIMEOUT, BUSY)
    order = await desk.order()
    for _ in range(3):
        desk.clock.advance(HOUR)
        await desk.notifications.dispatch_due()
        await desk.notifications.sweep()
    await desk.notifications.record_report(report("x", "failed", failure_reason="y"))
    await desk.notifications.record_report(report("x", "Teleported"))
    written = "".join(str(vars(record)) for record in caplog.records)
    assert caplog.records
    for secret in ("700123456", "700 123 456", "Jane", order.item):
        assert secret not in written
