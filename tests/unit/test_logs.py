"""Log lines: their form, and what never stands in them."""

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.application.trace import TraceContext, request_id_var, trace_var
from savannah.entrypoints.logs import HIDDEN, ConsoleLines, JsonLines, mask


def record(message="something happened", *, level=logging.INFO, error=None, **extra):
    made = logging.getLogger("savannah.test").makeRecord(
        "savannah.test", level, __file__, 1, message, (), error, extra=extra
    )
    made.created = 1_795_424_400.25
    return made


def line(*args, **kwargs):
    return json.loads(JsonLines().format(record(*args, **kwargs)))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to +254700123456 now", "to +2547••••3456 now"),
        ("0712 345 678", "07••••5678"),
        ("0712-345-678", "07••••5678"),
        ("(0700) 123 456", "07••••3456"),
        ("254700123456,254711000001", "2547••••3456,2547••••0001"),
        ("+254700123456+254700123457", "+2547••••3456+2547••••3457"),
        ("to=%2B254700123456&message=x", "to=+2547••••3456&message=x"),
        ("+6834002", "+••••002"),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {HIDDEN}"),
        ("eyJhbGciOi.eyJzdWIi.c2ln", HIDDEN),
        (
            "POST /api/sms/africastalking/s3cr3t/delivery/",
            f"POST /api/sms/africastalking/{HIDDEN}/delivery/",
        ),
        ("postgresql://desk:hunter2@db/desk", f"postgresql://{HIDDEN}@db/desk"),
        ("postgresql://desk:hun@ter@2@db/desk, then", f"postgresql://{HIDDEN}@db/desk, then"),
        ("refused\n[parameters: ('+254700123456', 'Hi Jane')]", f"refused\n[parameters:{HIDDEN}"),
    ],
)
def test_what_is_private_is_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "01990000-1111-7222-8333-444455556666",
        "2026-11-23T09:15:00Z",
        "2026-11-23 09:15:00.123",
        "192.168.100.200:5432",
        "ORD-7K3Q9D-X",
        "KES 99999999.99",
        "duration 12345678 ms",
    ],
)
def test_ids_times_and_amounts_stay_readable(text):
    assert mask(text) == text


@given(
    st.from_regex(r"\+[1-9][0-9]{8,13}", fullmatch=True),
    st.sampled_from(["{}", "to {}", "to {}.", "'{}'", "phone={}", '{{"to": "{}"}}']),
)
def test_no_number_in_international_form_is_ever_readable(number, around):
    masked = mask(around.format(number))
    assert number not in masked
    assert number[1:] not in masked
    assert number[-4:] in masked


def test_a_line_is_one_json_object_with_the_fields_everybody_expects():
    token = request_id_var.set("01J9Z3K4")
    try:
        assert line(order="ORD-7K3Q9D-X", tries=3, ok=True, nothing=None) == {
            "timestamp": "2026-11-23T09:00:00.250Z",
            "level": "info",
            "event": "something happened",
            "logger": "savannah.test",
            "request_id": "01J9Z3K4",
            "trace_id": None,
            "order": "ORD-7K3Q9D-X",
            "tries": 3,
            "ok": True,
            "nothing": None,
        }
    finally:
        request_id_var.reset(token)
    assert line()["request_id"] is None
    assert "\n" not in JsonLines().format(record("two\nlines"))


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new_password",
        "access_token",
        "clientSecret",
        "Authorization",
        "apiKey",
        "api_key",
        "text",
        "message_text",
        "Set-Cookie",
    ],
)
def test_what_a_name_calls_secret_is_hidden_however_deep(name):
    assert line(**{name: "open sesame"})[name] == HIDDEN
    assert line(inner={"list": [{name: "open sesame"}]})["inner"]["list"][0][name] == HIDDEN


def test_values_of_any_kind_are_masked():
    found = line(
        phones=["+254700123456"], who={"phone": "0700123456"}, other=ValueError("+254700123456")
    )
    assert found["phones"] == ["+2547••••3456"]
    assert found["who"] == {"phone": "07••••3456"}
    assert found["other"] == "+2547••••3456"


def failure():
    try:
        int("to +254700123456")
    except ValueError:
        return sys.exc_info()


def test_an_exception_is_told_with_its_trace_but_without_numbers():
    found = line("it failed", level=logging.ERROR, error=failure())
    assert found["level"] == "error"
    assert "'to +2547••••3456'" in found["exception"]
    assert "test_logs.py" in found["exception"]


def test_a_person_at_a_terminal_reads_the_same():
    told = ConsoleLines().format(record("texted +254700123456", error=failure(), tries=3))
    assert "texted +2547••••3456  tries=3\nTraceback" in told
    assert "700123456" not in told


SIGNS = "\x1b[2J\r\n\x07\x9b31m\u2028\u202e"


def test_nothing_that_steers_a_terminal_comes_through():
    error = ValueError(SIGNS)
    made = record(f"it said {SIGNS}", error=(ValueError, error, None), word=SIGNS)
    told = ConsoleLines().format(made)
    first, *trace = told.split("\n")
    assert "it said \\x1b[2J\\r\\n" in first
    assert "word=\\x1b[2J\\r\\n" in first
    assert trace[0].startswith("ValueError: \\x1b[2J")
    assert not set(SIGNS) - {"\n", *"[2J31m"} & set(told)
    kept = JsonLines().format(made)
    assert json.loads(kept)["word"] == SIGNS
    assert not set(SIGNS) - {*"[2J31m"} & set(kept)


def test_a_line_names_the_trace_of_the_work_under_way_or_the_one_it_is_given():
    token = trace_var.set(TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"))
    try:
        assert line()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        other = line(trace_id="1" * 31 + "a", request_id="01J9Z3K4")
        assert (other["trace_id"], other["request_id"]) == ("1" * 31 + "a", "01J9Z3K4")
    finally:
        trace_var.reset(token)
    assert line()["trace_id"] is None
