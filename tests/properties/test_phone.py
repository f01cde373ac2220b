"""How typed phone numbers are read, masked and searched."""

import copy
import re
import subprocess
import sys
import unicodedata
from pickle import dumps, loads
from zoneinfo import ZoneInfo

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from savannah.domain.phone import PhoneNumber, PhoneRefusal, PhoneRefused, search_digits

INVALID, NOT_MOBILE = PhoneRefusal.INVALID, PhoneRefusal.NOT_MOBILE
SPELLINGS = ["+254{}", "254{}", "0{}", "{}", "00254{}", "000254{}", "+2540{}", "2540{}"]
EXPLICIT = [spelling for spelling in SPELLINGS if "254" in spelling]
BLANKS = "".join(filter(lambda char: unicodedata.category(char) == "Zs", map(chr, range(0x10000))))
SEPARATORS = "-.()" + BLANKS

digits = st.text("0123456789", min_size=8, max_size=8)
mobiles = st.builds(str.__add__, st.sampled_from("17"), digits)
fixed_lines = st.builds(str.__add__, st.sampled_from("2456"), digits)
regions = st.sampled_from(["KE", "UG", "TZ", "NG", "US", "DE", "AR", "GB", "ZZ", "ke", ""])
# Text near the truth finds more than text from all of Unicode.
almost_numbers = st.text("+0123456789" * 3 + SEPARATORS + "\t\n/x٣", max_size=36)


def outcome(raw: str, *, region: str = "KE") -> str:
    """Give the E.164 or the refusal, so that a table can hold both."""
    try:
        return PhoneNumber.parse(raw, region=region).e164
    except PhoneRefused as refused:
        return refused.refusal


@st.composite
def separated(draw: st.DrawFn, spelling: str) -> str:
    """Strew separators over a spelling, within the 32 characters that may be typed."""
    places = draw(st.lists(st.integers(0, len(spelling)), max_size=32 - len(spelling)))
    for place in sorted(places, reverse=True):
        spelling = spelling[:place] + draw(st.sampled_from(SEPARATORS)) + spelling[place:]
    return spelling


@given(mobiles)
def test_every_listed_spelling_of_a_kenyan_mobile_gives_the_same_number(national):
    assert {outcome(spelling.format(national)) for spelling in SPELLINGS} == {f"+254{national}"}


@given(fixed_lines)
def test_every_listed_spelling_of_a_kenyan_fixed_line_is_told_apart(national):
    assert {outcome(spelling.format(national)) for spelling in SPELLINGS} == {NOT_MOBILE}


@given(mobiles, regions)
def test_254_written_out_means_kenya_whatever_the_region(national, region):
    answers = {outcome(spelling.format(national), region=region) for spelling in EXPLICIT}
    assert answers == {f"+254{national}"}


@given(st.data(), mobiles, st.sampled_from(SPELLINGS))
def test_separators_anywhere_change_nothing(data, national, spelling):
    typed = data.draw(separated(spelling.format(national)))
    assert outcome(typed) == f"+254{national}"


@given(mobiles, st.text(" \t\r\n\v\f\x1c\x85\u2028\u3000", max_size=40))
def test_outer_white_space_of_any_kind_is_no_part_of_the_number(national, blanks):
    assert outcome(f"{blanks}0{national}{blanks}") == f"+254{national}"


@given(mobiles, st.integers(1, 8), st.characters(exclude_characters="0123456789" + SEPARATORS))
def test_any_other_character_inside_spoils_the_number(national, at, char):
    assert outcome(f"0{national[:at]}{char}{national[at:]}") == INVALID


@given(st.one_of(st.text(max_size=40), almost_numbers), regions)
@example("", "KE")
@example("+", "KE")
@example("\ud800", "KE")
@example("\0700123456", "KE")
@settings(deadline=None)
def test_any_text_gives_a_number_or_a_refusal_and_reading_twice_changes_nothing(raw, region):
    answer = outcome(raw, region=region)
    if answer not in set(PhoneRefusal):
        assert outcome(answer, region=region) == answer
        assert PhoneNumber.from_e164(answer).e164 == answer


@pytest.mark.parametrize("typed", ["0202345678", "0800123456", "call 0700123456", "07001234" * 5])
def test_a_refusal_explains_itself_without_repeating_the_number(typed):
    with pytest.raises(PhoneRefused) as refused:
        PhoneNumber.parse(typed)
    assert str(refused.value) == refused.value.detail
    assert len(refused.value.detail) > 20
    assert not re.search("[0-9]{4}", refused.value.detail)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("0700123456", "+254700123456"),
        ("254700123456", "+254700123456"),
        ("700123456", "+254700123456"),
        ("2540700123456", "+254700123456"),
        ("+254700123456", "+254700123456"),
        ("+2540700123456", "+254700123456"),
        ("+254 (0)700 123456", "+254700123456"),
        ("(+254) 700 123456", "+254700123456"),
        ("0700 123 456", "+254700123456"),
        ("0700-123-456", "+254700123456"),
        ("(0700) 123456", "+254700123456"),
        ("0700.123.456", "+254700123456"),
        ("0700\u00a0123\u202f456", "+254700123456"),
        ("00254700123456", "+254700123456"),
        ("000254700123456", "+254700123456"),
        ("0110123456", "+254110123456"),
        ("0100123456", "+254100123456"),
        ("0799999999", "+254799999999"),
        # Ranges the published number plan does not hold yet.
        ("0122123456", "+254122123456"),
        ("0199123456", "+254199123456"),
        ("0700123456\n", "+254700123456"),
        ("0700/123456", INVALID),
        ("070012345", INVALID),
        ("07001234567", INVALID),
        ("0202345678", NOT_MOBILE),
        ("0600123456", NOT_MOBILE),
        ("+254202345678", NOT_MOBILE),
        ("+2540412345678", NOT_MOBILE),
        ("0800123456", INVALID),
        ("+254800123456", INVALID),
        ("+254800223456", INVALID),  # a valid free number, which is no fixed line
        ("+254900123456", INVALID),
        ("+25470012345", INVALID),
        ("+254", INVALID),
        ("0700FLOWER", INVALID),
        ("call 0700123456", INVALID),
        ("0700123456 ext 9", INVALID),
        ("0700123456;ext=5", INVALID),
        ("tel:+254700123456", INVALID),
        ("+254-abc", INVALID),
        ("*544#", INVALID),
        ("abc", INVALID),
        ("", INVALID),
        ("0", INVALID),
        ("+", INVALID),
        ("++254700123456", INVALID),
        ("254+700123456", INVALID),
        ("0700\t123456", INVALID),
        ("0700\n123456", INVALID),
        ("0700\u2028123456", INVALID),
        ("0700\u200b123456", INVALID),
        ("\ufeff0700123456", INVALID),
        ("0700‑123‑456", INVALID),
        ("０７００１２３４５６", INVALID),
        ("٠٧٠٠١٢٣٤٥٦", INVALID),
        ("+２５６７００１２３４５６", INVALID),
        ("+256700123456", "+256700123456"),
        ("+255 712 345 678", "+255712345678"),
        ("+234-803-123-4567", "+2348031234567"),
        ("+1 212 555 0123", "+12125550123"),  # mobile or fixed: America does not tell
        ("+256414123456", NOT_MOBILE),
        ("+442079460123", NOT_MOBILE),
        ("256700123456", INVALID),
        ("00256700123456", INVALID),
        ("+999123456789", INVALID),
        ("+0700123456", INVALID),
        ("0700 123 456" + "." * 20, "+254700123456"),
        ("0700 123 456" + "." * 21, INVALID),
    ],
)
def test_what_kenyans_type(typed, answer):
    assert outcome(typed) == answer


@pytest.mark.parametrize(
    ("typed", "region", "answer"),
    [
        ("0700123456", "UG", "+256700123456"),
        ("700 123 456", "UG", "+256700123456"),
        ("256700123456", "UG", "+256700123456"),
        ("+254700123456", "UG", "+254700123456"),
        ("254202345678", "UG", NOT_MOBILE),
        ("+254800123456", "UG", INVALID),
        ("0414 123456", "UG", NOT_MOBILE),
        ("000255712345678", "UG", INVALID),  # an exit code does not stand for the plus
        ("011254700123456", "US", INVALID),
        ("255712345678", "UG", INVALID),
        ("0700123456", "ZZ", INVALID),
        ("01512 3456789", "DE", "+4915123456789"),
    ],
)
def test_another_region_owns_the_numbers_typed_without_a_country(typed, region, answer):
    assert outcome(typed, region=region) == answer


@st.composite
def foreign(draw: st.DrawFn) -> str:
    """An example number of some country, with a few digits changed."""
    region = draw(st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS - {"KE"})))
    kind = draw(
        st.sampled_from(
            [phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE]
        )
    )
    number = phonenumbers.example_number_for_type(region, kind) or phonenumbers.example_number(
        region
    )
    national = list(phonenumbers.national_significant_number(number))
    for at in draw(st.lists(st.integers(1, len(national) - 1), max_size=2)):
        national[at] = draw(st.sampled_from("0123456789"))
    return f"+{number.country_code}{''.join(national)}"


@given(foreign())
@settings(deadline=None)
def test_other_countries_answer_as_libphonenumber_does(typed):
    number = phonenumbers.parse(typed)
    kind = phonenumbers.number_type(number)
    if kind in {
        phonenumbers.PhoneNumberType.MOBILE,
        phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
    }:
        expected = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    elif phonenumbers.is_valid_number(number):
        expected = NOT_MOBILE
    else:
        expected = INVALID
    assert outcome(typed) == expected


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "0700123456",
        "+254 700123456",
        "+254700123456\n",
        "+0254700123456",
        "+٢٥٤٧٠٠١٢٣٤٥٦",
        "+1234567890123456",
    ],
)
def test_a_stored_number_must_at_least_look_like_one(stored):
    with pytest.raises(PhoneRefused) as refused:
        PhoneNumber.from_e164(stored)
    assert refused.value.refusal is INVALID


def test_a_stored_number_is_trusted_though_number_plans_change():
    assert PhoneNumber.from_e164("+254800123456").e164 == "+254800123456"


def test_the_mask_keeps_the_start_and_the_last_four_digits():
    assert PhoneNumber("+254700123456").masked == "+2547****3456"
    assert PhoneNumber("+2348031234567").masked == "+2348****4567"


@given(st.from_regex(r"\+[1-9][0-9]{5,14}", fullmatch=True).filter(str.isascii))
def test_the_mask_hides_at_least_the_four_middle_digits_in_every_form(e164):
    phone = PhoneNumber(e164)
    start, end = phone.masked.split("****")
    assert e164.startswith(start)
    assert e164.endswith(end)
    assert len(start) <= 5
    assert len(end) <= 4
    assert len(start) + len(end) <= max(5, len(e164) - 4)
    assert repr(phone) == str(phone) == f"PhoneNumber({phone.masked})"


@given(mobiles)
def test_a_kenyan_number_is_searched_by_its_national_and_international_digits(national):
    assert search_digits(PhoneNumber(f"+254{national}")) == f"254{national} 0{national}"


def test_a_foreign_number_is_searched_by_its_international_digits():
    assert search_digits(PhoneNumber("+256700123456")) == "256700123456"


@pytest.mark.parametrize(
    ("e164", "region", "zone"),
    [
        ("+254700123456", "KE", "Africa/Nairobi"),
        ("+256700123456", "UG", "Africa/Kampala"),
        ("+255712345678", "TZ", "Africa/Dar_es_Salaam"),
        ("+2348031234567", "NG", "Africa/Lagos"),
        ("+27711234567", "ZA", "Africa/Johannesburg"),
        ("+12125550123", None, None),
        ("+4915123456789", None, None),
    ],
)
def test_the_calling_code_tells_the_region_and_the_zone(e164, region, zone):
    phone = PhoneNumber(e164)
    assert (phone.region, phone.time_zone) == (region, zone)


@given(st.integers(2, 999))
def test_every_zone_given_for_a_calling_code_exists_in_that_country(code):
    phone = PhoneNumber(f"+{code}700123456")
    if phone.time_zone is not None:
        number = phonenumbers.parse(phone.e164)
        assert phone.region == phonenumbers.region_code_for_country_code(number.country_code)
        assert ZoneInfo(phone.time_zone).key == phone.time_zone


def test_numbers_sort_by_their_digits():
    assert min(PhoneNumber("+256700123456"), PhoneNumber("+254700123456")).region == "KE"


def test_a_desk_that_meets_only_kenyan_numbers_never_loads_the_number_plans_of_the_world():
    program = (
        "import sys; from savannah.domain.phone import PhoneNumber;"
        "PhoneNumber.parse('0700123456'); print('phonenumbers' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"


def test_a_refusal_is_the_same_after_a_copy_or_in_another_process():
    refused = PhoneRefused(PhoneRefusal.NOT_MOBILE, "Not a mobile number")
    for again in (copy.copy(refused), copy.deepcopy(refused), loads(dumps(refused))):
        assert (again.refusal, str(again)) == (PhoneRefusal.NOT_MOBILE, "Not a mobile number")
