"""What a text field may hold, and that everything else is told apart."""

import unicodedata
from enum import StrEnum
from uuid import UUID

import pytest
from hypothesis import Phase, example, given, seed, settings
from hypothesis import strategies as st

from savannah.domain import text
from savannah.domain.errors import Refused
from savannah.domain.sms_text import Locale
from savannah.testing import emails, metadata, texts

# Every character that Python and Unicode count as white space, line ends and separators included.
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))
CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
anything = st.text(st.characters(), max_size=30)  # lone surrogates too
near = st.text(BLANKS + CONTROLS + "aé\u0301\u0065🇰", max_size=30)


def outcome(rule, *args, **options):
    try:
        return rule(*args, **options)
    except Refused as refused:
        return f"refused: {refused.code}"


def expected(typed, *, most, least, multiline):
    """The rule again, by composing first and then peeling blanks off character by character."""
    if "M" * 31 in "".join(unicodedata.category(char)[0] for char in typed):
        return "refused: invalid_format"
    found = list(unicodedata.normalize("NFC", typed))
    while found and found[0].isspace():
        found.pop(0)
    while found and found[-1].isspace():
        found.pop()
    allowed = {"\n", "\t"} if multiline else set()
    if any(unicodedata.category(char) in {"Cc", "Cs"} and char not in allowed for char in found):
        return "refused: invalid_format"
    if not found and least:
        return "refused: blank"
    if len(found) < least:
        return "refused: too_short"
    return "".join(found) if len(found) <= most else "refused: too_long"


@given(anything | near, st.integers(0, 3), st.integers(3, 12), st.booleans())
@example("\n Jane \r\n", 1, 12, False)
@example("Ja\nne", 1, 12, True)
@example("Ja\rne", 1, 12, True)
@example("\ud800", 1, 12, False)
@example("", 0, 12, False)
def test_text_is_composed_trimmed_checked_and_measured_in_that_order(typed, least, most, multiline):
    options = {"least": least, "most": most, "multiline": multiline}
    assert outcome(text.clean, typed, **options) == expected(typed, **options)


@given(anything | near)
def test_cleaning_twice_changes_nothing(typed):
    once = outcome(text.clean, typed, most=100, multiline=True)
    if not once.startswith("refused: "):
        assert text.clean(once, most=100, multiline=True) == once


@given(texts(most=20), st.text(BLANKS, max_size=5), st.text(BLANKS, max_size=5))
def test_outer_white_space_of_any_kind_is_no_part_of_a_text(kept, before, after):
    assert text.clean(before + kept + after, most=20) == kept


@given(st.sampled_from(CONTROLS), st.booleans())
def test_a_control_character_inside_is_refused_but_for_line_ends_and_tabs_in_notes(char, multiline):
    answer = outcome(text.clean, f"a{char}b", most=9, multiline=multiline)
    assert answer == (f"a{char}b" if multiline and char in "\n\t" else "refused: invalid_format")


@pytest.mark.parametrize("char", ["e\u0301", "🦒", "ﷺ", "क्"])
def test_lengths_count_code_points_after_composing(char):
    length = len(unicodedata.normalize("NFC", char))
    assert len(text.clean(char * 5, most=5 * length)) == 5 * length
    assert outcome(text.clean, char * 5, most=5 * length - 1) == "refused: too_long"


@pytest.mark.parametrize("value", [None, 1, 1.5, True, b"Jane", ["Jane"], {}])
def test_only_a_string_is_text(value):
    rules = [text.notes, text.email, lambda raw: text.clean(raw, most=9)]
    rules.append(lambda raw: text.choice(raw, Locale))
    assert {outcome(rule, value) for rule in rules} == {"refused: wrong_type"}


# U+0F73 counts as no mark when it is sorted, and becomes two of them.
@seed(27)  # a word of marks alone, again and again
@settings(max_examples=300, phases=[Phase.generate], database=None)
@given(texts(most=2000))
def test_no_pile_of_marks_is_drawn(drawn):
    assert not text.is_piled(drawn)


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0345\u0334", "\u0f73", "\U0001d165\u0316"])
def test_a_pile_of_marks_is_refused_and_never_sorted(marks):
    """Sorting them would take a time that grows with the square of their number."""
    pile = "e" + marks * 31
    assert outcome(text.clean, pile, most=2000) == "refused: invalid_format"
    assert text.nfc(pile) == pile
    assert text.email_key(f"A{pile}") == text.nfc(f"a{pile.casefold()}")
    word = "e" + "\u0301\u0316" * 15
    assert text.clean(word, most=40) == text.nfc(word) == unicodedata.normalize("NFC", word) != word


def test_notes_may_be_empty_and_take_2000_characters():
    assert text.notes("  \n ") == ""
    assert len(text.notes("a" * 2000)) == 2000
    assert outcome(text.notes, "a" * 2001) == "refused: too_long"


# E-mail


@given(emails(), st.text(BLANKS, max_size=3))
def test_an_address_is_kept_as_typed_and_compared_without_case(address, blanks):
    assert text.email(blanks + address) == address
    assert text.email_key(address.upper()) == text.email_key(address.lower())


@pytest.mark.parametrize(
    "address",
    [
        "jane@example.com",
        "j@example.co.ke",
        "jane.smith+till@sub.example.com",
        "o'neil@example.com",
        "jané@exämple.com",
        f"{'a' * 64}@example.com",
        f"jane@{'a' * 63}.com",
    ],
)
def test_ordinary_addresses_are_accepted(address):
    assert text.email(address) == address


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("", "blank"),
        ("jane", "invalid_email"),
        ("@example.com", "invalid_email"),
        ("jane@", "invalid_email"),
        ("jane@example", "invalid_email"),
        ("jane@@example.com", "invalid_email"),
        ("jane@example..com", "invalid_email"),
        ("jane..smith@example.com", "invalid_email"),
        (".jane@example.com", "invalid_email"),
        ("jane.@example.com", "invalid_email"),
        ("jane@-example.com", "invalid_email"),
        ("jane@example-.com", "invalid_email"),
        ("jane@example.c", "invalid_email"),
        ("jane@127.0.0.1", "invalid_email"),
        ("jane smith@example.com", "invalid_email"),
        ("jane,ann@example.com", "invalid_email"),
        ("Jane <jane@example.com>", "invalid_email"),
        ("jane@example.com.", "invalid_email"),
        (f"{'a' * 65}@example.com", "invalid_email"),
        (f"jane@{'a' * 64}.com", "invalid_email"),
        (f"jane@{'a.' * 124}com", "too_long"),
        ("jane\n@example.com", "invalid_format"),
    ],
)
def test_what_is_no_address_is_refused(address, code):
    assert outcome(text.email, address) == f"refused: {code}"


@given(anything | st.text("aé.@-_ ", max_size=30))
def test_any_text_is_an_address_or_a_refusal_and_an_address_stays_one(typed):
    answer = outcome(text.email, typed)
    if not answer.startswith("refused: "):
        assert text.email(answer) == answer
        assert answer.count("@") == 1
        assert len(answer) <= 254


# Metadata


@given(metadata(), st.dictionaries(texts(most=3), st.none() | texts(most=9, least=0), max_size=6))
def test_metadata_merges_pair_by_pair_and_null_removes_a_key(present, changes):
    wanted = {key: value for key, value in present.items() if changes.get(key, "") is not None}
    wanted.update({key: value for key, value in changes.items() if value is not None})
    before = dict(present)
    assert text.metadata(changes, onto=present) == wanted
    assert present == before


@given(metadata())
def test_new_metadata_is_kept_as_given(pairs):
    assert text.metadata(pairs) == pairs


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "wrong_type"),
        ([("a", "b")], "wrong_type"),
        ("a=b", "wrong_type"),
        ({"a": 1}, "wrong_type"),
        ({"a": None}, "wrong_type"),
        ({1: "a"}, "wrong_type"),
        ({"": "a"}, "blank"),
        ({" ": "a"}, "blank"),
        ({"a" * 41: "a"}, "too_long"),
        ({"a": "a" * 501}, "too_long"),
        ({f"key {number}": "" for number in range(21)}, "too_long"),
        ({"a\tb": "a"}, "invalid_format"),
        ({"a": "\x00"}, "invalid_format"),
    ],
)
def test_metadata_beyond_its_limits_is_refused(value, code):
    assert outcome(text.metadata, value) == f"refused: {code}"


def test_metadata_takes_20_pairs_counted_after_the_merge():
    full = {f"key {number}": "a" * 500 for number in range(20)}
    assert text.metadata(full) == full
    assert outcome(text.metadata, {"a": "b"}, onto=full) == "refused: too_long"
    assert text.metadata({"a": "b", "key 0": None}, onto=full).keys() == {
        *(f"key {number}" for number in range(1, 20)),
        "a",
    }


# Flags, choices and ids


def test_a_flag_is_a_boolean_and_nothing_like_it():
    assert text.flag(True) is True
    assert text.flag(False) is False
    for value in (0, 1, "true", "", [], 1.0):
        assert outcome(text.flag, value) == "refused: wrong_type"
    assert outcome(text.flag, None) == "refused: null_not_allowed"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@given(st.sampled_from(Colour) | st.text(max_size=5))
def test_a_choice_is_one_of_the_words(typed):
    answer = outcome(text.choice, typed, Colour)
    if typed in ("red", "blue"):
        assert answer is Colour(typed)
    else:
        assert answer == "refused: invalid_choice"


@given(st.uuids())
def test_a_uuid_is_read_in_any_case(value):
    assert text.uuid(str(value)) == text.uuid(str(value).upper()) == value


@given(st.uuids(), st.sampled_from(["{{{}}}", "urn:uuid:{}", "{}0", " {}", "{}\n"]))
def test_other_ways_to_write_a_uuid_are_refused(value, form):
    for typed in (form.format(value), value.hex, "", "not-a-uuid"):
        with pytest.raises(ValueError, match="not a UUID"):
            text.uuid(typed)
    assert isinstance(text.uuid(str(value)), UUID)
