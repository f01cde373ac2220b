"""A gateway that answers Africa's Talking's requests as cheaply as Python can, for measurements.

    gateway.py PORT [DELAY_S]

It accepts every text, at once or after a delay. `GET /heard` tells when the text about each order
came, on the machine's monotonic clock, and forgets it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Final, cast

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TO: Final = re.compile(rb"(?:^|&)to=%2B([0-9]+)")
_NUMBER: Final = re.compile(rb"ORD-\w{6}-\w")


class Gateway(asyncio.Protocol):
    """One connection; requests come one after the other."""

    heard: dict[str, float] = {}  # noqa: RUF012  shared by all connections
    delay_s: float = 0.0

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head, end, body = received.partition(b"\r\n\r\n")
        given = _LENGTH.search(head)
        if not end or len(body) < (int(given[1]) if given else 0):
            self._received = received
            return
        self._received = b""
        if head.startswith(b"GET"):
            self._answer(b"200 OK", json.dumps(self.heard).encode())
            self.heard.clear()
            return
        at = time.perf_counter()
        number, to = _NUMBER.search(body), _TO.search(body)
        assert number is not None
        assert to is not None
        self.heard.setdefault(number[0].decode(), at)
        told = (
            b'{"SMSMessageData":{"Message":"Sent to 1/1 Total Cost: KES 0.8000","Recipients":'
            b'[{"statusCode":101,"number":"+%b","cost":"KES 0.8000","status":"Success",'
            b'"messageId":"ATXid_%b"}]}}' % (to[1], number[0])
        )
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, self._answer, b"201 Created", told)
        else:
            self._answer(b"201 Created", told)

    def _answer(self, status: bytes, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )


async def main() -> None:
    Gateway.delay_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Gateway, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
