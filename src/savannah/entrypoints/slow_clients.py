"""What a client may take its time for: a limit on each wait for it, on headers, on connections.

Slowloris and its kin hold connections open by sending, or reading, a byte now and then. uvicorn
ends idle connections only, so its protocol is given deadlines here. A sweep looks at them once in
a while: a request pays for two looks at the clock and no timer.

Bodies are counted further in (`requests.BODY_MAX`), where the answer can be a whole one. What
stands around the pieces of one, trailers above all, is counted here: nobody reads it, and the
parser and uvicorn would keep all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import Any, Final, cast
from uuid import uuid4

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from savannah.entrypoints.http import problems

HEAD_MAX: Final = 32 * 1024
# Each costs many times its bytes, and is kept as long as its request.
HEADERS_MOST: Final = 128
# Requests of one connection that wait while another is answered.
PIPELINED_MOST: Final = 64
_SWEEPS: Final = 4  # within one patience
_LONGEST_NAP_S: Final = 1.0
_REASONS: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What one process grants its clients.

    Attributes:
        patience: for a whole head, a whole body, and a client that reads its answer.
        connections: how many may be open. Beyond that the one that has been idle longest is
            closed, or else has kept us waiting longest; and a new one is refused when all of them
            are at work.
        cut: is told why a connection was ended, in one of few words.
    """

    patience: timedelta
    connections: int
    cut: Callable[[str], None]


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, with a deadline for whatever the client has to do next."""

    limits: ClientLimits

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._patience_s = self.limits.patience.total_seconds()
        self.due: float | None = None
        self.late_for = "slow_head"
        self.idle_since = 0.0
        self._in_head = True
        self._other_bytes = 0  # since the last message or piece of a body ended

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None at first, whatever uvicorn declares

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._expect("slow_head")
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > HEAD_MAX and not self.transport.is_closing():
            self._cut("large_head", 431, "The headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self.due is None:
            self._expect("slow_head")

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 section 6.5.1: a trailer is no header. It comes after a proxy has said whose
        # request this is.
        if self._in_head and len(self.headers) <= HEADERS_MOST:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._other_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_MAX or len(self.headers) > HEADERS_MOST:
            self._cut("large_head", 431, "The headers are too large")
            return
        if self.transport.is_closing():
            return
        self._expect("slow_body")
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED_MOST:
            self.limits.cut("many_requests")
            self.transport.abort()  # a last word would stand in somebody else's answer

    def on_body(self, body: bytes) -> None:
        self._other_bytes = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.due = None
        self._other_bytes = 0
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()
        if self.pipeline:  # uvicorn goes on reading, and would keep more than it answers
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        self._expect("slow_reader")
        super().pause_writing()

    def resume_writing(self) -> None:
        self.due = None
        super().resume_writing()

    def end_if_late(self, now: float) -> None:
        if self.due is None or self.due > now or self.transport.is_closing():
            return
        self.due = None
        if self.late_for == "slow_reader" or (not self.is_idle and self.cycle.response_started):
            self.limits.cut(self.late_for)
            self.transport.abort()  # a close would wait until it has read
        else:
            self._cut(self.late_for, 408, "The request did not arrive in time")

    def _expect(self, what: str) -> None:
        self.late_for = what
        self.due = self.loop.time() + self._patience_s

    def _make_room(self) -> None:
        everybody = cast("Iterable[PatientProtocol]", self.connections)
        others = [each for each in everybody if each is not self]
        others = [each for each in others if not each.transport.is_closing()]
        idle = [(each.idle_since, each) for each in others if each.is_idle]
        # Else who keeps us waiting, or a few bodies that never end would keep everybody out.
        late = [(each.due, each) for each in others if each.due is not None]
        if idle or late:
            self.limits.cut("made_room")
            min(idle or late, key=itemgetter(0))[1].transport.abort()
        else:
            self.limits.cut("no_room")
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        del msg  # uvicorn's words
        self._say_and_close(400, "This is no HTTP/1.1 request")

    def _cut(self, why: str, status: int, detail: str) -> None:
        self.limits.cut(why)
        self._say_and_close(status, detail)

    def _say_and_close(self, status: int, detail: str) -> None:
        """End the connection with a last word; a client that does not read does not hear it."""
        request_id = uuid4().hex
        body = msgspec.json.encode(
            problems.document(
                status=status,
                code="bad_request",
                detail=detail,
                instance="/",
                request_id=request_id,
            )
        )
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"
            b"connection: close\r\n\r\n%b"
            % (
                status,
                _REASONS[status],
                problems.MEDIA_TYPE.encode(),
                len(body),
                request_id.encode(),
                body,
            )
        )
        self.transport.close()


def patient(limits: ClientLimits) -> type[PatientProtocol]:
    """The protocol with these limits, as `uvicorn.Config` takes it."""
    return type("LimitedProtocol", (PatientProtocol,), {"limits": limits})


async def sweep(connections: set[Any], patience: timedelta) -> None:
    """End the connections of clients that are late, for as long as this runs."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(min(patience.total_seconds() / _SWEEPS, _LONGEST_NAP_S))
        now = loop.time()
        for connection in list(connections):
            connection.end_if_late(now)
