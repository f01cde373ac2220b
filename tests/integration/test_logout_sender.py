"""Telling apps of logouts: over real sockets, and never into our own network."""

import asyncio
from contextlib import suppress
from ipaddress import ip_address

import pytest

from savannah.adapters.logout_sender import HttpLogoutSender, is_public


class Receiver:
    """An app on a socket of this machine; keeps what it was sent."""

    def __init__(self, answer, *, stays=False):
        self.answer = answer
        self.stays = stays
        self.requests = []
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()
        for writer in self.writers:
            writer.close()
            await writer.wait_closed()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError):  # the other side has gone
            await self._answer(reader, writer)
            while self.stays:
                await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
        self.requests.append((head, (await reader.readexactly(length)).decode()))
        end = b"\r\n" if self.stays else b"Connection: close\r\n\r\n"
        writer.write(self.answer.encode() + end)
        await writer.drain()


def told(answer, *, allow_loopback=True, uri="http://localhost:{port}/out?x=1"):
    async def story():
        async with Receiver(answer) as app:
            sender = HttpLogoutSender(allow_loopback=allow_loopback)
            try:
                taken = await sender.send(uri.format(port=app.port), "a.b.c")
            finally:
                await sender.aclose()
            return taken, app.requests

    return asyncio.run(story())


def test_an_app_gets_the_token_in_a_form():
    taken, [(head, body)] = told("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n")
    assert taken
    assert head.startswith("POST /out?x=1 HTTP/1.1\r\n")
    assert "\r\nhost: localhost:" in head.lower()
    assert "content-type: application/x-www-form-urlencoded" in head.lower()
    assert body == "logout_token=a.b.c"


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Oops", "501 No"])
def test_another_answer_means_that_it_was_not_taken(status):
    assert told(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n")[0] is False


def test_a_redirect_is_not_followed():
    taken, requests = told("HTTP/1.1 307 Elsewhere\r\nLocation: /other\r\nContent-Length: 0\r\n")
    assert not taken
    assert len(requests) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "https://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "https://[::1]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://0.0.0.0:{port}/",
        "https://[fd00::1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b:1::10.0.0.1]/",
        "https://[2002:a00:1::1]/",
        "https://[::10.0.0.1]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://224.0.0.1/",
        "https://2130706433:{port}/",
        "http://93.184.215.14/",
        "https://",
        "nonsense",
        "https://app.example:99999/",
    ],
)
def test_private_places_are_never_asked(uri):
    assert told("HTTP/1.1 200 OK\r\n", allow_loopback=False, uri=uri) == (False, [])


def test_even_in_development_only_this_machine_is_asked_without_https():
    assert told("HTTP/1.1 200 OK\r\n", uri="http://10.0.0.1/") == (False, [])


def test_an_app_that_is_away_has_not_taken_it():
    async def story():
        async with Receiver("") as app:
            port = app.port
        sender = HttpLogoutSender(allow_loopback=True)
        taken = await sender.send(f"http://127.0.0.1:{port}/", "a.b.c")
        await sender.aclose()
        await sender.aclose()
        return taken

    assert asyncio.run(story()) is False


@pytest.mark.parametrize(
    "address",
    [
        *("64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::1", "::a00:1", "fec0::1", "ff02::1"),
        *("::ffff:10.0.0.1", "224.0.0.1", "100.64.0.1", "fe80::1%eth0", "2001:0:1::1"),
    ],
)
def test_an_address_that_only_looks_public_is_none(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_a_public_address_is_one(address):
    assert is_public(ip_address(address))


def test_what_one_name_has_proved_is_not_believed_of_another():
    """Two apps at one address: a connection says whose it is only to the name it was made for."""
    made = []

    async def story():
        async with Receiver("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", stays=True) as app:
            sender = HttpLogoutSender(allow_loopback=True)
            for name in ("localhost", "127.0.0.1"):
                assert await sender.send(f"http://{name}:{app.port}/", "a.b.c")
            await sender.aclose()
            made.append(len(app.writers))

    asyncio.run(story())
    assert made == [2]
