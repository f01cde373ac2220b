"""Ranked search: what `domain.search` guarantees, found without reading more than it must.

SQLite looks at every row that passes the filters. Postgres has too many for that, and its planner
cannot tell a common word from a rare one, so the search finds out by itself: it looks at the rows
that were updated last. Where enough of them match, they are the page; where few do, all that match
are gathered through the trigram indexes and sorted. See `docs/adr/0011-search-at-scale.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    union,
)

from savannah.adapters.sql.paging import SortKey, beyond, read_page
from savannah.adapters.sql.tables import TRIGRAM_INDEXES
from savannah.adapters.sql.transaction import Transaction
from savannah.domain.order import REFERENCE_SYMBOLS, Reference
from savannah.domain.paging import COUNT_EXACT_TO, Page, PageRequest, Position
from savannah.domain.search import Rank, SearchQuery

Condition = ColumnElement[bool]

# So many of the newest rows are looked at for each row of the page. A word in one of forty rows or
# more fills the page from them; a rarer one is in few enough rows to gather them all.
_WINDOW: Final = 40
# From so many matches among the newest rows on, reading on finds ten thousand sooner than an index.
_COMMON_SHARE: Final = 10
# Each token may be in one table or the other. Beyond so many combinations the rest is filtered.
_WAYS_MAX: Final = 9
_REFERENCE_MAX: Final = REFERENCE_SYMBOLS + 1  # with the check symbol

_EVERY_RANK: Final = (Rank.EXACT, Rank.PREFIX, Rank.SUBSTRING)
# A word and its pattern decide the plan: one for all words would suit none. And whatever was found
# is few rows, which are looked up one by one; the planner thinks of many and reads whole tables.
_PLANNED: Final = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
_names = ", ".join(f"to_regclass('{name}')" for name in sorted(TRIGRAM_INDEXES))
_INDEXED: Final = text(
    f"SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid = any (ARRAY[{_names}])"  # noqa: S608 - names of ours
)


def _holds(column: ColumnElement[Any], part: str) -> Condition:
    """The column has the part somewhere."""
    return column.like(f"%{_literally(part)}%", escape="\\")


def _begins_word(column: ColumnElement[Any], part: str) -> Condition:
    """The column, or a word in it, begins with the part."""
    return or_(
        column.like(f"{_literally(part)}%", escape="\\"),
        column.like(f"% {_literally(part)}%", escape="\\"),
    )


def _has(array: ColumnElement[Any], whole: str) -> Condition:
    """One element of the array is the whole."""
    return array.op("@>", is_comparison=True)(
        func.array_append(literal_column("'{}'::text[]"), literal(whole, Text))
    )


def _literally(part: str) -> str:
    return part.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedTable:
    """What one table adds to a search, all of it folded; mirrors `SearchQuery.match`.

    Attributes:
        document, wholes: the fields in one text and in an array, as the indexes have them; the
            compact order number is in both, see `tables`.
        reference: the compact order number.
        phone, phone_digits: of a customer.
    """

    fields: Sequence[ColumnElement[Any]]
    document: ColumnElement[Any]
    wholes: ColumnElement[Any]
    reference: ColumnElement[Any] | None = None
    phone: ColumnElement[Any] | None = None
    phone_digits: ColumnElement[Any] | None = None

    def exact(self, query: SearchQuery, *, indexed: bool) -> Iterator[Condition]:
        """A whole field is the query."""
        if indexed:
            yield _has(self.wholes, query.text)
        else:
            yield from (column == query.text for column in self.fields)
        if self.reference is not None and (symbols := Reference.compact(query.text)):
            yield _has(self.wholes, f"\n{symbols}") if indexed else self.reference == symbols
        if self.phone is not None and query.phone is not None:
            yield self.phone == query.phone

    def begins(self, query: SearchQuery, token: str, *, indexed: bool) -> Iterator[Condition]:
        """A field, or a word of one, begins with the token."""
        if indexed:
            yield _holds(self.document, f" {token}")
        else:
            yield from (_begins_word(column, token) for column in self.fields)
        if self.phone_digits is not None and (digits := query.digits_of(token)) is not None:
            begins = _begins_word(self.phone_digits, digits)
            yield and_(_holds(self.phone_digits, digits), begins) if indexed else begins

    def within(self, query: SearchQuery, token: str, *, indexed: bool) -> Iterator[Condition]:
        """A field has the token somewhere."""
        for column in (self.document,) if indexed else self.fields:
            yield _holds(column, token)
        if self.reference is not None and (symbols := Reference.compact(token)):
            in_number = _holds(self.reference, symbols)
            spelled = symbols.lower()
            if not indexed:
                yield in_number
            elif spelled != token and len(symbols) <= _REFERENCE_MAX:
                yield and_(_holds(self.document, spelled), in_number)
        if self.phone_digits is not None and (digits := query.digits_of(token)) is not None:
            yield _holds(self.phone_digits, digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched: the rows of one table, perhaps with those of another one that they name.

    Attributes:
        main: the table of the rows that are found, with what its filters look at.
        rows: the same with the other table.
        id, updated_at: of the rows that are found.
        tables: the main one first.
        kept: those that are there at all, as the partial indexes put it.
    """

    main: FromClause
    rows: FromClause
    id: ColumnElement[Any]
    updated_at: ColumnElement[Any]
    tables: Sequence[SearchedTable]
    kept: Condition

    def condition_and_rank(
        self, query: SearchQuery, *, indexed: bool
    ) -> tuple[Condition, ColumnElement[int]]:
        """Which rows match, and how well."""

        def everywhere(find: Callable[..., Iterator[Condition]]) -> Condition:
            return and_(
                *(
                    or_(*(way for table in self.tables for way in find(table, query, token)))
                    for token in query.tokens
                )
            )

        exact = or_(*(way for table in self.tables for way in table.exact(query, indexed=indexed)))
        rank = case(
            (exact, literal(Rank.EXACT.value, Integer)),
            (
                everywhere(partial(SearchedTable.begins, indexed=indexed)),
                literal(Rank.PREFIX.value, Integer),
            ),
            else_=literal(Rank.SUBSTRING.value, Integer),
        )
        return or_(exact, everywhere(partial(SearchedTable.within, indexed=indexed))), rank

    def ways(self, query: SearchQuery, rank: Rank) -> tuple[list[Select[Any]], bool]:
        """Ids that together cover a rank, each by conditions that indexes can answer.

        And whether that is all they hold: of many tokens only the longest ones count.
        """
        if rank is Rank.EXACT:
            choices = [
                [(table, way) for table in self.tables for way in table.exact(query, indexed=True)]
            ]
            return self._chosen(choices), True
        find = SearchedTable.begins if rank is Rank.PREFIX else SearchedTable.within
        choices, number = [], 1
        for token in sorted(query.tokens, key=len, reverse=True):
            choice = [
                (table, way)
                for table in self.tables
                for way in find(table, query, token, indexed=True)
            ]
            number *= len(choice)
            if choices and number > _WAYS_MAX:
                return self._chosen(choices), False
            choices.append(choice)
        return self._chosen(choices), True

    def _chosen(
        self, choices: Sequence[Sequence[tuple[SearchedTable, Condition]]]
    ) -> list[Select[Any]]:
        """A select for each way to choose, one condition for each token."""
        return [
            select(self.id.label("id"))
            .select_from(
                self.main if all(table is self.tables[0] for table, _ in chosen) else self.rows
            )
            .where(*(condition for _, condition in chosen))
            for chosen in product(*choices)
        ]


async def read_search(
    transaction: Transaction,
    search: Search,
    query: SearchQuery,
    request: PageRequest,
    *,
    columns: Select[Any],
    conditions: Sequence[Condition],
) -> Page[Row[Any]]:
    """The page of the rows that match and pass, best first, then newest, then by id.

    Args:
        columns: what to read of each row.
        conditions: the filters.
    """
    if transaction.dialect == "postgresql":
        reader = _Reader(
            search, query, request, columns=columns, conditions=[search.kept, *conditions]
        )
        return await transaction.run(reader.page)
    condition, rank = search.condition_and_rank(query, indexed=False)
    passing = columns.where(search.kept, *conditions, condition)
    ranked = passing.add_columns(rank.label("rank")).subquery()
    return await read_page(
        transaction,
        select(ranked),
        _keys_of(ranked),
        request,
        lambda row: (row.rank, row.updated_at),
    )


def _keys_of(ranked: FromClause) -> tuple[SortKey, ...]:
    c = ranked.c
    return SortKey(c.rank), SortKey(c.updated_at, descending=True), SortKey(c.id)


def _read(key: SortKey, *, backward: bool) -> ColumnElement[Any]:
    return key.column.desc() if key.descending is not backward else key.column.asc()


class _Reader:
    """One search on Postgres: a few statements in one snapshot."""

    def __init__(
        self,
        search: Search,
        query: SearchQuery,
        request: PageRequest,
        *,
        columns: Select[Any],
        conditions: Sequence[Condition],
    ) -> None:
        self._search = search
        self._columns = columns
        self._conditions = conditions
        self._query = query
        self._request = request
        self._backward = request.before is not None
        self._place = request.before if self._backward else request.after
        self._place_rank = None if self._place is None else Rank(int(str(self._place.values[0])))
        self._wanted = request.limit + 1
        self._match, self._rank = search.condition_and_rank(query, indexed=True)

    def page(self, connection: Connection) -> Page[Row[Any]]:
        found, counted = self._found(connection)
        rows: dict[Any, Row[Any]] = {}
        if found:
            wanted = self._columns.where(self._search.id.in_([row.id for row in found]))
            rows = {row.id: row for row in connection.execute(wanted)}
        ranks = {row.id: row.rank for row in found}
        return Page.cut(
            [rows[row.id] for row in found],
            self._request,
            position=lambda row: Position((ranks[row.id], row.updated_at), row.id),
            counted=counted,
        )

    def _found(self, connection: Connection) -> tuple[list[Row[Any]], int | None]:
        """The rows of the page in the order of reading, and how many match in all."""
        if connection.scalar(_INDEXED) != len(TRIGRAM_INDEXES):
            everything = select(self._search.id.label("id")).select_from(self._search.rows)
            passing = everything.where(*self._conditions, self._match)
            return self._gathered(connection, [passing])
        connection.execute(_PLANNED)
        newest = self._window(connection)
        if len(newest) < self._wanted:
            return self._gathered(connection, self._all_ways()[0])
        found: list[Row[Any]] = []
        for rank in reversed(_EVERY_RANK) if self._backward else _EVERY_RANK:
            missing = self._wanted - len(found)
            if not missing:
                break
            near: list[Row[Any]] = []
            if self._place is not None and rank is self._place_rank:
                near = self._window(connection, self._place)
            elif self._place_rank is not None and (rank < self._place_rank) is not self._backward:
                continue
            elif not self._backward:
                near = [row for row in newest if row.rank == rank]
            if len(near) < missing:
                near, _ = self._gathered(connection, self._ways(rank)[0], only=rank)
            found += near[:missing]
        return found, self._counted(connection, len(newest)) if self._request.count else None

    def _ways(self, rank: Rank) -> tuple[list[Select[Any]], bool]:
        ways, complete = self._search.ways(self._query, rank)
        return [way.where(*self._conditions) for way in ways], complete

    def _all_ways(self) -> tuple[list[Select[Any]], bool]:
        """Of every rank: what begins with a token has it somewhere."""
        ways, complete = self._ways(Rank.SUBSTRING)
        return [*self._ways(Rank.EXACT)[0], *ways], complete

    def _window(self, connection: Connection, place: Position | None = None) -> list[Row[Any]]:
        """What matches among the rows updated last; or of one rank, among those next to a place."""
        search = self._search
        backward = self._backward and place is not None
        near = select(search.id.label("id")).where(search.kept)
        if place is not None:
            at = literal(place.values[1], search.updated_at.type)
            near = near.where(search.updated_at >= at if backward else search.updated_at <= at)
        window = (
            near.order_by(search.updated_at.asc() if backward else search.updated_at.desc())
            .limit(_WINDOW * self._wanted)
            .cte("newest")
        )
        ranked = self._ranked(window, [*self._conditions, self._match]).subquery()
        if place is None:
            order = (_read(key, backward=False) for key in _keys_of(ranked))
            return list(connection.execute(select(ranked).order_by(*order)).all())
        return list(connection.execute(self._next(ranked, rank=self._place_rank)).all())

    def _gathered(
        self, connection: Connection, ways: Sequence[Select[Any]], *, only: Rank | None = None
    ) -> tuple[list[Row[Any]], int | None]:
        """The next of all rows that match in one of the ways, and how many there are."""
        candidates = union(*ways).cte("candidates")
        ranked = self._ranked(candidates, [self._match]).cte("ranked")
        if only is not None:
            return list(connection.execute(self._next(ranked, rank=only)).all()), None
        if not self._request.count:
            return list(connection.execute(self._next(ranked)).all()), None
        counting = select(func.count()).select_from(
            select(ranked.c.id).limit(COUNT_EXACT_TO + 1).subquery()
        )
        found = self._next(ranked).add_columns(counting.scalar_subquery().label("counted"))
        rows = list(connection.execute(found).all())
        if rows:
            return rows, rows[0].counted
        return [], 0 if self._place is None else connection.scalar(counting)

    def _ranked(self, ids: FromClause, conditions: Sequence[Condition]) -> Select[Any]:
        search = self._search
        return (
            select(
                search.id.label("id"),
                search.updated_at.label("updated_at"),
                self._rank.label("rank"),
            )
            .select_from(search.rows.join(ids, ids.c.id == search.id))
            .where(*conditions)
        )

    def _next(self, ranked: FromClause, *, rank: Rank | None = None) -> Select[Any]:
        """The rows beyond the place, in the order of reading."""
        keys = _keys_of(ranked)
        statement = select(ranked)
        if rank is not None:
            statement = statement.where(ranked.c.rank == rank)
        if self._place is not None:
            at = (*self._place.values, self._place.id)
            statement = statement.where(beyond(keys, at, backward=self._backward))
        order = (_read(key, backward=self._backward) for key in keys)
        return statement.order_by(*order).limit(self._wanted)

    def _counted(self, connection: Connection, hits: int) -> int | None:
        """How many match, no further than to 10,001; there are many."""
        search, most = self._search, COUNT_EXACT_TO + 1
        if hits * _COMMON_SHARE >= _WINDOW * self._wanted:
            everything = select(search.id.label("id")).select_from(search.rows)
            found = everything.where(*self._conditions, self._match).limit(most).subquery()
        else:
            ways, complete = self._all_ways()
            if not complete:
                return self._gathered(connection, ways)[1]
            found = union(*(select(way.limit(most).subquery()) for way in ways)).subquery()
            found = select(found).limit(most).subquery()
        return connection.scalar(select(func.count()).select_from(found))
