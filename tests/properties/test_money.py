"""Money is exact: what is typed is kept to the cent, and nothing is ever rounded."""

import dataclasses
from decimal import ROUND_HALF_UP, Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from savannah.domain import money
from savannah.domain.errors import Refused
from savannah.domain.money import DEFAULT_CURRENCIES, Money, amount_text, average_text
from savannah.testing import amounts, currencies
from savannah.testing import money as prices

LOWEST, HIGHEST = Decimal("0.01"), Decimal("99999999.99")
typed_amounts = st.one_of(
    st.text("0123456789.", max_size=22),
    st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,3})?", fullmatch=True),
    st.text(max_size=8),
)


def outcome(raw, currency="KES"):
    try:
        return Money.parse(raw, currency)
    except Refused as refused:
        return refused.code


def expected(typed, currency):
    """What the rule says about a string, by decimal arithmetic and without a pattern."""
    whole, point, fraction = typed.partition(".")
    digits = set(whole + fraction)
    if len(typed) > 20 or not whole or (point and not fraction) or not digits <= set("0123456789"):
        return "invalid_format"
    value = Decimal(typed)
    if len(fraction) > 2 or (currency in {"UGX", "RWF"} and value % 1):
        return "too_many_decimals"
    return value if LOWEST <= value <= HIGHEST else "amount_out_of_range"


@given(typed_amounts, currencies())
@example("99999999.99", "KES")
@example("100000000.00", "KES")
@example("0.01", "KES")
@example("0.00", "KES")
@example("0", "UGX")
@example("10.50", "UGX")
@example("10.00", "RWF")
@example("1.000", "KES")
@example("00000000000000000001", "KES")
@example("000000000000000000001", "KES")
@example("1.", "KES")
@example(".5", "KES")
@example("5\n", "KES")
@example("٥", "KES")
def test_a_typed_amount_is_read_as_decimal_arithmetic_reads_it_or_refused(typed, currency):
    answer = outcome(typed, currency)
    assert (answer.amount if isinstance(answer, Money) else answer) == expected(typed, currency)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("-1", "invalid_format"),
        ("+1", "invalid_format"),
        ("1e3", "invalid_format"),
        ("1,000", "invalid_format"),
        (" 1", "invalid_format"),
        ("1 ", "invalid_format"),
        ("1_000", "invalid_format"),
        ("", "invalid_format"),
        ("NaN", "invalid_format"),
        ("0.001", "too_many_decimals"),
        ("1.000", "too_many_decimals"),
        ("0", "amount_out_of_range"),
        (0, "amount_out_of_range"),
        (-5, "amount_out_of_range"),
        (100_000_000, "amount_out_of_range"),
        (10**40, "amount_out_of_range"),
        (1.0, "amount_not_string"),
        (999.99, "amount_not_string"),
        (float("nan"), "amount_not_string"),
        (True, "wrong_type"),
        (None, "wrong_type"),
        (["1"], "wrong_type"),
        (b"1", "wrong_type"),
        (Decimal("1.234"), "too_many_decimals"),
        (Decimal("NaN"), "invalid_format"),
    ],
)
def test_every_other_spelling_has_its_code(raw, code):
    assert outcome(raw) == code


@given(st.floats())
def test_no_float_ever_becomes_money(raw):
    assert outcome(raw) == "amount_not_string"


@given(prices())
def test_what_is_printed_reads_back_to_the_same_money(price):
    assert Money.parse(price.text, price.currency) == price
    assert Decimal(price.text) == price.amount
    assert len(price.text.partition(".")[2]) == 2
    assert str(price) == f"{price.currency} {price.text}"


@given(st.data(), currencies())
def test_every_accepted_spelling_keeps_its_value(data, currency):
    typed = data.draw(amounts(currency=currency))
    price = Money.parse(typed, currency)
    assert price.amount == Decimal(typed)
    assert Money.parse(Decimal(typed), currency) == price


@given(st.integers(1, 99_999_999), currencies())
def test_a_whole_number_means_whole_units(whole, currency):
    assert Money.parse(whole, currency) == Money.parse(str(whole), currency)
    assert Money.parse(whole, currency).text == f"{whole}.00"


@given(prices(), st.integers(1, 100_000))
def test_a_total_is_the_amount_times_the_quantity_to_the_cent(price, quantity):
    with localcontext(prec=50):
        assert (price * quantity).amount == price.amount * quantity
    assert (price * quantity).currency == price.currency


@given(prices(), st.integers(1, 100_000))
def test_no_float_is_reachable_from_money(price, quantity):
    for one in (price, price * quantity, Money.parse(price.text, price.currency)):
        kinds = {field.name: type(getattr(one, field.name)) for field in dataclasses.fields(one)}
        assert kinds == {"minor": int, "currency": str}
        assert type(one.amount) is Decimal


@given(prices(), st.integers(1, 1000))
def test_a_program_with_a_coarse_decimal_context_gets_the_same_answers(price, count):
    exact = (price.amount, (price * 9999).text, average_text(price.minor, count))
    with localcontext(prec=2):
        assert (price.amount, (price * 9999).text, average_text(price.minor, count)) == exact


@given(st.integers(-(10**15), 10**15))
def test_hundredths_are_printed_with_two_places(minor):
    with localcontext(prec=50):
        assert Decimal(amount_text(minor)) == Decimal(minor) / 100
    assert amount_text(minor)[-3] == "."


@given(st.integers(0, 10**16), st.integers(1, 10**7))
@example(5, 1000)
@example(1, 2)
def test_an_average_is_rounded_half_up_to_the_cent(total, count):
    with localcontext(prec=60):
        mean = (Decimal(total) / 100 / count).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert average_text(total, count) == str(mean)


def test_there_is_no_average_of_nothing():
    assert average_text(0, 0) is None


@given(st.integers(-10, 100_010))
@example(0)
@example(1)
@example(100_000)
@example(100_001)
def test_a_quantity_is_1_to_100000(value):
    if 1 <= value <= 100_000:
        assert money.quantity(value) == value
    else:
        with pytest.raises(Refused) as refused:
            money.quantity(value)
        assert refused.value.code == "quantity_out_of_range"


@pytest.mark.parametrize("value", [True, False, None, "1", 1.0, Decimal(1)])
def test_a_quantity_is_a_whole_number_and_nothing_like_it(value):
    with pytest.raises(Refused) as refused:
        money.quantity(value)
    assert refused.value.code == "wrong_type"


@given(currencies())
def test_the_currencies_of_the_business_are_taken_as_written(code):
    assert money.currency(code, allowed=DEFAULT_CURRENCIES) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("EUR", "unsupported_currency"),
        ("kes", "unsupported_currency"),
        ("", "unsupported_currency"),
        (None, "wrong_type"),
        (404, "wrong_type"),
    ],
)
def test_other_currencies_are_refused(value, code):
    with pytest.raises(Refused) as refused:
        money.currency(value, allowed=DEFAULT_CURRENCIES)
    assert refused.value.code == code


@given(prices(), st.floats(0, 10) | st.decimals(0, 10) | st.booleans())
def test_no_fraction_comes_into_an_amount(price, factor):
    with pytest.raises(TypeError, match=r"^minor: must be int"):
        Money(factor, "KES")
    if not isinstance(factor, bool):
        with pytest.raises(TypeError, match=r"^minor: must be int"):
            price * factor
