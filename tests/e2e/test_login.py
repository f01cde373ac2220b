"""Logging in to an app through the real server, and out again, over sockets."""

from __future__ import annotations

import http.server
import json
import re
import threading
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest

import servers
from relying_party import VERIFIER, Form, challenge

pytestmark = pytest.mark.e2e

BACK = "http://127.0.0.1:9/back"
PASSWORD = "securepassword123"


class Listener:
    """An app's back-channel on a socket of this machine."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                listener.tokens += parse_qs(body)["logout_token"]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.handler = Handler
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.server_bind()
        self.port = self.server.server_address[1]

    def begin(self) -> None:
        self.server.server_activate()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self.server.fileno() >= 0:
            self.server.shutdown() if self.tokens else None
            self.server.server_close()


@pytest.fixture
def listener():
    found = Listener()
    yield found
    found.close()


def test_a_person_logs_in_to_an_app_and_out_again_even_through_a_crash(processes, listener, until):
    port = servers.free_port()
    server = processes.start("serve", "--port", str(port))
    client = server.client
    account = {"username": "johndoe", "password": PASSWORD, "email": "john@example.com"}
    assert client.post("/api/auth/register/", json=account).status_code == 201
    asked = {"name": "Rider app", "client_type": "public", "redirect_uris": [BACK]}
    client_id = client.post("/api/auth/create-app/", json=asked).json()["client_id"]
    changes = {
        "backchannel_logout_uri": f"http://127.0.0.1:{listener.port}/out",
        "post_logout_redirect_uris": [BACK],
    }
    done = processes.run("apps", "configure", client_id, json.dumps(changes))
    assert done.stdout == "Rider app is changed.\n", done.stderr

    found = client.get("/.well-known/openid-configuration").json()
    assert found["issuer"] == server.url
    request = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": BACK,
        "scope": "openid profile orders:read",
        "state": "a-state",
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
    }
    page = client.get(f"{found['authorization_endpoint']}?{urlencode(request)}")
    form = Form(page.text)
    page = client.post(
        form.action, data={**form.fields, "username": "johndoe", "password": PASSWORD}
    )
    page = client.get(page.headers["location"])
    form = Form(page.text)
    answer = client.post(form.action, data={**form.fields, "decision": "allow"})
    returned = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert (returned["state"], returned["iss"]) == ("a-state", server.url)

    tokens = httpx.post(
        found["token_endpoint"],
        data={
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": returned["code"],
            "redirect_uri": BACK,
            "code_verifier": VERIFIER,
        },
        timeout=120,
    ).json()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    claims = client.get(found["userinfo_endpoint"], headers=bearer).json()
    assert claims["preferred_username"] == "johndoe"
    assert client.get("/api/orders/", headers=bearer).status_code == 200
    assert client.get("/api/customers/", headers=bearer).status_code == 403

    leaving = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": BACK}
    answer = client.get(f"{found['end_session_endpoint']}?{urlencode(leaving)}")
    assert answer.headers["location"] == BACK
    assert client.get("/api/orders/", headers=bearer).status_code == 401

    # The app is away, and the server dies. The notice lies in storage.
    server.process.kill()
    server.process.wait()
    listener.begin()
    again = processes.start("serve", "--port", str(port))
    [logout_token] = until(lambda: listener.tokens)
    assert logout_token.count(".") == 2
    assert again.client.get("/oauth/jwks").status_code == 200

    log = server.log.read_text()
    for private in (PASSWORD, returned["code"], "eyJ", VERIFIER, "a-state"):
        assert private not in log
    assert re.search(r'"route": "/oauth/token"', log)
