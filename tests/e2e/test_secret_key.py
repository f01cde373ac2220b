"""docs/how-to/rotate-keys.md, gone through on the real process: a new SECRET_KEY, and what stops."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

import servers
from relying_party import Form, challenge

pytestmark = pytest.mark.e2e

OLD, NEW = "the old key, which somebody may know!", "the new key, which nobody has seen yet"
PERSON = {"username": "johndoe", "password": "securepassword123"}
BACK = "http://127.0.0.1:9/back"
REPORT = {"id": "ATXid_unheard_of", "status": "Success", "phoneNumber": "+254700123456"}
UNREADABLE = "a signing key cannot be read with this SECRET_KEY; its tokens are refused"


def told(service) -> list[str]:
    """How the log speaks of keys that cannot be read."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    return [line["level"] for line in lines if line["event"] == UNREADABLE]


def asked_for(client_id: str, **more: str) -> str:
    """Where that app sends a browser for a login."""
    request = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": BACK,
        "scope": "openid profile",
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
    }
    return f"/oauth/authorize?{urlencode(request | more)}"


def log_in_by_browser(client, client_id: str) -> None:
    form = Form(client.get(asked_for(client_id)).text)
    answer = client.post(form.action, data={**form.fields, **PERSON})
    consent = Form(client.get(answer.headers["location"]).text)
    client.post(consent.action, data={**consent.fields, "decision": "allow"})


def lists_begin_again(client, cursor: str, tokens: dict) -> None:
    stale = client.get(cursor, headers=bearer(tokens))
    assert (stale.status_code, stale.json()["code"]) == (400, "invalid_cursor")
    fresh = client.get("/api/customers/", params={"limit": 1}, headers=bearer(tokens))
    assert client.get(fresh.json()["next"], headers=bearer(tokens)).status_code == 200


def bearer(login) -> dict[str, str]:
    return {"Authorization": f"Bearer {login['access_token']}"}


def test_a_new_secret_key_ends_what_the_page_says_and_nothing_else(processes):
    port = str(servers.free_port())
    service = processes.start("serve", "--port", port, SECRET_KEY=OLD)
    client = service.client
    client.post("/api/auth/register/", json=PERSON | {"email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {name: app[name] for name in ("client_id", "client_secret")}
    login = client.post("/api/auth/login/", json=PERSON | credentials).json()
    for number in (1, 2):
        jane = {"name": f"Jane {number}", "phone_number": f"070012345{number}"}
        assert client.post("/api/customers/", json=jane, headers=bearer(login)).is_success
    page = client.get("/api/customers/", params={"limit": 1}, headers=bearer(login)).json()
    checked = processes.run("check", SECRET_KEY=OLD).stdout
    token = re.search(
        r"^callbacks +note +\S+/africastalking/(\w+)/delivery/", checked, re.MULTILINE
    )[1]
    callback = f"/api/sms/africastalking/{token}/delivery/"
    assert client.post(callback, data=REPORT).status_code == 200
    public = {"name": "Rider app", "client_type": "public", "redirect_uris": [BACK]}
    rider = client.post("/api/auth/create-app/", json=public).json()["client_id"]
    waiting = Form(client.get(asked_for(rider)).text)
    log_in_by_browser(client, rider)
    old_keys = {key["kid"] for key in client.get("/oauth/jwks").json()["keys"]}
    assert service.terminate() == 0
    service.log.unlink()
    cookies = client.cookies

    settings = {"SECRET_KEY": NEW, "AFRICAS_TALKING_CALLBACK_TOKEN": token}
    service = processes.start("serve", "--port", port, **settings)
    client = service.client
    assert told(service) == ["warning"] * len(old_keys)
    assert client.post(callback, data=REPORT).status_code == 200
    refused = client.get("/api/customers/", headers=bearer(login))
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert not old_keys & {key["kid"] for key in client.get("/oauth/jwks").json()["keys"]}

    client.cookies = cookies
    silent = client.get(asked_for(rider, prompt="none")).headers["location"]
    assert "code" in dict(parse_qsl(urlsplit(silent).query))
    late = client.post(waiting.action, data={**waiting.fields, **PERSON})
    assert (late.status_code, "too old" in late.text) == (400, True)

    again = client.post("/api/auth/login/", json=PERSON | credentials).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": login["refresh_token"]}
    renewed = client.post("/oauth/token", data=refresh | credentials).json()
    for tokens in (again, renewed):
        lists_begin_again(client, page["next"], tokens)

    rotated = processes.run("keys", "rotate", **settings)
    assert (rotated.returncode, told(service)) == (0, ["warning"] * len(old_keys))
    assert service.terminate() == 0
    assert "Traceback" not in service.log.read_text() + rotated.stderr

    # Embedded, with the key that is made and kept, and the callback token derived of it.
    service = processes.start("serve", "--port", port)
    assert (processes.folder / "savannah-data/secret-key").exists()
    assert service.client.post(callback, data=REPORT).status_code == 404
    assert service.client.get("/api/customers/", headers=bearer(again)).status_code == 401
