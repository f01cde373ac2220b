"""The composition: every provider builds, and the same parts are shared."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from dependency_injector import providers

from savannah.adapters.africastalking import AfricasTalking
from savannah.adapters.in_process import InProcessQueue
from savannah.adapters.memory import MemoryGateway
from savannah.adapters.saq_queue import SaqQueue
from savannah.adapters.shared_redis import RedisRateLimiter
from savannah.application.savannah import Savannah
from savannah.domain.errors import Unavailable
from savannah.entrypoints.container import (
    Container,
    NoGateway,
    Place,
    opened,
    saq_queue,
    stuck_after,
)
from savannah.entrypoints.settings import parse
from savannah.entrypoints.shared_metrics import SharedRegistry

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def settings(tmp_path):
    return parse({"SAVANNAH_DATA_DIR": str(tmp_path)}).prepared()


def test_every_provider_builds(settings):
    async def main():
        async with opened(
            settings, Place(public_url=HERE, gateway_url="http://127.0.0.1:1")
        ) as parts:
            assert parts.providers
            for name, provider in parts.providers.items():
                # Nobody else is trusted here, and nothing is traced, unless a setting says so.
                assert (provider() is None) == (name in ("issuers", "tracing")), name
            assert isinstance(parts.savannah(), Savannah)
            assert isinstance(parts.gateway(), AfricasTalking)

    asyncio.run(main())


def test_what_is_one_thing_is_built_once(settings):
    async def main():
        async with opened(settings, Place(public_url=HERE)) as parts:
            savannah = parts.savannah()
            assert parts.savannah() is savannah
            assert parts.notifications() is savannah.notifications
            assert parts.storage() is savannah.storage
            assert parts.queue() is parts.queue()

    asyncio.run(main())


def test_an_operator_says_for_how_long_reports_and_logins_are_kept(settings):
    settings = replace(
        settings, report_retention=timedelta(days=7), login_retention=timedelta(days=400)
    )

    async def main():
        async with opened(settings, Place(public_url=HERE)) as parts:
            assert parts.notifications()._report_retention == timedelta(days=7)
            assert parts.identity().sessions._settings.login_retention == timedelta(days=400)

    asyncio.run(main())


def test_a_process_that_sends_nothing_has_no_gateway_and_lets_texts_wait(settings):
    async def main():
        async with opened(settings, Place(public_url=HERE)) as parts:
            assert isinstance(parts.gateway(), NoGateway)

    asyncio.run(main())


def test_with_redis_limits_are_shared_and_jobs_go_to_workers(settings):
    redis = replace(settings, redis_url="redis://127.0.0.1:1")

    async def main():
        async with opened(redis, Place(public_url=HERE)) as parts:
            assert isinstance(parts.limiter(), RedisRateLimiter)
            assert isinstance(parts.queue(), InProcessQueue)
        served = replace(redis, database_url="postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(Unavailable):
            async with opened(served, Place(public_url=HERE)):
                raise AssertionError

    asyncio.run(main())
    assert isinstance(saq_queue("redis://127.0.0.1:1"), SaqQueue)


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [({}, 60), ({"SMS_TIMEOUT_S": "5,30"}, 148), ({"SMS_TIMEOUT_S": "1,1"}, 16)],
)
def test_no_attempt_is_taken_for_dead_while_its_request_may_still_run(timeouts, seconds):
    assert stuck_after(parse(timeouts).gateway) == timedelta(seconds=seconds)


def test_another_gateway_can_stand_behind_the_port(settings):
    async def main():
        async with opened(settings, Place(public_url=HERE)) as parts:
            mine = MemoryGateway()
            with parts.gateway.override(providers.Object(mine)):
                assert parts.gateway() is mine
            assert parts.gateway() is not mine

    asyncio.run(main())


def test_a_process_in_company_reads_what_all_have_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    place = Place(public_url=HERE, in_company=True)
    assert isinstance(Container(place=providers.Object(place)).registry(), SharedRegistry)


def test_a_database_that_does_not_answer_stops_the_opening():
    settings = parse({"DATABASE_URL": "postgresql://desk@127.0.0.1:1/desk", "DEBUG": "true"})

    async def main():
        with pytest.raises(Unavailable):
            async with opened(settings, Place(public_url=HERE)):
                pass

    asyncio.run(main())
