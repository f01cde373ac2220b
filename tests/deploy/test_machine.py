"""The playbook, run for real: a Debian is booted under systemd, set up, and set up again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fresh_debian
import pytest
import yaml

pytestmark = pytest.mark.machine

ANSIBLE: Final = fresh_debian.ROOT / "deploy/ansible"
HOST: Final = "orders.example.com"
VAULT_PASSWORD: Final = "example"  # as the example says
# Ansible's own connection, but over a door into the machine instead of over the network.
_DOOR: Final = """#!/bin/sh
for command; do :; done
exec nsenter --target {leader} --all -- /bin/sh -c "$command"
"""
_GET: Final = """
import json, ssl, sys, urllib.request
context = ssl._create_unverified_context()
method, url, body, headers = json.loads(sys.argv[1])
request = urllib.request.Request(url, method=method, headers=headers,
                                 data=None if body is None else json.dumps(body).encode())
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_): return None
opener = urllib.request.build_opener(Stay, urllib.request.HTTPSHandler(context=context))
try:
    answer = opener.open(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, dict(answer.headers), answer.read().decode()]))
"""


class Machine:
    """A Debian booted by systemd-nspawn, without a network, entered from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root = folder / "root"
        root.mkdir()
        fresh_debian.unpack(root)
        (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")  # asks nothing
        (root / "etc/hostname").write_text("orders\n")
        with (folder / "console").open("w") as console:
            self._process = subprocess.Popen(
                [
                    fresh_debian.tool("systemd-nspawn", package="systemd-container"),
                    "--quiet", "--register=no", "--keep-unit", "--private-network", "--boot",
                    "--machine=savannah-test", "--console=pipe", f"--directory={root}",
                    f"--bind-ro={fresh_debian.wheels()}:/srv/wheels",
                    "systemd.mask=systemd-networkd-wait-online.service",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )  # fmt: skip
        self.leader = self._wait_for_start()

    def _wait_for_start(self) -> int:
        ends_at = time.monotonic() + 90
        while time.monotonic() < ends_at:
            assert self._process.poll() is None, (self.folder / "console").read_text()
            # The one process below it that is the first of its own namespace.
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            for child in map(int, children.read_text().split()):
                state = subprocess.run(
                    ["nsenter", f"--target={child}", "--all", "systemctl", "is-system-running"],
                    capture_output=True,
                    text=True,
                    check=False,
                ).stdout.strip()
                if state in ("running", "degraded"):
                    return child
            time.sleep(0.2)
        raise AssertionError((self.folder / "console").read_text())

    def run(self, *command: str, **environment: str) -> str:
        given = [f"{name}={value}" for name, value in environment.items()]
        return fresh_debian.run(
            "nsenter", f"--target={self.leader}", "--all", "env", *given, *command
        )

    def ask(
        self, method: str, path: str, body: object = None, *, secure: bool = True, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """An answer of its nginx, as somebody on that machine gets it."""
        url = f"{'https' if secure else 'http'}://127.0.0.1{path}"
        sent = {"Host": HOST, "Content-Type": "application/json", **headers}
        said = self.run("python3", "-c", _GET, json.dumps([method, url, body, sent]))
        status, given, text = json.loads(said)
        return status, {name.lower(): value for name, value in given.items()}, text

    def play(self, *arguments: str) -> tuple[dict[str, int], str]:
        """Run the playbook; what it counts for this machine, and all that it said."""
        door = self.folder / "door"
        door.write_text(_DOOR.format(leader=self.leader))
        door.chmod(0o700)
        password = self.folder / "vault-password"
        password.write_text(VAULT_PASSWORD)
        inventory = {
            "savannah": {
                "hosts": {
                    HOST: {
                        "ansible_host": "127.0.0.1",
                        "ansible_ssh_executable": str(door),
                        "ansible_ssh_transfer_method": "piped",
                        "ansible_pipelining": True,
                        "ansible_python_interpreter": "/usr/bin/python3",
                        "savannah_wheel": str(self.folder / "savannah-1.0.0-py3-none-any.whl"),
                        "savannah_pip_options": ["--no-index", "--find-links=/srv/wheels"],
                        "savannah_example_secrets_are_fine": True,
                        "savannah_web_processes": 1,
                        "savannah_settings": {
                            "AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:9000",
                            "APP_CREATION": "open",
                        },
                    }
                }
            }
        }
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(inventory))
        said = fresh_debian.run(
            fresh_debian.program("ansible-playbook"), "--inventory", self.folder / "inventory.yml",
            "--vault-password-file", password, "--extra-vars", f"@{ANSIBLE / 'vault.example.yml'}",
            ANSIBLE / "playbook.yml", *arguments,
            env={
                **os.environ, "ANSIBLE_HOME": str(self.folder / "ansible"), "LC_ALL": "C.UTF-8",
                "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOST_KEY_CHECKING": "0",
            },
        )  # fmt: skip
        recap = re.search(rf"^{re.escape(HOST)} .*$", said, re.MULTILINE)
        assert recap is not None, said
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", recap[0])}, said

    def close(self) -> None:
        # The signal on which systemd powers its machine off: RTMIN+4.
        os.kill(self.leader, signal.SIGRTMIN + 4)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    fresh_debian.need_root()
    with fresh_debian.scratch() as folder:
        fresh_debian.run(
            "uv", "build", "--wheel", "--quiet", "--out-dir", folder, cwd=fresh_debian.ROOT
        )
        made = Machine(folder)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def set_up(machine: Machine) -> Machine:
    counted, said = machine.play()
    assert counted["failed"] == counted["unreachable"] == 0, said
    assert counted["changed"] > 20
    return machine


def test_a_second_run_changes_nothing(set_up: Machine) -> None:
    counted, said = set_up.play()
    assert counted["changed"] == counted["failed"] == 0, said
    counted, said = set_up.play("--check", "--diff")
    assert counted["changed"] == counted["failed"] == 0, said


RELEASES: Final = "/opt/savannah/releases"


def releases(machine: Machine) -> set[str]:
    return set(machine.run("ls", RELEASES).split())


def running(machine: Machine) -> str:
    return Path(machine.run("readlink", "/opt/savannah/current").strip()).parent.name


def test_the_running_release_and_two_before_it_are_kept(set_up: Machine) -> None:
    first = running(set_up)
    assert releases(set_up) == {first}
    for year in range(2020, 2024):
        set_up.run("mkdir", "--parents", f"{RELEASES}/of-{year}/venv/bin")
        set_up.run("touch", f"--date={year}-01-01", f"{RELEASES}/of-{year}/complete")
    set_up.run("mkdir", f"{RELEASES}/never-finished")
    counted, said = set_up.play("--check")
    assert (counted["changed"], counted["failed"]) == (1, 0), said
    assert len(releases(set_up)) == 6
    counted, said = set_up.play()
    assert (counted["changed"], counted["failed"]) == (1, 0), said
    assert releases(set_up) == {first, "of-2023", "of-2022"}
    counted, said = set_up.play()
    assert (counted["changed"], counted["failed"]) == (0, 0), said

    # A new one, and back again: where one has run last, not when it came, makes it new.
    lock = set_up.folder / "requirements.lock"
    lock.write_text(f"{(fresh_debian.ROOT / 'requirements.lock').read_text()}# renewed\n")
    counted, said = set_up.play("--extra-vars", f"savannah_lock={lock}")
    assert counted["failed"] == 0, said
    second = running(set_up)
    assert releases(set_up) == {second, first, "of-2023"}
    counted, said = set_up.play("--extra-vars", "savannah_releases_kept=2")
    assert counted["failed"] == 0, said
    assert running(set_up) == first
    assert releases(set_up) == {first, second}
    marks = (f"{RELEASES}/{name}/complete" for name in (second, first))
    before, now = map(int, set_up.run("stat", "--format=%Y", *marks).split())
    assert before < now
    assert set_up.ask("GET", "/health/ready")[0] == 200


def test_all_services_run_and_start_again_with_the_machine(set_up: Machine) -> None:
    services = ("postgresql", "redis-server", "nginx", "savannah-web", "savannah-worker")
    assert set_up.run("systemctl", "is-active", *services).split() == ["active"] * 5
    assert set_up.run("systemctl", "is-enabled", *services).split() == ["enabled"] * 5
    for service in services[3:]:
        found = set_up.run(
            "systemctl", "show", "--property=User,NRestarts,NoNewPrivileges", service
        )
        assert set(found.split()) == {"User=savannah", "NRestarts=0", "NoNewPrivileges=yes"}


def test_it_answers_over_tls_and_only_as_itself(set_up: Machine) -> None:
    status, headers, body = set_up.ask("GET", "/api/auth/health/")
    assert status == 200, body
    parts = json.loads(body)["checks"]
    assert {name: parts[name]["status"] for name in ("database", "redis", "queue")} == {
        "database": "ok", "redis": "ok", "queue": "ok",
    }  # fmt: skip
    assert "strict-transport-security" in headers
    assert set_up.ask("GET", "/metrics")[0] == 404
    assert set_up.ask("GET", "/api/orders/", Host="other.example.com")[0] == 400
    status, headers, _ = set_up.ask("GET", "/docs", secure=False)
    assert (status, headers["location"]) == (308, f"https://{HOST}/docs")


def page_of_the_worker(machine: Machine, path: str) -> str:
    url = f"http://127.0.0.1:9101{path}"
    said = machine.run("python3", "-c", _GET, json.dumps(["GET", url, None, {}]))
    status, _, text = json.loads(said)
    assert status == 200, said
    return str(text)


def test_the_worker_is_watched_from_the_machine_alone(set_up: Machine) -> None:
    assert json.loads(page_of_the_worker(set_up, "/health/ready")) == {"status": "ready"}
    figures = page_of_the_worker(set_up, "/metrics")
    assert "savannah_relay_last_round_timestamp_seconds" in figures
    # Of IPv4 and of IPv6, in the kernel's own words: 0A listens, 238D is 9101.
    sockets = set_up.run("cat", "/proc/net/tcp", "/proc/net/tcp6")
    listening = [line.split()[1] for line in sockets.splitlines() if line.split()[3] == "0A"]
    assert [each for each in listening if each.endswith(":238D")] == ["0100007F:238D"]


def test_an_order_made_there_is_texted_by_the_worker(set_up: Machine) -> None:
    set_up.run(
        "systemd-run", "--quiet", "--unit=simulator", "--uid=savannah",
        "--working-directory=/etc/savannah",
        "/opt/savannah/current/bin/savannah", "simulator", "--port=9000",
    )  # fmt: skip
    secret = "a-password-of-the-first-one"
    set_up.run(
        "savannah", "createsuperuser", "--username=boss", "--email=boss@example.com",
        SAVANNAH_SUPERUSER_PASSWORD=secret,
    )  # fmt: skip

    def ask(method: str, path: str, body: object = None, token: str = "") -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        status, _, text = set_up.ask(method, path, body, **headers)
        assert status in (200, 201), text
        return json.loads(text)

    app = ask("POST", "/api/auth/create-app/", {"name": "till"})
    login = {"username": "boss", "password": secret}
    login |= {name: app[name] for name in ("client_id", "client_secret")}
    token = ask("POST", "/api/auth/login/", login)["access_token"]
    jane = ask(
        "POST", "/api/customers/", {"name": "Jane Smith", "phone_number": "+254700123456"}, token
    )
    ask(
        "POST",
        "/api/orders/",
        {"customer": jane["id"], "item": "Laptop", "amount": "999.99"},
        token,
    )
    ends_at = time.monotonic() + 30
    while "sent" not in (listed := set_up.run("savannah", "sms", "list")):
        assert time.monotonic() < ends_at, listed
        time.sleep(0.2)
    assert "+254700123456" not in listed


def test_secrets_are_readable_for_the_service_alone(set_up: Machine) -> None:
    found = set_up.run(
        "stat", "--format=%n %a %U %G", "/etc/savannah", "/etc/savannah/.env",
        "/etc/redis/savannah.conf", "/var/lib/savannah", "/etc/nginx/savannah/self-signed.key",
    )  # fmt: skip
    assert found.splitlines() == [
        "/etc/savannah 750 root savannah",
        "/etc/savannah/.env 640 root savannah",
        "/etc/redis/savannah.conf 640 root redis",
        "/var/lib/savannah 700 savannah savannah",
        "/etc/nginx/savannah/self-signed.key 600 root root",
    ]


def test_a_changed_setting_restarts_the_service_and_a_changed_password_is_taken(
    set_up: Machine,
) -> None:
    def processes() -> set[str]:
        shown = ("systemctl", "show", "--property=MainPID")
        return {set_up.run(*shown, name).strip() for name in ("savannah-web", "savannah-worker")}

    before = processes()
    counted, said = set_up.play("--extra-vars", "savannah_database_password=another-password-1")
    assert counted["failed"] == 0, said
    assert not processes() & before
    # The playbook has waited for both.
    assert set_up.ask("GET", "/health/ready")[0] == 200
    assert json.loads(page_of_the_worker(set_up, "/health/ready")) == {"status": "ready"}


def test_stopping_is_orderly(set_up: Machine) -> None:
    set_up.run("systemctl", "stop", "savannah-web", "savannah-worker")
    for service in ("savannah-web", "savannah-worker"):
        found = set_up.run("systemctl", "show", "--property=Result,ExecMainStatus", service)
        assert set(found.split()) == {"Result=success", "ExecMainStatus=0"}


def test_secrets_that_everybody_knows_are_refused(set_up: Machine) -> None:
    with pytest.raises(AssertionError, match=r"Copy vault\.example\.yml"):
        set_up.play("--extra-vars", "savannah_example_secrets_are_fine=false")
