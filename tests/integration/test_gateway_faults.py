"""A gateway that fails for an hour, and clocks that jump: in virtual time, on Postgres.

Storage and gateway adapter are the real ones, the gateway is the simulated one, reached over a
socket; the hour passes through the clock port. After each story the books must balance.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

import books
import servers
from savannah import Caller, in_memory
from savannah.adapters.africastalking import AfricasTalking
from savannah.adapters.memory import ManualClock
from savannah.adapters.sql import SqlStorage, migrate
from savannah.application.ports import NotificationFilter, SmsGateway
from savannah.domain.notification import DeliveryReport, Report
from savannah.domain.paging import PageRequest
from savannah.entrypoints.simulator import Mode, Simulator, SimulatorSettings

MANAGER = Caller.admin("user:manager")
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
# Yesterday, so that what is scheduled is due for the real clock of the books, too.
START = datetime.now(UTC) - timedelta(days=3)
ORDERS = 12


class Gateway(SmsGateway):
    """The adapter for a gateway that answers, however busy the machine, or for one that will not.

    Attributes:
        silent: whether waiting for an answer is vain.
        told: while it is not set, nobody hears what came of a text.
    """

    def __init__(self, url):
        self._patient, self._hasty = (
            AfricasTalking(
                base_url=url,
                username="sandbox",
                api_key="simulated",
                connect_timeout=timedelta(seconds=30),
                read_timeout=timedelta(seconds=read_s),
            )
            for read_s in (60, 1)
        )
        self.silent = False
        self.told = asyncio.Event()
        self.told.set()

    async def send(self, sms):
        outcome = await (self._hasty if self.silent else self._patient).send(sms)
        await self.told.wait()
        return outcome

    async def aclose(self):
        await self._patient.aclose()
        await self._hasty.aclose()


class Shop:
    """The use cases over one storage, a clock that is moved, and the promises made."""

    def __init__(self, storage, simulator, url):
        self.simulator = simulator
        self.clock = ManualClock(START)
        self.gateway = Gateway(url)
        self.storage = storage
        self.app = in_memory(storage=storage, gateway=self.gateway, clock=self.clock)
        self.promises = []
        self.replayed_after = 0  # so many requests: a replay counts attempts anew

    async def order(self, count=ORDERS):
        for _ in range(count):
            number = len(self.promises)
            jane = await self.app.customers.create(
                name="Jane", phone_number=f"+2547002{number:05d}", by=MANAGER
            )
            promise = books.Promise(f"Lamp {number}")
            order = await self.app.orders.create(
                customer=jane.id, item=promise.key, amount=10, by=MANAGER
            )
            promise.heard(
                {
                    "id": str(order.id),
                    "version": order.version,
                    "status": order.status,
                    "sms": {"notification": str(order.sms.notification)},
                }
            )
            self.promises.append(promise)

    def gateway_is(self, mode):
        self.gateway.silent = mode is Mode.HANG
        self.simulator.faults.turn({"mode": mode, "hang_s": 60})

    async def asked(self, count):
        """Wait until the gateway has been asked to send so many."""
        async with asyncio.timeout(60):
            while len(self.simulator.received) < count:  # noqa: ASYNC110  in another thread
                await asyncio.sleep(0.01)

    async def pass_time(self, duration, *, step=MINUTE):
        """As the relay does it: look, send what is due, sweep; once a minute."""
        ends_at = self.clock.now() + duration
        while self.clock.now() < ends_at:
            await self.app.notifications.sweep()
            while await self.app.notifications.dispatch_due():
                pass
            self.clock.advance(step)

    async def messages(self):
        page = await self.app.notifications.list(
            NotificationFilter(), PageRequest(limit=100), by=MANAGER
        )
        return page.items

    async def statuses(self):
        return Counter(message.status for message in await self.messages())

    async def attempts(self):
        return {message.attempts for message in await self.messages()}


@pytest.fixture(scope="module")
def database():
    with servers.own_postgres() as server:
        url = server.fresh_database()
        asyncio.run(migrate(url))
        yield server, url


@pytest.fixture
def tell(database):
    server, url = database
    server.empty(url, but="alembic_version")
    simulator = Simulator(SimulatorSettings(keep=100_000))

    def tell(story):
        async def within(address):
            storage = SqlStorage.open(url)
            shop = Shop(storage, simulator, address)
            try:
                await story(shop)
                kept = await books.read(url)
                received = simulator.received[shop.replayed_after :]
                shown = simulator.messages()
                assert books.imbalances(kept, shop.promises, received, shown) == []
            finally:
                await shop.gateway.aclose()
                await storage.close()

        with books.served(simulator, servers.free_port()) as address:
            asyncio.run(within(address))

    return tell


def test_an_hour_without_balance_costs_a_probe_each_five_minutes_and_no_attempt(tell):
    """Fails without the pause: every message would spend its attempts and be dead within the hour."""

    async def story(shop):
        shop.gateway_is(Mode.INSUFFICIENT_BALANCE)
        await shop.order()
        await shop.pass_time(HOUR)
        assert await shop.statuses() == {"deferred": ORDERS}
        assert await shop.attempts() == {0}
        assert len(shop.simulator.received) <= 2 * ORDERS  # one burst, then 11 probes
        shop.gateway_is(Mode.NORMAL)
        await shop.pass_time(10 * MINUTE)
        assert await shop.statuses() == {"sent": ORDERS}

    tell(story)


def test_a_gateway_that_refuses_for_an_hour_is_asked_ever_more_rarely_and_then_left_alone(tell):
    """Fails without growing delays, a last attempt, and a replay that gives all attempts back."""

    async def story(shop):
        shop.gateway_is(Mode.HTTP_503)
        await shop.order()
        await shop.pass_time(HOUR)
        by_text = Counter(send.asked.text for send in shop.simulator.received)
        assert set(by_text.values()) == {5}  # at once, after 15 s, 1 min, 4 min and 16 min about
        await shop.pass_time(5 * HOUR)
        assert await shop.statuses() == {"dead": ORDERS}
        assert await shop.attempts() == {6}
        shop.gateway_is(Mode.NORMAL)
        shop.replayed_after = len(shop.simulator.received)
        await shop.app.notifications.replay(
            await shop.app.notifications.dead(by=MANAGER), by=MANAGER
        )
        await shop.pass_time(MINUTE)
        assert await shop.statuses() == {"sent": ORDERS}

    tell(story)


@pytest.mark.parametrize("mode", [Mode.HTTP_500, Mode.HANG, Mode.LOST_ANSWER])
def test_what_may_have_left_is_never_sent_again_however_long_that_goes_on(tell, mode):
    """Fails if an error of unknown meaning counted as a refusal that may be tried again."""

    async def story(shop):
        shop.gateway_is(mode)
        await shop.order()
        await shop.pass_time(HOUR)
        assert await shop.statuses() == {"unknown": ORDERS}
        shop.gateway_is(Mode.NORMAL)
        await shop.order(2)
        await shop.pass_time(25 * HOUR, step=HOUR)
        assert await shop.statuses() == {"unknown": ORDERS, "sent": 2}
        assert len(shop.simulator.received) == ORDERS + 2

    tell(story)


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(minutes=2), -timedelta(hours=2)])
def test_a_clock_that_jumps_delays_messages_and_neither_loses_nor_doubles_one(tell, jump):
    """Fails if whose turn it is were decided by time alone and not by the row's state."""

    async def story(shop):
        await shop.order(3)
        shop.gateway_is(Mode.HTTP_503)
        await shop.pass_time(2 * MINUTE)  # deferred, with a moment to come
        async with shop.storage() as uow:  # and one leased by a relay that is never heard of again
            await shop.order(1)
            now = shop.clock.now()
            leased = await uow.notifications.lease_due(now=now, until=now + HOUR / 120, most=1)
            await uow.commit()
        assert len(leased) == 1
        shop.clock.advance(jump)
        shop.gateway_is(Mode.NORMAL)
        await shop.order(3)
        await shop.pass_time(10 * MINUTE)
        if jump < timedelta(0):
            # What was promised for later by the old time waits for that; new orders do not.
            assert (await shop.statuses())["sent"] >= 3
            await shop.pass_time(-jump + 30 * MINUTE)
        else:
            await shop.pass_time(30 * MINUTE)
        assert await shop.statuses() == {"sent": 7}
        assert len(shop.simulator.messages()) == 7

    tell(story)


def test_a_clock_that_jumps_while_the_gateway_is_asked_does_not_send_again(tell):
    """Fails if an attempt that looks dead were sent again, or its late outcome thrown away."""

    async def story(shop):
        shop.gateway.told.clear()
        await shop.order(2)
        sending = asyncio.create_task(shop.app.notifications.dispatch_due())
        await shop.asked(2)
        shop.clock.advance(timedelta(days=1))
        swept = await shop.app.notifications.sweep()
        assert swept.stuck == 2  # by the new time they have been under way for a day
        assert await shop.statuses() == {"unknown": 2}
        shop.gateway.told.set()
        await sending
        await shop.pass_time(HOUR)
        assert await shop.statuses() == {"sent": 2}
        assert len(shop.simulator.received) == 2

    tell(story)


def test_a_report_that_overtakes_an_unknown_outcome_settles_its_message(tell):
    """Fails if a report were looked at once only, while the answer may still come."""

    async def story(shop):
        shop.gateway_is(Mode.LOST_ANSWER)
        shop.gateway.told.clear()
        await shop.order(3)
        sending = asyncio.create_task(shop.app.notifications.dispatch_due())
        await shop.asked(3)
        for word in (Report.SENT, Report.DELIVERED):
            for number, message in enumerate((await shop.messages())[1:]):
                report = DeliveryReport(
                    provider_id=f"ATXid_{number}",
                    report=word,
                    word=word,
                    phone=message.to.e164,
                    received_at=shop.clock.now(),
                )
                await shop.app.notifications.record_report(report)
        shop.gateway.told.set()
        await sending
        assert await shop.statuses() == {"unknown": 3}
        await shop.pass_time(MINUTE)
        assert await shop.statuses() == {"unknown": 1, "delivered": 2}

    tell(story)


def test_a_process_that_stops_gives_back_what_no_request_has_begun_for(tell):
    """Fails if texts that wait for a turn at a silent gateway were taken for lost ones."""

    async def story(shop):
        shop.simulator.faults.turn({"mode": Mode.HANG, "hang_s": 60})
        await shop.order(40)
        sending = asyncio.create_task(shop.app.notifications.dispatch_due())
        await shop.asked(32)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert await shop.statuses() == {"sending": 32, "queued": 8}
        shop.gateway_is(Mode.NORMAL)
        await shop.pass_time(5 * MINUTE)
        assert await shop.statuses() == {"unknown": 32, "sent": 8}

    tell(story)


def test_the_checker_sees_lost_orders_doubled_texts_and_messages_under_way(database, tell):
    """Or none of these tests could fail."""

    async def story(shop):
        await shop.order(2)
        await shop.pass_time(MINUTE)
        kept = await books.read(database[1])
        received, shown = list(shop.simulator.received), list(shop.simulator.messages())

        def found(kept=kept, received=received, shown=shown):
            return " ".join(books.imbalances(kept, shop.promises, received, shown))

        assert found() == ""
        lost = books.Books(kept.orders[1:], kept.messages, kept.events, 0)
        assert "acknowledged and not kept" in found(kept=lost)
        lost = books.Books(kept.orders, kept.messages[1:], kept.events, 0)
        assert "messages were told and not kept" in found(kept=lost)
        assert "the gateway took it 2 times" in found(shown=[*shown, shown[0]])
        assert "sent again after" in found(received=[*received, received[0]])
        assert "under way" in found(kept=books.Books(kept.orders, kept.messages, kept.events, 1))

    tell(story)
