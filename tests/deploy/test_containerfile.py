"""What can be said of the Containerfile by reading it; `test_image.py` builds and runs it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import fresh_debian
from service import running

import servers
from savannah.adapters.sql import migrate

FILE: Final = fresh_debian.ROOT / "Containerfile"


def test_the_linter_has_nothing_to_say() -> None:
    said = fresh_debian.run(fresh_debian.program("hadolint"), "--failure-threshold", "style", FILE)
    assert said == ""


def test_every_package_is_installed_by_hash_or_was_built_here() -> None:
    commands = FILE.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", commands)
    assert len(installs) == 3
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_whatever_a_setting_asks_for_is_installed() -> None:
    """Otherwise one that the chart offers, as SENTRY_DSN, would keep the service from starting."""
    root = fresh_debian.ROOT
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = {
        re.split(r"[\[><=; ]", requirement)[0]
        for extra in ("server", "otel", "sentry")
        for requirement in extras[extra]
    }
    locked = set(
        re.findall(r"^([a-z0-9._-]+)==", (root / "requirements.lock").read_text(), re.MULTILINE)
    )
    assert wanted - locked == set()


def test_what_the_file_copies_is_not_ignored() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (fresh_debian.ROOT / ".containerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", FILE.read_text(), re.MULTILINE)
        for source in sources.split()
    }
    assert copied == allowed


def says_healthy(pid: int, *, served: int, figures: str) -> bool:
    """What the health check of a container says whose first process is that one.

    Args:
        served: the port in place of the image's 8000.
        figures: the value of WORKER_METRICS_PORT.
    """
    (command,) = re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", FILE.read_text(), re.MULTILINE)
    *_, question = json.loads(command)
    question = question.replace("/proc/1/", f"/proc/{pid}/").replace("'8000'", f"'{served}'")
    environment = {"WORKER_METRICS_PORT": figures}
    done = subprocess.run([sys.executable, "-c", question], env=environment, check=False)
    return done.returncode == 0


def test_the_health_check_asks_a_worker_where_it_shows_its_figures(tmp_path: Path) -> None:
    with servers.own_postgres() as postgres, servers.own_redis() as redis:
        database = postgres.fresh_database()
        asyncio.run(migrate(database))
        port, nobody = servers.free_port(), servers.free_port()
        settings = {
            "SECRET_KEY": "k" * 40, "DATABASE_URL": database, "REDIS_URL": redis.url,
            "AFRICAS_TALKING_API_KEY": "atsk_1", "AFRICAS_TALKING_USERNAME": "sandbox",
            "WORKER_METRICS_PORT": str(port),
        }  # fmt: skip
        with running(tmp_path, "worker", **settings) as (process, _):
            assert says_healthy(process.pid, served=nobody, figures=str(port))
            assert not says_healthy(process.pid, served=port, figures=str(nobody))
            # Whoever has switched the figures off leaves nothing to ask.
            assert says_healthy(process.pid, served=nobody, figures="")


def test_the_health_check_asks_a_server_where_it_serves(tmp_path: Path) -> None:
    port, nobody = servers.free_port(), servers.free_port()
    with running(tmp_path, "serve", f"--port={port}", "--no-worker", "--workers=1") as (process, _):
        assert says_healthy(process.pid, served=port, figures=str(nobody))
        assert not says_healthy(process.pid, served=nobody, figures=str(port))


def test_the_health_check_lets_a_command_be_that_answers_nobody(tmp_path: Path) -> None:
    nobody = servers.free_port()
    with running(tmp_path, "simulator", "--port=0") as (process, _):
        assert says_healthy(process.pid, served=nobody, figures=str(nobody))
