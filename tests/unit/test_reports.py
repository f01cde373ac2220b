"""Use cases on numbers: what the desk has done shows in them, and who may see it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from savannah.application.business import Business
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import BadQuery, InsufficientScope, NotFound
from savannah.domain.notification import RefusalKind, RefusedSms
from savannah.domain.notification_policy import Policy
from savannah.domain.order import Status
from savannah.domain.statistics import Interval

DAY = timedelta(days=1)
PROCESSING, SHIPPED, DELIVERED = Status.PROCESSING, Status.SHIPPED, Status.DELIVERED


async def busy_desk(desk):
    """Four orders of Jane's in shillings and one in dollars, one of John's, one deleted."""
    jane, john = await desk.customer(), await desk.customer(phone_number="0711111111")
    for _ in range(2):
        order = await desk.order(jane)
        desk.clock.advance(timedelta(hours=5))
        order = await desk.moved(order, PROCESSING, SHIPPED)
        desk.clock.advance(timedelta(hours=21))
        await desk.moved(order, DELIVERED)
    cancelled = await desk.order(jane, item="Tea", amount="100.00", quantity=3)
    await desk.orders.cancel(cancelled.id, by=desk.staff)
    await desk.order(jane, item="laptop computer", amount="0.01", quantity=2)
    await desk.order(jane, amount="40", currency="USD")
    gone = await desk.order(jane, amount="5000")
    await desk.orders.delete(gone.id, by=desk.admin)
    await desk.order(john, item="Tea", amount="50")
    return jane, john


async def test_a_customers_numbers_are_those_of_their_orders(desk):
    jane, _ = await busy_desk(desk)
    began = desk.clock.now() - timedelta(hours=52)
    found = await desk.reports.customer_stats(jane.id, by=desk.viewer)
    assert (found.customer, found.currency, found.as_of) == (jane.id, "KES", desk.clock.now())
    assert (found.total_orders, found.open_orders, found.live_orders) == (4, 1, 3)
    assert (found.net_minor, found.cancelled_minor, found.gross_minor) == (200_000, 30_000, 230_000)
    assert found.largest_minor == 99_999
    assert (found.first_order_at, found.last_order_at) == (began, desk.clock.now())
    (dollars,) = found.other_currencies
    assert (dollars.currency, dollars.orders, dollars.net_minor) == ("USD", 1, 4000)
    assert found.sms.total == 2 * 3 + 2 + 1 + 1


async def test_a_customers_numbers_in_another_currency(desk):
    jane, _ = await busy_desk(desk)
    found = await desk.reports.customer_stats(jane.id, currency="USD", by=desk.viewer)
    assert (found.total_orders, found.net_minor) == (1, 4000)
    assert [each.currency for each in found.other_currencies] == ["KES"]


async def test_there_are_no_numbers_of_nobody(desk, refusal):
    await refusal(NotFound, desk.reports.customer_stats(uuid4(), by=desk.viewer))


async def test_an_archived_customer_keeps_their_numbers(desk):
    jane = await desk.customer()
    await desk.orders.cancel((await desk.order(jane)).id, by=desk.staff)
    await desk.customers.archive(jane.id, by=desk.admin)
    assert (await desk.reports.customer_stats(jane.id, by=desk.viewer)).total_orders == 1


async def test_the_business_s_numbers_add_up(desk):
    await busy_desk(desk)
    found = await desk.reports.analytics(by=desk.viewer)
    today = desk.clock.now().astimezone(ZoneInfo("Africa/Nairobi")).date()
    assert (found.period.end, found.period.interval) == (today, Interval.DAY)
    assert (found.period.end - found.period.start).days == 29
    assert (found.currency, found.as_of) == ("KES", desk.clock.now())
    assert (found.total_orders, found.live_orders, found.net_minor) == (5, 4, 205_000)
    assert (found.cancelled_minor, found.units) == (30_000, 5)
    assert (found.cancellation_rate, found.delivery_rate) == (0.2, 0.5)
    assert (found.customers, found.new_customers, found.recent_orders_7_days) == (2, 2, 5)
    assert (found.median_hours_to_ship, found.median_hours_to_deliver) == (5.0, 26.0)
    assert sum(bucket.orders for bucket in found.series) == 5
    assert sum(bucket.net_minor for bucket in found.series) == 205_000
    assert [(item.item, item.orders, item.units) for item in found.top_items] == [
        ("laptop computer", 3, 4),
        ("Tea", 1, 1),
    ]
    assert [each.currency for each in found.other_currencies] == ["USD"]


async def test_a_cancelled_order_changes_neither_revenue_nor_average(desk):
    jane, _ = await busy_desk(desk)
    before = await desk.reports.analytics(by=desk.viewer)
    await desk.orders.cancel((await desk.order(jane, amount="777")).id, by=desk.staff)
    after = await desk.reports.analytics(by=desk.viewer)
    assert (after.net_minor, after.live_orders) == (before.net_minor, before.live_orders)
    assert after.total_orders == before.total_orders + 1


async def test_numbers_of_one_customer_one_currency_and_one_day(desk):
    jane, john = await busy_desk(desk)
    found = await desk.reports.analytics(customer=john.id, by=desk.viewer)
    assert (found.total_orders, found.net_minor) == (1, 5000)
    found = await desk.reports.analytics(customer=jane.id, currency="USD", by=desk.viewer)
    assert (found.total_orders, found.net_minor) == (1, 4000)
    day = date(2026, 11, 23)
    found = await desk.reports.analytics(start=day, end=day, interval=Interval.NONE, by=desk.viewer)
    assert (found.total_orders, found.series) == (1, ())


async def test_an_order_belongs_to_the_day_it_was_on_the_clock_of_the_zone(open_desk):
    desk = open_desk(
        now=datetime(2026, 11, 23, 21, 30, tzinfo=UTC),  # half past midnight in Nairobi
        business=Business(policy=Policy(zone=ZoneInfo("Africa/Nairobi"))),
    )
    await desk.order()
    at_home = await desk.reports.analytics(by=desk.viewer)
    assert [bucket.start for bucket in at_home.series if bucket.orders] == [date(2026, 11, 24)]
    abroad = await desk.reports.analytics(zone=ZoneInfo("UTC"), by=desk.viewer)
    assert [bucket.start for bucket in abroad.series if bucket.orders] == [date(2026, 11, 23)]


async def test_messages_are_counted_by_what_became_of_them(desk):
    desk.gateway.answer(RefusedSms(kind=RefusalKind.NUMBER, code="403"))
    jane = await desk.customer()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    await desk.order(jane)
    await desk.notifications.dispatch_due()
    await desk.order(jane, notify=False)
    for found in (
        (await desk.reports.analytics(by=desk.viewer)).sms,
        (await desk.reports.customer_stats(jane.id, by=desk.viewer)).sms,
    ):
        assert (found.total, found.failed, found.skipped, found.delivered) == (3, 1, 1, 0)
        assert (found.delivery_rate, found.cost) == (0.0, (("KES", "0.80"),))


async def test_a_customer_is_new_only_in_the_period_of_the_first_order(desk):
    jane = await desk.customer()
    await desk.order(jane, currency="USD", amount="1")
    desk.clock.advance(40 * DAY)
    await desk.order(jane)
    found = await desk.reports.analytics(by=desk.viewer)
    assert (found.customers, found.new_customers) == (1, 0)


async def test_a_period_upside_down_or_too_long_is_refused(desk, refusal):
    start = date(2026, 11, 23)
    for end, code in ((start - DAY, "invalid_parameter"), (start + 366 * DAY, "range_too_large")):
        refused = await refusal(
            BadQuery, desk.reports.analytics(start=start, end=end, by=desk.viewer)
        )
        assert refused.code == code


CALLS = {
    "customer_stats": lambda use, by: use.customer_stats(uuid4(), by=by),
    "analytics": lambda use, by: use.analytics(by=by),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_what_its_scopes_cover(desk, role, method):
    try:
        await CALLS[method](desk.reports, Caller.with_role("user:x", role))
    except InsufficientScope:
        allowed = False
    except NotFound:
        allowed = True
    else:
        allowed = True
    assert allowed == (Scope.ANALYTICS_READ in ROLE_SCOPES[role])


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_needs_its_scope(desk, method, refusal):
    others = replace(desk.admin, permissions=frozenset(Scope) - {Scope.ANALYTICS_READ})
    denied = await refusal(InsufficientScope, CALLS[method](desk.reports, others))
    assert denied.required_scope == "analytics:read"
