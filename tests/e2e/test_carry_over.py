"""docs/how-to/move-to-postgres.md: the rows of the embedded file, by the program that it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from savannah.entrypoints.settings import environment_for_child

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/how-to/move-to-postgres.md"
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
(COMMANDS,) = re.findall(
    r"^```console\n(export SECRET_KEY.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
PERSON = {"username": "johndoe", "password": "securepassword123"}


def carry_over(folder, url) -> subprocess.CompletedProcess[str]:
    """The commands of the page in that folder, with this Python; they print the key at the end."""
    commands = COMMANDS.replace("\npython ", f"\n{sys.executable} ")
    return subprocess.run(
        ["bash", "-euc", f'{commands}\necho "$SECRET_KEY" >&2'],
        cwd=folder,
        env=environment_for_child(DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_desk_that_moves_to_postgres_goes_on_where_it_was(processes, postgres_server, until):
    simulator = processes.start("simulator", "--port", "0")
    settings = {
        "AFRICAS_TALKING_BASE_URL": simulator.url,
        "PUBLIC_URL": "http://desk.example.com",
        "ALLOWED_HOSTS": "127.0.0.1",
    }
    service = processes.start("serve", "--port", "0", "--no-worker", **settings)
    client = service.client
    client.post("/api/auth/register/", json=PERSON | {"email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {name: app[name] for name in ("client_id", "client_secret")}
    login = client.post("/api/auth/login/", json=PERSON | credentials).json()
    bearer = {"Authorization": f"Bearer {login['access_token']}"}
    jane = {"name": "Jane", "phone_number": "0700123456"}
    order = {"customer": client.post("/api/customers/", json=jane, headers=bearer).json()["id"]}
    order |= {"item": "Lamp", "amount": "10.00"}
    for _ in range(2):
        assert client.post("/api/orders/", json=order, headers=bearer).status_code == 201
    lists = ("/api/orders/", "/api/customers/", "/api/auth/profile/")
    before = [client.get(path, headers=bearer).json() for path in lists]
    assert service.terminate() == 0

    url = postgres_server.fresh_database()
    (processes.folder / "carry_over.py").write_text(PROGRAM)
    server = settings | {"DATABASE_URL": url, "DEBUG": "true", "SECRET_KEY": "none yet" * 5}
    assert processes.run("migrate", **server).returncode == 0
    done = carry_over(processes.folder, url)
    assert done.returncode == 0, done.stderr
    assert {"orders: 2", "notifications: 2", "users: 1"} <= set(done.stdout.splitlines())
    again = carry_over(processes.folder, url)
    assert again.returncode == 1
    assert "the server has rows in" in again.stderr

    server["SECRET_KEY"] = done.stderr.strip()
    service = processes.start("serve", "--port", "0", **server)
    client = service.client
    assert [client.get(path, headers=bearer).json()["id"] for path in lists[2:]] == [
        before[2]["id"]
    ]
    for path, told in zip(lists[:2], before, strict=False):
        found = client.get(path, headers=bearer).json()["results"]
        assert [row["id"] for row in found] == [row["id"] for row in told["results"]]
    assert client.post("/api/orders/", json=order, headers=bearer).status_code == 201
    until(lambda: len(simulator.client.get("/state.json").json()["messages"]) == 3)
