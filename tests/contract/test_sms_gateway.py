"""The gateway port: a text goes in, an outcome comes out as a value.

`scripted` gives each adapter what it needs to answer as told; an adapter is added by one more
parameter.
"""

from __future__ import annotations

import asyncio

import pytest

from savannah.adapters.memory import MemoryGateway
from savannah.application.ports import Sms
from savannah.domain.notification import (
    Accepted,
    Cost,
    RefusalKind,
    RefusedSms,
    UnknownOutcome,
)
from savannah.domain.order import NotificationId

PHONE, OTHER_PHONE = "+254700123456", "+254711000000"
REFUSED = RefusedSms(kind=RefusalKind.TEMPORARY, code="500")
UNKNOWN = UnknownOutcome(cause="timeout")


@pytest.fixture(params=["memory"])
def gateway(request):
    return {"memory": MemoryGateway}[request.param]()


@pytest.fixture
def sms(make):
    def sms(to=PHONE):
        return Sms(id=NotificationId(make.id()), to=to, text="Your order has arrived with us.")

    return sms


async def test_an_accepted_text_has_an_id_of_its_own_and_a_price(gateway, sms):
    outcomes = await asyncio.gather(*(gateway.send(sms()) for _ in range(5)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len({outcome.provider_id for outcome in outcomes}) == 5
    assert all(outcome.cost.units > 0 for outcome in outcomes)


async def test_sending_the_same_text_again_is_another_message(gateway, sms):
    text = sms()
    assert (await gateway.send(text)).provider_id != (await gateway.send(text)).provider_id


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
