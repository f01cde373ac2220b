"""What a process measures of itself, and what becomes of that when a part is away."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.ports import Sms, SmsGateway
from savannah.domain.errors import Unavailable
from savannah.domain.notification import Accepted, RefusalKind, RefusedSms, UnknownOutcome
from savannah.entrypoints import watch
from savannah.entrypoints.watch import TimedGateway, Watch, outcome_word

NO_BALANCE = RefusedSms(kind=RefusalKind.ACCOUNT, code="405")
SENT = Accepted(provider_id="1", cost=None, segments=1)


@pytest.fixture
def metrics():
    return PrometheusMetrics(CollectorRegistry())


def shown(metrics):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


class Pool:
    def connections(self):
        return 3, 10


class Gone:
    """Storage that is away."""

    async def backlog(self):
        raise Unavailable

    async def pause(self):
        raise AssertionError


class Hangs:
    async def backlog(self):
        await asyncio.Event().wait()


def test_levels_are_those_of_the_moment(desk, metrics):
    queued = [5]

    async def waiting():
        return queued[0]

    async def story():
        order = await desk.order()
        seen = Watch(metrics, notifications=desk.notifications, connections=Pool(), queued=waiting)
        await seen.measure()
        first = shown(metrics)
        desk.gateway.always_answer(NO_BALANCE)
        await desk.notifications.dispatch_due()
        queued[0] = 0
        await seen.measure()
        return order, first, shown(metrics)

    _, first, then = asyncio.run(story())
    assert first["savannah_database_connections_in_use",] == 3
    assert first["savannah_database_connections_max",] == 10
    assert first["savannah_database_up",] == first["savannah_redis_up",] == 1
    assert first["savannah_queue_depth",] == 5
    assert first["savannah_outbox_depth",] == 1
    assert first["savannah_gateway_paused", "account"] == 0
    assert then["savannah_gateway_paused", "account"] == 1
    assert then["savannah_gateway_paused", "sender"] == 0
    assert then["savannah_queue_depth",] == 0


@pytest.mark.parametrize("storage", [Gone(), Hangs()])
def test_what_is_away_is_down_and_holds_nobody(metrics, storage, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE_S", 0.02)

    async def away():
        raise Unavailable

    asyncio.run(Watch(metrics, notifications=storage, queued=away).measure())
    assert shown(metrics)["savannah_database_up",] == 0
    assert shown(metrics)["savannah_redis_up",] == 0


def test_a_process_measures_in_between_and_goes_on_when_that_fails(metrics, monkeypatch):
    monkeypatch.setattr(watch, "EVERY_S", 0.001)

    async def story():
        rounds, enough = [], asyncio.Event()

        class Counting:
            async def backlog(self):
                rounds.append(None)
                if len(rounds) > 3:
                    enough.set()
                if len(rounds) > 1:
                    raise RuntimeError
                raise Unavailable

        seen = Watch(metrics, notifications=Counting())
        await seen.start()
        await asyncio.wait_for(enough.wait(), 60)
        await seen.stop()
        await Watch(metrics, notifications=Counting()).stop()  # never started

    asyncio.run(story())
    assert shown(metrics)["savannah_event_loop_lag_seconds",] >= 0


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (SENT, "accepted"),
        (NO_BALANCE, "account"),
        (UnknownOutcome(cause="read_timeout"), "unknown"),
    ],
)
def test_a_call_of_the_gateway_is_timed_by_its_outcome(metrics, outcome, word):
    class Answers(SmsGateway):
        async def send(self, sms):
            return outcome

    sms = Sms(id=None, to="+254700123456", text="Hello")
    assert asyncio.run(TimedGateway(Answers(), metrics).send(sms)) is outcome
    assert outcome_word(outcome) == word
    counted = shown(metrics)
    assert counted["savannah_gateway_request_duration_seconds_count", word] == 1
