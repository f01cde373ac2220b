"""Idempotency keys: replayed, reused, released, forgotten, and never owned twice; and events."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import CustomerFilter, IdempotencyRecordKey
from savannah.domain.errors import IdempotencyInProgress, IdempotencyKeyReused
from savannah.domain.paging import PageRequest

KEY = IdempotencyRecordKey("user:till", "POST /api/orders/", "k-1")
DAY = timedelta(hours=24)


@pytest.fixture
def now(make):
    return make.customer().created_at


@pytest.fixture
def answered(storage, now):
    """Begin and finish a key in one committed unit of work."""

    async def answered(key, *, fingerprint="f", answer=b"answer", at=now):
        async with storage() as uow:
            assert await uow.idempotency.begin(key, fingerprint, now=at) is None
            await uow.idempotency.finish(key, fingerprint, answer, expires_at=at + DAY)
            await uow.commit()

    return answered


async def test_a_finished_key_gives_its_answer_again(storage, answered, now):
    answer = bytes(range(256))
    await answered(KEY, answer=answer)
    for _ in range(2):
        async with storage() as uow:
            assert await uow.idempotency.begin(KEY, "f", now=now + DAY / 2) == answer


async def test_a_key_with_another_fingerprint_is_reused(storage, answered, now):
    await answered(KEY)
    async with storage() as uow:
        with pytest.raises(IdempotencyKeyReused):
            await uow.idempotency.begin(KEY, "another", now=now)


async def test_equal_keys_of_others_or_on_other_things_are_different(answered):
    for key in (
        KEY,
        replace(KEY, principal="user:other"),
        replace(KEY, operation="POST /api/customers/"),
        replace(KEY, key="K-1"),
    ):
        await answered(key)


async def test_a_key_that_was_begun_and_not_committed_is_free_again(storage, answered, now):
    async with storage() as uow:
        assert await uow.idempotency.begin(KEY, "f", now=now) is None
    async with storage() as uow:
        assert await uow.idempotency.begin(KEY, "another", now=now) is None
        await uow.idempotency.finish(KEY, "another", b"never seen", expires_at=now + DAY)

    async def fail() -> None:
        async with storage() as uow:
            assert await uow.idempotency.begin(KEY, "third", now=now) is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await answered(KEY, fingerprint="fourth")


async def test_an_expired_key_is_free_again(storage, answered, now):
    await answered(KEY)
    async with storage() as uow:
        assert await uow.idempotency.begin(KEY, "f", now=now + DAY - timedelta(seconds=1))
    await answered(KEY, fingerprint="another", answer=b"new", at=now + DAY)
    async with storage() as uow:
        assert await uow.idempotency.begin(KEY, "another", now=now + DAY) == b"new"


async def test_what_has_expired_is_forgotten(storage, answered, now):
    await answered(KEY)
    await answered(replace(KEY, key="k-2"))
    await answered(replace(KEY, key="k-3"), at=now + timedelta(hours=1))
    for at, forgotten in ((now, 0), (now + DAY, 2), (now + DAY, 0), (now + 2 * DAY, 1)):
        async with storage() as uow:
            assert await uow.idempotency.forget_expired(now=at, most=9) == forgotten
            await uow.commit()


async def test_a_request_while_the_first_runs_is_told_so_or_waits_for_its_answer(storage, now):
    async def again() -> bytes | None:
        async with storage() as uow:
            try:
                return await uow.idempotency.begin(KEY, "f", now=now)
            except IdempotencyInProgress:
                return b"in progress"

    async with storage() as uow:
        assert await uow.idempotency.begin(KEY, "f", now=now) is None
        second = asyncio.create_task(again())
        await asyncio.wait([second], timeout=0.05)
        await uow.idempotency.finish(KEY, "f", b"answer", expires_at=now + DAY)
        await uow.commit()
    assert await second in (b"in progress", b"answer")
    assert await again() == b"answer"


async def test_parallel_equal_requests_have_one_effect(storage, make, now):
    async def request() -> bytes | None:
        async with storage() as uow:
            try:
                answer = await uow.idempotency.begin(KEY, "f", now=now)
            except IdempotencyInProgress:
                return None
            if answer is not None:
                return answer
            await asyncio.sleep(0)
            customer = make.customer()
            await uow.customers.add(customer)
            answer = customer.id.bytes
            await uow.idempotency.finish(KEY, "f", answer, expires_at=now + DAY)
            await uow.commit()
            return answer

    answers = set(await asyncio.gather(*(request() for _ in range(6)))) - {None}
    async with storage(reading=True) as uow:
        page = await uow.customers.list(CustomerFilter(), PageRequest())
    assert [customer.id.bytes for customer in page.items] == list(answers)
    assert await request() in answers


async def test_events_are_kept_as_given_oldest_first(storage, make, keep):
    jane, order = make.id(), make.id()
    first = make.event("customer", jane, action="customer.created", version=1)
    second = make.event(
        "customer",
        jane,
        data={"fields": ["name"], "sms_opt_out": True, "n": None, "ü": {"a": 1.5}},
        request_id="01J9Z3K5",
        version=2,
    )
    third = make.event("customer", jane, at=second.at)
    other = make.event("order", order)
    same_id = make.event("notification", jane)
    await keep(third, other, second)
    await keep(first, same_id)
    async with storage(reading=True) as uow:
        assert list(await uow.events.of("customer", jane)) == [first, second, third]
        assert list(await uow.events.of("order", order)) == [other]
        assert list(await uow.events.of("notification", jane)) == [same_id]
        assert list(await uow.events.of("user", jane)) == []
