"""What caused the work under way: the id of the request, and its place in a distributed trace.

Read by whoever logs or calls out. The HTTP door sets both for a request; a message keeps them in
its row, so that the process that sends it, and the report that comes back, carry on the same
trace. Spans are not made here.

Source: https://www.w3.org/TR/trace-context-2/ (headers `traceparent` and `tracestate`).
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final, NamedTuple, TypedDict

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_var: ContextVar[TraceContext | None] = ContextVar("trace", default=None)

SAMPLED: Final = 1
# Section 3.2: version, trace id, parent id, flags. A later version may have more behind a dash.
_PARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
# Section 3.3: at most 32 members; 512 characters are the least that everybody passes on, and
# members above 128 go first.
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_\-*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}"
    r"[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_MEMBERS: Final = 32
_MOST_CHARACTERS: Final = 512
_LONG_MEMBER: Final = 128
_LONGEST_INPUT: Final = 16 * 1024


class TraceContext(NamedTuple):
    """One step of a trace: `span_id` names it, and is the parent of what it causes."""

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    @classmethod
    def begin(cls) -> TraceContext:
        """A trace of its own; nobody records it unless a tracer says so."""
        random = os.urandom(24).hex()
        return cls(random[:32], random[32:])

    @classmethod
    def parse(cls, traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
        """What a caller sent, or a row kept; None where `traceparent` is absent or malformed.

        A malformed `tracestate` is dropped by itself, as section 4.3 has it.
        """
        if traceparent is None:
            return None
        found = _PARENT.fullmatch(traceparent)
        if found is None or (found[1] == "00" and found[5] is not None):
            return None
        return cls(found[2], found[3], int(found[4], 16) & 0b11, _state(tracestate))

    def child(self) -> TraceContext:
        """The next step of the same trace."""
        return self._replace(span_id=os.urandom(8).hex())

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def _state(text: str | None) -> str:
    """The vendors' members in their order, cut to what may be passed on; empty when malformed."""
    if not text or len(text) > _LONGEST_INPUT:
        return ""
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    parsed = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in parsed if match is not None}
    if len(keys) != len(members) or len(members) > _MOST_MEMBERS:
        return ""
    while len(",".join(members)) > _MOST_CHARACTERS:
        long = [member for member in members if len(member) > _LONG_MEMBER]
        members.remove(long[-1] if long else members[-1])
    return ",".join(members)


class Kept(TypedDict):
    """What a message's row keeps of the trace that caused it."""

    traceparent: str | None
    tracestate: str | None


def kept() -> Kept:
    """The trace of the work under way, as a row keeps it."""
    trace = trace_var.get()
    if trace is None:
        return {"traceparent": None, "tracestate": None}
    return {"traceparent": trace.traceparent, "tracestate": trace.state or None}


def carry_on(request_id: str | None, traceparent: str | None, tracestate: str | None) -> None:
    """From here on, this task works for the request that once caused a message."""
    request_id_var.set(request_id)
    trace_var.set(TraceContext.parse(traceparent, tracestate))
