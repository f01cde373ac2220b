"""The notifications port: the outbox, its leases, what came of messages, and the reports."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import DueMessage, NotificationFilter
from savannah.domain.errors import NotFound
from savannah.domain.notification import Cost, Pause, RefusalKind, Report, SmsStatus
from savannah.domain.notification_policy import (
    DeferReason,
    RuleOutcome,
    RuleResult,
    SkipReason,
    Spending,
)
from savannah.domain.order import NotificationId
from savannah.domain.paging import Ordering, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Encoding, Locale, SmsEvent

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PHONE = "+254700123456"
OTHER_PHONE = "+254711000000"


@pytest.fixture
def order(runner, make, keep):
    """An order that is stored, with its customer."""
    customer = make.customer()
    order = make.order(customer)
    runner.run(keep(customer, order))
    return order


@pytest.fixture
def change(storage):
    """Save rows in one committed unit of work."""

    async def change(*messages):
        async with storage() as uow:
            await uow.notifications.save(*messages)
            await uow.commit()

    return change


@pytest.fixture
def lease(storage):
    """Lease in a unit of work of its own, for half a minute."""

    async def lease(now, *, most=100, until=None):
        async with storage() as uow:
            until = until or now + 30 * SECOND
            ids = await uow.notifications.lease_due(now=now, until=until, most=most)
            await uow.commit()
        return list(ids)

    return lease


# --- keeping -------------------------------------------------------------------------------------


async def test_a_message_is_kept_as_given(storage, make, keep, order):
    plain = make.message(order)
    at = plain.created_at
    full = make.message(
        order,
        event=SmsEvent.ORDER_SHIPPED,
        to="+254700123456",
        locale=Locale.SW,
        text="Habari 王 \\ % _",
        encoding=Encoding.UCS2,
        segments=3,
        status=SmsStatus.DEFERRED,
        skip_reason=SkipReason.OPTED_OUT,
        defer_reason=DeferReason.QUIET_HOURS,
        rules=(
            RuleOutcome("order_deleted", RuleResult.PASSED),
            RuleOutcome("quiet_hours", RuleResult.MATCHED),
            RuleOutcome("budget", RuleResult.LATER),
        ),
        attempts=4,
        due_at=at + HOUR,
        handed_at=at + timedelta(microseconds=1),
        sent_at=at + 2 * SECOND,
        delivered_at=at + 3 * SECOND,
        provider_id="ATXid_1",
        cost=Cost(currency="KES", units=8_000),
        outcome_code="403",
        resend_of=plain.id,
        request_id="01J9Z3K5",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="congo=t61rcWkgMzE,rojo=1",
    )
    erased = make.message(order, to=None, text=None, segments=0, status=SmsStatus.SKIPPED)
    await keep(plain, full, erased)
    async with storage() as uow:
        for message in (plain, full, erased):
            assert await uow.notifications.get(message.id) == message
            assert await uow.notifications.get(message.id, lock="update") == message
        wanted = [plain.id, full.id, make.id()]
        for lock in (None, "update"):
            found = await uow.notifications.get_many(wanted, lock=lock)
            assert {row.id: row for row in found} == {plain.id: plain, full.id: full}
        assert list(await uow.notifications.get_many([])) == []
        with pytest.raises(NotFound):
            await uow.notifications.get(make.id())


async def test_saved_messages_replace_the_former_ones(storage, make, keep, order, change):
    first, second = make.message(order), make.message(order)
    await keep(first, second)
    first = replace(first, status=SmsStatus.SENT, sent_at=first.created_at, provider_id="p1")
    second = replace(second, status=SmsStatus.DEAD, text=None, to=None, attempts=6)
    await change(first, second)
    await change()
    async with storage(reading=True) as uow:
        assert await uow.notifications.get(first.id) == first
        assert await uow.notifications.get(second.id) == second


async def test_the_newest_message_is_the_one_added_last(storage, make, keep, order, change):
    async with storage(reading=True) as uow:
        assert await uow.notifications.newest(order.id) is None
    first, second = make.message(order), make.message(order)
    await keep(first)
    await keep(second)
    await change(replace(first, status=SmsStatus.SENT))
    async with storage(reading=True) as uow:
        assert await uow.notifications.newest(order.id) == second


async def test_a_dedupe_key_is_handled_once_a_message_has_it(storage, make, keep, order):
    message = make.message(order, status=SmsStatus.SKIPPED)
    async with storage() as uow:
        assert not await uow.notifications.handled(message.dedupe_key)
        await uow.notifications.add(message)
        assert await uow.notifications.handled(message.dedupe_key)
        assert not await uow.notifications.handled(message.dedupe_key + "x")
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.notifications.handled(message.dedupe_key)


async def test_a_dedupe_key_is_texted_once_even_in_a_race(storage, make, keep, order):
    async def text() -> bool:
        message = make.message(order, dedupe_key="the same")
        async with storage() as uow:
            await uow.orders.get(order.id, lock="update")
            if await uow.notifications.handled("the same"):
                return False
            await asyncio.sleep(0)
            await uow.notifications.add(message)
            await uow.commit()
            return True

    assert sum(await asyncio.gather(*(text() for _ in range(4)))) == 1


async def test_a_filter_finds_exactly_its_messages(storage, make, keep, order):
    john = make.customer()
    other = make.order(john)
    a = make.message(order)
    b = make.message(order, status=SmsStatus.DEAD)
    c = make.message(other, status=SmsStatus.FAILED)
    await keep(john, other, a, b, c)
    by_age = PageRequest(ordering=Ordering("created_at"))
    for where, expected in [
        (NotificationFilter(), [a, b, c]),
        (NotificationFilter(status=[SmsStatus.DEAD]), [b]),
        (NotificationFilter(status=[SmsStatus.DEAD, SmsStatus.FAILED]), [b, c]),
        (NotificationFilter(order=[order.id]), [a, b]),
        (NotificationFilter(order=[order.id, other.id]), [a, b, c]),
        (NotificationFilter(customer=[john.id]), [c]),
        (NotificationFilter(customer=[john.id], status=[SmsStatus.DEAD]), []),
    ]:
        async with storage(reading=True) as uow:
            page = await uow.notifications.list(where, by_age)
        assert list(page.items) == expected
        assert page.count == len(expected)


async def test_pages_show_each_message_once_and_in_order(storage, make, keep, walk, order):
    at = order.created_at
    rows = [make.message(order, at=at + shift * SECOND) for shift in (0, 2, 1, 2, 0)]
    await keep(*rows)

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.notifications.list(NotificationFilter(), request)

    def key(row):
        return row.created_at, row.id

    for descending in (False, True):
        by = Ordering("created_at", descending=descending)
        await walk(fetch, sorted(rows, key=key, reverse=descending), ordering=by)


# --- the outbox ----------------------------------------------------------------------------------


async def test_only_waiting_messages_that_are_due_are_leased(make, keep, order, lease):
    now = order.created_at + HOUR
    messages = {
        status: make.message(order, status=status, due_at=now - MINUTE) for status in SmsStatus
    }
    later = make.message(order, due_at=now + SECOND)
    just_now = make.message(order, due_at=now)
    await keep(*messages.values(), later, just_now)
    waiting = {messages[SmsStatus.QUEUED].id, messages[SmsStatus.DEFERRED].id, just_now.id}
    assert set(await lease(now)) == waiting
    assert await lease(now + SECOND) == [later.id]


async def test_the_oldest_are_leased_first_and_no_more_than_wanted(make, keep, order, lease):
    now = order.created_at + HOUR
    rows = [make.message(order, at=now - age * MINUTE) for age in (3, 5, 1, 4, 2)]
    await keep(*rows)
    oldest = [row.id for row in sorted(rows, key=lambda row: row.due_at)]
    assert await lease(now, most=2) == oldest[:2]
    assert await lease(now, most=2) == oldest[2:4]
    assert await lease(now, most=2) == oldest[4:]
    assert await lease(now, most=2) == []


async def test_a_lease_ends_by_itself(make, keep, order, lease):
    message = make.message(order)
    await keep(message)
    now = message.due_at
    assert await lease(now, until=now + MINUTE) == [message.id]
    assert await lease(now + 59 * SECOND) == []
    assert await lease(now + MINUTE) == [message.id]


async def test_a_lease_that_is_rolled_back_was_none(storage, make, keep, order, lease):
    message = make.message(order)
    await keep(message)
    now = message.due_at
    async with storage() as uow:
        assert await uow.notifications.lease_due(now=now, until=now + HOUR, most=9)
    assert await lease(now) == [message.id]


async def test_a_released_message_is_due_again_at_once(storage, make, keep, order, lease):
    first, second, sent = (make.message(order) for _ in range(3))
    await keep(first, second, sent)
    now = sent.due_at
    assert len(await lease(now)) == 3
    async with storage() as uow:
        await uow.notifications.save(replace(sent, status=SmsStatus.SENT))
        await uow.notifications.release([first.id, sent.id, NotificationId(make.id())])
        await uow.notifications.release([])
        await uow.commit()
    assert await lease(now) == [first.id]


async def test_a_released_message_still_waits_until_it_is_due(storage, make, keep, order, lease):
    message = make.message(order)
    await keep(message)
    await lease(message.due_at)
    later = message.due_at + HOUR
    async with storage() as uow:
        await uow.notifications.save(replace(message, status=SmsStatus.DEFERRED, due_at=later))
        await uow.notifications.release([message.id])
        await uow.commit()
    assert await lease(later - SECOND) == []
    assert await lease(later) == [message.id]


async def test_concurrent_callers_never_lease_the_same_message(make, keep, order, lease):
    rows = [make.message(order) for _ in range(20)]
    await keep(*rows)
    now = rows[-1].due_at
    taken = await asyncio.gather(*(lease(now, most=3) for _ in range(8)))
    assert Counter(id_ for ids in taken for id_ in ids) == Counter(row.id for row in rows)
    assert all(len(ids) <= 3 for ids in taken)


async def test_the_next_due_moment_is_the_first_one_that_is_not_leased(
    storage, make, keep, order, lease
):
    async def next_due_at():
        async with storage(reading=True) as uow:
            return await uow.notifications.next_due_at()

    assert await next_due_at() is None
    now = order.created_at + HOUR
    first, second = make.message(order, due_at=now), make.message(order, due_at=now + HOUR)
    await keep(first, second, make.message(order, status=SmsStatus.DEAD, due_at=now - HOUR))
    assert await next_due_at() == now
    await lease(now, until=now + MINUTE)
    assert await next_due_at() == now + MINUTE
    await lease(now + MINUTE, until=now + 3 * HOUR)
    assert await next_due_at() == now + HOUR


async def test_a_message_that_waits_again_is_due_when_it_says(make, keep, order, lease, change):
    message = make.message(order)
    await keep(message)
    now = message.due_at
    assert await lease(now, until=now + MINUTE) == [message.id]
    sending = replace(message, status=SmsStatus.SENDING, attempts=1, handed_at=now, updated_at=now)
    await change(sending)
    retry = replace(sending, status=SmsStatus.DEFERRED, due_at=now + 15 * SECOND)
    await change(retry)
    assert await lease(now + 14 * SECOND) == []
    assert await lease(now + 15 * SECOND) == [message.id]


async def test_starting_takes_the_waiting_ones_with_what_belongs_to_them(
    storage, make, keep, order
):
    queued, deferred = make.message(order), make.message(order, status=SmsStatus.DEFERRED)
    others = [
        make.message(order, status=status)
        for status in SmsStatus
        if status not in (SmsStatus.QUEUED, SmsStatus.DEFERRED)
    ]
    await keep(queued, deferred, *others)
    async with storage() as uow:
        customer = await uow.customers.get(order.customer_id)
        ids = [row.id for row in (queued, deferred, *others)]
        due = await uow.notifications.start([*ids, NotificationId(make.id())])
        assert {each.notification.id: each for each in due} == {
            row.id: DueMessage(
                notification=row, order_version=1, order_deleted=False, customer=customer
            )
            for row in (queued, deferred)
        }
        assert list(await uow.notifications.start([])) == []


async def test_starting_shows_the_customer_and_the_order_as_they_are_now(
    storage, make, keep, order
):
    message = make.message(order)
    await keep(message)
    async with storage() as uow:
        customer = await uow.customers.get(order.customer_id)
        customer = replace(customer, sms_opt_out=True, phone=PhoneNumber(PHONE))
        await uow.customers.save(customer)
        await uow.orders.save(replace(order, version=7, deleted_at=order.updated_at))
        await uow.commit()
    async with storage() as uow:
        (due,) = await uow.notifications.start([message.id])
        assert due == DueMessage(
            notification=message, order_version=7, order_deleted=True, customer=customer
        )


async def test_of_several_callers_exactly_one_starts_a_message(storage, make, keep, order):
    rows = [make.message(order) for _ in range(3)]
    await keep(*rows)
    ids = [row.id for row in rows]
    at = rows[-1].due_at

    async def start():
        async with storage() as uow:
            due = await uow.notifications.start(ids)
            await asyncio.sleep(0)
            started = [each.notification.started(to=PhoneNumber(PHONE), at=at) for each in due]
            await uow.notifications.save(*started)
            await uow.commit()
        return [each.notification.id for each in due]

    taken = await asyncio.gather(*(start() for _ in range(5)))
    assert Counter(id_ for ids in taken for id_ in ids) == Counter(ids)


async def test_deleting_an_order_skips_what_waits(storage, make, keep, order, lease):
    other = make.order(await _customer(storage, order))
    queued, deferred = make.message(order), make.message(order, status=SmsStatus.DEFERRED)
    sent, foreign = make.message(order, status=SmsStatus.SENT), make.message(other)
    await keep(other, queued, deferred, sent, foreign)
    at = foreign.due_at + MINUTE
    async with storage() as uow:
        await uow.notifications.skip_waiting(order.id, reason=SkipReason.ORDER_DELETED, at=at)
        await uow.commit()
    async with storage(reading=True) as uow:
        for message in (queued, deferred):
            skipped = message.skipped(SkipReason.ORDER_DELETED, at=at)
            assert await uow.notifications.get(message.id) == skipped
        assert await uow.notifications.get(sent.id) == sent
        assert await uow.notifications.get(foreign.id) == foreign
    assert await lease(at) == [foreign.id]


async def _customer(storage, order):
    async with storage(reading=True) as uow:
        return await uow.customers.get(order.customer_id)


async def test_the_backlog_counts_what_waits_and_since_when(storage, make, keep, order, change):
    async def backlog():
        async with storage(reading=True) as uow:
            return await uow.notifications.backlog()

    assert await backlog() == (0, None)
    at = order.created_at
    old = make.message(order, due_at=at - HOUR)
    await keep(old, make.message(order, due_at=at), make.message(order, status=SmsStatus.DEAD))
    assert await backlog() == (2, at - HOUR)
    await change(replace(old, status=SmsStatus.SENT))
    assert await backlog() == (1, at)


# --- what became of messages ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [SmsStatus.SENDING, SmsStatus.UNKNOWN])
async def test_old_attempts_are_found_by_their_state(storage, make, keep, order, status):
    at = order.created_at
    old, older, fresh = (
        make.message(order, status=status, handed_at=at + shift * SECOND) for shift in (2, 1, 3)
    )
    others = [
        make.message(order, status=other, handed_at=at)
        for other in SmsStatus
        if other is not status
    ]
    await keep(old, older, fresh, *others)
    async with storage() as uow:
        find = {
            SmsStatus.SENDING: uow.notifications.stuck,
            SmsStatus.UNKNOWN: uow.notifications.unknown_since,
        }[status]
        assert list(await find(handed_before=at + 3 * SECOND, most=9)) == [older, old]
        assert list(await find(handed_before=at + 3 * SECOND, most=1)) == [older]
        assert list(await find(handed_before=at + SECOND, most=9)) == []


async def test_a_message_is_found_by_the_gateways_id(storage, make, keep, order, change):
    message, other = make.message(order), make.message(order, provider_id="p-other")
    await keep(message, other)
    sent = replace(message, status=SmsStatus.SENT, provider_id="p-1")
    await change(sent)
    async with storage() as uow:
        assert await uow.notifications.by_provider_id("p-1") == sent
        assert await uow.notifications.by_provider_id("p-other") == other
        assert await uow.notifications.by_provider_id("p-2") is None


async def test_messages_whose_outcome_is_open_are_found_by_phone(storage, make, keep, order):
    at = order.created_at
    rows = [
        make.message(order, to=to, status=status, handed_at=at + shift * SECOND)
        for to, status, shift in [
            (PHONE, SmsStatus.UNKNOWN, 0),
            (OTHER_PHONE, SmsStatus.UNKNOWN, 2),
            (PHONE, SmsStatus.SENDING, 3),
            *(
                (PHONE, status, 2)
                for status in SmsStatus
                if status not in (SmsStatus.SENDING, SmsStatus.UNKNOWN)
            ),
        ]
    ]
    await keep(*rows)
    async with storage() as uow:
        open_to = uow.notifications.open_to
        assert list(await open_to(PHONE, handed_after=at + SECOND)) == [rows[2]]
        assert list(await open_to(PHONE, handed_after=at)) == [rows[2]]
        assert list(await open_to(PHONE, handed_after=at - SECOND)) == [rows[0], rows[2]]
        assert list(await open_to("+254799999999", handed_after=at - SECOND)) == []


async def test_no_more_than_two_messages_whose_outcome_is_open_are_returned(
    storage, make, keep, order
):
    at = order.created_at
    rows = [make.message(order, to=PHONE, status=SmsStatus.UNKNOWN, handed_at=at) for _ in range(4)]
    await keep(*rows)
    async with storage() as uow:
        assert len(await uow.notifications.open_to(PHONE, handed_after=at - SECOND)) == 2


async def test_texts_to_a_phone_are_those_that_may_have_reached_it(storage, make, keep, order):
    at = order.created_at
    shifts = {status: shift for shift, status in enumerate(SmsStatus, start=1)}
    await keep(
        *(
            make.message(order, to=PHONE, status=status, handed_at=at + shift * SECOND)
            for status, shift in shifts.items()
        ),
        make.message(order, to=PHONE, status=SmsStatus.SENT, handed_at=at - HOUR),
        make.message(order, to=OTHER_PHONE, status=SmsStatus.SENT, handed_at=at + SECOND),
        make.message(order, to=PHONE, status=SmsStatus.QUEUED),
    )
    reached = (
        SmsStatus.SENDING,
        SmsStatus.SENT,
        SmsStatus.DELIVERED,
        SmsStatus.FAILED,
        SmsStatus.UNKNOWN,
    )
    async with storage(reading=True) as uow:
        texted_at = uow.notifications.texted_at
        found = await texted_at([PHONE, "+254799999999"], after=at - SECOND)
        assert sorted(found[PHONE]) == sorted(at + shifts[status] * SECOND for status in reached)
        assert not found.get("+254799999999")
        assert set(found) <= {PHONE, "+254799999999"}
        both = await texted_at([PHONE, OTHER_PHONE], after=at - SECOND)
        assert list(both[OTHER_PHONE]) == [at + SECOND]
        assert not (await texted_at([OTHER_PHONE], after=at + SECOND)).get(OTHER_PHONE)
        assert not await texted_at([], after=at)


async def test_a_text_counts_for_the_phone_it_was_handed_to_last(
    storage, make, keep, order, change
):
    at = order.created_at
    message = make.message(order, to=PHONE, status=SmsStatus.UNKNOWN, handed_at=at)
    await keep(message)
    after = replace(message, status=SmsStatus.SENT, to=PhoneNumber(OTHER_PHONE))
    await change(replace(after, handed_at=at + MINUTE))
    async with storage(reading=True) as uow:
        found = await uow.notifications.texted_at([PHONE, OTHER_PHONE], after=at - SECOND)
        assert not found.get(PHONE)
        assert list(found[OTHER_PHONE]) == [at + MINUTE]
    await change(replace(after, handed_at=at + MINUTE, to=None, text=None))  # erased
    async with storage(reading=True) as uow:
        found = await uow.notifications.texted_at([PHONE, OTHER_PHONE], after=at - SECOND)
        assert not any(found.values())


async def test_spending_adds_up_by_currency_since_a_moment(storage, make, keep, order):
    at = order.created_at
    await keep(
        *(
            make.message(
                order,
                status=SmsStatus.SENT,
                handed_at=at + shift * SECOND,
                cost=Cost(currency=currency, units=units),
                segments=segments,
            )
            for currency, units, segments, shift in [
                ("KES", 8_000, 1, 0),
                ("KES", 10_000_000_000, 1, 1),
                ("KES", 16_001, 2, 2),
                ("USD", 5, 1, 2),
            ]
        ),
    )
    async with storage(reading=True) as uow:
        spending = uow.notifications.spending
        whole = Spending(quoted_today=10_000_016_001, quoted_this_month=10_000_024_001, price=8_001)
        assert await spending(currency="KES", today=at + SECOND, month=at) == whole
        later = Spending(quoted_today=16_001, quoted_this_month=16_001, price=8_001)
        since = at + 2 * SECOND
        assert await spending(currency="KES", today=since, month=since) == later
        none = {"today": at + HOUR, "month": at + HOUR}
        assert await spending(currency="KES", **none) == Spending(price=8_001)
        dollars = Spending(quoted_today=5, quoted_this_month=5, price=5)
        assert await spending(currency="USD", today=at, month=at) == dollars
        assert await spending(currency="UGX", today=at, month=at) == Spending()


async def test_what_may_cost_something_nobody_has_quoted_counts_by_its_segments(
    storage, make, keep, order
):
    at = order.created_at
    sizes = {status: 10**place for place, status in enumerate(SmsStatus)}
    await keep(
        *(
            make.message(order, status=status, handed_at=at, segments=segments)
            for status, segments in sizes.items()
        ),
    )
    seen = sizes[SmsStatus.SENDING] + sizes[SmsStatus.UNKNOWN]
    async with storage(reading=True) as uow:
        found = await uow.notifications.spending(currency="KES", today=at, month=at)
        assert found == Spending(open_today=seen, open_this_month=seen)
        found = await uow.notifications.spending(currency="KES", today=at + SECOND, month=at)
        assert found == Spending(open_this_month=seen)
    # The gateway took these: a report gave an unknown one its id, and there is no price to come.
    taken = 0
    for number, status in enumerate((SmsStatus.SENT, SmsStatus.DELIVERED, SmsStatus.FAILED)):
        reported = make.message(
            order, status=status, handed_at=at, segments=3, provider_id=f"p-{number}"
        )
        quoted = replace(
            reported,
            id=NotificationId(make.id()),
            dedupe_key=f"quoted {number}",
            cost=Cost(currency="USD", units=1),
        )
        await keep(reported, quoted)
        taken += 3
    async with storage(reading=True) as uow:
        found = await uow.notifications.spending(currency="KES", today=at, month=at)
        assert found == Spending(open_today=seen + taken, open_this_month=seen + taken)


async def test_resends_of_an_order_are_those_people_asked_for(storage, make, keep, order):
    at = order.created_at
    other = make.order(await _customer(storage, order))
    first = make.message(order, at=at)
    await keep(
        other,
        first,
        make.message(order, at=at + 3 * SECOND, resend_of=first.id),
        make.message(order, at=at + 2 * SECOND, resend_of=first.id, status=SmsStatus.FAILED),
        make.message(order, at=at - HOUR, resend_of=first.id),
        make.message(other, at=at + SECOND, resend_of=first.id),
    )
    async with storage(reading=True) as uow:
        times = await uow.notifications.resent_at(order.id, after=at - SECOND)
        assert sorted(times) == [at + 2 * SECOND, at + 3 * SECOND]
        times = await uow.notifications.resent_at(order.id, after=at + 2 * SECOND)
        assert list(times) == [at + 3 * SECOND]


async def test_the_dead_are_listed(storage, make, keep, order):
    dead = [make.message(order, status=SmsStatus.DEAD) for _ in range(2)]
    await keep(*dead, make.message(order), make.message(order, status=SmsStatus.FAILED))
    async with storage(reading=True) as uow:
        assert set(await uow.notifications.ids_of_dead()) == {row.id for row in dead}


# --- reports and the pause -----------------------------------------------------------------------


async def test_the_same_report_is_kept_once(storage, make):
    report = make.report("p-1")
    async with storage() as uow:
        keep_report = uow.notifications.keep_report
        assert await keep_report(report, matched=True)
        assert not await keep_report(report, matched=True)
        assert not await keep_report(make.report("p-1"), matched=False)
        assert await keep_report(make.report("p-1", word="Failed"), matched=True)
        assert await keep_report(make.report("p-2"), matched=True)
        await uow.commit()
    async with storage() as uow:
        assert not await uow.notifications.keep_report(report, matched=False)


async def test_of_the_same_reports_in_a_race_one_is_new(storage, make):
    report = make.report("p-1")

    async def arrive() -> bool:
        async with storage() as uow:
            is_new = await uow.notifications.keep_report(report, matched=True)
            await asyncio.sleep(0)
            await uow.commit()
            return is_new

    assert sum(await asyncio.gather(*(arrive() for _ in range(4)))) == 1


async def test_early_reports_are_handed_out_once_when_their_id_is_known(storage, make):
    first = make.report("p-1", report=Report.SENT, word="Sent")
    other = make.report(
        "p-2",
        report=None,
        word="Wörd",
        phone="",
        network_code="63902",
        failure_reason="AbsentSubscriber",
    )
    second = make.report("p-1")
    async with storage() as uow:
        for report in (second, other, first, make.report("p-3")):
            await uow.notifications.keep_report(report, matched=False)
        await uow.notifications.keep_report(make.report("p-1", word="Matched"), matched=True)
        await uow.commit()
    async with storage() as uow:  # rolled back: still kept
        assert list(await uow.notifications.kept_reports(["p-1"])) == [first, second]
    async with storage() as uow:
        kept_reports = uow.notifications.kept_reports
        assert list(await kept_reports(["p-1", "p-2", "p-9"])) == [first, other, second]
        assert list(await kept_reports(["p-1", "p-2"])) == []
        assert list(await kept_reports([])) == []
        await uow.commit()
    async with storage() as uow:
        assert list(await uow.notifications.kept_reports(["p-1", "p-2"])) == []
        assert not await uow.notifications.keep_report(second, matched=False)


async def test_a_kept_report_whose_id_became_known_meanwhile_is_found(storage, make, order, keep):
    message = make.message(order)
    await keep(message)
    async with storage() as uow:
        for early in (make.report("p-1"), make.report("p-1", word="Sent"), make.report("p-2")):
            await uow.notifications.keep_report(early, matched=False)
        await uow.commit()
    async with storage() as uow:
        assert list(await uow.notifications.overtaken(most=10)) == []
        await uow.notifications.save(replace(message, provider_id="p-1"))
        await uow.commit()
    async with storage() as uow:
        assert list(await uow.notifications.overtaken(most=10)) == ["p-1"]
        assert len(await uow.notifications.kept_reports(["p-1"])) == 2
        await uow.commit()
    async with storage() as uow:
        assert list(await uow.notifications.overtaken(most=10)) == []


async def test_kept_reports_are_found_that_an_unknown_message_may_have_waited_for(
    storage, make, keep, order
):
    at = order.created_at
    numbers = [f"+25470012346{last}" for last in range(7)]
    shifts = [0, 0, 0, 0, 60, -60, 0]
    unknown = [
        make.message(
            order,
            to=phone,
            status=SmsStatus.SENT if last == 6 else SmsStatus.UNKNOWN,
            handed_at=at + shift * SECOND,
        )
        for last, (phone, shift) in enumerate(zip(numbers, shifts, strict=True))
    ]
    crowded = [
        make.message(order, to=phone, status=status, handed_at=at)
        for phone, status in [
            (OTHER_PHONE, SmsStatus.UNKNOWN),
            (OTHER_PHONE, SmsStatus.SENDING),
            (PHONE, SmsStatus.SENDING),
            (PHONE, SmsStatus.SENDING),
        ]
    ]
    await keep(*unknown, *crowded)
    came = {"received_at": at + 30 * SECOND}
    later = make.report("p-0", phone=numbers[0], word="Later", received_at=at + MINUTE)
    at_once = make.report("p-1", phone=numbers[1], received_at=at)
    found = [at_once, make.report("p-0", phone=numbers[0], **came), later]
    others = [
        make.report("p-2", phone=numbers[2], report=None, word="Wörd", **came),
        make.report("p-4", phone=numbers[4], **came),  # before it was handed over
        make.report("p-5", phone=numbers[5], **came),  # handed over too long ago
        make.report("p-6", phone=numbers[6], **came),
        make.report("p-7", phone="+254711999999", **came),
        make.report("p-8", phone="", **came),
        make.report("p-9", phone=OTHER_PHONE, **came),  # it may be either one's
        make.report("p-10", phone=PHONE, **came),
    ]
    matched = make.report("p-3", phone=numbers[3], **came)
    async with storage() as uow:
        for report in (*others, *reversed(found)):
            assert await uow.notifications.keep_report(report, matched=False)
        assert await uow.notifications.keep_report(matched, matched=True)
        await uow.commit()
    async with storage() as uow:
        unclaimed = uow.notifications.unclaimed
        assert list(await unclaimed(handed_after=at - MINUTE, most=9)) == found
        assert list(await unclaimed(handed_after=at - MINUTE, most=1)) == [at_once]
        assert list(await unclaimed(handed_after=at, most=9)) == []
        await uow.notifications.kept_reports(["p-0"])
        assert list(await unclaimed(handed_after=at - MINUTE, most=9)) == [at_once]


async def test_a_pause_is_set_changed_and_lifted(storage, make):
    at = make.customer().created_at
    first = Pause(kind=RefusalKind.ACCOUNT, code="405", until=at + MINUTE, since=at)
    second = Pause(kind=RefusalKind.SENDER, code="InvalidSenderId", until=at + HOUR, since=at)

    async def pause():
        async with storage(reading=True) as uow:
            return await uow.notifications.pause()

    assert await pause() is None
    for wanted in (None, first, second, None, None, first):
        async with storage() as uow:
            await uow.notifications.set_pause(wanted)
            assert await uow.notifications.pause() == wanted
            await uow.commit()
        assert await pause() == wanted
    assert (await pause()).since == at
