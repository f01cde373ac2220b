"""The other end of an HTTP connection: a socket that answers, stays silent or breaks off as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Wire:
    """A listening socket; `answer` is bytes to write, or a behaviour after a request was read."""

    answer: bytes | Behaviour = b""
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def heard(self, count: int = 1) -> None:
        """Return when so many requests were read; who sent them may have given up before that."""
        async with asyncio.timeout(60):
            while len(self.requests) < count:  # noqa: ASYNC110  the loop has to turn
                await asyncio.sleep(0.001)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
                headers = {
                    name.lower(): value
                    for name, _, value in (text.partition(": ") for text in lines)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(Request(line, headers, body))
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                    await writer.drain()
                else:
                    await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(answer: bytes | Behaviour) -> AsyncIterator[Wire]:
    wire = Wire(answer)
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(wire.serve(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http(status: int, body: object = None, *, extra: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


# --- trouble -------------------------------------------------------------------------------------


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half_a_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 201 Crea")
    await writer.drain()
    writer.close()


def broken_off(answer: bytes) -> Behaviour:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer[:-10])
        await writer.drain()
        writer.close()

    return break_off


def dripping(answer: bytes) -> Behaviour:
    """Byte for byte, so that no read ever waits long."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in answer:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    return drip


def endless(status: int) -> Behaviour:
    """A body of that answer that goes on for as long as somebody reads."""

    async def go_on(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Whatever\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b" " * 65536)
            await writer.drain()

    return go_on
