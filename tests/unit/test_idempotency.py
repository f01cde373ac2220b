"""One call happens once: the answer is stored with its effect, and an error stores nothing."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.adapters.memory.storage import MemoryIdempotency
from savannah.application.idempotency import AlreadyDone
from savannah.domain.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    StaleVersion,
    Unavailable,
)
from savannah.domain.order import Status

DAY = timedelta(days=1)


async def replayed(call):
    """What a repeat is answered."""
    with pytest.raises(AlreadyDone) as done:
        await call
    return done.value.answer.decode()


# Every call that takes a key: how to make the call, on a desk with one shipped and one new order.
CALLS = {
    "customers.create": lambda desk, rows, once: desk.customer(name="Ann", once=once),
    "customers.restore": lambda desk, rows, once: desk.customers.restore(
        rows["archived"].id, by=desk.admin, once=once
    ),
    "orders.create": lambda desk, rows, once: desk.order(rows["jane"], once=once),
    "orders.update_status": lambda desk, rows, once: desk.orders.update_status(
        rows["order"].id, "processing", by=desk.admin, once=once
    ),
    "orders.cancel": lambda desk, rows, once: desk.orders.cancel(
        rows["order"].id, by=desk.admin, once=once
    ),
    "notifications.resend": lambda desk, rows, once: desk.notifications.resend(
        rows["order"].id, by=desk.admin, once=once
    ),
}


async def furnished(desk):
    jane, away = await desk.customer(), await desk.customer()
    await desk.customers.archive(away.id, by=desk.admin)
    return {"jane": jane, "archived": away, "order": await desk.order(jane)}


async def everything(desk):
    rows = [*await desk.all_customers(), *await desk.all_orders(), *await desk.messages()]
    events = [
        event
        for subject in ("customer", "order", "notification")
        for row in rows
        for event in await desk.events(subject, row.id)
    ]
    return rows, events, desk.queue.wakes, desk.counts.texts.total(), desk.counts.orders


@pytest.mark.parametrize("name", CALLS)
async def test_a_repeat_gets_the_first_answer_and_has_no_effect(desk, once, name):
    rows = await furnished(desk)
    result = await CALLS[name](desk, rows, once())
    before = await everything(desk)
    for _ in range(2):
        desk.clock.advance(timedelta(hours=11))
        assert await replayed(CALLS[name](desk, rows, once())) == str(result.id)
    assert await everything(desk) == before


@pytest.mark.parametrize("name", CALLS)
async def test_the_same_key_with_another_body_is_refused(desk, once, refusal, name):
    rows = await furnished(desk)
    await CALLS[name](desk, rows, once())
    before = await everything(desk)
    await refusal(IdempotencyKeyReused, CALLS[name](desk, rows, once(body="other")))
    assert await everything(desk) == before


@pytest.mark.parametrize("name", CALLS)
async def test_a_commit_that_fails_stores_no_answer(open_desk, rigged, once, refusal, name):
    desk = open_desk(storage=rigged)
    rows = await furnished(desk)
    before = await everything(desk)
    rigged.fail(1)
    await refusal(Unavailable, CALLS[name](desk, rows, once()))
    assert await everything(desk) == before
    result = await CALLS[name](desk, rows, once())  # runs as if it were the first
    assert await replayed(CALLS[name](desk, rows, once())) == str(result.id)


class Busy(MemoryIdempotency):
    """The first call is still running somewhere."""

    async def begin(self, key, fingerprint, *, now):
        raise IdempotencyInProgress


@pytest.mark.parametrize("name", CALLS)
async def test_a_repeat_while_the_first_call_runs_is_told_to_wait(
    open_desk, rigged, once, refusal, name
):
    desk = open_desk(storage=rigged)
    rows = await furnished(desk)
    before = await everything(desk)
    rigged.rig = lambda uow: setattr(uow, "idempotency", Busy(uow.inner._tables))
    busy = await refusal(IdempotencyInProgress, CALLS[name](desk, rows, once()))
    assert busy.retry_after == timedelta(seconds=1)
    rigged.rig = lambda _: None
    assert await everything(desk) == before


async def test_many_equal_calls_at_once_give_one_order_and_one_text(desk, once):
    jane = await desk.customer()
    results = await asyncio.gather(
        *(desk.order(jane, once=once()) for _ in range(20)), return_exceptions=True
    )
    orders = [result for result in results if not isinstance(result, AlreadyDone)]
    assert [row.id for row in await desk.all_orders()] == [orders[0].id]
    answers = {done.answer.decode() for done in results if isinstance(done, AlreadyDone)}
    assert answers == {str(orders[0].id)}
    assert len(orders) == 1
    await desk.notifications.dispatch_due()
    assert len(desk.gateway.sent) == 1


async def test_a_refusal_releases_the_key_for_the_corrected_call(desk, once, refusal):
    jane = await desk.customer()
    await refusal(Invalid, desk.order(jane, item="", once=once()))
    order = await desk.order(jane, once=once(body="corrected"))
    move = desk.orders.update_status
    stale = move(order.id, "processing", by=desk.staff, if_match={9}, once=once(operation="PATCH"))
    await refusal(StaleVersion, stale)
    gone = await desk.orders.cancel(order.id, by=desk.staff, once=once(operation="PATCH"))
    assert gone.status is Status.CANCELLED


async def test_a_call_that_changes_nothing_is_remembered_as_well(desk, once, refusal):
    order = await desk.orders.cancel((await desk.order()).id, by=desk.staff)
    await desk.orders.cancel(order.id, by=desk.staff, once=once())
    assert await replayed(desk.orders.cancel(order.id, by=desk.staff, once=once())) == str(order.id)
    jane = await desk.customer()
    await desk.customers.restore(jane.id, by=desk.admin, once=once("restore"))
    again = desk.customers.restore(jane.id, by=desk.admin, once=once("restore"))
    assert await replayed(again) == str(jane.id)
    await refusal(NotFound, desk.orders.cancel(jane.id, by=desk.staff, once=once("other")))


async def test_a_key_belongs_to_one_caller_and_one_operation(desk, once):
    jane = await desk.customer()
    by_ann = await desk.order(jane, once=once())
    by_ben = await desk.order(jane, once=once(), by=replace(desk.staff, principal="user:ben"))
    elsewhere = await desk.order(jane, once=once(operation="POST /elsewhere/"))
    other_key = await desk.order(jane, once=once("key-2"))
    assert len({by_ann.id, by_ben.id, elsewhere.id, other_key.id}) == 4


async def test_an_answer_is_kept_for_a_day(desk, once):
    jane = await desk.customer()
    first = await desk.order(jane, once=once())
    desk.clock.advance(DAY - timedelta(seconds=1))
    assert await replayed(desk.order(jane, once=once())) == str(first.id)
    desk.clock.advance(timedelta(seconds=1))
    second = await desk.order(jane, once=once(body="other"))
    assert second.id != first.id


async def test_a_drawn_number_that_is_taken_does_not_lose_the_key(open_desk, once):
    desk = open_desk(symbols=["CODE01", "AAAAAA", "AAAAAA", "BBBBBB"])
    jane = await desk.customer()
    await desk.order(jane)
    order = await desk.order(jane, once=once())
    assert order.number.startswith("ORD-BBBBBB")
    assert await replayed(desk.order(jane, once=once())) == str(order.id)
