"""The Containerfile, built and run for real by buildah and podman on a base made here."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fresh_debian
import pytest

import servers
from savannah.adapters.sql import migrate

pytestmark = pytest.mark.machine

IMAGE: Final = "localhost/savannah:test"
BASE: Final = "localhost/savannah-base:test"
PIP_SETTINGS: Final = "[global]\nno-index = true\nfind-links = /srv/wheels\n"
# As `docs/how-to/deploy.md` and the charts run it.
HARDENED: Final = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges",
)  # fmt: skip
# What a machine without cgroups of its own needs, and one whose root may raise no limits.
MODEST: Final = (
    "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024",
    "--health-interval=disable",
)  # fmt: skip
ALONE: Final = (*MODEST, "--network=none")
# A runtime takes part in cgroups as far as it sees any, and does not know mixed ones.
_SEEING_ONLY_CGROUP2: Final = (
    'if [ -d /sys/fs/cgroup/unified ]; then mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; fi; '
    'exec "$@"'
)  # fmt: skip


class Containers:
    """buildah and podman on a store of their own."""

    def __init__(self, folder: Path) -> None:
        self._store = (
            "--root", str(folder / "store"), "--runroot", str(folder / "run"),
            "--storage-driver", "overlay",
        )  # fmt: skip
        self._buildah = fresh_debian.tool("buildah", package="buildah")
        self._podman = fresh_debian.tool("podman", package="podman crun")

    def buildah(self, *arguments: str | Path) -> str:
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        return fresh_debian.run(self._buildah, *self._store, *arguments, env=environment).strip()

    def podman(self, *arguments: str | Path) -> str:
        return fresh_debian.run(*self.podman_command(*arguments)).strip()

    def podman_command(self, *arguments: str | Path) -> list[str | Path]:
        return [
            "unshare", "--mount", "sh", "-c", _SEEING_ONLY_CGROUP2, "sh",
            self._podman, *self._store, "--cgroup-manager=cgroupfs", "--log-level=fatal",
            *arguments,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    fresh_debian.need_root()
    with fresh_debian.scratch() as folder:
        yield from _built(folder)


def _built(folder: Path) -> Iterator[Containers]:
    made = Containers(folder)
    working = made.buildah("from", "scratch")
    fresh_debian.unpack(
        Path(made.buildah("mount", working)), without=("./var/cache", "./var/lib/apt")
    )
    made.buildah("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", working)
    made.buildah("commit", "--quiet", "--rm", working, BASE)
    (folder / "pip.conf").write_text(PIP_SETTINGS)
    made.buildah(
        "build", "--format=docker", "--isolation=chroot",
        f"--build-arg=BASE={BASE}", "--build-arg=VERSION=1.2.3", "--build-arg=REVISION=abc",
        f"--secret=id=pip,src={folder / 'pip.conf'}",
        f"--volume={fresh_debian.wheels()}:/srv/wheels:ro",
        f"--ignorefile={fresh_debian.ROOT / '.containerignore'}",
        f"--tag={IMAGE}", f"--file={fresh_debian.ROOT / 'Containerfile'}", fresh_debian.ROOT,
    )  # fmt: skip
    yield made
    made.podman("rm", "--all", "--force")
    made.podman("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def image(containers: Containers) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(containers.podman("image", "inspect", IMAGE))[0]
    return found


@pytest.fixture
def service(containers: Containers) -> Iterator[str]:
    """The name of a running container, once it serves."""
    yield from _running(containers, "savannah-serves", *ALONE, IMAGE, until="Savannah is ready")


def _running(containers: Containers, name: str, *arguments: str, until: str) -> Iterator[str]:
    """The name of a container, from when it has said so on."""
    containers.podman("run", "--detach", f"--name={name}", *HARDENED, *arguments)
    ends_at = time.monotonic() + 180
    while until not in (said := containers.podman("logs", name)):
        assert time.monotonic() < ends_at, said
        time.sleep(0.1)
    yield name
    containers.podman("rm", "--force", name)


@pytest.fixture
def worker(containers: Containers) -> Iterator[str]:
    """The name of a running container, once it sends."""
    with servers.own_postgres() as postgres, servers.own_redis() as redis:
        database = postgres.fresh_database()
        asyncio.run(migrate(database))
        settings = {
            "SECRET_KEY": "k" * 40, "DATABASE_URL": database, "REDIS_URL": redis.url,
            "AFRICAS_TALKING_API_KEY": "atsk_1", "AFRICAS_TALKING_USERNAME": "sandbox",
            "WORKER_METRICS_PORT": str(servers.free_port()),
        }  # fmt: skip
        given = [f"--env={name}={value}" for name, value in settings.items()]
        # On the machine's own network, where its servers are.
        yield from _running(
            containers, "savannah-sends", *MODEST, "--network=host", *given, IMAGE, "worker",
            until="Savannah is sending",
        )  # fmt: skip


def test_the_image_says_how_it_is_to_be_run(image: dict[str, Any]) -> None:
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["savannah"]
    assert config["Cmd"] == ["serve", "--host", "0.0.0.0", "--port", "8000"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert list(config["Volumes"]) == ["/var/lib/savannah"]
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"


def test_a_command_of_it_runs_and_takes_the_place_of_serve(containers: Containers) -> None:
    said = containers.podman("run", "--rm", *HARDENED, *ALONE, IMAGE, "normalize", "0712345678")
    assert said == "+254712345678"


def test_it_serves_on_a_read_only_root_as_nobody_in_particular(
    containers: Containers, service: str
) -> None:
    def inside(*command: str) -> str:
        return containers.podman("exec", service, *command)

    assert inside("id", "-u") == "10001"
    with pytest.raises(AssertionError, match="Read-only file system"):
        inside("touch", "/opt/savannah/new")
    status = inside("cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert '"ready"' in inside(
        "python3", "-c",
        "from urllib.request import urlopen;"
        "print(urlopen('http://127.0.0.1:8000/health/ready').read().decode())",
    )  # fmt: skip


def test_its_health_check_tells_a_living_service_from_a_hanging_one(
    containers: Containers, service: str
) -> None:
    _is_told_from_a_hanging_one(containers, service)


def test_its_health_check_tells_a_living_worker_from_a_hanging_one(
    containers: Containers, worker: str
) -> None:
    _is_told_from_a_hanging_one(containers, worker)


def _is_told_from_a_hanging_one(containers: Containers, name: str) -> None:
    containers.podman("healthcheck", "run", name)
    containers.podman("kill", "--signal=STOP", name)
    with pytest.raises(AssertionError, match=r"exit 1|exit 125|unhealthy"):
        containers.podman("healthcheck", "run", name)
    containers.podman("kill", "--signal=CONT", name)
    containers.podman("healthcheck", "run", name)


def test_stopping_it_is_orderly(containers: Containers, service: str) -> None:
    began = time.monotonic()
    containers.podman("stop", "--time=60", service)
    assert time.monotonic() - began < 30
    state = json.loads(containers.podman("inspect", service))[0]["State"]
    assert state["ExitCode"] == 0


def test_nothing_that_builds_or_installs_is_left_in_it(containers: Containers) -> None:
    script = (
        "ls -d /build /src /wheels /usr/bin/gcc /usr/bin/cc /etc/pip.conf; "
        "find /opt/savannah -path '*/site-packages/pip*' -o -path '*/site-packages/hatchling*'"
    )
    found = containers.podman(
        "run", "--rm", *HARDENED, *ALONE, "--entrypoint=sh", IMAGE, "-c", f"({script}) 2>&1; true"
    )
    assert [line for line in found.splitlines() if "No such file" not in line] == []
