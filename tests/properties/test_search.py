"""The guaranteed search: what folding and matching promise, whatever is typed or stored."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain.customer import Customer, CustomerId
from savannah.domain.errors import BadQuery
from savannah.domain.money import Money
from savannah.domain.order import CROCKFORD, Order, OrderId, Reference
from savannah.domain.phone import PhoneNumber
from savannah.domain.search import (
    QUERY_MAX,
    Match,
    Rank,
    SearchQuery,
    fold,
    match_customer,
    match_order,
)
from savannah.domain.sms_text import Locale

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"
text = st.text(max_size=40)
words = st.text(st.characters(exclude_categories=["C", "Z", "M"]), min_size=2, max_size=12)


def customer(**fields):
    values = {
        "id": CustomerId(ID),
        "code": "CUST-1",
        "name": "Jane",
        "email": None,
        "phone": None,
        "locale": Locale.EN,
        "sms_opt_out": False,
        "created_at": AT,
        "updated_at": AT,
    }
    return Customer(**values | fields)


def order(**fields):
    values = {
        "id": OrderId(ID),
        "number": Reference.make("7K3Q9D"),
        "customer_id": CustomerId(ID),
        "item": "Desk",
        "price": Money(100, "KES"),
        "quantity": 1,
        "created_at": AT,
        "updated_at": AT,
        "status_changed_at": AT,
    }
    return Order(**values | fields)


@given(text)
def test_folding_twice_changes_nothing(value):
    assert fold(fold(value)) == fold(value)


@given(text)
def test_folding_ignores_case_form_and_outer_blanks(value):
    folded = fold(value)
    assert fold(f"  {value}\t\n") == folded
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, value)) == folded
    assert fold(value.casefold()) == folded


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_folding_plain_text_is_the_short_way_to_the_same(value):
    assert fold(f"{value} é") == f"{fold(value)} e".strip()


@given(text)
def test_a_query_is_read_or_refused_never_more(typed):
    query = parsed(typed)
    if query is not None:
        assert query.text == fold(typed)
        assert query.tokens
        assert all(token == fold(token) != "" for token in query.tokens)
        assert query.phone is None or query.digits is None


def parsed(typed):
    """The query, or None where `q` is refused."""
    try:
        return SearchQuery.parse(typed)
    except BadQuery:
        return None


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("", "query_too_short"),
        ("a", "query_too_short"),
        ("  a  ", "query_too_short"),
        ("e\u0301", "query_too_short"),
        ("\u0301\u0302", "query_too_short"),
        ("a" * (QUERY_MAX + 1), "invalid_parameter"),
        ("ab\x00c", "invalid_parameter"),
        ("ab\x07c", "invalid_parameter"),
        ("ab\udc00", "invalid_parameter"),
        ("ab" + "\u0301" * 31, "invalid_parameter"),
    ],
)
def test_a_bad_query_is_refused(typed, code):
    with pytest.raises(BadQuery) as caught:
        SearchQuery.parse(typed)
    assert caught.value.code == code


def test_the_longest_query_and_inner_line_ends_are_fine():
    assert SearchQuery.parse(f" {'a' * QUERY_MAX} ").tokens == ("a" * QUERY_MAX,)
    assert SearchQuery.parse("jane\n\tsmith jane").tokens == ("jane", "smith")


@given(words)
def test_a_whole_name_is_an_exact_match(name):
    query = SearchQuery.parse(f"{name} {name}")
    assert match_customer(query, customer(name=f"{name} {name}")) == Match("name", Rank.EXACT)


@given(words, st.data())
def test_any_part_of_a_name_finds_it(name, data):
    folded = fold(f"{name} Smith")
    start = data.draw(st.integers(0, len(folded) - 2))
    part = folded[start : data.draw(st.integers(start + 2, len(folded)))]
    query = parsed(part)
    if query is None:  # a part that is mostly blank is too short to search for
        assert len(part.strip()) < 2
        return
    if query.phone is None:
        found = match_customer(query, customer(name=f"{name} Smith"))
        assert found is not None
        assert found.rank <= (Rank.PREFIX if start == 0 else Rank.SUBSTRING)


@given(st.integers(0, 10**8 - 1), st.data())
def test_every_run_of_four_digits_of_a_phone_finds_it(number, data):
    national = f"7{number:08d}"
    found_by = data.draw(st.sampled_from([f"0{national}", f"254{national}"]))
    start = data.draw(st.integers(0, len(found_by) - 4))
    part = found_by[start : data.draw(st.integers(start + 4, len(found_by)))]
    query = SearchQuery.parse(part)
    found = match_customer(query, customer(phone=PhoneNumber(f"+254{national}")))
    if query.phone not in (None, f"+254{national}"):  # a part that is a whole other number
        return
    assert found is not None
    assert found.field == "phone_number"


@given(st.text(CROCKFORD, min_size=6, max_size=6), st.data())
def test_an_order_number_is_found_in_every_spelling(symbols, data):
    number = Reference.make(symbols)
    typed = number.translate(
        {ord("0"): data.draw(st.sampled_from("0Oo")), ord("1"): data.draw(st.sampled_from("1IiLl"))}
    )
    if data.draw(st.booleans()):
        typed = typed.lower()
    typed = typed.replace("-", data.draw(st.sampled_from(["-", " ", ""])))
    found = match_order(SearchQuery.parse(typed), order(number=number), customer())
    assert found == Match("order_number", Rank.EXACT)


def test_a_match_names_the_field_and_the_kind():
    jane = customer(name="Jane Smith", email="js@example.com", phone=PhoneNumber("+254700123456"))
    desk = order(item="Standing Desk", notes="for Jane")
    for q, field, kind in [
        ("jane smith", "name", "exact"),
        ("smith", "name", "prefix"),
        ("mith", "name", "substring"),
        ("js@", "email", "prefix"),
        ("cust-1", "code", "exact"),
        ("0700 123 456", "phone_number", "exact"),
        ("0700", "phone_number", "prefix"),
        ("3456", "phone_number", "substring"),
        ("smith 3456", "name", "substring"),
    ]:
        match = match_customer(SearchQuery.parse(q), jane)
        assert match is not None
        assert (match.field, match.kind) == (field, kind), q
    for q, field, kind in [
        ("ord-7k3q9d", "order_number", "prefix"),
        ("7k3", "order_number", "substring"),
        ("7k3q9", "order_number", "substring"),
        ("ord7k3q9", "order_number", "substring"),
        ("desk", "item", "prefix"),
        ("for", "notes", "prefix"),
        ("smith", "customer_name", "prefix"),
        ("example", "customer_email", "substring"),
        ("cust", "customer_code", "prefix"),
        ("+254700123456", "phone_number", "exact"),
    ]:
        match = match_order(SearchQuery.parse(q), desk, jane)
        assert match is not None
        assert (match.field, match.kind) == (field, kind), q
    assert match_order(SearchQuery.parse("nowhere"), desk, jane) is None
    assert match_customer(SearchQuery.parse("desk"), jane) is None
