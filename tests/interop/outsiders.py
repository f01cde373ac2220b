"""The server with its people and apps, and who stands around it: programs, a browser, issuers."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

from e2e.conftest import Processes, Running
from relying_party import Form

HERE = Path(__file__).parent
PATIENCE_S = 120.0  # on a busy machine; what is waited for takes a fraction of it
PASSWORD = "securepassword123"
# Nothing listens there: the browser of these tests stops before it.
BACK = "http://127.0.0.1:9/back"
BYE = "http://127.0.0.1:9/bye"


class Failed(Exception):
    """What the program on the other side threw."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.code = error.get("code")
        self.error = error.get("error")  # of the protocol, such as invalid_grant
        self.status = error.get("status")


class Program:
    """One of the `.mjs` files beside this one; it takes and gives a line of JSON at a time."""

    def __init__(self, node: str, *arguments: str, first: dict[str, Any] | None = None) -> None:
        self._process = subprocess.Popen(
            [node, "--no-warnings", *arguments],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if first is not None:
            self._say(first)
        self.ready = self._answer()

    def do(self, step: str, **told: Any) -> Any:
        """Raises: Failed."""
        self._say({"do": step, **told})
        return self._answer()

    def _say(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        late = threading.Timer(PATIENCE_S, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        assert line, "the program has ended; what it said is above"
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["ok"]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Browser:
    """Keeps cookies, follows redirects within one site, and stops where they lead elsewhere."""

    def __init__(self) -> None:
        self.client = httpx.Client(timeout=PATIENCE_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def visit(self, url: str) -> httpx.Response:
        return self._followed(self.client.build_request("GET", url))

    def send(self, page: httpx.Response, **typed: str) -> httpx.Response:
        """Fill in the one form of a page and send it."""
        form = Form(page.text)
        assert form.action is not None, page.text
        url = page.url.join(form.action)
        return self._followed(self.client.build_request("POST", url, data={**form.fields, **typed}))

    def _followed(self, request: httpx.Request) -> httpx.Response:
        for _ in range(10):
            answer = self.client.send(request)
            following = answer.next_request
            if following is None or following.url.netloc != request.url.netloc:
                return answer
            request = following
        raise AssertionError("the redirects go round in circles")

    def back(self, url: str, *, username: str = "johndoe", allow: bool = True) -> str:
        """Log in and consent as far as Savannah asks for it; the address the app gets back."""
        page = self.visit(url)
        if 'name="password"' in page.text:
            page = self.send(page, username=username, password=PASSWORD)
        if 'name="decision"' in page.text:
            page = self.send(page, decision="allow" if allow else "deny")
        return landed(page)


def landed(answer: httpx.Response) -> str:
    """Where a browser was sent at last, away from the site."""
    assert answer.is_redirect, f"{answer.status_code} {answer.text}"
    return answer.headers["location"]


class Receiver:
    """The back-channel of an app: keeps the logout tokens it was sent."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                receiver.tokens += parse_qs(body)["logout_token"]

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/logged-out"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Desk:
    """A running server, its people and its apps."""

    def __init__(self, processes: Processes, running: Running) -> None:
        self._processes = processes
        self.running = running
        self.url = running.url
        self.client = running.client
        self._boss = ""

    def register(self, username: str) -> None:
        account = {
            "username": username,
            "password": PASSWORD,
            "email": f"{username}@example.com",
            "first_name": "John",
            "last_name": "Doe",
        }
        made = self.client.post("/api/auth/register/", json=account)
        assert made.status_code == 201, made.text

    def boss(self) -> dict[str, str]:
        """The headers of an administrator, who has logged in by the first-party door."""
        if not self._boss:
            asked = ("createsuperuser", "--username", "boss", "--email", "boss@example.com")
            done = self._processes.run(*asked, SAVANNAH_SUPERUSER_PASSWORD=PASSWORD)
            assert done.returncode == 0, done.stderr
            app = self.client.post("/api/auth/create-app/", json={"name": "Office"}).json()
            login = {"username": "boss", "password": PASSWORD}
            login |= {name: app[name] for name in ("client_id", "client_secret")}
            done = self.client.post("/api/auth/login/", json=login)
            assert done.status_code == 200, done.text
            self._boss = done.json()["access_token"]
        return {"Authorization": f"Bearer {self._boss}"}

    def app(self, *, provider: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """A new app of another company; `provider` is what the operator configures of it."""
        asked = {
            "name": "Rider app",
            "redirect_uris": [BACK],
            "scopes": ["openid", "profile", "email", "orders:read", "orders:write"],
            **fields,
        }
        made = self.client.post("/api/auth/apps/", json=asked, headers=self.boss())
        assert made.status_code == 201, made.text
        app: dict[str, Any] = made.json()
        if provider is not None:
            self.command("apps", "configure", app["client_id"], json.dumps(provider))
        return app

    def command(self, *arguments: str) -> None:
        """A command of the operator, beside the running server."""
        done = self._processes.run(*arguments)
        assert done.returncode == 0, done.stderr

    def orders(self, access_token: str, *, scheme: str = "Bearer") -> int:
        """The status that our API answers such a token."""
        headers = {"Authorization": f"{scheme} {access_token}"}
        return self.client.get("/api/orders/", headers=headers).status_code

    def log(self) -> str:
        return self.running.log.read_text()


class Issuer:
    """An issuer of npm in a process of its own; it can end and come back as it was."""

    def __init__(self, node: str, kind: str) -> None:
        self._node = node
        self._kind = kind
        self._program: Program | None = None
        self._kept: dict[str, Any] = {}
        self.url = ""
        self.begin()

    def begin(self, *, new_keys: bool = False) -> None:
        """Be there, at the same address as before."""
        kept = {name: value for name, value in self._kept.items() if not new_keys or name == "port"}
        self._program = Program(self._node, "issuer.mjs", self._kind, first=kept)
        self.url = self._program.ready["issuer"]
        port = urlsplit(self.url).port
        self._kept = {"port": port, "keys": self._program.ready["keys"]}

    def end(self) -> None:
        if self._program is not None:
            self._program.end()
            self._program = None

    def do(self, step: str, **told: Any) -> Any:
        assert self._program is not None
        return self._program.do(step, **told)
