"""Use cases on orders: the order, its event and its message commit together or not at all."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from uuid import UUID, uuid4

import pytest

from savannah.application.ports import OrderFilter
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import (
    BadQuery,
    CustomerArchived,
    CustomerErased,
    InsufficientScope,
    Invalid,
    InvalidTransition,
    NotFound,
    OrderNotDeletable,
    OrderNotEditable,
    OrderNumberTaken,
    StaleVersion,
    Unavailable,
)
from savannah.domain.notification import SmsStatus, dedupe_key
from savannah.domain.notification_policy import QuietHours, SkipReason
from savannah.domain.order import CancelReason, Reference, Status
from savannah.domain.paging import PageRequest
from savannah.domain.sms_text import SmsEvent

HOUR = timedelta(hours=1)
PENDING, PROCESSING, SHIPPED, DELIVERED, CANCELLED = Status


def fields(invalid):
    return {problem.field: problem.code for problem in invalid.problems}


# Taking an order


async def test_an_order_comes_with_its_event_and_its_message(desk):
    jane = await desk.customer()
    by = replace(desk.staff, request_id="req-1")
    order = await desk.order(jane, quantity=2, notes="Urgent", metadata={"a": "b"}, by=by)
    assert (order.status, order.version, order.total.text) == (PENDING, 1, "1999.98")
    assert (order.price.currency, order.notes, order.metadata) == ("KES", "Urgent", {"a": "b"})
    assert Reference.parse(order.number) == order.number
    assert await desk.orders.get(order.id, by=desk.viewer) == order

    (message,) = await desk.messages()
    assert (message.event, message.status) == (SmsEvent.ORDER_CREATED, SmsStatus.QUEUED)
    assert (message.order_id, message.to, message.request_id) == (order.id, jane.phone, "req-1")
    assert order.number in message.text
    assert order.sms.notification == message.id
    assert (order.sms.event, order.sms.status, order.sms.sent_at) == (
        SmsEvent.ORDER_CREATED,
        "queued",
        None,
    )

    (event,) = await desk.events("order", order.id)
    assert (event.action, event.actor, event.version) == ("order.created", "user:ann", 1)
    assert (event.at, event.request_id) == (order.created_at, "req-1")
    assert event.data == {"status": "pending", "total": "KES 1999.98", "sms": "queued"}

    assert desk.counts.orders == 1
    assert desk.counts.texts == {(SmsEvent.ORDER_CREATED, SmsStatus.QUEUED): 1}
    assert desk.queue.wakes == 1
    assert desk.gateway.sent == []  # the gateway cannot slow the desk


async def test_an_order_may_be_in_another_currency_of_the_business(desk, refusal):
    order = await desk.order(amount=10, currency="UGX")
    assert order.total.text == "10.00"
    assert order.price.currency == "UGX"
    invalid = await refusal(Invalid, desk.order(currency="EUR"))
    assert fields(invalid) == {"currency": "unsupported_currency"}


async def test_the_customer_may_be_named_by_text_in_any_case(desk):
    jane = await desk.customer()
    order = await desk.orders.create(
        customer=str(jane.id).upper(), item="Tea", amount="1", by=desk.staff
    )
    assert order.customer_id == jane.id


@pytest.mark.parametrize(
    ("customer", "code"),
    [
        ("customer-uuid", "invalid_uuid"),
        ("", "invalid_uuid"),
        (None, "wrong_type"),
        (5, "wrong_type"),
        (UUID(int=5), "customer_not_found"),
        (str(UUID(int=5)), "customer_not_found"),
    ],
)
async def test_all_broken_fields_are_told_at_once_the_customer_among_them(
    desk, refusal, customer, code
):
    invalid = await refusal(
        Invalid,
        desk.orders.create(
            customer=customer, item="", amount=1.5, quantity=0, notify="no", by=desk.staff
        ),
    )
    assert fields(invalid) == {
        "customer": code,
        "notify": "wrong_type",
        "item": "blank",
        "amount": "amount_not_string",
        "quantity": "quantity_out_of_range",
    }
    assert await desk.all_orders() == []


async def test_an_unknown_customer_alone_is_enough_to_refuse(desk, refusal):
    invalid = await refusal(
        Invalid, desk.orders.create(customer=uuid4(), item="Tea", amount="1", by=desk.staff)
    )
    assert fields(invalid) == {"customer": "customer_not_found"}


async def test_an_archived_or_erased_customer_orders_nothing(desk, refusal):
    jane = await desk.customer()
    await desk.customers.archive(jane.id, by=desk.admin)
    invalid = await refusal(Invalid, desk.order(jane, item=""))  # fields come before states
    assert fields(invalid) == {"item": "blank"}
    await refusal(CustomerArchived, desk.order(jane))
    await desk.keep(replace(jane, erased_at=desk.clock.now()))
    await refusal(CustomerErased, desk.order(jane))
    assert await desk.all_orders() == await desk.messages() == []


async def test_an_order_without_a_text_records_that_it_was_asked_for(desk):
    order = await desk.order(notify=False)
    assert (order.sms.status, order.status) == ("skipped", PENDING)
    message = await desk.message(order)
    assert message.skip_reason is SkipReason.SUPPRESSED_BY_USER
    assert desk.queue.wakes == 0
    assert desk.counts.texts == {(SmsEvent.ORDER_CREATED, SmsStatus.SKIPPED): 1}


async def test_an_order_of_somebody_who_opted_out_is_taken_without_a_text(desk):
    order = await desk.order(await desk.customer(sms_opt_out=True))
    assert (order.sms.status, order.status) == ("skipped", PENDING)
    assert (await desk.message(order)).skip_reason is SkipReason.OPTED_OUT
    assert await desk.notifications.dispatch_due() == 0


async def test_the_first_text_does_not_wait_for_the_morning_but_later_ones_do(open_desk):
    night = datetime(2026, 11, 23, 22, tzinfo=UTC)
    desk = open_desk(now=night, quiet_hours=QuietHours(time(21), time(7)))
    order = await desk.order()
    assert order.sms.status == "queued"
    assert desk.queue.wakes == 1
    order = await desk.moved(order, PROCESSING, SHIPPED)
    assert order.sms.status == "deferred"
    assert desk.queue.wakes == 1
    assert (await desk.message(order)).due_at == datetime(2026, 11, 24, 4, tzinfo=UTC)


async def test_a_commit_that_fails_leaves_no_order_no_event_and_no_message(
    open_desk, rigged, refusal
):
    desk = open_desk(storage=rigged, symbols=["AAAAAA", "7K3Q9D", "7K3Q9D"])
    jane = await desk.customer()
    rigged.fail(1)
    await refusal(Unavailable, desk.order(jane))
    assert await desk.all_orders() == await desk.messages() == []
    assert (desk.counts.orders, desk.counts.texts, desk.queue.wakes) == (0, {}, 0)
    order = await desk.order(jane)  # the number is free as well
    assert order.number.startswith("ORD-7K3Q9D-")
    assert len(await desk.events("order", order.id)) == 1


async def test_a_drawn_number_that_is_taken_is_drawn_again(open_desk):
    desk = open_desk(symbols=["CODE01", "AAAAAA", "AAAAAA", "AAAAAA", "BBBBBB"])
    jane = await desk.customer()
    first, second = await desk.order(jane), await desk.order(jane)
    assert [order.number[4:10] for order in (first, second)] == ["AAAAAA", "BBBBBB"]
    assert len(await desk.messages()) == len(await desk.all_orders()) == 2
    assert desk.counts.orders == 2


async def test_drawing_numbers_ends_at_some_time(open_desk, refusal):
    desk = open_desk(symbols=["CODE01"] + ["AAAAAA"] * 6)
    jane = await desk.customer()
    await desk.order(jane)
    await refusal(OrderNumberTaken, desk.order(jane))
    assert len(await desk.messages()) == len(await desk.all_orders()) == 1


# Finding


async def test_orders_are_found_by_id_list_and_search(desk, refusal):
    jane = await desk.customer()
    order, other = await desk.order(jane), await desk.order(jane, item="Tea")
    by = desk.viewer
    page = await desk.orders.list(OrderFilter(customer=(jane.id,)), PageRequest(), by=by)
    assert page.items == (other, order)
    found = await desk.orders.search(order.number.lower(), OrderFilter(), PageRequest(), by=by)
    (hit,) = found.items
    assert (hit.item, hit.match.field, hit.match.kind) == (order, "order_number", "exact")
    found = await desk.orders.search("0700123456", OrderFilter(), PageRequest(), by=by)
    assert {hit.match.field for hit in found.items} == {"phone_number"}
    assert len(found.items) == 2
    await refusal(NotFound, desk.orders.get(uuid4(), by=by))
    await refusal(BadQuery, desk.orders.search(" ", OrderFilter(), PageRequest(), by=by))


# Editing


async def test_an_edit_is_one_revision_and_one_event_and_no_text(desk):
    order = await desk.order()
    desk.clock.advance(HOUR)
    after = await desk.orders.update(
        order.id, {"quantity": 3, "amount": "5", "notes": "x"}, by=desk.staff, if_match={1, 7}
    )
    assert (after.total.text, after.version, after.updated_at) == ("15.00", 2, desk.clock.now())
    assert await desk.orders.get(order.id, by=desk.viewer) == after
    event = (await desk.events("order", order.id))[-1]
    assert (event.action, event.version) == ("order.updated", 2)
    assert event.data == {"fields": ["quantity", "amount", "notes"], "total": "KES 15.00"}
    assert len(await desk.messages()) == 1


async def test_an_edit_that_changes_nothing_leaves_no_trace(desk):
    order = await desk.order()
    desk.clock.advance(HOUR)
    changes = {"item": " Laptop Computer", "amount": "999.99", "quantity": 1}
    assert await desk.orders.update(order.id, changes, by=desk.staff) == order
    assert await desk.orders.get(order.id, by=desk.viewer) == order
    assert len(await desk.events("order", order.id)) == 1


async def test_an_edit_checks_fields_then_versions_then_states(desk, refusal):
    order = await desk.moved(await desk.order(), PROCESSING)

    def update(changes, if_match=None):
        return desk.orders.update(order.id, changes, by=desk.staff, if_match=if_match)

    invalid = await refusal(Invalid, update({"item": "", "status": "shipped"}, {1}))
    assert fields(invalid) == {"item": "blank", "status": "use_update_status"}
    assert (await refusal(StaleVersion, update({"item": "Tea"}, {1}))).current_version == 2
    closed = await refusal(OrderNotEditable, update({"item": "Tea"}, {2}))
    assert closed.editable_fields == ("notes", "metadata")
    await refusal(NotFound, desk.orders.update(uuid4(), {"item": ""}, by=desk.staff))
    assert await desk.orders.get(order.id, by=desk.viewer) == order


# Moving


async def test_each_step_is_one_revision_one_event_and_the_text_that_belongs_to_it(desk):
    order = await desk.order()
    texts = []
    for number, status in enumerate((PROCESSING, SHIPPED, DELIVERED), start=2):
        desk.clock.advance(HOUR)
        order = await desk.orders.update_status(order.id, status, note=" x ", by=desk.staff)
        assert (order.status, order.version) == (status, number)
        assert order.status_changed_at == order.updated_at == desk.clock.now()
        assert await desk.orders.get(order.id, by=desk.viewer) == order
        event = (await desk.events("order", order.id))[-1]
        assert (event.action, event.version) == ("order.status_changed", number)
        assert (event.data["to"], event.data["note"]) == (status, "x")
        texts.append(event.data.get("sms"))
    assert texts == [None, "queued", "queued"]
    assert [message.event for message in await desk.messages()] == [
        SmsEvent.ORDER_CREATED,
        SmsEvent.ORDER_SHIPPED,
        SmsEvent.ORDER_DELIVERED,
    ]
    assert order.sms.event is SmsEvent.ORDER_DELIVERED
    assert len(await desk.events("order", order.id)) == 4
    assert desk.queue.wakes == 3


async def test_asking_for_the_current_state_changes_nothing(desk):
    order = await desk.moved(await desk.order(), PROCESSING)
    desk.clock.advance(HOUR)
    assert await desk.moved(order, PROCESSING) == order
    assert len(await desk.events("order", order.id)) == 2


async def test_a_step_without_a_text_records_that_it_was_asked_for(desk):
    order = await desk.moved(await desk.order(), PROCESSING)
    order = await desk.orders.update_status(order.id, "shipped", notify=False, by=desk.staff)
    assert order.sms.status == "skipped"
    assert (await desk.events("order", order.id))[-1].data["sms"] == "skipped"


async def test_the_text_of_a_revision_that_was_handled_already_is_not_queued_twice(desk):
    order = await desk.moved(await desk.order(), PROCESSING)
    first = await desk.message(order)
    key = dedupe_key(order.id, SmsEvent.ORDER_SHIPPED, order.version + 1)
    async with desk.storage() as uow:
        await uow.notifications.add(replace(first, id=uuid4(), dedupe_key=key))
        await uow.commit()
    order = await desk.moved(order, SHIPPED)
    message = await desk.message(order)
    assert (message.status, message.skip_reason) == (SmsStatus.SKIPPED, SkipReason.DUPLICATE)
    assert message.dedupe_key == f"{key}:{message.id}"


async def test_a_step_off_the_table_is_refused_with_what_is_possible(desk, refusal):
    order = await desk.order()
    refused = await refusal(
        InvalidTransition, desk.orders.update_status(order.id, "delivered", by=desk.staff)
    )
    assert refused.current_status == "pending"
    assert refused.allowed_transitions == ("processing", "cancelled")
    assert await desk.orders.get(order.id, by=desk.viewer) == order
    assert len(await desk.events("order", order.id)) == 1


async def test_all_broken_fields_of_a_step_are_told_at_once(desk, refusal):
    order = await desk.order()
    broken = {"reason": "bored", "note": "x" * 2001, "notify": 1}
    invalid = await refusal(
        Invalid, desk.orders.update_status(order.id, "gone", **broken, by=desk.staff)
    )
    assert fields(invalid) == {
        "status": "invalid_choice",
        "reason": "invalid_choice",
        "note": "too_long",
        "notify": "wrong_type",
    }
    invalid = await refusal(
        Invalid, desk.orders.update_status(order.id, "processing", reason="lost", by=desk.staff)
    )
    assert fields(invalid) == {"reason": "invalid_choice"}


async def test_a_step_checks_the_order_then_fields_then_versions_then_states(desk, refusal):
    order = await desk.order()
    move = desk.orders.update_status
    await refusal(NotFound, move(uuid4(), "gone", by=desk.staff))
    await refusal(Invalid, move(order.id, "gone", by=desk.staff, if_match={9}))
    stale = await refusal(StaleVersion, move(order.id, "delivered", by=desk.staff, if_match={9}))
    assert stale.current_version == 1
    await refusal(InvalidTransition, move(order.id, "delivered", by=desk.staff, if_match={1}))


async def test_the_privilege_to_cancel_after_shipping_comes_before_everything_in_the_body(
    desk, refusal
):
    order = await desk.moved(await desk.order(), PROCESSING, SHIPPED)
    for body in ({}, {"reason": "bored"}, {"reason": "lost", "note": 5}, {"if_match": {1}}):
        denied = await refusal(
            InsufficientScope, desk.orders.cancel(order.id, **body, by=desk.staff)
        )
        assert denied.required_scope == "orders:override"
    for body, code in (({}, "reason_required"), ({"reason": "fraud"}, "invalid_choice")):
        invalid = await refusal(Invalid, desk.orders.cancel(order.id, **body, by=desk.admin))
        assert fields(invalid) == {"reason": code}
    gone = await desk.orders.cancel(order.id, reason="lost", note="rider", by=desk.admin)
    assert (gone.cancellation.reason, gone.cancellation.note) == (CancelReason.LOST, "rider")
    assert (await desk.events("order", order.id))[-1].data == {
        "from": "shipped",
        "to": "cancelled",
        "reason": "lost",
        "note": "rider",
        "sms": "queued",
    }


async def test_cancelling_needs_no_reason_and_is_told_to_the_customer(desk):
    order = await desk.orders.cancel((await desk.order()).id, by=desk.staff)
    assert (order.status, order.sms.event) == (CANCELLED, SmsEvent.ORDER_CANCELLED)
    assert (order.cancellation.reason, order.cancellation.cancelled_by) == (
        CancelReason.OTHER,
        "user:ann",
    )


async def test_cancelling_a_cancelled_order_changes_nothing_whoever_asks_why(desk, refusal):
    order = await desk.orders.cancel((await desk.order()).id, reason="fraud", by=desk.staff)
    desk.clock.advance(HOUR)
    again = await desk.orders.cancel(order.id, reason="duplicate", note="x", by=desk.staff)
    assert again == order
    assert len(await desk.messages()) == 2
    assert len(await desk.events("order", order.id)) == 2
    await refusal(Invalid, desk.orders.cancel(order.id, reason="bored", by=desk.staff))
    await refusal(StaleVersion, desk.orders.cancel(order.id, by=desk.staff, if_match={1}))


async def test_an_erased_customer_is_not_texted_about_an_old_order(desk):
    jane = await desk.customer()
    order = await desk.order(jane)
    erased = replace(jane, name=None, phone=None, notes=None, erased_at=desk.clock.now())
    await desk.keep(erased)
    order = await desk.orders.cancel(order.id, by=desk.staff)
    assert (order.status, order.sms.status) == (CANCELLED, "skipped")
    assert (await desk.message(order)).skip_reason is SkipReason.CUSTOMER_ERASED


@pytest.mark.parametrize("change", ["update", "move", "delete"])
async def test_a_commit_that_fails_leaves_the_order_as_it_was(open_desk, rigged, refusal, change):
    desk = open_desk(storage=rigged)
    order = await desk.order()
    calls = {
        "update": lambda: desk.orders.update(order.id, {"quantity": 2}, by=desk.staff),
        "move": lambda: desk.orders.cancel(order.id, by=desk.staff),
        "delete": lambda: desk.orders.delete(order.id, by=desk.admin),
    }
    rigged.fail(1)
    await refusal(Unavailable, calls[change]())
    assert await desk.orders.get(order.id, by=desk.viewer) == order
    assert len(await desk.events("order", order.id)) == 1
    assert len(await desk.messages()) == 1
    assert desk.queue.wakes == 1


# Deleting


async def test_a_deleted_order_is_gone_and_its_waiting_text_is_skipped(desk, refusal):
    jane = await desk.customer()
    order, other = await desk.order(jane), await desk.order(jane)
    desk.clock.advance(HOUR)
    await desk.orders.delete(order.id, by=desk.admin, if_match={1})
    for call in (
        desk.orders.get(order.id, by=desk.viewer),
        desk.orders.update(order.id, {}, by=desk.staff),
        desk.orders.cancel(order.id, by=desk.staff),
        desk.orders.delete(order.id, by=desk.admin),
    ):
        await refusal(NotFound, call)
    page = await desk.orders.list(OrderFilter(), PageRequest(), by=desk.viewer)
    assert [row.id for row in page.items] == [other.id]
    message = await desk.message(order)
    assert (message.status, message.skip_reason) == (SmsStatus.SKIPPED, SkipReason.ORDER_DELETED)
    assert (await desk.message(other)).status is SmsStatus.QUEUED
    event = (await desk.events("order", order.id))[-1]
    assert (event.action, event.version, event.data) == ("order.deleted", 2, {"status": "pending"})
    assert await desk.notifications.dispatch_due() == 1  # the other one


async def test_only_pending_and_cancelled_orders_are_deleted(desk, refusal):
    order = await desk.moved(await desk.order(), PROCESSING)
    refused = await refusal(OrderNotDeletable, desk.orders.delete(order.id, by=desk.admin))
    assert refused.current_status == "processing"
    order = await desk.orders.cancel(order.id, by=desk.staff)
    await refusal(StaleVersion, desk.orders.delete(order.id, by=desk.admin, if_match={1}))
    await desk.orders.delete(order.id, by=desk.admin)
    await refusal(NotFound, desk.orders.get(order.id, by=desk.viewer))


async def test_the_order_of_a_deleted_one_frees_its_customer(desk):
    jane = await desk.customer()
    order = await desk.order(jane)
    await desk.orders.delete(order.id, by=desk.admin)
    await desk.customers.archive(jane.id, by=desk.admin)


# Permissions

CALLS = {
    "create": (
        Scope.ORDERS_WRITE,
        lambda use, by: use.create(customer=uuid4(), item="Tea", amount="1", by=by),
    ),
    "get": (Scope.ORDERS_READ, lambda use, by: use.get(uuid4(), by=by)),
    "list": (Scope.ORDERS_READ, lambda use, by: use.list(OrderFilter(), PageRequest(), by=by)),
    "search": (
        Scope.ORDERS_READ,
        lambda use, by: use.search("tea", OrderFilter(), PageRequest(), by=by),
    ),
    "update": (Scope.ORDERS_WRITE, lambda use, by: use.update(uuid4(), {}, by=by)),
    "update_status": (
        Scope.ORDERS_WRITE,
        lambda use, by: use.update_status(uuid4(), "gone", by=by),
    ),
    "cancel": (Scope.ORDERS_WRITE, lambda use, by: use.cancel(uuid4(), by=by)),
    "delete": (Scope.ORDERS_DELETE, lambda use, by: use.delete(uuid4(), by=by)),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_what_its_scopes_cover(desk, role, method):
    scope, call = CALLS[method]
    try:
        await call(desk.orders, Caller.with_role("user:x", role))
    except InsufficientScope:
        allowed = False
    except (NotFound, Invalid):
        allowed = True
    else:
        allowed = True
    assert allowed == (scope in ROLE_SCOPES[role])


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_needs_its_scope_and_no_other(desk, method, refusal):
    scope, call = CALLS[method]
    others = Caller(principal="client:x", permissions=frozenset(Scope) - {scope})
    denied = await refusal(InsufficientScope, call(desk.orders, others))
    assert denied.required_scope == scope
    alone = Caller(principal="client:x", permissions=frozenset({scope}))
    try:
        await call(desk.orders, alone)
    except (NotFound, Invalid):
        assert method not in {"list", "search"}
