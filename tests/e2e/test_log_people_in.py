"""docs/how-to/log-people-in.md: its requests and commands, one after the other, on the real process."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from relying_party import VERIFIER, Form, challenge

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/how-to/log-people-in.md"
BLOCKS = re.findall(r"^```(?:bash)?\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MAKE, ASK, EXCHANGE, MAKE_PROGRAM, AS_PROGRAM, CONFIGURE = BLOCKS
HERE = "http://localhost:8000"
PERSON = {"username": "johndoe", "password": "securepassword123"}


def words(command: str, **placeholders: str) -> list[str]:
    for printed, real in placeholders.items():
        command = command.replace(printed.replace("_", "-"), real)
    return shlex.split(command.replace("\\\n", " "))


def curl(service, command: str, **placeholders: str) -> httpx.Response:
    """What curl would send; not every machine has it."""
    program, *rest = words(command, **placeholders)
    assert program == "curl"
    given: dict[str, list[str]] = {"-X": [], "-H": [], "-d": [], "-u": []}
    urls = []
    while rest:
        word = rest.pop(0)
        given[word].append(rest.pop(0)) if word in given else urls.append(word)
    (url,) = urls
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    headers |= {name: text for name, _, text in (each.partition(": ") for each in given["-H"])}
    return httpx.post(
        url.replace(HERE, service.url),
        content="&".join(given["-d"]),
        headers=headers,
        auth=tuple(given["-u"][0].split(":")) if given["-u"] else None,
        trust_env=False,
        timeout=120,
    )


def test_a_reader_makes_an_app_and_logs_people_and_programs_in(processes):
    service = processes.start("serve", "--port", "0")
    client = service.client
    client.post("/api/auth/register/", json=PERSON | {"email": "john@example.com"})
    made = curl(service, MAKE)
    assert made.status_code == 201, made.text
    app = made.json()["client_id"]

    asked = "".join(line.strip() for line in ASK.splitlines()).replace(HERE, service.url)
    asked = asked.replace("your-client-id", app).replace(
        "code_challenge=…", f"code_challenge={challenge()}"
    )
    form = Form(client.get(asked.replace("…", "unguessable")).text)
    answer = client.post(form.action, data={**form.fields, **PERSON})
    form = Form(client.get(answer.headers["location"]).text)
    back = client.post(form.action, data={**form.fields, "decision": "allow"}).headers["location"]
    returned = dict(parse_qsl(urlsplit(back).query))
    assert back.startswith("https://rider.example/callback?")
    assert (returned["iss"], returned["state"]) == (service.url, "unguessable")
    tokens = curl(
        service, EXCHANGE, your_client_id=app, the_code=returned["code"], your_verifier=VERIFIER
    )
    assert tokens.status_code == 200, tokens.text
    bearer = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
    assert client.get("/api/orders/", headers=bearer).status_code == 200

    program = processes.run(*words(MAKE_PROGRAM)[1:]).stdout
    name, secret = (re.search(rf"client_{each} +(\S+)", program)[1] for each in ("id", "secret"))
    as_program = curl(service, AS_PROGRAM, your_client_id=name, your_client_secret=secret)
    assert as_program.status_code == 200, as_program.text
    assert as_program.json()["scope"] == "orders:read"

    done = processes.run(*words(CONFIGURE, your_client_id=app)[1:])
    assert (done.returncode, done.stdout) == (0, "Rider app is changed.\n"), done.stderr
    bye = "https://rider.example/bye"
    leaving = {"id_token_hint": tokens.json()["id_token"], "post_logout_redirect_uri": bye}
    assert client.get("/oauth/logout", params=leaving).headers["location"] == bye
    assert client.get("/api/orders/", headers=bearer).status_code == 401
