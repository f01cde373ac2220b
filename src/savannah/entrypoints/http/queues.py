"""SAQ's web page at `/admin/queues/`, for administrators.

Programs send an access token as everywhere. A browser cannot do so when somebody types an address:
it is let in when an administrator has logged in there, to whatever app. Else it is shown a form for
the token, and keeps it in a cookie that scripts cannot read, that goes to no other path, and that
other sites cannot make it send. All is checked on every request: the page is closed at the moment
in which the token, the grant, the session or the role is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs, urlsplit

from litestar import MediaType, Response, Router, get, post
from litestar.params import Parameter

from savannah.application.trace import request_id_var
from savannah.domain.access import Caller, Role, Scope
from savannah.domain.errors import (
    AuthenticationRequired,
    InsufficientScope,
    NotFound,
    SavannahError,
    Unauthenticated,
)
from savannah.entrypoints.http import problems
from savannah.entrypoints.http.browser import path_of, session_cookie
from savannah.entrypoints.http.door import (
    AnyResponse,
    Door,
    ShownToken,
    access_token,
    count_request,
    json_response,
    key_thumbprint,
)
from savannah.entrypoints.http.requests import AnyRequest, cookie_of, read_body

if TYPE_CHECKING:
    from savannah.adapters.saq_queue.board import QueueBoard

ROOT: Final = "/admin/queues"
COOKIE: Final = "savannah_queues"
_SAFE: Final = ("GET", "HEAD")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
    "input{width:100%;margin:.5rem 0}"
)
_SIGN_OUT: Final = f'<p><a href="{ROOT}/sign-out">Sign out</a></p>'
_CLOSED: Final = "base-uri 'none'; frame-ancestors 'none'"
_NOT_KEPT: Final = {"Cache-Control": "no-store", "Vary": "Cookie, Authorization"}
# Or browsers would not say where a form was sent from.
_PAGE: Final = _NOT_KEPT | {"Referrer-Policy": "same-origin"}


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_FORM_CSP: Final = f"default-src 'none'; style-src {_hash(_STYLE)}; form-action 'self'; {_CLOSED}"


def routes(board: QueueBoard) -> Router:
    """The page, its assets, what it fetches, and its two buttons."""
    page = board.page(ROOT).replace("<body>", f"<body>{_SIGN_OUT}", 1)
    scripts = " ".join(_hash(script) for script in _SCRIPT.findall(page))
    page_headers = _PAGE | {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self' {scripts}; style-src 'self'; "
            f"img-src 'self' data:; connect-src 'self'; form-action 'none'; {_CLOSED}"
        )
    }

    @get(["/", "/queues/{queue:str}", "/queues/{queue:str}/jobs/{job:str}"])
    async def show(request: AnyRequest) -> AnyResponse:
        try:
            await _admin(request)
        except (Unauthenticated, InsufficientScope) as refusal:
            if MediaType.HTML in request.headers.get("accept", ""):
                return _form(refusal)
            raise
        return Response(page, media_type=MediaType.HTML, headers=page_headers)

    @get("/static/{name:str}")
    async def asset(request: AnyRequest, name: _Text) -> AnyResponse:
        await _admin(request)
        if name not in board.assets:
            raise NotFound("asset")
        kind, content = board.assets[name]
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type=kind, headers=headers)

    @get("/api/queues")
    async def queues(request: AnyRequest) -> AnyResponse:
        await _admin(request)
        return json_response(await board.queues(), headers=_NOT_KEPT)

    @get("/api/queues/{queue:str}")
    async def one(request: AnyRequest, queue: _Text) -> AnyResponse:
        await _admin(request)
        return json_response(await board.queue(queue), headers=_NOT_KEPT)

    @get("/api/queues/{queue:str}/jobs/{job:str}")
    async def job_(request: AnyRequest, queue: _Text, job: _Text) -> AnyResponse:
        await _admin(request)
        return json_response(await board.job(queue, job), headers=_NOT_KEPT)

    @post("/api/queues/{queue:str}/jobs/{job:str}/retry", status_code=200)
    async def retry(request: AnyRequest, queue: _Text, job: _Text) -> AnyResponse:
        await _admin(request)
        await board.retry(queue, job)
        return json_response({}, headers=_NOT_KEPT)

    @post("/api/queues/{queue:str}/jobs/{job:str}/abort", status_code=200)
    async def abort(request: AnyRequest, queue: _Text, job: _Text) -> AnyResponse:
        await _admin(request)
        await board.abort(queue, job)
        return json_response({}, headers=_NOT_KEPT)

    @post("/sign-in", status_code=200)
    async def sign_in(request: AnyRequest) -> AnyResponse:
        door = _door_of(request)
        await door.count_anonymous(request)
        fields = parse_qs((await read_body(request)).decode("latin-1"))
        token = "".join(fields.get("token", ())).strip()
        try:
            if not _TOKEN.fullmatch(token) or not _from_our_page(request):
                raise AuthenticationRequired
            await _require_admin(request, door, ShownToken(token, bound=False))
        except (Unauthenticated, InsufficientScope) as refusal:
            return _form(refusal)
        secure = "; Secure" if request.scope["scheme"] == "https" else ""
        cookie = f"{COOKIE}={token}; Path={ROOT}; HttpOnly; SameSite=Strict{secure}"
        headers = _NOT_KEPT | {"Location": f"{ROOT}/", "Set-Cookie": cookie}
        return Response(None, status_code=303, headers=headers)

    @get("/sign-out")
    async def sign_out(request: AnyRequest) -> AnyResponse:
        door, location = _door_of(request), f"{ROOT}/"
        headers = dict(_NOT_KEPT)
        if _from_our_page(request):
            headers["Set-Cookie"] = f"{COOKIE}=; Path={ROOT}; Max-Age=0; HttpOnly; SameSite=Strict"
            if await door.identity.sessions.current(session_cookie(request, door)) is not None:
                location = path_of(door, "logout")  # which asks first: it is for all apps
        return Response(None, status_code=303, headers=headers | {"Location": location})

    handlers = [show, asset, queues, one, job_, retry, abort, sign_in, sign_out]
    return Router(ROOT, route_handlers=handlers)


_Text = Annotated[str, Parameter()]


def _door_of(request: AnyRequest) -> Door:
    door = request.app.state["door"]
    assert isinstance(door, Door)
    return door


async def _admin(request: AnyRequest) -> None:
    """Nothing, when it is an administrator who asks.

    Raises: Unauthenticated, InsufficientScope, RateLimited.
    """
    door, shown = _door_of(request), access_token(request)
    if shown is None and _from_our_page(request):
        here = await door.identity.sessions.current(session_cookie(request, door))
        if here is not None and here.user.role is Role.ADMIN:
            principal = f"user:{here.user.id}"
            await count_request(request, door, principal, door.options.rate_limit)
            return
        if kept := cookie_of(request, COOKIE):
            shown = ShownToken(kept, bound=False)
        elif here is not None:
            await door.count_anonymous(request)
            raise InsufficientScope(Scope.USERS_MANAGE)
    if shown is None:
        await door.count_anonymous(request)
        raise AuthenticationRequired
    try:
        caller = await _require_admin(request, door, shown)
    except Unauthenticated:
        await door.count_refused(request)
        raise
    await count_request(request, door, caller.principal, door.options.rate_limit)


async def _require_admin(request: AnyRequest, door: Door, shown: ShownToken) -> Caller:
    caller = await door.identity.logins.authenticate(
        shown.token,
        key_thumbprint=await key_thumbprint(request, door, shown),
        request_id=request_id_var.get(),
    )
    # Both: a token of an administrator may be good for less, and a machine has no role.
    caller.require(Scope.USERS_MANAGE)
    if caller.role is not Role.ADMIN:
        raise InsufficientScope(Scope.USERS_MANAGE)
    return caller


def _from_our_page(request: AnyRequest) -> bool:
    """Whether a browser says that no other site has made it send this.

    Source: https://www.w3.org/TR/fetch-metadata/; older browsers send `Origin` with each POST.
    """
    headers = request.headers
    site = headers.get("sec-fetch-site")
    if request.method in _SAFE:
        return site in (None, "none", "same-origin")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(headers.get("origin", ""))
    return (origin.scheme, origin.netloc) == (request.scope["scheme"], headers.get("host"))


def _form(refusal: SavannahError) -> AnyResponse:
    """Where a browser is asked for a token."""
    status = problems.status_of(refusal)
    said = "" if isinstance(refusal, AuthenticationRequired) else f"<p>{escape(refusal.detail)}</p>"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Queues</title><style>{_STYLE}</style></head><body><h1>Queues</h1>{said}"
        f'<form method="post" action="{ROOT}/sign-in"><label>Access token of an administrator'
        '<input type="password" name="token" autocomplete="off" required autofocus></label>'
        "<button>Show the queues</button></form></body></html>"
    )
    headers = _PAGE | {"Content-Security-Policy": _FORM_CSP}
    return Response(page, status_code=status, media_type=MediaType.HTML, headers=headers)
