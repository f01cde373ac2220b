"""What every test shares: how Hypothesis looks for counter-examples, and real servers."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent))  # so that every test finds `servers` and `office`

import certificates
import servers

# A shared machine pauses at any moment; a slow example is not a failed one.
settings.register_profile("savannah", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("savannah")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.PostgresServer]:
    with servers.postgres() as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pooler",
        action="store_true",
        help="run what goes through a real PgBouncer, and nothing else of the storage suites",
    )
    parser.addoption(
        "--storage",
        metavar="FILE:NAME",
        help="run the storage suites on another adapter alone: NAME() of FILE is an async context "
        "manager that gives an empty storage",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What needs a PgBouncer is a session of its own: no wheel has one."""
    if collection_path.name == "pooler" and not config.getoption("--pooler"):
        return True
    return None


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: servers.PostgresServer) -> str:
    """A database with the current schema, made once, for tests that empty it."""
    from savannah.adapters.sql import migrate

    url = postgres_server.fresh_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: servers.PostgresServer) -> Iterator[servers.OwnPgBouncer]:
    with servers.own_pgbouncer(postgres_server.url) as server:
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


@pytest.fixture(scope="session")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[certificates.TlsRedis]:
    with certificates.tls_redis(tmp_path_factory.mktemp("tls")) as server:
        yield server
