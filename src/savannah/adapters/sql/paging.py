"""Keyset pages over any select: one query a page, its count included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    exc,
    false,
    func,
    literal,
    literal_column,
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
_SHAPES_MOST: Final = 200
_FOR_VALUES: Final = text("SET plan_cache_mode = force_custom_plan")
_FOR_ALL: Final = text("RESET plan_cache_mode")


Compare = Callable[[ColumnElement[Any], Any], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class SortKey:
    """One column to sort by; the last one of a page is the unique id."""

    column: ColumnElement[Any]
    descending: bool = False


class Listing:
    """A list whose statement is made once for each shape of a request.

    A shape is the names of the filters, the ordering, the direction and the limit. Making a
    statement costs more than executing it, and the database keeps the plan of one it has seen.

    Args:
        found: the rows, without a filter; they have an `id`.
        orderings: what the names of orderings sort by; `ids` breaks ties.
        among: filters by columns that have one of several values, by name.
        compared: filters by a column and how it compares with the value.
        plain: filters without a value.
        even: filters of which every value lets a few rows pass.
    """

    def __init__(
        self,
        found: Select[Any],
        *,
        ids: ColumnElement[Any],
        orderings: Mapping[str, ColumnElement[Any]],
        among: Mapping[str, ColumnElement[Any]],
        compared: Mapping[str, tuple[ColumnElement[Any], Compare]],
        plain: Mapping[str, ColumnElement[bool]],
        even: Collection[str],
    ) -> None:
        self._found = found
        self._ids = ids
        self._orderings = orderings
        self._among = among
        self._compared = compared
        self._plain = plain
        self._even = {*even, *plain}
        self._made: dict[tuple[Any, ...], tuple[Select[Any], Select[Any]]] = {}

    def conditions(self, wanted: Mapping[str, Any]) -> list[ColumnElement[bool]]:
        """The filters by themselves, with their values."""
        return [self._filter(name, value) for name, value in wanted.items()]

    def _filter(self, name: str, value: Any) -> ColumnElement[bool]:
        if name in self._among:
            return self._among[name].in_(value)
        if name in self._compared:
            column, compare = self._compared[name]
            return compare(column, value)
        return self._plain[name]

    async def page(
        self,
        transaction: Transaction,
        wanted: Mapping[str, Any],
        request: PageRequest,
        value: Callable[[Row[Any]], SortValue],
    ) -> Page[Row[Any]]:
        """The page that a request asks for.

        Args:
            wanted: the filters to apply, with their values.
            value: what the page is sorted by, of a row.
        """
        place = request.before or request.after
        page, counting = self._statements(tuple(wanted), request)
        values = dict(wanted)
        if place is not None:
            values |= {f"at_{at}": each for at, each in enumerate((*place.values, place.id))}
        if transaction.dialect == "postgresql" and wanted.keys() - self._even:
            rows = await transaction.run(lambda connection: _planned(connection, page, values))
        else:
            rows = await transaction.all(page, values)
        counted: int | None = None
        if request.count:
            counted = getattr(rows[0], _COUNTED) if rows else 0
            if not rows and place is not None:
                counted = (await transaction.all(counting, dict(wanted)))[0][0]
        return Page.cut(
            rows,
            request,
            position=lambda row: Position((value(row),), row.id),
            counted=counted,
        )

    def _statements(
        self, names: tuple[str, ...], request: PageRequest
    ) -> tuple[Select[Any], Select[Any]]:
        backward, placed = request.before is not None, request.after is not None
        shape = (names, request.ordering, backward, placed, request.limit, request.count)
        made = self._made.get(shape)
        if made is None:
            if len(self._made) >= _SHAPES_MOST:
                self._made.clear()
            parameters: dict[str, Any] = {
                name: bindparam(name, expanding=name in self._among) for name in names
            }
            found = self._found.where(*self.conditions(parameters))
            descending = request.ordering.descending
            keys = (
                SortKey(request.ordering.among(self._orderings), descending),
                SortKey(self._ids, descending),
            )
            place = [bindparam(f"at_{at}", type_=key.column.type) for at, key in enumerate(keys)]
            counting = _counting(found, keys)
            made = self._made[shape] = (
                _page_of(
                    found,
                    keys,
                    place if backward or placed else None,
                    backward=backward,
                    limit=request.limit,
                    counting=counting if request.count else None,
                ),
                counting,
            )
        return made


def _planned(
    connection: Connection, page: Select[Any], values: Mapping[str, Any]
) -> Sequence[Row[Any]]:
    """The rows, by a plan for these very values.

    After five runs Postgres may keep one plan for all values, which suits the common ones: to look
    for the rare ones it would read the whole table.
    """
    connection.execute(_FOR_VALUES)
    try:
        return connection.execute(page, values).all()
    finally:
        with suppress(exc.DBAPIError):  # where a transaction has failed its end does it
            connection.execute(_FOR_ALL)


async def read_page(
    transaction: Transaction,
    found: Select[Any],
    keys: Sequence[SortKey],
    request: PageRequest,
    values: Callable[[Row[Any]], tuple[SortValue, ...]],
) -> Page[Row[Any]]:
    """The page of `found` that a request asks for; its rows have an `id`.

    For rows that are looked for in a way of their own every time; see `Listing` for the others.
    """
    backward = request.before is not None
    place = request.before or request.after
    at = None
    if place is not None:
        parts = zip(keys, (*place.values, place.id), strict=True)
        at = [literal(value, key.column.type) for key, value in parts]
    counting = _counting(found, keys)
    page = _page_of(
        found,
        keys,
        at,
        backward=backward,
        limit=request.limit,
        counting=counting if request.count else None,
    )

    def read(connection: Connection) -> tuple[Sequence[Row[Any]], int | None]:
        rows = connection.execute(page).all()
        if not request.count:
            return rows, None
        if rows:
            return rows, getattr(rows[0], _COUNTED)
        return rows, 0 if place is None else connection.scalar(counting)

    rows, counted = await transaction.run(read)
    return Page.cut(
        rows,
        request,
        position=lambda row: Position(values(row), row.id),
        counted=counted,
    )


def _page_of(
    found: Select[Any],
    keys: Sequence[SortKey],
    place: Sequence[ColumnElement[Any]] | None,
    *,
    backward: bool,
    limit: int,
    counting: Select[Any] | None,
) -> Select[Any]:
    """One row more than the page has, to see whether it is the last one."""
    page = found.limit(_exactly(limit + 1)).order_by(
        *(key.column.desc() if key.descending is not backward else key.column.asc() for key in keys)
    )
    if place is not None:
        page = page.where(beyond(keys, place, backward=backward))
    if counting is not None:  # in the same statement, so that they agree and travel together
        page = page.add_columns(counting.scalar_subquery().label(_COUNTED))
    return page


def _counting(found: Select[Any], keys: Sequence[SortKey]) -> Select[Any]:
    """How many rows there are, counted no further than one beyond what is told exactly."""
    ids = found.with_only_columns(keys[-1].column)
    return select(func.count()).select_from(ids.limit(_exactly(COUNT_EXACT_TO + 1)).subquery())


def _exactly(number: int) -> ColumnElement[int]:
    """In the text of the statement: a limit that is a parameter spoils a plan that is kept."""
    return literal_column(str(number), Integer)


def beyond(keys: Sequence[SortKey], place: Sequence[Any], *, backward: bool) -> ColumnElement[bool]:
    """Rows after the place, or before it; the first key alone bounds what an index reads."""
    condition: ColumnElement[bool] = false()
    bound: ColumnElement[bool] = false()
    for key, at in reversed(tuple(zip(keys, place, strict=True))):
        column = key.column
        downwards = key.descending is not backward
        past = column < at if downwards else column > at
        bound = column <= at if downwards else column >= at
        condition = or_(past, and_(column == at, condition))
    return and_(bound, condition)
