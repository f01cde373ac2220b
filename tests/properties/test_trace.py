"""Trace context: every rule of the W3C recommendation that a caller can break."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.application.trace import TraceContext, carry_on, request_id_var, trace_var

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"

traces = st.integers(1, 2**128 - 1).map("{:032x}".format)
spans = st.integers(1, 2**64 - 1).map("{:016x}".format)


@given(traces, spans, st.integers(0, 3))
def test_what_is_written_is_read_back(trace, span, flags):
    written = TraceContext(trace, span, flags)
    assert TraceContext.parse(written.traceparent) == written


@given(st.text())
def test_any_text_is_read_or_refused_and_what_is_read_is_well_formed(text):
    found = TraceContext.parse(text, text)
    assert found is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", found.traceparent)


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "-extra",  # version 00 has nothing behind the flags
        PARENT + "\n",
        f" {PARENT}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-0g",
        f"{PARENT},{PARENT}",
        f"01-{TRACE}-{SPAN}-01extra",
    ],
)
def test_a_malformed_parent_is_none_whatever_the_state_says(malformed):
    assert TraceContext.parse(malformed, "vendor=1") is None


@pytest.mark.parametrize("later", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes"])
def test_a_later_version_is_read_as_far_as_it_is_known(later):
    assert TraceContext.parse(later).traceparent == PARENT


def test_flags_nobody_knows_are_not_passed_on():
    assert TraceContext.parse(f"00-{TRACE}-{SPAN}-ff").flags == 3


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (None, ""),
        ("rojo=00f067aa0ba902b7", "rojo=00f067aa0ba902b7"),
        ("congo=t61rcWkgMzE, rojo=1,\t", "congo=t61rcWkgMzE,rojo=1"),
        ("fw529a3039@dt=FfAAA", "fw529a3039@dt=FfAAA"),
        ("a=1,,b=2", "a=1,b=2"),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("a", ""),
        ("a=", ""),
        ("a=b=c", ""),
        ("a=caf\u00e9", ""),
        (f"a={'x' * 257}", ""),
        (f"{'k' * 257}=1", ""),
        (",".join(f"k{number}=1" for number in range(33)), ""),
        ("a" * 20_000, ""),
    ],
)
def test_a_state_is_kept_in_order_or_dropped_by_itself(given_, kept):
    found = TraceContext.parse(PARENT, given_)
    assert (found.traceparent, found.state) == (PARENT, kept)


def test_a_long_state_loses_long_members_first_and_then_those_at_its_end():
    short = [f"k{number}={'v' * 90}" for number in range(6)]
    state = ",".join([short[0], f"long={'x' * 200}", *short[1:]])
    found = TraceContext.parse(PARENT, state)
    assert found.state == ",".join(short[:5])


def test_traces_begin_anew_and_steps_stay_in_theirs():
    one, other = TraceContext.begin(), TraceContext.begin()
    assert TraceContext.parse(one.traceparent) == one
    assert one.trace_id != other.trace_id
    step = one.child()
    assert step.trace_id == one.trace_id
    assert step.span_id != one.span_id


def test_a_task_that_carries_on_knows_the_request_and_touches_nobody_else():
    async def sends(parent):
        carry_on("01J9Z3K4", parent, "a=1")
        return request_id_var.get(), trace_var.get()

    async def main():
        with_one, without = await asyncio.gather(sends(PARENT), sends(None))
        return with_one, without, (request_id_var.get(), trace_var.get())

    (request_id, trace), without, outside = asyncio.run(main())
    assert (request_id, trace) == ("01J9Z3K4", TraceContext(TRACE, SPAN, 1, "a=1"))
    assert without == ("01J9Z3K4", None)
    assert outside == (None, None)
