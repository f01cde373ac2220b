"""Clients that take their time, over real sockets: they are cut off, and others are served."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from savannah.entrypoints.server import Server
from savannah.entrypoints.slow_clients import HEAD_MAX, HEADERS_MOST, PIPELINED_MOST, ClientLimits

PATIENCE = timedelta(minutes=5)  # nobody is late
LITTLE_PATIENCE = timedelta(seconds=0.4)
# Far more than a little patience, and far less than a long one.
SOON_S = 60.0
GET = b"GET / HTTP/1.1\r\nhost: desk\r\n\r\n"


async def echo(scope, receive, send):
    """Answers with how much it was sent; `/much` with more than a socket holds."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/hold":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"x" * 20_000_000 if scope["path"] == "/much" else str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Site:
    def __init__(self, port, cut):
        self.port = port
        self.cut = cut

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def is_served(self):
        reader, writer = await self.connect()
        writer.write(GET)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
        writer.close()
        return head.startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def serving(app=echo, *, patience=PATIENCE, connections=100):
    cut = []
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    ready = asyncio.Event()
    limits = ClientLimits(patience=patience, connections=connections, cut=cut.append)
    server = Server(app, ready=ready.set, limits=limits)
    running = asyncio.create_task(server.serve([listener]))
    await asyncio.wait_for(ready.wait(), SOON_S)
    try:
        yield Site(listener.getsockname()[1], cut)
    finally:
        server.should_exit = True
        server.force_exit = True
        await running
        listener.close()


async def dribble(writer, data, *, every_s=0.05):
    """Send a byte now and then until the other side has had enough."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(every_s)
    except ConnectionError:
        pass


async def ends(reader):
    """What came until the connection ended."""
    try:
        return await asyncio.wait_for(reader.read(), SOON_S)
    except ConnectionError:
        return b""


SLOW = {
    "says nothing at all": (b"", b"", "slow_head"),
    "dribbles its headers": (b"", b"GET / HTTP/1.1\r\nx-a: " + b"b" * 1000, "slow_head"),
    "dribbles its second request": (GET, b"GET / HTTP/1.1\r\nx-a: " + b"b" * 1000, "slow_head"),
    "dribbles its body": (
        b"POST / HTTP/1.1\r\nhost: desk\r\ncontent-length: 1000\r\n\r\n",
        b"b" * 999,
        "slow_body",
    ),
    "dribbles its chunks": (
        b"POST / HTTP/1.1\r\nhost: desk\r\ntransfer-encoding: chunked\r\n\r\n",
        b"1\r\nb\r\n" * 500,
        "slow_body",
    ),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_client_that_dribbles_is_cut_off_and_others_are_served(what):
    at_once, slowly, reason = SLOW[what]

    async def story():
        async with serving(patience=LITTLE_PATIENCE) as site:
            reader, writer = await site.connect()
            writer.write(at_once)
            if at_once == GET:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1)
            slow = asyncio.create_task(dribble(writer, slowly))
            assert await site.is_served()
            said = await ends(reader)
            assert await site.is_served()
            slow.cancel()
            writer.close()
            return said, site.cut

    said, cut = asyncio.run(story())
    assert cut == [reason]
    if said:  # a reset can overtake the last word
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        assert json.loads(body)["status"] == 408


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (GET.replace(b"GET", b"FETCH"), 400),
        (GET[:-2] + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (GET[:-2], 408),
    ],
)
def test_what_never_becomes_a_request_is_answered_like_any_other(sent, status):
    async def story():
        async with serving(patience=LITTLE_PATIENCE if status == 408 else PATIENCE) as site:
            reader, writer = await site.connect()
            writer.write(sent)
            said = await ends(reader)
            writer.close()
            return said

    head, _, body = asyncio.run(story()).partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    problem = json.loads(body)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert (problem["status"], problem["code"]) == (status, "bad_request")
    assert problem["request_id"] == headers["x-request-id"]


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    async def story():
        async with serving(patience=LITTLE_PATIENCE) as site:
            reader, writer = await site.connect()
            writer.write(GET.replace(b"GET /", b"GET /much"))
            async with asyncio.timeout(SOON_S):
                while not site.cut:  # noqa: ASYNC110 - told from a list
                    await asyncio.sleep(0.02)
            assert await site.is_served()
            del reader
            writer.close()
            return site.cut

    assert asyncio.run(story()) == ["slow_reader"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"x-a: %s\r\n" % (b"b" * 1000) * 40 + b"\r\n",
        b"GET / HTTP/1.1\r\nx-a: " + b"b" * (HEAD_MAX + 1),  # and no end of it
        b"GET /" + b"b" * (HEAD_MAX + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (HEADERS_MOST + 1) + b"\r\n",
    ],
)
def test_headers_that_are_too_large_are_refused_at_once(head):
    async def story():
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(head)
            said = await ends(reader)
            assert await site.is_served()
            writer.close()
            return said, set(site.cut)

    said, cut = asyncio.run(story())
    assert cut == {"large_head"}
    assert said.startswith(b"HTTP/1.1 431 ") or not said


def test_as_many_headers_as_may_be_are_read():
    async def story():
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * HEADERS_MOST + b"\r\n")
            said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
            writer.close()
            return said

    assert asyncio.run(story()).startswith(b"HTTP/1.1 200 ")


SIZED = b"POST / HTTP/1.1\r\nhost: desk\r\ncontent-length: %d\r\n\r\n%b"
CHUNKED = b"POST / HTTP/1.1\r\nhost: desk\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"1\r\nb\r\n0\r\n", b"x-a: b\r\n" * 1000),
        (b"1\r\nb\r\n0\r\nx-a: ", b"b" * 8000),
        (b"1;a=", b"b" * 8000),
    ],
    ids=["trailers", "one trailer", "an extension of a chunk"],
)
def test_what_is_neither_head_nor_body_has_an_end_too(begun, endless):
    async def story():
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(CHUNKED + begun)
            sent = 0
            try:
                while sent < 10_000_000 and not site.cut:
                    writer.write(endless)
                    await writer.drain()
                    sent += len(endless)
                    await asyncio.sleep(0)
            except ConnectionError:
                pass
            await ends(reader)
            assert await site.is_served()
            writer.close()
            return set(site.cut)

    assert asyncio.run(story()) == {"large_head"}


def test_requests_that_wait_behind_another_are_answered_in_turn():
    async def story():
        async with serving() as site:
            reader, writer = await site.connect()
            lengths = range(1, PIPELINED_MOST + 1)
            writer.write(b"".join(SIZED % (size, b"b" * size) for size in lengths))
            said = b""
            async with asyncio.timeout(SOON_S):
                while said.count(b"HTTP/1.1 200") < len(lengths):
                    said += await reader.read(65536)
            writer.close()
            return said, site.cut

    said, cut = asyncio.run(story())
    assert [int(each.rpartition(b"\r\n")[2]) for each in said.split(b"HTTP/1.1 200")[1:]] == [
        *range(1, PIPELINED_MOST + 1)
    ]
    assert cut == []


@pytest.mark.parametrize("path", [b"/hold", b"/"])
def test_not_endlessly_many_requests_wait_behind_another(path):
    """They would be kept faster than they are answered."""

    async def story():
        async with serving() as site:
            reader, writer = await site.connect()
            writer.write(GET.replace(b"/ ", path + b" "))
            try:
                while not site.cut:
                    writer.write(GET * 1000)
                    await writer.drain()
                    await asyncio.sleep(0)
            except ConnectionError:
                pass
            await ends(reader)
            assert await site.is_served()
            writer.close()
            return set(site.cut)

    assert asyncio.run(asyncio.wait_for(story(), SOON_S)) == {"many_requests"}


def test_a_trailer_is_not_taken_for_a_header():
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.append(scope["headers"])
        await echo(scope, receive, send)

    async def story():
        async with serving(app) as site:
            reader, writer = await site.connect()
            writer.write(CHUNKED + b"1\r\nb\r\n0\r\nx-forwarded-for: 192.0.2.1\r\n\r\n")
            said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
            writer.close()
            return said

    assert asyncio.run(story()).startswith(b"HTTP/1.1 200 ")
    assert [name for name, _ in seen[0]] == [b"host", b"transfer-encoding"]


def test_beyond_the_limit_the_longest_idle_connection_makes_room():
    async def story():
        async with serving(connections=3) as site:
            idle = [await site.connect() for _ in range(3)]
            for reader, writer in idle:
                writer.write(GET)
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1)
            assert await site.is_served()
            assert await ends(idle[0][0]) == b""
            for reader, writer in idle[1:]:
                writer.write(GET)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            for _, writer in idle:
                writer.close()
            return site.cut

    assert asyncio.run(story())[0] == "made_room"


def test_those_who_keep_us_waiting_make_room_when_nobody_is_idle():
    """Else a few hundred bodies that never end would keep everybody out."""

    arrived = asyncio.Semaphore(0)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            arrived.release()
        await echo(scope, receive, send)

    async def story():
        async with serving(app, connections=2) as site:
            slow = [await site.connect() for _ in range(2)]
            for _, writer in slow:
                writer.write(b"POST / HTTP/1.1\r\nhost: desk\r\ncontent-length: 9\r\n\r\n")
                await asyncio.wait_for(arrived.acquire(), SOON_S)
            assert await site.is_served()
            assert await ends(slow[0][0]) == b""
            for _, writer in slow:
                writer.close()
            return site.cut

    assert asyncio.run(story())[0] == "made_room"


def test_a_new_connection_is_refused_when_all_others_are_at_work():
    async def story():
        async with serving(connections=2) as site:
            busy = [await site.connect() for _ in range(2)]
            for _, writer in busy:
                writer.write(GET.replace(b"GET /", b"GET /hold"))
            async with asyncio.timeout(SOON_S):
                while "no_room" not in site.cut:
                    _, writer = await site.connect()
                    await asyncio.sleep(0.02)
                    writer.close()
            assert all(not writer.is_closing() for _, writer in busy)
            for _, writer in busy:
                writer.close()
            return site.cut

    assert "no_room" in asyncio.run(story())
