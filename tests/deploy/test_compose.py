"""The Compose files: valid by the specification, and what they start is what the program takes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

import fresh_debian
import pytest
import yaml
from service import running, until

import servers
from savannah.adapters.sql import migrate
from savannah.entrypoints.cli import parser
from savannah.entrypoints.production import unsafe
from savannah.entrypoints.settings import known_variables, parse

FOLDER: Final = fresh_debian.ROOT / "deploy/compose"
DEVELOPMENT: Final = FOLDER / "compose.yaml"
PRODUCTION: Final = FOLDER / "compose.production.yaml"
OURS: Final = {
    DEVELOPMENT: ("web", "worker", "migrate", "simulator"),
    PRODUCTION: ("web", "worker", "migrate"),
}
SHELL: Final = {"SAVANNAH_HOST": "orders.example.com", "SAVANNAH_IMAGE": "example/savannah:1.0.0"}
EACH: Final = [
    pytest.param(file, service, id=f"{file.stem}-{service}")
    for file, services in OURS.items()
    for service in services
]


def read(file: Path) -> dict[str, Any]:
    """The file as Compose sees it, its variables filled in."""
    text = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: SHELL[found[1]], file.read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def settings_of(file: Path, service: str) -> dict[str, str]:
    """The variables of one service, those of its secret file too."""
    given = dict(read(file)["services"][service]["environment"])
    if file == PRODUCTION:
        example = (FOLDER / "secrets/settings.env.example").read_text()
        given |= dict(re.findall(r"^(\w+)='([^']*)'$", example, re.MULTILINE))
    return given


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.stem))
def test_a_compose_file_is_valid(file: Path) -> None:
    fresh_debian.run(
        fresh_debian.program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file
    )


@pytest.mark.parametrize(("file", "service"), EACH)
def test_a_service_runs_a_command_that_there_is(file: Path, service: str) -> None:
    options = parser().parse_args(read(file)["services"][service]["command"])
    assert options.command.__name__ == {"web": "_serve"}.get(service, f"_{service}")


@pytest.mark.parametrize(("file", "service"), EACH)
def test_a_service_gets_settings_that_the_program_takes(file: Path, service: str) -> None:
    given = settings_of(file, service)
    assert set(given) <= set(known_variables())
    settings = parse(given)
    assert settings.has_workers
    assert settings.sending_problems() == []
    if file == PRODUCTION:
        # Who forgets to replace the key of the example is told so.
        assert [name for name, _ in unsafe(settings)] == ["SECRET_KEY"]
        assert unsafe(parse(given | {"SECRET_KEY": "kF3xw8Q2mZ7pL0sV5tR9yB4nC6hJ1dGa"})) == []


@pytest.mark.parametrize(("file", "service"), EACH)
def test_a_service_has_no_more_rights_than_it_needs(file: Path, service: str) -> None:
    found = read(file)["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert any(str(each).startswith("/tmp") for each in found["tmpfs"])


def test_every_service_of_production_is_confined_and_watched() -> None:
    for name, service in read(PRODUCTION)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}, name
        assert "healthcheck" in service, name
        assert "latest" not in service["image"], name
        assert "environment" not in service or not any(
            word in variable
            for variable in service["environment"]
            for word in ("SECRET", "PASSWORD", "API_KEY", "DATABASE_URL")
            if not variable.endswith("_FILE")
        ), name


def test_only_nginx_of_production_can_be_reached_from_outside() -> None:
    services = read(PRODUCTION)["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    trusted = services["web"]["environment"]["TRUSTED_PROXIES"]
    assert trusted == services["nginx"]["networks"]["edge"]["ipv4_address"] + "/32"
    assert read(PRODUCTION)["networks"]["storage"]["internal"] is True


def test_no_other_container_can_get_the_address_of_nginx() -> None:
    """It is the only one that is believed, and what starts before it takes the lowest one free."""
    (pool,) = read(PRODUCTION)["networks"]["edge"]["ipam"]["config"]
    address = IPv4Address(read(PRODUCTION)["services"]["nginx"]["networks"]["edge"]["ipv4_address"])
    assert address in IPv4Network(pool["subnet"])
    assert IPv4Network(pool.get("ip_range", pool["subnet"])).subnet_of(IPv4Network(pool["subnet"]))
    assert address not in IPv4Network(pool.get("ip_range", pool["subnet"]))


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.stem))
def test_a_real_worker_is_healthy_while_it_can_send(file: Path, tmp_path: Path) -> None:
    worker = read(file)["services"]["worker"]
    assert "ports" not in worker
    port = str(servers.free_port())
    *_, question = worker["healthcheck"]["test"]
    assert f":{worker['environment']['WORKER_METRICS_PORT']}/health/ready'" in question
    question = question.replace(":9101/", f":{port}/")

    def healthy() -> bool:
        return subprocess.run([sys.executable, "-c", question], check=False).returncode == 0

    with servers.own_postgres() as postgres, servers.own_redis() as redis:
        database = postgres.fresh_database()
        asyncio.run(migrate(database))
        settings = settings_of(file, "worker") | {
            "DATABASE_URL": database, "REDIS_URL": redis.url, "WORKER_METRICS_PORT": port,
        }  # fmt: skip
        with running(tmp_path, *worker["command"], **settings):
            assert healthy()
            redis.stop()
            until(lambda: not healthy())
            redis.start()
            until(healthy)
        assert not healthy()


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.stem))
def test_nothing_starts_before_the_schema_is_there(file: Path) -> None:
    services = read(file)["services"]
    assert services["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    for name in ("web", "worker"):
        needed = services[name]["depends_on"]
        assert needed["migrate"] == {"condition": "service_completed_successfully"}
        assert needed["redis"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.stem))
def test_servers_are_new_enough_and_redis_evicts_no_jobs(file: Path) -> None:
    services = read(file)["services"]
    versions = {
        name: int(re.search(r":(\d+)", services[name]["image"])[1])  # type: ignore[index]
        for name in ("postgres", "redis")
    }
    assert versions["postgres"] >= 15
    assert versions["redis"] >= 7
    assert "noeviction" in services["redis"]["command"]


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.stem))
def test_every_file_that_is_mounted_exists(file: Path) -> None:
    for service in read(file)["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (FOLDER / source).is_file(), source
