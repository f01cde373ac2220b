"""Keyset pages and ranked search over any select: one query a page, its count included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
)

from savannah.adapters.sql.transaction import Transaction
from savannah.domain.order import Reference
from savannah.domain.paging import (
    COUNT_EXACT_TO,
    Page,
    PageRequest,
    Position,
    SortValue,
)
from savannah.domain.search import Rank, SearchQuery

_COUNTED: Final = "counted_rows"


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
) -> Page[Row[Any]]:
    """The page of `found` that a request asks for; its rows have an `id`."""
    backward = request.before is not None
    place = request.before if backward else request.after
    page = found.limit(request.limit + 1).order_by(
        *(key.column.desc() if key.descending is not backward else key.column.asc() for key in keys)
    )
    if place is not None:
        page = page.where(_beyond(keys, (*place.values, place.id), backward=backward))
    counting = select(func.count()).select_from(
        found.with_only_columns(keys[-1].column).limit(COUNT_EXACT_TO + 1).subquery()
    )
    if request.count:  # in the same statement, so that they agree and travel together
        page = page.add_columns(counting.scalar_subquery().label(_COUNTED))
    rows = await transaction.all(page)
    counted: int | None = None
    if request.count:
        counted = getattr(rows[0], _COUNTED) if rows else 0
        if not rows and place is not None:
            counting_row = await transaction.first(counting)
            counted = 0 if counting_row is None else counting_row[0]
    return Page.cut(
        rows,
        request,
        position=lambda row: Position(values(row), row.id),
        counted=counted,
    )


def _beyond(
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


# --- search --------------------------------------------------------------------------------------


def _holds(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """The column has the part somewhere."""
    return column.like(f"%{_literally(part)}%", escape="\\")


def _begins_word(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """The column, or a word in it, begins with the part."""
    return or_(
        column.like(f"{_literally(part)}%", escape="\\"),
        column.like(f"% {_literally(part)}%", escape="\\"),
    )


def _literally(part: str) -> str:
    return part.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Where a search looks, all of it folded; mirrors `SearchQuery.match`."""

    fields: Sequence[ColumnElement[Any]]
    phone: ColumnElement[Any]
    phone_digits: ColumnElement[Any]
    reference: ColumnElement[Any] | None = None

    def condition_and_rank(
        self, query: SearchQuery
    ) -> tuple[ColumnElement[bool], ColumnElement[int]]:
        """Which rows match, and how well."""
        exact = [column == query.text for column in self.fields]
        if self.reference is not None and (symbols := Reference.compact(query.text)):
            exact.append(self.reference == symbols)
        if query.phone is not None:
            exact.append(self.phone == query.phone)
        anywhere: list[ColumnElement[bool]] = []
        prefix: list[ColumnElement[bool]] = []
        for token in query.tokens:
            within = [_holds(column, token) for column in self.fields]
            begins = [_begins_word(column, token) for column in self.fields]
            if self.reference is not None and (symbols := Reference.compact(token)):
                within.append(_holds(self.reference, symbols))
            if (digits := query.digits_of(token)) is not None:
                within.append(_holds(self.phone_digits, digits))
                begins.append(_begins_word(self.phone_digits, digits))
            anywhere.append(or_(*within))
            prefix.append(or_(*begins))
        rank = case(
            (or_(*exact), literal(Rank.EXACT.value, Integer)),
            (and_(*prefix), literal(Rank.PREFIX.value, Integer)),
            else_=literal(Rank.SUBSTRING.value, Integer),
        )
        return or_(*exact, and_(*anywhere)), rank


async def read_search(
    transaction: Transaction,
    found: Select[Any],
    searched: Searched,
    query: SearchQuery,
    request: PageRequest,
) -> Page[Row[Any]]:
    """The page of the rows of `found` that match, best first, then newest, then by id."""
    condition, rank = searched.condition_and_rank(query)
    ranked = found.where(condition).add_columns(rank.label("rank")).subquery()
    keys = (
        SortKey(ranked.c.rank),
        SortKey(ranked.c.updated_at, descending=True),
        SortKey(ranked.c.id),
    )
    return await read_page(
        transaction,
        select(ranked),
        keys,
        request,
        lambda row: (row.rank, row.updated_at),
    )
