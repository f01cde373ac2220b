"""What every test shares: how Hypothesis looks for counter-examples, and real servers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent))  # so that every test finds `servers` and `office`

import servers

# A shared machine pauses at any moment; a slow example is not a failed one.
settings.register_profile("savannah", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("savannah")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.PostgresServer]:
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.RedisServer]:
    with servers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[str]:
    """The URL of a cluster of three nodes."""
    with servers.own_redis_cluster() as nodes:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
