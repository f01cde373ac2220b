"""The relays of one process: they send what is due, sweep, survive failures, and end in order."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from office import Office
from savannah import Caller, MemoryGateway, MemoryStorage, SmsStatus, in_memory
from savannah.adapters.in_process import InProcessQueue
from savannah.adapters.memory import NullMetrics
from savannah.adapters.system import SystemClock, SystemRandomness
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import IdempotencyRecordKey
from savannah.domain.errors import Unavailable
from savannah.entrypoints.worker import (
    FORGET_ON_S,
    LOGOUTS_EVERY_S,
    SWEEP_EVERY_S,
    LogoutRelay,
    Outbox,
)
from virtual_time import VirtualLoop

TILL = Caller.staff("till-3")
GRACE = timedelta(seconds=60)


class FlakyStorage(MemoryStorage):
    """Refuses as long as it is told to."""

    down = False

    def __call__(self, *, reading=False):
        if self.down:
            raise Unavailable
        return super().__call__(reading=reading)


class SlowGateway(MemoryGateway):
    """Answers once it may."""

    def __init__(self):
        super().__init__()
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def send(self, sms):
        self.asked.set()
        await self.may_answer.wait()
        return await super().send(sms)


class Desk:
    """Orders and an outbox over the same storage, as one process has them."""

    def __init__(self, *, storage=None, gateway=None, queue=None, clock=None):
        self.storage = storage or MemoryStorage()
        self.gateway = gateway or MemoryGateway()
        queue = queue or InProcessQueue()
        clock = clock or SystemClock()
        self.app = in_memory(storage=self.storage, clock=clock)
        shared = {
            "storage": self.storage,
            "jobs": queue,
            "clock": clock,
            "randomness": SystemRandomness(),
            "metrics": NullMetrics(),
            "business": self.app.business,
        }
        self.orders = Orders(**shared)
        self.seen = []
        self.outbox = Outbox(
            Notifications(gateway=self.gateway, **shared),
            queue,
            queue,
            clock=shared["clock"],
            watch=lambda depth, age: self.seen.append((depth, age)),
        )

    async def take(self, count=1):
        jane = await self.app.customers.create(name="Jane", phone_number="0700123456", by=TILL)
        return [
            await self.orders.create(customer=jane.id, item="Lamp", amount=10, by=TILL)
            for _ in range(count)
        ]

    async def statuses(self, orders):
        return [(await self.orders.get(order.id, by=TILL)).sms.status for order in orders]


async def come_true(see):
    async with asyncio.timeout(60):
        while not see():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.005)


class TimelessQueue(InProcessQueue):
    """Nobody looks at the clock: whoever waits has to be woken."""

    async def wait_for_work(self, timeout):  # noqa: ASYNC109  as its adapters
        await super().wait_for_work(timedelta(days=1))


def test_an_order_taken_while_it_runs_is_texted_at_once():
    async def main():
        desk = Desk(queue=TimelessQueue())
        await desk.outbox.start()
        await come_true(lambda: desk.seen)
        await desk.take(3)
        await come_true(lambda: len(desk.gateway.sent) == 3)
        await desk.outbox.stop(grace=GRACE)
        assert desk.seen[0] == (0, None)

    asyncio.run(main())


def test_what_waited_before_the_start_is_texted_too():
    async def main():
        desk = Desk()
        orders = await desk.take(2)
        await desk.outbox.start()
        await come_true(lambda: len(desk.gateway.sent) == 2)
        await desk.outbox.stop(grace=GRACE)
        assert await desk.statuses(orders) == [SmsStatus.SENT] * 2

    asyncio.run(main())


def test_storage_that_is_away_for_a_while_stops_nothing(caplog):
    async def main():
        desk = Desk(storage=FlakyStorage())
        await desk.take()
        desk.storage.down = True
        await desk.outbox.start()
        await come_true(lambda: caplog.records)
        desk.storage.down = False
        await come_true(lambda: desk.gateway.sent)
        await desk.outbox.stop(grace=GRACE)

    with caplog.at_level(logging.ERROR, logger="savannah.worker"):
        asyncio.run(main())
    assert {record.message for record in caplog.records} == {"the outbox relay failed"}
    assert all(not record.exc_info for record in caplog.records)


class DeafQueue(InProcessQueue):
    """Cannot listen, the first time."""

    heard = 0

    async def wait_for_work(self, timeout):  # noqa: ASYNC109  as its adapters
        self.heard += 1
        if self.heard == 1:
            raise RuntimeError("not connected")
        await super().wait_for_work(timeout)


def test_a_queue_that_cannot_be_listened_to_does_not_end_the_relay(caplog):
    async def main():
        desk = Desk(queue=DeafQueue())
        await desk.outbox.start()
        await come_true(lambda: "the outbox relay failed" in caplog.messages)
        await desk.take(1)
        await come_true(lambda: len(desk.gateway.sent) == 1)
        await desk.outbox.stop(grace=GRACE)

    asyncio.run(main())


def test_stopping_lets_the_attempt_under_way_finish_and_gives_the_others_back():
    async def main():
        gateway = SlowGateway()
        desk = Desk(gateway=gateway, queue=InProcessQueue(batch=1, concurrency=1))
        orders = await desk.take(3)
        await desk.outbox.start()
        await gateway.asked.wait()
        stopping = asyncio.create_task(desk.outbox.stop(grace=GRACE))
        for _ in range(50):  # the relay ends; then no further batch begins
            await asyncio.sleep(0)
        gateway.may_answer.set()
        await stopping
        assert len(gateway.sent) == 1
        assert sorted(await desk.statuses(orders)) == [SmsStatus.QUEUED] * 2 + [SmsStatus.SENT]
        await desk.outbox.start()  # nobody has to wait for a lease to end
        await come_true(lambda: len(gateway.sent) == 3)
        await desk.outbox.stop(grace=GRACE)

    asyncio.run(main())


def test_stopping_twice_is_stopping_once():
    async def main():
        desk = Desk()
        await desk.outbox.stop(grace=GRACE)
        await desk.outbox.start()
        await desk.outbox.stop(grace=GRACE)
        await desk.outbox.stop(grace=GRACE)

    asyncio.run(main())


def test_storage_that_is_away_at_the_end_leaves_leases_to_end_by_themselves(caplog):
    async def main():
        gateway = SlowGateway()
        storage = FlakyStorage()
        desk = Desk(storage=storage, gateway=gateway, queue=InProcessQueue(batch=1, concurrency=1))
        await desk.take(2)
        await desk.outbox.start()
        await gateway.asked.wait()
        storage.down = True
        await desk.outbox.stop(grace=timedelta(milliseconds=20))

    with caplog.at_level(logging.WARNING, logger="savannah.worker"):
        asyncio.run(main())
    assert "leases were not given back and end by themselves" in [r.message for r in caplog.records]


# --- a queue that is away, in virtual time -------------------------------------------------------


class LoopClock(SystemClock):
    """The time of a loop."""

    def now(self):
        seconds = asyncio.get_running_loop().time()
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


class AwayQueue(InProcessQueue):
    """Takes nothing until that moment of the loop."""

    back_at = 0.0
    refusals = 0

    async def enqueue(self, ids):
        if asyncio.get_running_loop().time() < self.back_at:
            self.refusals += 1
            raise Unavailable
        await super().enqueue(ids)


@pytest.mark.parametrize("away_s", [30, 3600])
def test_a_queue_that_is_away_delays_texts_by_no_more_than_one_sweep_after_its_return(away_s):
    """Fails without leases given back at once, or with pauses that grow beyond a sweep."""

    async def main():
        loop = asyncio.get_running_loop()
        queue = AwayQueue()
        queue.back_at = away_s
        desk = Desk(queue=queue, clock=LoopClock())
        await desk.outbox.start()
        orders = []
        for _ in range(12):
            orders += await desk.take()
            await asyncio.sleep(away_s / 12)
        assert not desk.gateway.sent
        assert queue.refusals >= 5
        while len(desk.gateway.sent) < len(orders):  # noqa: ASYNC110  time costs nothing here
            await asyncio.sleep(0.1)
        assert loop.time() - queue.back_at <= SWEEP_EVERY_S + 1
        assert await desk.statuses(orders) == [SmsStatus.SENT] * len(orders)
        assert len(desk.gateway.sent) == len(orders)
        await desk.outbox.stop(grace=GRACE)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


# --- what has been kept long enough --------------------------------------------------------------

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 1_200  # more than two batches


async def left(storage, table):
    async with storage(reading=True) as uow:
        return sum(1 for _ in getattr(uow._tables, table).items())


def test_a_backlog_of_expired_answers_is_swept_without_waiting_for_the_next_sweep():
    async def main():
        queue = InProcessQueue()
        desk = Desk(queue=queue)
        async with desk.storage() as uow:
            for number in range(MANY):
                key = IdempotencyRecordKey("user:till", "POST /", str(number))
                await uow.idempotency.finish(key, "f", b"", expires_at=LONG_AGO)
            await uow.commit()
        await desk.outbox.start()
        async with asyncio.timeout(SWEEP_EVERY_S / 2):
            while await left(desk.storage, "answers"):
                queue.wake()
                await asyncio.sleep(0.01)
        await desk.outbox.stop(grace=GRACE)

    asyncio.run(main())


class CountedSweeps:
    """Sessions of which one sweep fails, if any."""

    def __init__(self, sessions, *, failing=0):
        self._sessions = sessions
        self._failing = failing
        self.sweeps = 0

    async def sweep(self):
        self.sweeps += 1
        if self.sweeps == self._failing:
            raise Unavailable
        return await self._sessions.sweep()

    async def deliver_notices(self):
        return await self._sessions.deliver_notices()


class CountedKeys:
    """Tokens whose keys are always there."""

    prepared = 0

    async def prepare(self):
        self.prepared += 1


async def full_office():
    office = Office()
    async with office.storage() as uow:
        for number in range(MANY):
            await uow.handshakes.claim(str(number), expires_at=LONG_AGO)
        await uow.commit()
    return office


def test_a_backlog_of_used_ids_is_swept_at_once_and_then_there_is_rest():
    async def main():
        office = await full_office()
        sessions, tokens = CountedSweeps(office.identity.sessions), CountedKeys()
        relay = LogoutRelay(sessions, tokens)
        await relay.start()
        async with asyncio.timeout(LOGOUTS_EVERY_S):
            while await left(office.storage, "claimed"):  # noqa: ASYNC110  it has no event
                await asyncio.sleep(FORGET_ON_S)
        await asyncio.sleep(10 * LOGOUTS_EVERY_S)
        assert (sessions.sweeps, tokens.prepared) == (3, 1)
        await relay.stop(grace=GRACE)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_a_sweep_that_fails_is_not_repeated_at_once(caplog):
    async def main():
        office = await full_office()
        sessions = CountedSweeps(office.identity.sessions, failing=2)
        relay = LogoutRelay(sessions, CountedKeys())
        await relay.start()
        await asyncio.sleep(10 * LOGOUTS_EVERY_S)
        assert sessions.sweeps == 2
        assert await left(office.storage, "claimed")
        await relay.stop(grace=GRACE)

    caplog.set_level(logging.ERROR, logger="savannah.worker")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert [record.message for record in caplog.records] == ["the logout relay failed"]
