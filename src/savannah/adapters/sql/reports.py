"""Raw sums for statistics, counted by the database; a whole report is one trip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Select,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from savannah.adapters.sql.column_types import Instant, Uid
from savannah.adapters.sql.tables import notifications, orders
from savannah.adapters.sql.transaction import Transaction
from savannah.application.ports import Reports
from savannah.domain.customer import CustomerId
from savannah.domain.order import Status
from savannah.domain.statistics import (
    TOP_ITEMS,
    AnalyticsSums,
    CustomerSums,
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
    # Whole numbers all the way, while `extract` would make numerics.
    local = f"({moment} AT TIME ZONE 'UTC') + {offset} * interval '1 second'"
    return f"(CAST({local} AS date) - date '1970-01-01')"


@compiles(_SecondsBetween, "sqlite")
def _seconds_sqlite(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in element.clauses)
    return f"(({end} - {start}) / 1000000)"


@compiles(_SecondsBetween, "postgresql")
def _seconds_postgresql(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(part, **options) for part in element.clauses)
    # A double holds the microseconds of two centuries.
    return f"CAST(trunc(date_part('epoch', {end} - {start})) AS bigint)"


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    """An exact sum, 0 of nothing; Postgres would make it a numeric."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


_o, _n = orders.c, notifications.c
Columns = ReadOnlyColumnCollection[str, Any]
_KEPT: Final = _o.deleted_at.is_(None)
# Few orders are deleted, so they are what a partial index holds.
_OF_KEPT: Final = ~(
    select(literal_column("1")).where(_o.id == _n.order_id, _o.deleted_at.is_not(None)).exists()
)


_BY_STATUS: Final = (
    select(
        _o.currency,
        _o.status,
        func.count().label("orders"),
        _sum(_o.total_minor).label("total_minor"),
        _sum(_o.quantity).label("units"),
    )
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
    .where(_OF_KEPT)
    .group_by(_n.status, _n.cost_currency)
)
_customer = bindparam("customer_id", type_=Uid)
# Orders and messages of one customer in one trip.
_CUSTOMER: Final = union_all(
    select(
        literal_column("TRUE", Boolean).label("of_orders"),
        _o.currency,
        _o.status,
        func.count().label("number"),
        _sum(_o.total_minor).label("total_minor"),
        _sum(_o.quantity).label("units"),
        func.max(_o.total_minor).label("largest_minor"),
        func.min(_o.created_at).label("first_at"),
        func.max(_o.created_at).label("last_at"),
    )
    .where(_KEPT, _o.customer_id == _customer)
    .group_by(_o.currency, _o.status),
    select(
        literal_column("FALSE", Boolean),
        _n.cost_currency,
        _n.status,
        func.count(),
        _sum(_n.cost_units),
        _sum(_n.segments),
        cast(null(), BigInteger),
        type_coerce(null(), Instant),
        type_coerce(null(), Instant),
    )
    .where(_OF_KEPT, _n.customer_id == _customer)
    .group_by(_n.status, _n.cost_currency),
)
# Two equal snapshots see the same rows. They belong to one database of one server since it last
# started or recovered: copies, restored ones and successors count on from the same numbers. A
# replica cannot tell who is still at work.
_STAMP: Final = text(
    """
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE concat_ws(' ',
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT checkpoint_lsn FROM pg_control_checkpoint()),
    extract(epoch FROM pg_postmaster_start_time()), current_database(), pg_current_snapshot()) END
"""
)


class SqlReports(Reports):
    """Sums over what one transaction sees."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def stamp(self) -> str | None:
        if self._transaction.dialect != "postgresql":
            return None
        row = await self._transaction.first(_STAMP)
        return None if row is None else row[0]

    async def customer(self, customer_id: CustomerId) -> CustomerSums:
        rows = await self._transaction.all(_CUSTOMER, {"customer_id": customer_id})
        return CustomerSums(
            by_status=[
                StatusSum(
                    currency=row.currency,
                    status=Status(row.status),
                    orders=row.number,
                    total_minor=row.total_minor,
                    units=row.units,
                    largest_minor=row.largest_minor,
                    first_at=row.first_at,
                    last_at=row.last_at,
                )
                for row in rows
                if row.of_orders
            ],
            sms=_sms_sums(
                _SmsRow(row.status, row.currency, row.number, row.units, row.total_minor)
                for row in rows
                if not row.of_orders
            ),
        )

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
        created = [_KEPT, _o.created_at >= start, _o.created_at < before, *theirs]
        own = (  # read once, for most of the parts
            select(
                *(_o.id, _o.customer_id, _o.status, _o.item_key, _o.item, _o.quantity),
                *(_o.total_minor, _o.created_at, _o.shipped_at, _o.delivered_at),
            )
            .where(_o.currency == currency, *created)
            .cte("own")
        )
        c = own.c
        texts = _BY_SMS_STATUS.where(_n.created_at >= start, _n.created_at < before)
        if customer is not None:
            texts = texts.where(_n.customer_id == customer)
        parts: dict[str, Select[*tuple[Any, ...]]] = {
            "by_status": _BY_STATUS.where(*created),
            "days": _days(c, period),
            "top_items": _top_items(c),
            "buyers": _buyers(c, period),
            "recent": select(func.count().label("orders"))
            .where(_KEPT, _o.currency == currency, *theirs)
            .where(_o.created_at.between(now - _RECENT, now)),
            "to_ship": _middle(c, c.shipped_at),
            "to_deliver": _middle(c, c.delivered_at),
            "sms": texts,
        }
        found = await self._read(parts)
        (buyers,), (recent,) = found["buyers"], found["recent"]
        return AnalyticsSums(
            by_status=[_status_sum(row) for row in found["by_status"]],
            days=[_day_sum(row) for row in found["days"]],
            top_items=[_item_sum(row) for row in found["top_items"]],
            customers=buyers.customers,
            new_customers=buyers.new_customers,
            recent_orders=recent.orders,
            seconds_to_ship=[row.seconds for row in found["to_ship"]],
            seconds_to_deliver=[row.seconds for row in found["to_deliver"]],
            sms=_sms_sums(found["sms"]),
        )

    async def _read(
        self, parts: Mapping[str, Select[*tuple[Any, ...]]]
    ) -> Mapping[str, Sequence[Any]]:
        """The rows of several selects: on Postgres in one statement, on SQLite in one trip."""
        if self._transaction.dialect != "postgresql":
            return await self._transaction.run(
                lambda connection: {
                    name: connection.execute(part).all() for name, part in parts.items()
                }
            )
        whole = select(*(_as_json(name, part) for name, part in parts.items()))
        row = await self._transaction.first(whole)
        assert row is not None
        return {
            name: [SimpleNamespace(**each) for each in getattr(row, name) or ()] for name in parts
        }


def _as_json(name: str, part: Select[*tuple[Any, ...]]) -> ColumnElement[Any]:
    """All rows of a part in one value."""
    rows = part.subquery(f"{name}_rows")
    objects = func.json_agg(literal_column(rows.name), type_=JSON)
    return select(objects).select_from(rows).scalar_subquery().label(name)


def _days(c: Columns, period: Period) -> Select[Any]:
    """Sums by local day; the zone's offset is a constant within each of the period's spans."""
    *earlier, (_, _, last) = period.spans()
    offset: ColumnElement[int] = literal(last, BigInteger)
    if earlier:
        offset = case(
            *((c.created_at < end, literal(seconds, BigInteger)) for _, end, seconds in earlier),
            else_=offset,
        )
    day = _LocalDay(c.created_at, offset).label("day")
    orders_of_day = select(day, c.status, c.total_minor).subquery()
    d = orders_of_day.c
    cancelled = d.status == Status.CANCELLED
    return (
        select(
            d.day,
            func.count().label("orders"),
            _sum(case((cancelled, 1), else_=0)).label("cancelled"),
            _sum(case((cancelled, 0), else_=d.total_minor)).label("net_minor"),
        )
        .group_by(d.day)
        .order_by(d.day)
    )


def _top_items(c: Columns) -> Select[Any]:
    """The items with the highest sums, and then how the newest order spells each."""
    net = _sum(c.total_minor)
    live = c.status != Status.CANCELLED
    top = (
        select(
            c.item_key,
            func.count().label("orders"),
            _sum(c.quantity).label("units"),
            net.label("net_minor"),
        )
        .where(live)
        .group_by(c.item_key)
        .order_by(net.desc(), c.item_key)
        .limit(TOP_ITEMS)
        .subquery()
    )
    newest = func.row_number().over(
        partition_by=c.item_key, order_by=(c.created_at.desc(), c.id.desc())
    )
    spelled = (
        select(c.item_key, c.item, newest.label("place"))
        .where(live, c.item_key.in_(select(top.c.item_key)))
        .subquery()
    )
    return (
        select(spelled.c.item, top.c.orders, top.c.units, top.c.net_minor)
        .join_from(top, spelled, spelled.c.item_key == top.c.item_key)
        .where(spelled.c.place == 1)
        .order_by(top.c.net_minor.desc(), top.c.item_key)
    )


def _buyers(c: Columns, period: Period) -> Select[*tuple[Any, ...]]:
    """How many bought, and how many of them had not bought anything before the period."""
    earlier = orders.alias("earlier")
    buyers = select(c.customer_id).distinct().subquery()
    known = (
        select(earlier.c.id)
        .where(
            earlier.c.customer_id == buyers.c.customer_id,
            earlier.c.deleted_at.is_(None),
            earlier.c.created_at < period.starts_at,
        )
        .exists()
    )
    return select(
        func.count().label("customers"),
        _sum(case((known, 0), else_=1)).label("new_customers"),
    ).select_from(buyers)


def _middle(c: Columns, reached_at: ColumnElement[Any]) -> Select[Any]:
    """The middle one or two durations from creation, which is all a median needs."""
    seconds = _SecondsBetween(c.created_at, reached_at).label("seconds")
    ranked = (
        select(
            seconds,
            func.row_number().over(order_by=seconds).label("place"),
            func.count().over().label("number"),
        )
        .where(reached_at.is_not(None))
        .subquery()
    )
    place, number = ranked.c.place, ranked.c.number
    return (
        select(ranked.c.seconds)
        .where(or_(place == (number + 1) // 2, place == (number + 2) // 2))
        .order_by(place)
    )


@dataclass(frozen=True, slots=True)
class _SmsRow:
    status: str
    cost_currency: str | None
    messages: int
    segments: int
    units: int


def _status_sum(row: Any) -> StatusSum:
    return StatusSum(
        currency=row.currency,
        status=Status(row.status),
        orders=row.orders,
        total_minor=row.total_minor,
        units=row.units,
    )


def _day_sum(row: Any) -> DaySum:
    return DaySum(
        day=_EPOCH + timedelta(days=row.day),
        orders=row.orders,
        cancelled=row.cancelled,
        net_minor=row.net_minor,
    )


def _item_sum(row: Any) -> ItemSum:
    return ItemSum(item=row.item, orders=row.orders, units=row.units, net_minor=row.net_minor)


def _sms_sums(rows: Iterable[Any]) -> list[SmsSum]:
    """One sum for each state out of one row for each state and currency."""
    groups: dict[str, list[Any]] = {}
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
