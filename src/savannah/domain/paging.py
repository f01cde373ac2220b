"""Pages of lists: keyset positions, so that paging neither skips nor repeats a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar
from uuid import UUID

from savannah.domain.errors import BadQuery

T = TypeVar("T")
U = TypeVar("U")

LIMIT_DEFAULT: Final = 25
LIMIT_MAX: Final = 100
COUNT_EXACT_TO: Final = 10_000

SortValue = str | int | datetime


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an ordered list: the sort values of a row, and its id to break ties."""

    values: tuple[SortValue, ...]
    id: UUID


@dataclass(frozen=True, slots=True)
class Ordering:
    """The name to sort by; ties by id in the same direction."""

    name: str
    descending: bool = False

    @classmethod
    def parse(cls, typed: str) -> Ordering:
        return cls(typed.removeprefix("-"), descending=typed.startswith("-"))

    def among(self, orderings: Mapping[str, T]) -> T:
        """What stands under this name. Raises: BadQuery, with the names that there are."""
        if self.name not in orderings:
            raise BadQuery("ordering", f"Use one of {', '.join(orderings)}, each also with a minus")
        return orderings[self.name]

    def __str__(self) -> str:
        return f"-{self.name}" if self.descending else self.name


NEWEST_FIRST: Final = Ordering("created_at", descending=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which page: `limit` rows (1 to 100) after or before a position, or the first ones.

    `count=False` leaves the count out. `ordering` is ignored by searches, which sort by rank.

    Raises: BadQuery, when `limit` is out of its bounds.
    """

    limit: int = LIMIT_DEFAULT
    after: Position | None = None
    before: Position | None = None
    ordering: Ordering = NEWEST_FIRST
    count: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LIMIT_MAX:
            raise BadQuery("limit", f"Use 1 to {LIMIT_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Rows in order. `next` continues after the last one, `previous` ends before the first one.

    `count` is exact up to 10,000; beyond that it is 10000 with `count_exact` False.
    """

    items: tuple[T, ...]
    count: int | None = None
    count_exact: bool = True
    next: Position | None = None
    previous: Position | None = None

    @classmethod
    def cut(
        cls,
        rows: Sequence[T],
        request: PageRequest,
        *,
        position: Callable[[T], Position],
        counted: int | None,
    ) -> Page[T]:
        """The page out of up to `limit + 1` rows, read in the direction of the request.

        Args:
            rows: for `before` they come nearest first, that is, in reverse order.
            counted: how many rows match, counted no further than 10,001; None for no count.
        """
        more = len(rows) > request.limit
        kept = list(rows[: request.limit])
        backward = request.before is not None
        if backward:
            kept.reverse()
        has_next = bool(kept) if backward else more
        has_previous = more if backward else bool(kept) and request.after is not None
        return cls(
            items=tuple(kept),
            count=None if counted is None else min(counted, COUNT_EXACT_TO),
            count_exact=counted is None or counted <= COUNT_EXACT_TO,
            next=position(kept[-1]) if has_next else None,
            previous=position(kept[0]) if has_previous else None,
        )

    def map(self, change: Callable[[T], U]) -> Page[U]:
        """The same page of something made from each row."""
        return Page(
            items=tuple(change(item) for item in self.items),
            count=self.count,
            count_exact=self.count_exact,
            next=self.next,
            previous=self.previous,
        )
