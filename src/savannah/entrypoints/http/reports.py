"""What the business's numbers look like: statistics of a customer, analytics of a period."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import Meta

from savannah.domain.access import Scope
from savannah.domain.customer import CustomerId
from savannah.domain.money import amount_text, average_text
from savannah.domain.order import Status
from savannah.domain.statistics import Analytics, CustomerStats, Interval, SmsFigures
from savannah.entrypoints.http import customers
from savannah.entrypoints.http.door import (
    AnyResponse,
    TheCaller,
    TheDoor,
    json_response,
)
from savannah.entrypoints.http.operations import (
    Count,
    CurrencyCode,
    Moment,
    MoneySum,
    MoneyText,
    Operation,
    Param,
    Share,
    endpoint,
)
from savannah.entrypoints.http.requests import (
    CURRENCY_PARAM,
    CUSTOMER_PARAM,
    TZ_PARAM,
    AnyRequest,
    Query,
)

Hours = Annotated[float, Meta(ge=0)]


class OrdersByStatus(msgspec.Struct):
    """How many orders stand where."""

    pending: Count
    processing: Count
    shipped: Count
    delivered: Count
    cancelled: Count


class OtherCurrency(msgspec.Struct):
    """A customer's orders in another currency than the one asked for."""

    currency: CurrencyCode
    total_orders: Count
    total_spent: MoneyText


class CustomerSms(msgspec.Struct):
    """The texts to one customer."""

    total: Count
    delivered: Count
    failed: Count
    skipped: Count
    cost: list[MoneySum]


class CustomerStatsOut(msgspec.Struct):
    """One customer's numbers; top-level money is in `currency`."""

    customer: UUID
    as_of: Moment
    currency: CurrencyCode
    total_orders: Count
    open_orders: Count
    total_spent: MoneyText
    average_order_value: MoneyText | None
    gross_amount: MoneyText
    cancelled_amount: MoneyText
    largest_order: MoneyText | None
    orders_by_status: OrdersByStatus
    first_order_at: Moment | None
    last_order_at: Moment | None
    other_currencies: list[OtherCurrency]
    sms: CustomerSms


class PeriodOut(msgspec.Struct):
    """Local days, both inclusive."""

    start_date: date
    end_date: date
    timezone: str
    interval: Interval


class SummaryOut(msgspec.Struct):
    """The period in figures; revenue, units and averages leave cancelled orders out."""

    total_orders: Count
    total_revenue: MoneyText
    average_order_value: MoneyText | None
    units: Count
    cancelled_amount: MoneyText
    cancellation_rate: Share | None
    delivery_rate: Share | None
    customers: Count
    new_customers: Count
    recent_orders_7_days: Count
    median_hours_to_ship: Hours | None
    median_hours_to_deliver: Hours | None


class BucketOut(msgspec.Struct):
    """The orders created in one day, week or month."""

    start: date
    orders: Count
    revenue: MoneyText
    cancelled: Count


class ItemOut(msgspec.Struct):
    """One item over all its orders that were not cancelled."""

    item: str
    orders: Count
    units: Count
    revenue: MoneyText


class OtherRevenue(msgspec.Struct):
    """The orders in another currency than the one asked for."""

    currency: CurrencyCode
    total_orders: Count
    total_revenue: MoneyText


class SmsFiguresOut(msgspec.Struct):
    """The texts of the period."""

    total: Count
    delivered: Count
    failed: Count
    skipped: Count
    unknown: Count
    segments: Count
    delivery_rate: Share | None
    cost: list[MoneySum]


class AnalyticsOut(msgspec.Struct):
    """The business's numbers over one period, in one currency."""

    period: PeriodOut
    as_of: Moment
    currency: CurrencyCode
    summary: SummaryOut
    orders_by_status: OrdersByStatus
    series: list[BucketOut]
    top_items: Annotated[list[ItemOut], Meta(max_length=10)]
    other_currencies: list[OtherRevenue]
    sms: SmsFiguresOut


@endpoint(
    "GET",
    "/customers/{customer_id:str}/stats/",
    Operation(
        id="getCustomerStats",
        tag="Customers",
        summary="What a customer has ordered and was texted",
        scope=Scope.ANALYTICS_READ,
        query=(CURRENCY_PARAM,),
        answer=CustomerStatsOut,
        errors=(400, 404),
    ),
)
async def get_customer_stats(
    request: AnyRequest, customer_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    id_ = customers.customer_id_of(customer_id)
    await customers.exists(door, id_)()
    currency = door.currency_of(Query(request))
    stats = await door.savannah.reports.customer_stats(id_, currency=currency, by=caller)
    return json_response(_show_stats(stats))


@endpoint(
    "GET",
    "/orders/analytics/",
    Operation(
        id="getAnalytics",
        tag="Orders",
        summary="The business's numbers over a period",
        scope=Scope.ANALYTICS_READ,
        query=(
            Param("start_date", {"type": "string", "format": "date"}, "The first day."),
            Param("end_date", {"type": "string", "format": "date"}, "The last day."),
            TZ_PARAM,
            Param(
                "interval",
                {"type": "string", "enum": [*Interval], "default": "day"},
                "The size of the buckets in `series`.",
            ),
            CURRENCY_PARAM,
            CUSTOMER_PARAM,
        ),
        answer=AnalyticsOut,
        errors=(400,),
    ),
)
async def get_analytics(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    customer = query.uuid("customer")
    analytics = await door.savannah.reports.analytics(
        start=query.day("start_date"),
        end=query.day("end_date"),
        zone=query.zone(default=door.savannah.business.policy.zone),
        interval=query.choice("interval", Interval, default=Interval.DAY),
        currency=door.currency_of(query),
        customer=None if customer is None else CustomerId(customer),
        by=caller,
    )
    return json_response(_show_analytics(analytics))


def _show_stats(stats: CustomerStats) -> CustomerStatsOut:
    return CustomerStatsOut(
        customer=stats.customer,
        as_of=stats.as_of,
        currency=stats.currency,
        total_orders=stats.total_orders,
        open_orders=stats.open_orders,
        total_spent=amount_text(stats.net_minor),
        average_order_value=average_text(stats.net_minor, stats.live_orders),
        gross_amount=amount_text(stats.gross_minor),
        cancelled_amount=amount_text(stats.cancelled_minor),
        largest_order=None if stats.largest_minor is None else amount_text(stats.largest_minor),
        orders_by_status=_show_by_status(stats.orders_by_status),
        first_order_at=stats.first_order_at,
        last_order_at=stats.last_order_at,
        other_currencies=[
            OtherCurrency(
                currency=each.currency,
                total_orders=each.orders,
                total_spent=amount_text(each.net_minor),
            )
            for each in stats.other_currencies
        ],
        sms=_show_sms(stats.sms),
    )


def _show_sms(sms: SmsFigures) -> CustomerSms:
    return CustomerSms(
        total=sms.total,
        delivered=sms.delivered,
        failed=sms.failed,
        skipped=sms.skipped,
        cost=[MoneySum(currency=currency, amount=amount) for currency, amount in sms.cost],
    )


def _show_analytics(found: Analytics) -> AnalyticsOut:
    period, sms = found.period, found.sms
    return AnalyticsOut(
        period=PeriodOut(
            start_date=period.start,
            end_date=period.end,
            timezone=period.zone.key,
            interval=period.interval,
        ),
        as_of=found.as_of,
        currency=found.currency,
        summary=SummaryOut(
            total_orders=found.total_orders,
            total_revenue=amount_text(found.net_minor),
            average_order_value=average_text(found.net_minor, found.live_orders),
            units=found.units,
            cancelled_amount=amount_text(found.cancelled_minor),
            cancellation_rate=found.cancellation_rate,
            delivery_rate=found.delivery_rate,
            customers=found.customers,
            new_customers=found.new_customers,
            recent_orders_7_days=found.recent_orders_7_days,
            median_hours_to_ship=found.median_hours_to_ship,
            median_hours_to_deliver=found.median_hours_to_deliver,
        ),
        orders_by_status=_show_by_status(found.orders_by_status),
        series=[
            BucketOut(
                start=bucket.start,
                orders=bucket.orders,
                revenue=amount_text(bucket.net_minor),
                cancelled=bucket.cancelled,
            )
            for bucket in found.series
        ],
        top_items=[
            ItemOut(
                item=each.item,
                orders=each.orders,
                units=each.units,
                revenue=amount_text(each.net_minor),
            )
            for each in found.top_items
        ],
        other_currencies=[
            OtherRevenue(
                currency=each.currency,
                total_orders=each.orders,
                total_revenue=amount_text(each.net_minor),
            )
            for each in found.other_currencies
        ],
        sms=SmsFiguresOut(
            total=sms.total,
            delivered=sms.delivered,
            failed=sms.failed,
            skipped=sms.skipped,
            unknown=sms.unknown,
            segments=sms.segments,
            delivery_rate=sms.delivery_rate,
            cost=[MoneySum(currency=currency, amount=amount) for currency, amount in sms.cost],
        ),
    )


def _show_by_status(counts: Mapping[Status, int]) -> OrdersByStatus:
    """How many orders stand where, as JSON has it."""
    return OrdersByStatus(**{str(status): count for status, count in counts.items()})


ROUTES = [get_customer_stats, get_analytics]
