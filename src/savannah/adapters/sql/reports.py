"""Raw sums for statistics, counted by the database; a whole report is one trip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from savannah.adapters.sql.tables import notifications, orders
from savannah.adapters.sql.transaction import Transaction
from savannah.application.ports import Reports
from savannah.domain.customer import CustomerId
from savannah.domain.order import Status
from savannah.domain.statistics import (
    TOP_ITEMS,
    AnalyticsSums,
    DaySum,
    ItemSum,
    Period,
    SmsSum,
    StatusSum,
)

_RECENT: Final = timedelta(days=7)
_EPOCH: Final = date(1970, 1, 1)


class _LocalDay(FunctionElement[int]):
    """The number of the local day since 1970, of a moment and an offset in seconds."""

    type = BigInteger()
    inherit_cache = True


class _SecondsBetween(FunctionElement[int]):
    """Whole seconds from one moment to a later one."""

    type = BigInteger()
    inherit_cache = True


@compiles(_LocalDay, "sqlite")
def _local_day_sqlite(element: _LocalDay, compiler: SQLCompiler, **options: Any) -> str:
    moment, offset = (compiler.process(part, **options) for part in element.clauses)
    return f"(({moment} + {offset} * 1000000) / 86400000000)"


@compiles(_LocalDay, "postgresql")
def _local_day_postgresql(element: _LocalDay, compiler: SQLCompiler, **options: Any) -> str:
    moment, offset = (compiler.process(part, **options) for part in element.clauses)
    return f"CAST(floor((extract(epoch FROM {moment}) + {offset}) / 86400) AS bigint)"


@compiles(_SecondsBetween, "sqlite")
def _seconds_sqlite(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in element.clauses)
    return f"(({end} - {start}) / 1000000)"


@compiles(_SecondsBetween, "postgresql")
def _seconds_postgresql(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in element.clauses)
    return f"CAST(trunc(extract(epoch FROM {end} - {start})) AS bigint)"


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    """An exact sum, 0 of nothing; Postgres would make it a numeric."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


_o, _n = orders.c, notifications.c
_KEPT: Final = _o.deleted_at.is_(None)
_LIVE: Final = _o.status != Status.CANCELLED
_BY_STATUS: Final = (
    select(
        _o.currency,
        _o.status,
        func.count().label("orders"),
        _sum(_o.total_minor).label("total_minor"),
        _sum(_o.quantity).label("units"),
        func.max(_o.total_minor).label("largest_minor"),
        func.min(_o.created_at).label("first_at"),
        func.max(_o.created_at).label("last_at"),
    )
    .where(_KEPT)
    .group_by(_o.currency, _o.status)
    .order_by(_o.currency, _o.status)
)
_BY_SMS_STATUS: Final = (
    select(
        _n.status,
        _n.cost_currency,
        func.count().label("messages"),
        _sum(_n.segments).label("segments"),
        _sum(_n.cost_units).label("units"),
    )
    .select_from(notifications.join(orders, _o.id == _n.order_id))
    .where(_KEPT)
    .group_by(_n.status, _n.cost_currency)
    .order_by(_n.status, _n.cost_currency)
)
_CUSTOMER_SUMS: Final = _BY_STATUS.where(_o.customer_id == bindparam("customer_id"))
_CUSTOMER_SMS: Final = _BY_SMS_STATUS.where(_o.customer_id == bindparam("customer_id"))


class SqlReports(Reports):
    """Sums over what one transaction sees."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def customer_sums(self, customer_id: CustomerId) -> Sequence[StatusSum]:
        rows = await self._transaction.all(_CUSTOMER_SUMS, {"customer_id": customer_id})
        return [_status_sum(row) for row in rows]

    async def customer_sms(self, customer_id: CustomerId) -> Sequence[SmsSum]:
        rows = await self._transaction.all(_CUSTOMER_SMS, {"customer_id": customer_id})
        return _sms_sums(rows)

    async def analytics(
        self,
        *,
        period: Period,
        currency: str,
        customer: CustomerId | None,
        now: datetime,
    ) -> AnalyticsSums:
        start, before = period.starts_at, period.ends_before
        theirs = [] if customer is None else [_o.customer_id == customer]
        created = [_o.created_at >= start, _o.created_at < before, *theirs]
        own = and_(_KEPT, _o.currency == currency, *created)
        recent = (
            select(func.count())
            .where(_KEPT, _o.currency == currency, *theirs)
            .where(_o.created_at.between(now - _RECENT, now))
        )
        texts = _BY_SMS_STATUS.where(_n.created_at >= start, _n.created_at < before, *theirs)

        def read(connection: Connection) -> AnalyticsSums:
            buyers = connection.execute(_buyers(own, period)).one()
            return AnalyticsSums(
                by_status=[
                    _status_sum(row) for row in connection.execute(_BY_STATUS.where(*created))
                ],
                days=[_day_sum(row) for row in connection.execute(_days(own, period))],
                top_items=[_item_sum(row) for row in connection.execute(_top_items(own))],
                customers=buyers.customers,
                new_customers=buyers.new_customers,
                recent_orders=connection.scalar(recent) or 0,
                seconds_to_ship=connection.scalars(_middle(own, _o.shipped_at)).all(),
                seconds_to_deliver=connection.scalars(_middle(own, _o.delivered_at)).all(),
                sms=_sms_sums(connection.execute(texts)),
            )

        return await self._transaction.run(read)


def _days(own: ColumnElement[bool], period: Period) -> Select[Any]:
    """Sums by local day; the zone's offset is a constant within each of the period's spans."""
    *earlier, (_, _, last) = period.spans()
    offset: ColumnElement[int] = literal(last, BigInteger)
    if earlier:
        offset = case(
            *((_o.created_at < end, literal(seconds, BigInteger)) for _, end, seconds in earlier),
            else_=offset,
        )
    day = _LocalDay(_o.created_at, offset).label("day")
    orders_of_day = select(day, _o.status, _o.total_minor).where(own).subquery()
    c = orders_of_day.c
    cancelled = c.status == Status.CANCELLED
    return (
        select(
            c.day,
            func.count().label("orders"),
            _sum(case((cancelled, 1), else_=0)).label("cancelled"),
            _sum(case((cancelled, 0), else_=c.total_minor)).label("net_minor"),
        )
        .group_by(c.day)
        .order_by(c.day)
    )


def _top_items(own: ColumnElement[bool]) -> Select[Any]:
    newest_first = (_o.created_at.desc(), _o.id.desc())
    spelled = (
        select(
            _o.item_key,
            func.first_value(_o.item)
            .over(partition_by=_o.item_key, order_by=newest_first)
            .label("item"),
            _o.quantity,
            _o.total_minor,
        )
        .where(own, _LIVE)
        .subquery()
    )
    net = _sum(spelled.c.total_minor)
    return (
        select(
            spelled.c.item,
            func.count().label("orders"),
            _sum(spelled.c.quantity).label("units"),
            net.label("net_minor"),
        )
        .group_by(spelled.c.item_key, spelled.c.item)
        .order_by(net.desc(), spelled.c.item_key)
        .limit(TOP_ITEMS)
    )


def _buyers(own: ColumnElement[bool], period: Period) -> Select[int, int]:
    """How many bought, and how many of them had not bought anything before the period."""
    earlier = orders.alias("earlier")
    bought_before = (
        select(earlier.c.id)
        .where(
            earlier.c.customer_id == _o.customer_id,
            earlier.c.deleted_at.is_(None),
            earlier.c.created_at < period.starts_at,
        )
        .exists()
    )
    buyers = select(_o.customer_id, bought_before.label("known")).where(own).distinct().subquery()
    return select(
        func.count().label("customers"),
        _sum(case((buyers.c.known, 0), else_=1)).label("new_customers"),
    ).select_from(buyers)


def _middle(own: ColumnElement[bool], reached_at: ColumnElement[Any]) -> Select[Any]:
    """The middle one or two durations from creation, which is all a median needs."""
    seconds = _SecondsBetween(_o.created_at, reached_at).label("seconds")
    ranked = (
        select(
            seconds,
            func.row_number().over(order_by=seconds).label("place"),
            func.count().over().label("number"),
        )
        .where(own, reached_at.is_not(None))
        .subquery()
    )
    place, number = ranked.c.place, ranked.c.number
    return (
        select(ranked.c.seconds)
        .where(or_(place == (number + 1) // 2, place == (number + 2) // 2))
        .order_by(place)
    )


def _status_sum(row: Row[Any]) -> StatusSum:
    return StatusSum(
        currency=row.currency,
        status=Status(row.status),
        orders=row.orders,
        total_minor=row.total_minor,
        units=row.units,
        largest_minor=row.largest_minor,
        first_at=row.first_at,
        last_at=row.last_at,
    )


def _day_sum(row: Row[Any]) -> DaySum:
    return DaySum(
        day=_EPOCH + timedelta(days=row.day),
        orders=row.orders,
        cancelled=row.cancelled,
        net_minor=row.net_minor,
    )


def _item_sum(row: Row[Any]) -> ItemSum:
    return ItemSum(item=row.item, orders=row.orders, units=row.units, net_minor=row.net_minor)


def _sms_sums(rows: Iterable[Row[Any]]) -> list[SmsSum]:
    """One sum for each state out of one row for each state and currency."""
    groups: dict[str, list[Row[Any]]] = {}
    for row in rows:
        groups.setdefault(row.status, []).append(row)
    return [
        SmsSum(
            status=status,
            messages=sum(row.messages for row in group),
            segments=sum(row.segments for row in group),
            cost={row.cost_currency: row.units for row in group if row.cost_currency is not None},
        )
        for status, group in groups.items()
    ]
