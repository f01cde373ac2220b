"""Pages: following `next` gives every row once and in order, and `previous` leads back."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain.errors import BadQuery
from savannah.domain.paging import COUNT_EXACT_TO, Ordering, Page, PageRequest, Position

rows = st.lists(st.integers(0, 9), max_size=30).map(
    lambda values: sorted((value, UUID(int=number)) for number, value in enumerate(values))
)


def position(row):
    return Position((row[0],), row[1])


def fetch(rows, request):
    """What a storage does: the nearest rows beyond the position, one more than asked for."""
    if request.before is not None:
        place = (*request.before.values, request.before.id)
        nearest = [row for row in reversed(rows) if row < place]
    elif request.after is not None:
        place = (*request.after.values, request.after.id)
        nearest = [row for row in rows if row > place]
    else:
        nearest = rows
    counted = min(len(rows), COUNT_EXACT_TO + 1) if request.count else None
    return Page.cut(nearest[: request.limit + 1], request, position=position, counted=counted)


@given(rows, st.integers(1, 31))
def test_following_next_yields_each_row_once_and_in_order(rows, limit):
    seen, pages = [], 0
    page = fetch(rows, PageRequest(limit=limit))
    assert page.previous is None
    while True:
        seen += page.items
        pages += 1
        assert len(page.items) <= limit
        assert (page.count, page.count_exact) == (len(rows), True)
        if page.next is None:
            break
        page = fetch(rows, PageRequest(limit=limit, after=page.next))
        assert page.previous is not None
    assert seen == rows
    assert pages == max(1, -(-len(rows) // limit))  # no empty page at the end


@given(rows, st.integers(1, 31))
def test_following_previous_leads_back_to_the_beginning_in_order(rows, limit):
    page = fetch(rows, PageRequest(limit=limit))
    while page.next is not None:
        page = fetch(rows, PageRequest(limit=limit, after=page.next))
    seen = list(page.items)
    while page.previous is not None:
        page = fetch(rows, PageRequest(limit=limit, before=page.previous))
        assert page.next is not None
        seen = [*page.items, *seen]
    assert seen == rows


@given(rows, st.integers(1, 9), st.integers(0, 9))
def test_a_page_beyond_the_last_row_is_empty_and_leads_nowhere_by_itself(rows, limit, value):
    end = Position((value + 10,), UUID(int=0))
    page = fetch(rows, PageRequest(limit=limit, after=end))
    assert (page.items, page.next, page.previous) == ((), None, None)
    start = Position((-1 - value,), UUID(int=0))
    page = fetch(rows, PageRequest(limit=limit, before=start))
    assert (page.items, page.next, page.previous) == ((), None, None)


@pytest.mark.parametrize(
    ("counted", "count", "exact"),
    [(None, None, True), (0, 0, True), (10_000, 10_000, True), (10_001, 10_000, False)],
)
def test_counts_are_exact_up_to_ten_thousand(counted, count, exact):
    page = Page.cut([], PageRequest(), position=position, counted=counted)
    assert (page.count, page.count_exact) == (count, exact)


@given(rows, st.integers(1, 9))
def test_a_page_of_something_made_from_each_row_stays_the_same_page(rows, limit):
    page = fetch(rows, PageRequest(limit=limit))
    mapped = page.map(lambda row: row[0] * 2)
    assert mapped.items == tuple(row[0] * 2 for row in page.items)
    assert mapped.map(lambda _: None).items == (None,) * len(page.items)
    assert (mapped.next, mapped.previous, mapped.count, mapped.count_exact) == (
        page.next,
        page.previous,
        page.count,
        page.count_exact,
    )


@given(st.from_regex(r"-?[a-z_]+", fullmatch=True))
def test_an_ordering_reads_back_as_it_is_written(typed):
    ordering = Ordering.parse(typed)
    assert str(ordering) == typed
    assert (ordering.name, ordering.descending) == (typed.lstrip("-"), typed[0] == "-")


def test_lists_begin_with_the_newest_by_default():
    assert str(PageRequest().ordering) == "-created_at"
    assert PageRequest().limit == 25


@pytest.mark.parametrize("limit", [-1, 0, 101])
def test_a_page_of_no_rows_or_too_many_is_refused_by_name(limit):
    with pytest.raises(BadQuery) as refused:
        PageRequest(limit=limit)
    assert refused.value.parameter == "limit"
