"""Keyset pages over any select: one query a page, its count included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exc,
    false,
    func,
    literal,
    or_,
    select,
    text,
)

from savannah.adapters.sql.transaction import Transaction
from savannah.domain.paging import (
    COUNT_EXACT_TO,
    Page,
    PageRequest,
    Position,
    SortValue,
)

_COUNTED: Final = "counted_rows"
_FOR_VALUES: Final = text("SET plan_cache_mode = force_custom_plan")
_FOR_ALL: Final = text("RESET plan_cache_mode")


@dataclass(frozen=True, slots=True)
class SortKey:
    """One column to sort by; the last one of a page is the unique id."""

    column: ColumnElement[Any]
    descending: bool = False


async def read_page(
    transaction: Transaction,
    found: Select[Any],
    keys: Sequence[SortKey],
    request: PageRequest,
    values: Callable[[Row[Any]], tuple[SortValue, ...]],
    *,
    filtered: bool = False,
) -> Page[Row[Any]]:
    """The page of `found` that a request asks for; its rows have an `id`.

    Args:
        filtered: by values that may let few or many rows pass.
    """
    backward = request.before is not None
    place = request.before if backward else request.after
    page = found.limit(request.limit + 1).order_by(
        *(key.column.desc() if key.descending is not backward else key.column.asc() for key in keys)
    )
    if place is not None:
        page = page.where(beyond(keys, (*place.values, place.id), backward=backward))
    counting = select(func.count()).select_from(
        found.with_only_columns(keys[-1].column).limit(COUNT_EXACT_TO + 1).subquery()
    )
    if request.count:  # in the same statement, so that they agree and travel together
        page = page.add_columns(counting.scalar_subquery().label(_COUNTED))
    if filtered and transaction.dialect == "postgresql":
        rows = await transaction.run(lambda connection: _planned_by_values(connection, page))
    else:
        rows = await transaction.all(page)
    counted: int | None = None
    if request.count:
        counted = rows[0]._mapping[_COUNTED] if rows else 0  # noqa: SLF001 - public, named so
        if not rows and place is not None:
            counting_row = await transaction.first(counting)
            counted = 0 if counting_row is None else counting_row[0]
    return Page.cut(
        rows,
        request,
        position=lambda row: Position(values(row), row.id),
        counted=counted,
    )


def _planned_by_values(connection: Connection, page: Select[Any]) -> Sequence[Row[Any]]:
    """The rows, by a plan for these very values.

    After five runs Postgres may keep one plan for all values, which suits the common ones: to look
    for the rare ones it would read the whole table.
    """
    connection.execute(_FOR_VALUES)
    try:
        return connection.execute(page).all()
    finally:
        with suppress(exc.DBAPIError):  # where a transaction has failed its end does it
            connection.execute(_FOR_ALL)


def beyond(
    keys: Sequence[SortKey], place: tuple[Any, ...], *, backward: bool
) -> ColumnElement[bool]:
    """Rows after the place, or before it; the first key alone bounds what an index reads."""
    condition: ColumnElement[bool] = false()
    bound: ColumnElement[bool] = false()
    for key, value in reversed(tuple(zip(keys, place, strict=True))):
        column, at = key.column, literal(value, key.column.type)
        downwards = key.descending is not backward
        past = column < at if downwards else column > at
        bound = column <= at if downwards else column >= at
        condition = or_(past, and_(column == at, condition))
    return and_(bound, condition)
