"""The door of the simulated gateway: its Litestar application, to run alone or under a mount.

Handlers read raw bodies and queries themselves, since the vendor's wire is a matter of exact bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from litestar import Litestar, Request, get, post
from litestar.datastructures import State
from litestar.exceptions import ClientException, HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, LifeSpanReceive, LifeSpanSend, Receive, Scope, Send

from savannah.entrypoints.simulator import wire
from savannah.entrypoints.simulator.gateway import Gateway

_MOST_BODY: Final = 1_000_000
_MOST_DIGITS: Final = 18
_PAGE: Final = {
    name: wire.Answer(200, content_type, files(__package__).joinpath(name).read_bytes())
    for name, content_type in (
        ("page.html", "text/html; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
    )
}
_PAGE_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_SHUTTING_DOWN: Final = wire.text_answer("Service Unavailable", status=503)


class Simulator(Gateway):
    """A simulated Africa's Talking gateway with handsets one can look at and write from."""

    def app(self) -> Litestar:
        """The gateway as an ASGI application; stopping it drops pending reports."""
        return _Mountable(
            route_handlers=[
                send,
                inbox,
                balance,
                subscribe,
                page,
                page_script,
                page_style,
                state,
                faults,
                reply,
                opt_out,
                reset,
            ],
            state=State({"gateway": self}),
            on_shutdown=[self.aclose],
            openapi_config=None,
            logging_config=None,  # whoever runs it has configured logging
            request_max_body_size=_MOST_BODY,
        )


class _Mountable(Litestar):
    """A Litestar application that leaves no trace in the scope of the one it is mounted in."""

    async def __call__(
        self,
        scope: Any,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        own: Any = scope if scope["type"] == "lifespan" else {**scope, "state": {}}
        await super().__call__(own, receive, send)


def _cut_off(answer: wire.Answer) -> ASGIApp:
    """An answer whose connection closes half-way: less comes than Content-Length promised."""

    async def respond(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.content_type.encode()),
                    (b"content-length", str(len(answer.body)).encode()),
                ],
            }
        )
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        # Returning now makes the server close the connection, there being no other way to ask it.

    return respond


def _respond(answer: wire.Answer, headers: Mapping[str, str] | None = None) -> ASGIApp:
    if answer.broken:
        return _cut_off(answer)
    return ASGIResponse(
        body=answer.body,
        status_code=answer.status,
        headers={"content-type": answer.content_type, **(headers or {})},
    )


def _gateway(request: Request[Any, Any, Any]) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _headers(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


# The vendor's endpoints


@post(["/version1/messaging", "/version1/messaging/bulk"])
async def send(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)

    async def caller_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    bulk = request.url.path.rstrip("/").endswith("/bulk")
    path = "/version1/messaging/bulk" if bulk else "/version1/messaging"
    body = await request.body()
    answer = await gateway.send(path, _headers(request), body, caller_left=caller_left)
    return _respond(answer or _SHUTTING_DOWN)


def _refusal(
    headers: Mapping[str, str], gateway: Gateway, fields: Mapping[str, str]
) -> wire.Answer | None:
    if not gateway.knows_key(headers):
        return wire.UNAUTHENTICATED
    if refusal := wire.REFUSALS.get(gateway.faults.mode):
        return refusal
    return None if fields.get("username") else wire.missing_field("username")


@get("/version1/messaging")
async def inbox(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    headers, query = _headers(request), wire.form_fields(request.scope["query_string"])
    if refusal := _refusal(headers, gateway, query):
        return _respond(refusal)
    after = query.get("lastReceivedId", "")
    as_json = wire.wants_json(headers.get("accept", ""))
    return _respond(gateway.inbox(after=_whole(after), as_json=as_json))


@get("/version1/user")
async def balance(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    headers, query = _headers(request), wire.form_fields(request.scope["query_string"])
    if refusal := _refusal(headers, gateway, query):
        return _respond(refusal)
    return _respond(gateway.balance(as_json=wire.wants_json(headers.get("accept", ""))))


@post("/version1/subscription/safaricom")
async def subscribe(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    headers, form = _headers(request), wire.form_fields(await request.body())
    if refusal := _refusal(headers, gateway, form):
        return _respond(refusal)
    for name in ("shortCode", "keyword"):
        if not form.get(name):
            return _respond(wire.missing_field(name))
    return _respond(
        wire.json_answer({"status": "Success", "description": "Waiting for user input"}, status=201)
    )


# The simulator's own


@get("/")
async def page(request: Request[Any, Any, Any]) -> ASGIApp:
    asked = request.scope.get("raw_path") or request.scope["path"].encode()
    if not asked.endswith(b"/"):  # mounted, and asked for without the slash its links stand on
        last = asked.rpartition(b"/")[2].decode("latin-1")
        return ASGIResponse(status_code=307, headers={"location": f"./{last}/"})
    return _respond(_PAGE["page.html"], _PAGE_HEADERS)


@get("/page.js")
async def page_script() -> ASGIApp:
    return _respond(_PAGE["page.js"], _PAGE_HEADERS)


@get("/page.css")
async def page_style() -> ASGIApp:
    return _respond(_PAGE["page.css"], _PAGE_HEADERS)


@get("/state.json")
async def state(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    since = wire.form_fields(request.scope["query_string"]).get("since", "")
    shown = gateway.state(_whole(since))
    return _respond(wire.json_answer(shown), {"cache-control": "no-store"})


@post("/faults")
async def faults(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    try:
        gateway.faults.turn(await _json_object(request))
    except ValueError as error:
        raise ClientException(str(error)) from error
    return _respond(wire.json_answer(gateway.faults.as_json()))


@post("/reply")
async def reply(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    asked = await _json_object(request)
    to = _text(asked, "to") if asked.get("to") else None
    try:
        message = await gateway.reply(
            handset=_text(asked, "from"), text=_text(asked, "text"), to=to
        )
    except ValueError as error:
        raise ClientException(str(error)) from error
    return _respond(wire.json_answer(message.as_json(), status=202))


@post("/optout")
async def opt_out(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    asked = await _json_object(request)
    try:
        await gateway.opt_out(handset=_text(asked, "from"), sender=_text(asked, "sender"))
    except ValueError as error:
        raise ClientException(str(error)) from error
    return _respond(wire.json_answer({}, status=202))


@post("/reset")
async def reset(request: Request[Any, Any, Any]) -> ASGIApp:
    gateway = _gateway(request)
    await _json_object(request)
    gateway.reset()
    return _respond(wire.json_answer({}))


def _whole(digits: str) -> int:
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else 0


async def _json_object(request: Request[Any, Any, Any]) -> dict[str, object]:
    # A form of a foreign page can post anywhere, but cannot name this type.
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException("send application/json", status_code=415)
    try:
        loaded = json.loads(await request.body())
        json.dumps(loaded, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except ValueError as error:
        raise ClientException("the body is not JSON") from error
    if not isinstance(loaded, dict):
        raise ClientException("the body is not a JSON object")
    return loaded


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ClientException(f"{name} must be a text")
    return value
