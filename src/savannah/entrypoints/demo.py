"""The whole story on a real server: from a first account to a text on a simulated handset.

The server is `savannah serve` in a process of its own, with nothing but its defaults, in a folder
that is gone afterwards. A step that did not do what it should ends the story.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Final, TypeVar

import httpx

from savannah.entrypoints.settings import environment_for_child

T = TypeVar("T")

PHONE: Final = "+254700123456"
_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.1
_WIDTH: Final = 40


class Disappointed(Exception):
    """A step did not do what it should."""


def demo(tell: Callable[[str], None] = print) -> bool:
    """Play the story and tell it; whether every step did what it should."""
    started = time.monotonic()
    deadline = started + _PATIENCE_S
    try:
        with tempfile.TemporaryDirectory(prefix="savannah-demo-") as folder:
            with _server(Path(folder), deadline) as url:
                _done(tell, "the service runs", url)
                texts = _story(url, deadline, tell)
            _done(tell, "the service has stopped", "in order")
    except Disappointed as error:
        tell(f"  ✗ {error}")
        return False
    tell("")
    tell(drawn(PHONE, texts))
    tell("")
    tell(f"Everything did what it should, in {time.monotonic() - started:.1f} seconds.")
    return True


def _done(tell: Callable[[str], None], what: str, detail: str = "") -> None:
    tell(f"  ✓ {what:<38} {detail}".rstrip())


def _left(deadline: float) -> float:
    """How many seconds there are still to wait."""
    return max(0.1, deadline - time.monotonic())


@contextmanager
def _server(folder: Path, deadline: float) -> Iterator[str]:
    """A server on a free port; its address. It must end well, too."""
    child = subprocess.Popen(
        [sys.executable, "-m", "savannah", "serve", "--port", "0"],
        cwd=folder,
        env=environment_for_child(LOG_LEVEL="WARNING", LOG_FORMAT="json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    lines: Queue[str] = Queue()
    complaints: list[str] = []

    def read(stream: Iterable[str], keep: Callable[[str], None]) -> None:
        for line in stream:
            keep(line)

    readers = [
        Thread(target=read, args=(child.stdout, lines.put), daemon=True),
        Thread(target=read, args=(child.stderr, complaints.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        try:
            line = lines.get(timeout=_left(deadline))
        except Empty:
            raise Disappointed("the service did not start\n" + "".join(complaints)) from None
        yield line.rpartition(" ")[2].strip()
        child.terminate()
        try:
            code = child.wait(timeout=_left(deadline))
        except subprocess.TimeoutExpired:
            raise Disappointed("the service did not stop") from None
        if code != 0:
            raise Disappointed(f"the service ended with exit code {code}")
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        for reader in readers:
            reader.join(timeout=1)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _story(url: str, deadline: float, tell: Callable[[str], None]) -> list[Mapping[str, Any]]:
    """Play the story against a server; the texts that the handset shows at its end."""
    with httpx.Client(base_url=url, trust_env=False) as client:

        def call(method: str, path: str, expected: int, **more: Any) -> dict[str, Any]:
            try:
                answer = client.request(method, path, timeout=_left(deadline), **more)
            except httpx.HTTPError as error:
                raise Disappointed(f"{method} {path}: {type(error).__name__}") from error
            if answer.status_code != expected:
                raise Disappointed(
                    f"{method} {path} answered {answer.status_code}: {answer.text[:300]}"
                )
            found: dict[str, Any] = answer.json()
            return found

        user = call(
            "POST",
            "/api/auth/register/",
            201,
            json={
                "username": "johndoe",
                "email": "john@example.com",
                "password": "securepassword123",
                "confirm_password": "securepassword123",
            },
        )["user"]
        _done(tell, "John Doe registers", f"as {user['role']}")

        app = call("POST", "/api/auth/create-app/", 201, json={"name": "My Mobile App"})
        _done(tell, "he creates an app", f"client {app['client_id'][:8]}…")

        login = call(
            "POST",
            "/api/auth/login/",
            200,
            json={
                "username": "johndoe",
                "password": "securepassword123",
                "client_id": app["client_id"],
                "client_secret": app["client_secret"],
            },
        )
        client.headers["Authorization"] = f"Bearer {login['access_token']}"
        _done(tell, "he logs in", f"for {login['expires_in']} seconds")

        jane = call(
            "POST",
            "/api/customers/",
            201,
            json={"name": "Jane Smith", "phone_number": "0700 123 456"},
        )
        _expect(jane["phone_number"], PHONE, "the customer's phone")
        _done(tell, "Jane Smith becomes a customer", jane["code"])

        order = call(
            "POST",
            "/api/orders/",
            201,
            json={
                "customer": jane["id"],
                "item": "Laptop Computer",
                "amount": "999.99",
                "quantity": 1,
            },
        )
        _expect(order["total_amount"], "999.99", "the order's total")
        _done(tell, "she orders a laptop", f"{order['order_number']}, KES {order['total_amount']}")

        def texts(count: int) -> list[Mapping[str, Any]]:
            """What the handset shows, once it is that much and all of it is confirmed."""
            messages = call("GET", "/simulator/state.json", 200)["messages"]
            found = [message for message in messages if message["handset"] == PHONE]
            if len(found) > count:
                raise Disappointed(f"{len(found)} texts came instead of {count}")
            confirmed = [text for text in found if text["status"] == "delivered"]
            return confirmed if len(confirmed) == count else []

        created = _until(lambda: texts(1), deadline, "the first text")
        _done(tell, "her phone rings", f"{len(created[0]['text'])} characters")

        for status in ("processing", "shipped"):
            moved = call(
                "PATCH", f"/api/orders/{order['id']}/update_status/", 200, json={"status": status}
            )
            _expect(moved["status"], status, "the order's status")
        _done(tell, "the laptop is shipped", "pending → processing → shipped")

        shown = _until(lambda: texts(2), deadline, "the second text")
        _done(tell, "her phone rings again", "and the network has confirmed both")

        def delivered() -> Mapping[str, Any] | None:
            sms: Mapping[str, Any] = call("GET", f"/api/orders/{order['id']}/", 200)["sms"]
            return sms if sms["status"] == "delivered" else None

        sms = _until(delivered, deadline, "the delivery report")
        _done(tell, "John sees it", f"text about {sms['event']}: {sms['status']}")
        return shown


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Disappointed(f"{what} is {found!r} instead of {wanted!r}")


def _until(look: Callable[[], T | None], deadline: float, what: str) -> T:
    """Look until there is something to see, and give that."""
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise Disappointed(f"{what} did not come in time")
        time.sleep(_POLL_S)
    return seen


def drawn(phone: str, texts: list[Mapping[str, Any]]) -> str:
    """A handset with its conversation, for a terminal."""
    inner = _WIDTH - 4
    rows = [phone.center(inner), ""]
    for text in texts:
        rows += [f"{text['from']}  {text['at'][11:16]}", *textwrap.wrap(text["text"], inner)]
        rows += [f"✓✓ {text['status']}".rjust(inner), ""]
    framed = [f"│ {row.ljust(inner)} │" for row in rows[:-1]]
    return "\n".join(["╭" + "─" * (_WIDTH - 2) + "╮", *framed, "╰" + "─" * (_WIDTH - 2) + "╯"])
