"""docs/how-to/back-up.md, gone through with its own commands: dump, base backup, restore, drill."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import servers
from database import query

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/how-to/back-up.md"
DUMP, ARCHIVE, BASE, RESTORE = re.findall(
    r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
PERSON = {"username": "johndoe", "password": "securepassword123"}


@dataclass
class Desk:
    """A desk on a server of its own whose log is archived, and what it should have in its books."""

    server: servers.OwnPostgres
    processes: Any
    simulator: Any
    settings: dict[str, str]
    folder: Path
    app: dict[str, str] = field(default_factory=dict)
    customer: str = ""
    token: str = ""
    moment: str = ""
    before: list[str] = field(default_factory=list)
    since: list[str] = field(default_factory=list)

    def shell(self, commands: str, *, port: int | None = None, **replaced: str) -> None:
        """Run commands of the page as the server's user, in folders of the test's own."""
        for printed, real in {"/backup": f"{self.folder}/backup", **replaced}.items():
            assert printed in commands or printed == "/backup", printed
            commands = commands.replace(printed, real)
        root = os.geteuid() == 0
        nobody = pwd.getpwnam("nobody")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env={
                "PATH": f"{servers.postgres_binaries()}:{os.environ['PATH']}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port or self.server.port),
                "PGUSER": "postgres",
                "DATABASE_URL": self.settings["DATABASE_URL"],
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **({"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if root else {}),
        )
        log = self.folder / "restored.log"
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")

    def login(self, service) -> str:
        answer = service.client.post("/api/auth/login/", json=PERSON | self.app)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def order(self, service) -> str:
        order = {"customer": self.customer, "item": "Lamp", "amount": "10.00"}
        answer = service.client.post(
            "/api/orders/", json=order, headers={"Authorization": f"Bearer {self.token}"}
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["order_number"]

    def texts(self) -> list[str]:
        """The numbers of the orders that customers were texted about."""
        shown = self.simulator.client.get("/state.json").json()["messages"]
        return sorted(re.search(r"ORD-\w{6}-\w", text["text"])[0] for text in shown)


@pytest.fixture(scope="module")
def desk(shared, tmp_path_factory):
    with servers.own_postgres() as server:
        folder = server.folder / "machine"
        folder.mkdir()
        owner = (server.folder / "data").stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        simulator = shared.start("simulator", "--port", "0")
        settings = {
            "DATABASE_URL": server.fresh_database(),
            "SECRET_KEY": "the key that was kept apart from the backup",
            "DEBUG": "true",
            "PUBLIC_URL": "http://desk.example.com",
            "ALLOWED_HOSTS": "127.0.0.1",
            "AFRICAS_TALKING_BASE_URL": simulator.url,
            "SMS_PHONE_LIMIT": "off",
        }
        yield story(Desk(server, shared, simulator, settings, folder))


def story(desk: Desk) -> Desk:
    """Two orders before the moment and one after; all are texted after it."""
    desk.shell(ARCHIVE)
    desk.server.restart()
    assert desk.processes.run("migrate", **desk.settings).returncode == 0
    service = desk.processes.start("serve", "--port", "0", "--no-worker", **desk.settings)
    client = service.client
    client.post("/api/auth/register/", json=PERSON | {"email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    desk.app = {name: app[name] for name in ("client_id", "client_secret")}
    desk.token = desk.login(service)
    desk.customer = client.post(
        "/api/customers/",
        json={"name": "Jane", "phone_number": "0700123456"},
        headers={"Authorization": f"Bearer {desk.token}"},
    ).json()["id"]
    desk.before.append(desk.order(service))
    desk.shell(BASE)
    desk.before.append(desk.order(service))
    desk.moment = query(desk.settings["DATABASE_URL"], "SELECT clock_timestamp()::text")
    desk.since.append(desk.order(service))
    assert service.terminate() == 0
    return desk


def newest_order(desk: Desk, service, token: str) -> str:
    answer = service.client.get("/api/orders/", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["order_number"]


def drill(desk: Desk, settings: dict[str, str], *, newest: str) -> None:
    """The steps that the page names; a token from before the backup is still good."""
    run = desk.processes.run
    schema = run("migrate", "--check", **settings)
    assert schema.returncode == 0, schema.stdout + schema.stderr
    checked = run("check", **settings)
    assert checked.returncode == 0, checked.stdout
    service = desk.processes.start("serve", "--port", "0", "--no-worker", **settings)
    assert newest_order(desk, service, desk.token) == newest
    assert newest_order(desk, service, desk.login(service)) == newest
    assert service.terminate() == 0


def test_a_dump_is_restored_and_passes_the_drill(desk):
    desk.shell(DUMP)
    restored = re.search(r"^createdb (\w+)$", DUMP, re.MULTILINE)[1]
    url = desk.settings["DATABASE_URL"].rpartition("/")[0] + f"/{restored}"
    drill(desk, desk.settings | {"DATABASE_URL": url}, newest=desk.since[-1])


def test_a_restore_to_a_moment_has_what_was_there_and_would_text_it_again(desk, until):
    url = desk.settings["DATABASE_URL"]
    service = desk.processes.start("serve", "--port", "0", **desk.settings)
    until(lambda: desk.texts() == sorted(desk.before + desk.since))
    assert service.terminate() == 0
    last = query(url, "SELECT pg_walfile_name(pg_switch_wal())")  # a minute is too long to wait
    until((desk.folder / "backup/wal" / last).exists)
    archived = set((desk.folder / "backup/wal").iterdir())

    port = servers.free_port()
    here = {
        "/var/lib/postgresql": str(desk.folder),
        "2026-11-23 14:05:00+03": desk.moment,
        # As the server of the tests, which has these from its command line.
        "-p 5433": f"-p {port} -h 127.0.0.1 -k {desk.folder} -c max_connections=200",
    }
    restored = desk.settings | {"DATABASE_URL": url.replace(f":{desk.server.port}/", f":{port}/")}
    desk.shell(RESTORE, **here)
    try:
        until(lambda: not query(restored["DATABASE_URL"], "SELECT pg_is_in_recovery()"))
        drill(desk, restored, newest=desk.before[-1])
        waiting = desk.processes.run("sms", "list", "--status", "queued", **restored).stdout
        assert len(re.findall(r"\bqueued\b", waiting)) == len(desk.before), waiting
        service = desk.processes.start("serve", "--port", "0", **restored)
        until(lambda: desk.texts() == sorted(desk.before * 2 + desk.since))
        assert service.terminate() == 0
        assert set((desk.folder / "backup/wal").iterdir()) == archived
    finally:
        desk.shell(f"pg_ctl --pgdata={desk.folder}/restored --mode=immediate stop", port=port)
        shutil.rmtree(desk.folder / "restored")
