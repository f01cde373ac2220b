"""The endpoints that browsers visit: authorization, login, consent, logout.

What a request may get is decided by the use cases; here stand cookies, forms and redirects.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from litestar import Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import AnyCallable, Method

from savannah.application.authorization import PARAMETERS_MOST, Answer, AskLogin, Outcome
from savannah.application.trace import request_id_var
from savannah.domain.access import scope_text
from savannah.domain.errors import (
    AccountDisabled,
    InvalidCredentials,
    SavannahError,
    Throttled,
    TooManyAttempts,
)
from savannah.domain.oauth import (
    OAuthError,
    Parameters,
    ResponseMode,
    UnsafeRequest,
    origin_of,
)
from savannah.entrypoints.http import oauth, pages, problems
from savannah.entrypoints.http.door import (
    AnyResponse,
    Door,
    TheDoor,
    address_of,
    count_request,
)
from savannah.entrypoints.http.forms import read_form, read_query
from savannah.entrypoints.http.operations import given_by_name
from savannah.entrypoints.http.pages import Language
from savannah.entrypoints.http.problems import DoorError
from savannah.entrypoints.http.requests import AnyRequest, cookie_of

log = logging.getLogger("savannah.oauth")

_SYMBOLS_MOST: Final = 128


# --- answers -------------------------------------------------------------------------------------


def _html(
    body: str, *, status: int = 200, policy: str, headers: Mapping[str, str] | None = None
) -> Response[str]:
    return Response(
        body,
        status_code=status,
        media_type="text/html",
        headers={**oauth.NO_STORE, "Content-Security-Policy": policy, **(headers or {})},
    )


def _see_other(location: str) -> Response[None]:
    """Go on with GET, whatever this request was (RFC 9700 section 4.12)."""
    return Response(None, status_code=303, headers={**oauth.NO_STORE, "Location": location})


def _language(request: AnyRequest, ui_locales: str | None = None) -> Language:
    return pages.choose_language(ui_locales, request.headers.get("accept-language", ""))


def refuse(request: AnyRequest, error: OAuthError) -> Response[str]:
    """A page that says why, since the sender of the request cannot be trusted."""
    page = pages.refusal_page(_language(request), error=error.error, description=error.description)
    return _html(page, status=400, policy=pages.policy())


def refuse_core(request: AnyRequest, error: SavannahError) -> Response[str]:
    key = "locked" if isinstance(error, Throttled) else "later"
    page = pages.trouble_page(_language(request), key=key)
    return _html(
        page,
        status=problems.status_of(error),
        policy=pages.policy(),
        headers=problems.headers_of(error),
    )


def refuse_shape(request: AnyRequest, error: DoorError) -> Response[str]:
    page = pages.trouble_page(_language(request))
    return _html(page, status=error.status, policy=pages.policy())


def refuse_framework(request: AnyRequest, error: HTTPException) -> Response[str]:
    if error.status_code >= 500:
        return crash(request, error)
    page = pages.trouble_page(_language(request))
    return _html(page, status=error.status_code, policy=pages.policy())


def crash(request: AnyRequest, error: Exception) -> Response[str]:
    log.error("a request failed", exc_info=error)
    return _html(pages.trouble_page(_language(request)), status=500, policy=pages.policy())


REFUSALS: Final[dict[Any, Any]] = {
    OAuthError: refuse,
    SavannahError: refuse_core,
    DoorError: refuse_shape,
    HTTPException: refuse_framework,
    Exception: crash,
}


def endpoint(*methods: Method, paths: list[str]) -> Callable[[AnyCallable], HTTPRouteHandler]:
    """A handler of this file."""

    def decorate(function: AnyCallable) -> HTTPRouteHandler:
        return route(paths, http_method=[*methods], status_code=200, exception_handlers=REFUSALS)(
            given_by_name(function)
        )

    return decorate


# --- the cookie ----------------------------------------------------------------------------------


def _is_secure(door: Door) -> bool:
    return door.options.issuer.startswith("https:")


def _cookie_name(door: Door) -> str:
    # A browser takes the prefix only over https, and then from this very host alone.
    return "__Host-savannah" if _is_secure(door) else "savannah"


def session_cookie(request: AnyRequest, door: Door) -> str | None:
    """What the browser holds of its session, where that can be one of ours."""
    value = cookie_of(request, _cookie_name(door))
    sound = value is not None and 0 < len(value) <= _SYMBOLS_MOST and value.isascii()
    return value if sound else None


def _set_cookie(response: Response[Any], door: Door, value: str) -> None:
    """Kept until the browser is closed; the session itself may end before."""
    response.set_cookie(
        key=_cookie_name(door),
        value=value,
        path="/",
        secure=_is_secure(door),
        httponly=True,
        samesite="lax",
    )


def _drop_cookie(response: Response[Any], door: Door) -> None:
    response.set_cookie(
        key=_cookie_name(door),
        value="",
        max_age=0,
        path="/",
        secure=_is_secure(door),
        httponly=True,
        samesite="lax",
    )


def _is_from_here(form: Parameters, cookie: str | None, door: Door) -> bool:
    """Whether a form came from a page that we gave to this very browser."""
    shown = form.one("csrf") or ""
    if cookie is None:
        return False
    known = door.identity.sessions.csrf_token(cookie)
    return hmac.compare_digest(shown.encode(), known.encode())


def path_of(door: Door, name: str) -> str:
    """Where the provider has an endpoint, as a browser asks for it."""
    return f"{urlsplit(door.options.issuer).path}/oauth/{name}"


def _anew(door: Door, name: str, form: Parameters) -> Response[None]:
    """What was posted as a request of this browser's own. Raises: UnsafeRequest."""
    if form.length > PARAMETERS_MOST:
        raise UnsafeRequest("invalid_request", "The request is too long")
    return _see_other(f"{path_of(door, name)}?{urlencode(form.pairs)}")


# --- authorization -------------------------------------------------------------------------------


def _shown(
    request: AnyRequest,
    door: Door,
    outcome: Outcome,
    *,
    language: Language,
    cookie: str | None,
    status: int = 200,
    username: str | None = None,
    problem: str | None = None,
) -> Response[Any]:
    """How an outcome looks in a browser."""
    if isinstance(outcome, Answer):
        return _answered(outcome, language)
    del request
    value = cookie or door.identity.sessions.new_cookie()
    hidden = {
        "ticket": outcome.ticket,
        "csrf": door.identity.sessions.csrf_token(value),
        "lang": language,
    }
    origin = origin_of(outcome.address.redirect_uri)
    policy = pages.policy(form_action=f"'self' {origin}")
    if isinstance(outcome, AskLogin):
        page = pages.login_page(
            language,
            action=path_of(door, "login"),
            hidden=hidden,
            app=outcome.client.name,
            username=(outcome.login_hint or "")[:320] if username is None else username,
            problem=problem,
        )
    else:
        page = pages.consent_page(
            language,
            action=path_of(door, "consent"),
            hidden=hidden,
            app=outcome.client.name,
            user=outcome.user.username,
            scopes=scope_text(outcome.scopes).split(),
            host=urlsplit(origin).netloc or origin,
        )
    shown = _html(page, status=status, policy=policy)
    if cookie is None:
        _set_cookie(shown, door, value)
    return shown


def _answered(answer: Answer, language: Language) -> Response[Any]:
    uri = answer.address.redirect_uri
    if answer.address.mode is ResponseMode.FORM_POST:
        nonce = secrets.token_urlsafe(16)
        page = pages.form_post_page(language, action=uri, fields=answer.parameters, nonce=nonce)
        return _html(page, policy=pages.policy(form_action=origin_of(uri), script_nonce=nonce))
    joint = "&" if "?" in uri else "?"
    return _see_other(f"{uri}{joint}{urlencode(answer.parameters)}")


async def _count(request: AnyRequest, door: Door) -> None:
    """Count a step that may leave a grant; an address stands for whoever sits there.

    Raises: RateLimited.
    """
    key = f"browser:{address_of(request)}"
    await count_request(request, door, key, door.options.rate_limit)


@endpoint("GET", "POST", paths=["/oauth/authorize", "/o/authorize"])
async def authorize(request: AnyRequest, door: TheDoor) -> AnyResponse:
    if request.method == "POST":
        # A form of another site brings no cookie of ours; the browser's own next step does.
        form = await read_form(request)
        return _anew(door, "authorize", form)
    await _count(request, door)
    query = read_query(request)
    cookie = session_cookie(request, door)
    outcome = await door.identity.authorization.begin(query, cookie=cookie)
    locales = query.many("ui_locales")
    language = _language(request, locales[0] if locales else None)
    return _shown(request, door, outcome, language=language, cookie=cookie)


def _typed_language(form: Parameters, request: AnyRequest) -> Language:
    return _language(request, form.one("lang"))


@endpoint("POST", paths=["/oauth/login"])
async def log_in(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form = await read_form(request)
    form.require_single()
    await door.count_anonymous(request)
    ticket, cookie = form.one("ticket") or "", session_cookie(request, door)
    language = _typed_language(form, request)
    username, password = form.one("username") or "", form.one("password") or ""

    async def once_more(status: int, problem: str) -> Response[Any]:
        asked = await door.identity.authorization.asked_for(ticket)
        return _shown(
            request,
            door,
            asked,
            language=language,
            cookie=cookie,
            status=status,
            username=username[:320],
            problem=problem,
        )

    if not _is_from_here(form, cookie, door):
        return await once_more(400, "again")
    try:
        opened, outcome = await door.identity.authorization.log_in(
            ticket,
            cookie=cookie,
            username=username,
            password=password,
            address=address_of(request),
            request_id=request_id_var.get(),
        )
    except InvalidCredentials:
        return await once_more(400, "wrong")
    except TooManyAttempts as error:
        shown = await once_more(429, "locked")
        shown.headers.update(problems.headers_of(error))
        return shown
    except AccountDisabled:
        return await once_more(403, "disabled")
    if isinstance(outcome, Answer):
        shown = _answered(outcome, language)
    else:
        asked = urlencode({"ticket": outcome.ticket, "lang": language})
        shown = _see_other(f"{path_of(door, 'continue')}?{asked}")
    _set_cookie(shown, door, opened.cookie)
    return shown


@endpoint("GET", paths=["/oauth/continue"])
async def go_on(request: AnyRequest, door: TheDoor) -> AnyResponse:
    await _count(request, door)
    query = read_query(request)
    query.require_single()
    cookie = session_cookie(request, door)
    outcome = await door.identity.authorization.resume(query.one("ticket") or "", cookie=cookie)
    language = _typed_language(query, request)
    return _shown(request, door, outcome, language=language, cookie=cookie)


@endpoint("POST", paths=["/oauth/consent"])
async def consent(request: AnyRequest, door: TheDoor) -> AnyResponse:
    await _count(request, door)
    form = await read_form(request)
    form.require_single()
    ticket, cookie = form.one("ticket") or "", session_cookie(request, door)
    language = _typed_language(form, request)
    if not _is_from_here(form, cookie, door):
        outcome = await door.identity.authorization.resume(ticket, cookie=cookie)
        if isinstance(outcome, Answer):  # it has been decided meanwhile, elsewhere
            return _answered(outcome, language)
        return _shown(request, door, outcome, language=language, cookie=cookie, status=400)
    outcome = await door.identity.authorization.decide(
        ticket,
        cookie=cookie,
        allow=form.one("decision") == "allow",
        request_id=request_id_var.get(),
    )
    return _shown(request, door, outcome, language=language, cookie=cookie)


# --- logout --------------------------------------------------------------------------------------

_LOGOUT_FIELDS: Final = frozenset(
    {"id_token_hint", "post_logout_redirect_uri", "state", "client_id", "logout_hint"}
)


@endpoint("GET", "POST", paths=["/oauth/logout", "/o/logout"])
async def log_out(request: AnyRequest, door: TheDoor) -> AnyResponse:
    if request.method == "POST":
        form = await read_form(request)
        return _anew(door, "logout", form)
    query, cookie = read_query(request), session_cookie(request, door)
    asked = await door.identity.sessions.logout_request(query, cookie=cookie)
    language = _language(request, query.one("ui_locales"))
    if not asked.confirm:
        return await _log_out(door, cookie, asked.return_to, asked.state, language)
    assert cookie is not None
    hidden = [
        *(pair for pair in query.pairs if pair[0] in _LOGOUT_FIELDS),
        ("csrf", door.identity.sessions.csrf_token(cookie)),
        ("lang", language),
    ]
    page = pages.logout_page(language, action=path_of(door, "logout/confirm"), hidden=hidden)
    origin = "" if asked.return_to is None else f" {origin_of(asked.return_to)}"
    return _html(page, policy=pages.policy(form_action=f"'self'{origin}"))


@endpoint("POST", paths=["/oauth/logout/confirm"])
async def confirm_log_out(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form, cookie = await read_form(request), session_cookie(request, door)
    asked = await door.identity.sessions.logout_request(form, cookie=cookie)
    language = _typed_language(form, request)
    if not _is_from_here(form, cookie, door):
        kept = urlencode([pair for pair in form.pairs if pair[0] in _LOGOUT_FIELDS])
        return _see_other(f"{path_of(door, 'logout')}?{kept}")
    return await _log_out(door, cookie, asked.return_to, asked.state, language)


async def _log_out(
    door: Door, cookie: str | None, return_to: str | None, state: str | None, language: Language
) -> Response[Any]:
    await door.identity.sessions.end(cookie, request_id=request_id_var.get())
    shown: Response[Any]
    if return_to is None:
        shown = _html(pages.logged_out_page(language), policy=pages.policy())
    else:
        joint = "&" if "?" in return_to else "?"
        query = "" if state is None else f"{joint}{urlencode({'state': state})}"
        shown = _see_other(f"{return_to}{query}")
    _drop_cookie(shown, door)
    return shown


def error_handler_for(path: str) -> Mapping[Any, Any] | None:
    """Whose words refuse a request that reached no handler; None where it is not our path."""
    if not path.startswith(("/oauth/", "/o/", "/.well-known/")):
        return None
    mine = {one for handler in ROUTES for one in handler.paths}
    return REFUSALS if path.rstrip("/") in mine else oauth.REFUSALS


ROUTES: Final[list[HTTPRouteHandler]] = [
    authorize,
    log_in,
    go_on,
    consent,
    log_out,
    confirm_log_out,
]
