"""The gateway port: a text goes in, an outcome comes out as a value.

An adapter that speaks over a wire is added by one line of `PROVIDERS`: how to open it, and how its
provider says yes. The worked adapter of docs/how-to/add-an-sms-provider.md is one of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from savannah.adapters.africastalking import AfricasTalking
from savannah.adapters.memory import MemoryGateway
from savannah.application.ports import Sms, SmsGateway
from savannah.domain.notification import Accepted, Cost, RefusalKind, RefusedSms, UnknownOutcome
from savannah.domain.order import NotificationId
from wire import (
    broken_off,
    dripping,
    endless,
    half_a_head,
    hang_up,
    http,
    listening,
    silent,
)

PAGE = Path(__file__).parents[2] / "docs/how-to/add-an-sms-provider.md"
PHONE, OTHER_PHONE = "+254700123456", "+254711000000"
TEXT = "Your order has arrived with us."
REFUSED = RefusedSms(kind=RefusalKind.TEMPORARY, code="500")
UNKNOWN = UnknownOutcome(cause="timeout")


# --- the providers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provider:
    """An adapter that speaks HTTP, and how the other end says yes.

    Attributes:
        opened: the adapter for that address, which waits so many seconds for a sign of life.
        status: of an answer that takes a text.
        body: of such an answer, with that id.
    """

    opened: Callable[[str, float], AbstractAsyncContextManager[SmsGateway]]
    status: int
    body: Callable[[str], Any]

    def accepts(self, name: str) -> bytes:
        return http(self.status, self.body(name))


@asynccontextmanager
async def africas_talking(url: str, wait_s: float) -> AsyncIterator[SmsGateway]:
    wait = timedelta(seconds=wait_s)
    adapter = AfricasTalking(
        base_url=url, username="u", api_key="k", connect_timeout=wait, read_timeout=wait
    )
    yield adapter
    await adapter.aclose()


def africas_talking_says(name: str) -> object:
    recipient = {"number": PHONE, "statusCode": 101, "messageId": name, "cost": "KES 0.8000"}
    return {"SMSMessageData": {"Message": "Sent", "Recipients": [recipient]}}


@asynccontextmanager
async def acme(url: str, wait_s: float) -> AsyncIterator[SmsGateway]:
    """The class that the page prints, as it is printed."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    printed: dict[str, Any] = {"__name__": "acme"}
    exec(compile(code, PAGE.name, "exec"), printed)
    async with httpx.AsyncClient(base_url=url, timeout=wait_s, trust_env=False) as client:
        yield printed["Acme"](client, deadline_s=4 * wait_s)


PROVIDERS = {
    "africastalking": Provider(africas_talking, 201, africas_talking_says),
    "acme": Provider(acme, 202, lambda name: {"id": name}),
}


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return PROVIDERS[request.param]


@pytest.fixture(params=["memory", *PROVIDERS])
def gateway(request, runner):
    """Each adapter, before a provider that takes everything."""
    if request.param == "memory":
        yield MemoryGateway()
        return
    provider = PROVIDERS[request.param]

    async def accept(_, writer):
        accept.taken += 1
        writer.write(provider.accepts(f"{request.param}-{accept.taken}"))

    accept.taken = 0

    @asynccontextmanager
    async def before_a_provider():
        async with listening(accept) as wire, provider.opened(wire.url, 10) as adapter:
            yield adapter

    opened = before_a_provider()
    yield runner.run(opened.__aenter__())
    runner.run(opened.__aexit__(None, None, None))


@pytest.fixture
def sms(make):
    def sms(to=PHONE, text=TEXT):
        return Sms(id=NotificationId(make.id()), to=to, text=text)

    return sms


@pytest.fixture
def answer(provider, sms):
    """What the adapter makes of an answer; whatever it is, the text was posted once."""

    async def outcome_of(answer, *, wait_s=10.0, **fields):
        async with listening(answer) as wire, provider.opened(wire.url, wait_s) as adapter:
            outcome = await adapter.send(sms(**fields))
            await wire.heard()
            assert len(wire.requests) == 1
            return outcome

    return outcome_of


# --- what every gateway promises -----------------------------------------------------------------


async def test_an_accepted_text_has_an_id_of_its_own_and_no_free_price(gateway, sms):
    outcomes = await asyncio.gather(*(gateway.send(sms()) for _ in range(5)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    assert len({outcome.provider_id for outcome in outcomes}) == 5
    assert all(outcome.cost is None or outcome.cost.units > 0 for outcome in outcomes)


async def test_sending_the_same_text_again_is_another_message(gateway, sms):
    text = sms()
    assert (await gateway.send(text)).provider_id != (await gateway.send(text)).provider_id


# --- what a gateway over a wire promises ---------------------------------------------------------


async def test_number_and_text_arrive_as_they_were(provider, sms):
    text = 'Habari 😀 & "karibu" 100% €'
    async with listening(provider.accepts("1")) as wire, provider.opened(wire.url, 10) as adapter:
        assert isinstance(await adapter.send(sms(text=text)), Accepted)
    body = wire.requests[0].body.decode()
    form = dict(httpx.QueryParams(body)) if body[0] != "{" else json.loads(body)
    assert {PHONE, text} <= set(form.values())


async def test_a_text_no_encoding_can_carry_never_leaves(provider, sms):
    async with listening(provider.accepts("1")) as wire, provider.opened(wire.url, 10) as adapter:
        outcome = await adapter.send(sms(text="half a pair: \ud83d"))
    assert isinstance(outcome, RefusedSms)
    assert outcome.kind is RefusalKind.NUMBER
    assert wire.requests == []


async def test_where_nobody_listens_nothing_has_left(provider, sms):
    async with listening(b"") as wire:
        url = wire.url
    async with provider.opened(url, 10) as adapter:
        outcome = await adapter.send(sms())
    assert isinstance(outcome, RefusedSms)
    assert outcome.kind is RefusalKind.TEMPORARY


@pytest.mark.parametrize("trouble", [hang_up, half_a_head, b"220 mail.example ESMTP\r\n\r\n"])
async def test_what_breaks_off_after_the_request_may_have_left(answer, trouble):
    assert isinstance(await answer(trouble), UnknownOutcome)


async def test_half_an_acceptance_is_none(answer, provider):
    assert isinstance(await answer(broken_off(provider.accepts("1"))), UnknownOutcome)


async def test_silence_ends(answer):
    assert isinstance(await answer(silent, wait_s=0.5), UnknownOutcome)


async def test_an_answer_that_drips_is_given_up(answer, provider):
    slow = dripping(provider.accepts("1" * 100))
    assert isinstance(await answer(slow, wait_s=0.3), UnknownOutcome)


async def test_an_answer_without_an_end_is_given_up(answer, provider):
    assert isinstance(await answer(endless(provider.status)), UnknownOutcome)


@pytest.mark.parametrize("said", [None, 5, "", " ", "x" * 10_000, "1\n2", ["1"], {"id": "1"}])
async def test_an_acceptance_that_no_report_could_name_is_unknown(answer, provider, said):
    assert isinstance(await answer(provider.accepts(said)), UnknownOutcome)


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"[]", b"null", b"{}", b'{"id"', b"\xff", b"[" * 9999, b'"id"']
)
async def test_an_answer_of_another_shape_is_unknown(answer, provider, body):
    assert isinstance(await answer(http(provider.status, body)), UnknownOutcome)


async def test_an_acceptance_is_not_unpacked(answer, provider):
    packed = http(provider.status, b"\x1f\x8b rubbish", extra="Content-Encoding: gzip\r\n")
    assert isinstance(await answer(packed), UnknownOutcome)


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_provider_in_trouble_may_have_sent_it(answer, status):
    assert isinstance(await answer(http(status, b"")), UnknownOutcome)


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405, 410, 429, 503])
async def test_trouble_of_ours_or_theirs_is_not_held_against_a_number(answer, status):
    outcome = await answer(http(status, b"", extra="Location: http://127.0.0.1:1/\r\n"))
    assert isinstance(outcome, RefusedSms)
    assert outcome.kind in {RefusalKind.ACCOUNT, RefusalKind.TEMPORARY}


async def test_a_key_that_is_not_taken_stops_everything(answer):
    assert (await answer(http(401, b""))).kind is RefusalKind.ACCOUNT


async def test_a_cancelled_send_stays_cancelled(provider, sms):
    asked = asyncio.Event()

    async def be_asked(reader, _):
        asked.set()
        await reader.read()

    async with listening(be_asked) as wire, provider.opened(wire.url, 10) as adapter:
        sending = asyncio.create_task(adapter.send(sms()))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_phone_and_text_stay_out_of_the_log_and_the_outcome(answer, provider, caplog):
    caplog.set_level(logging.DEBUG)
    for said in (provider.accepts("1"), http(401, b""), http(500, b""), hang_up):
        outcome = await answer(said)
        for secret in (PHONE, PHONE.removeprefix("+"), TEXT):
            assert secret not in caplog.text + repr(outcome)
    assert caplog.records


# --- what only the gateway in memory promises ----------------------------------------------------


async def test_the_memory_gateway_keeps_what_left_and_what_was_refused(sms):
    gateway = MemoryGateway()
    texts = [sms() for _ in range(4)]
    gateway.answer(REFUSED, UNKNOWN)
    outcomes = [await gateway.send(text) for text in texts]
    assert outcomes[:2] == [REFUSED, UNKNOWN]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes[2:])
    assert gateway.sent == texts[1:]
    assert gateway.refused == [(texts[0], REFUSED)]


async def test_the_memory_gateway_answers_single_numbers_first(sms):
    gateway = MemoryGateway()
    gateway.answer(REFUSED)
    gateway.answer(UNKNOWN, to=PHONE)
    assert await gateway.send(sms(PHONE)) == UNKNOWN
    assert await gateway.send(sms(OTHER_PHONE)) == REFUSED
    assert isinstance(await gateway.send(sms(PHONE)), Accepted)


async def test_the_memory_gateway_goes_on_answering_until_told_otherwise(sms):
    gateway = MemoryGateway()
    blocked = RefusedSms(kind=RefusalKind.BLOCKED, code="406")
    gateway.always_answer(blocked, to=PHONE)
    gateway.always_answer(REFUSED)
    assert [await gateway.send(sms(PHONE)) for _ in range(3)] == [blocked] * 3
    assert [await gateway.send(sms(OTHER_PHONE)) for _ in range(2)] == [REFUSED] * 2
    gateway.answer(UNKNOWN, to=PHONE)  # what comes next comes before what comes always
    assert await gateway.send(sms(PHONE)) == UNKNOWN
    assert await gateway.send(sms(PHONE)) == blocked
    gateway.always_answer(None, to=PHONE)
    assert await gateway.send(sms(PHONE)) == REFUSED
    gateway.always_answer(None)
    gateway.always_answer(None)
    assert isinstance(await gateway.send(sms(PHONE)), Accepted)


@pytest.mark.parametrize("cost", [None, Cost(currency="UGX", units=350_000)])
async def test_the_memory_gateway_has_the_price_it_is_given(sms, cost):
    assert (await MemoryGateway(cost=cost).send(sms())).cost == cost
