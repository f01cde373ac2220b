"""The endpoints that OAuth clients call: metadata, keys, tokens, userinfo; in the protocol's words.

Their refusals are those of RFC 6749 and RFC 6750, never problem documents. Nothing of a body is
ever logged. Each has, besides its path, the one it had in the service before this one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from litestar import Response, route
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.handlers import HTTPRouteHandler
from litestar.types import AnyCallable, Method

from savannah.adapters.proofs import ASSERTION_ALGORITHMS, KEY_PROOF_ALGORITHMS
from savannah.application.trace import request_id_var
from savannah.domain.access import IDENTITY_SCOPES, OFFLINE, Scope
from savannah.domain.clients import AuthMethod, Client, ClientType, GrantType
from savannah.domain.errors import (
    AccountDisabled,
    AuthenticationRequired,
    InsufficientScope,
    SavannahError,
    Unauthenticated,
)
from savannah.domain.oauth import API_PATH, OAuthError, Parameters, ResponseMode
from savannah.entrypoints.http import problems
from savannah.entrypoints.http.door import (
    AnyResponse,
    Door,
    ShownToken,
    TheDoor,
    access_token,
    address_of,
    count_request,
    key_thumbprint,
    proved_key,
)
from savannah.entrypoints.http.forms import read_form, read_query
from savannah.entrypoints.http.operations import given_by_name
from savannah.entrypoints.http.problems import DoorError, challenge, with_head
from savannah.entrypoints.http.requests import AnyRequest

log = logging.getLogger("savannah.oauth")

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_CACHED: Final = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}
_BASIC: Final = {"WWW-Authenticate": 'Basic realm="savannah", charset="UTF-8"'}
SECRET_METHODS: Final = [
    AuthMethod.BASIC,
    AuthMethod.POST,
    AuthMethod.PRIVATE_KEY_JWT,
]
_CLAIMS: Final = (
    *("sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid"),
    *("name", "given_name", "family_name", "preferred_username", "email", "email_verified"),
)


# --- answers -------------------------------------------------------------------------------------


def protocol_json(
    body: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/json",
        headers={**NO_STORE, **(headers or {})},
    )


def _said(error: str, description: str | None = None) -> dict[str, object]:
    return (
        {"error": error}
        if description is None
        else {
            "error": error,
            "error_description": description,
        }
    )


def refuse(request: AnyRequest, error: OAuthError) -> Response[bytes]:
    """A refusal as RFC 6749 section 5.2 has it."""
    status, headers = 400, {}
    if error.error == "invalid_client":
        status = 401
        headers = dict(_BASIC) if request.headers.get("authorization") else {}
    return protocol_json(_said(error.error, error.description), status=status, headers=headers)


def refuse_core(request: AnyRequest, error: SavannahError) -> Response[bytes]:
    """A refusal of the core: about a bearer token (RFC 6750 section 3), or about the moment."""
    if isinstance(error, AuthenticationRequired):
        return protocol_json({}, status=401, headers=challenge(request))
    if isinstance(error, Unauthenticated | AccountDisabled):
        headers = challenge(request, error="invalid_token")
        return protocol_json(_said("invalid_token"), status=401, headers=headers)
    if isinstance(error, InsufficientScope):
        headers = challenge(request, error="insufficient_scope", scope=error.required_scope)
        return protocol_json(_said("insufficient_scope"), status=403, headers=headers)
    status = problems.status_of(error)
    word = "temporarily_unavailable" if status in (429, 503) else "invalid_request"
    return protocol_json(_said(word), status=status, headers=problems.headers_of(error))


def refuse_shape(request: AnyRequest, error: DoorError) -> Response[bytes]:
    """The body broke off."""
    del request
    return protocol_json(_said("invalid_request", error.detail), status=error.status)


def refuse_framework(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Wrong method, no such path, too large a body."""
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return crash(request, error)
    headers: dict[str, str] = {}
    if isinstance(error, MethodNotAllowedException):
        allowed = (error.headers or {}).get("allow", "")
        headers["Allow"] = with_head({method.strip() for method in allowed.split(",")})
    return protocol_json(_said("invalid_request"), status=error.status_code, headers=headers)


def crash(request: AnyRequest, error: Exception) -> Response[bytes]:
    """What nobody foresaw."""
    del request
    log.error("a request failed", exc_info=error)
    return protocol_json(_said("server_error"), status=500)


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


# --- metadata ------------------------------------------------------------------------------------


def metadata(issuer: str) -> dict[str, object]:
    """What this provider can do, every field stated: what is left out would mean something else.

    Source: OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2.
    """
    base = f"{issuer}/oauth"
    methods = [method.value for method in SECRET_METHODS]
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{base}/authorize",
        "token_endpoint": f"{base}/token",
        "userinfo_endpoint": f"{base}/userinfo",
        "jwks_uri": f"{base}/jwks",
        "revocation_endpoint": f"{base}/revoke",
        "introspection_endpoint": f"{base}/introspect",
        "pushed_authorization_request_endpoint": f"{base}/par",
        "end_session_endpoint": f"{base}/logout",
        "scopes_supported": [*IDENTITY_SCOPES, OFFLINE, *Scope],
        "response_types_supported": ["code"],
        "response_modes_supported": [*ResponseMode],
        "grant_types_supported": [*GrantType],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": [*methods, "none"],
        "token_endpoint_auth_signing_alg_values_supported": [*ASSERTION_ALGORITHMS],
        "revocation_endpoint_auth_methods_supported": [*methods, "none"],
        "revocation_endpoint_auth_signing_alg_values_supported": [*ASSERTION_ALGORITHMS],
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": [*ASSERTION_ALGORITHMS],
        "code_challenge_methods_supported": ["S256"],
        "dpop_signing_alg_values_supported": [*KEY_PROOF_ALGORITHMS],
        "claim_types_supported": ["normal"],
        "claims_supported": _CLAIMS,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "require_request_uri_registration": False,
        "require_pushed_authorization_requests": False,
        "authorization_response_iss_parameter_supported": True,
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "display_values_supported": ["page", "popup"],
        "ui_locales_supported": ["en", "sw"],
        "frontchannel_logout_supported": False,
        "frontchannel_logout_session_supported": False,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "protected_resources": [issuer + API_PATH],
        "service_documentation": f"{issuer}/docs",
    }


@endpoint(
    "GET",
    paths=[
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/{path:path}",
        "/o/.well-known/openid-configuration",
    ],
)
async def get_metadata(request: AnyRequest, door: TheDoor) -> AnyResponse:
    # RFC 8414 section 3.1: an issuer with a path has it after the well-known part.
    named = str(request.path_params.get("path", "")).rstrip("/")
    if named and named != urlsplit(door.options.issuer).path:
        return protocol_json(_said("invalid_request"), status=404)
    return protocol_json(metadata(door.options.issuer), headers=_CACHED)


@endpoint(
    "GET",
    paths=[
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/{path:path}",
    ],
)
async def get_resource_metadata(request: AnyRequest, door: TheDoor) -> AnyResponse:
    """What our API is and who makes tokens for it (RFC 9728)."""
    resource = door.options.issuer + API_PATH
    named = str(request.path_params.get("path", "")).rstrip("/")
    if named and named != urlsplit(resource).path.rstrip("/"):
        return protocol_json(_said("invalid_request"), status=404)
    return protocol_json(
        {
            "resource": resource,
            "authorization_servers": [door.options.issuer],
            "scopes_supported": [*Scope],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": [*KEY_PROOF_ALGORITHMS],
            "dpop_bound_access_tokens_required": False,
            "resource_name": "Savannah",
            "resource_documentation": f"{door.options.issuer}/docs",
        },
        headers=_CACHED,
    )


@endpoint("GET", paths=["/oauth/jwks", "/o/.well-known/jwks.json"])
async def get_keys(door: TheDoor) -> AnyResponse:
    keys = await door.identity.tokens.public_keys()
    return protocol_json({"keys": keys}, headers=_CACHED)


# --- clients -------------------------------------------------------------------------------------


async def the_client(request: AnyRequest, door: Door, parameters: Parameters) -> Client:
    """Which client calls; wrong secrets are counted by address.

    Raises: OAuthError, RateLimited.
    """
    key, rate = f"http:clients:{address_of(request)}", door.options.rate_limit_auth
    if rate is not None:
        door.require_left(await door.limiter.peek(key, rate))
    try:
        return await door.identity.clients.client(
            parameters,
            authorization=request.headers.get("authorization"),
            endpoints=[f"{door.options.issuer}/oauth/{name}" for name in _ENDPOINTS],
            address=address_of(request),
            request_id=request_id_var.get(),
        )
    except OAuthError as error:
        if rate is not None and error.error == "invalid_client":
            await door.limiter.hit(key, rate)
        raise


_ENDPOINTS: Final = ("token", "introspect", "revoke", "par")


def _require_confidential(client: Client) -> None:
    """Raises: OAuthError, since anybody can say the name of a public client."""
    if client.client_type is ClientType.PUBLIC:
        raise OAuthError("invalid_client", "This takes a client that can show who it is")


@endpoint("POST", paths=["/oauth/token", "/o/token"])
async def issue_tokens(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form = await read_form(request)
    form.require_single(but=("resource",))
    client = await the_client(request, door, form)
    await _count(request, door, form, client)
    issued = await door.identity.issuance.issue(
        form,
        client,
        key_thumbprint=await proved_key(request, door),
        request_id=request_id_var.get(),
    )
    body: dict[str, object] = {
        "access_token": issued.access_token,
        "token_type": issued.token_type,
        "expires_in": issued.expires_in,
        "scope": issued.scope,
    }
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    if issued.id_token is not None:
        body["id_token"] = issued.id_token
    return protocol_json(body)


async def _count(request: AnyRequest, door: Door, form: Parameters, client: Client) -> None:
    """Count what anybody can send, and what leaves something in storage whatever comes of it.

    Anybody can say the name of a public client, so its address counts. The people of another app
    do not share one limit: of its calls only proofs and logins of its own count.

    Raises: RateLimited.
    """
    if client.client_type is ClientType.PUBLIC:
        key = f"tokens:{address_of(request)}"
    elif "dpop" in request.headers or form.one("grant_type") == GrantType.CLIENT_CREDENTIALS:
        key = f"client:{client.client_id}"
    else:
        return
    await count_request(request, door, key, door.options.rate_limit)


@endpoint("POST", paths=["/oauth/introspect", "/o/introspect"])
async def introspect(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form = await read_form(request)
    form.require_single()
    client = await the_client(request, door, form)
    _require_confidential(client)
    return protocol_json(await door.identity.issuance.introspect(form.required("token"), client))


@endpoint("POST", paths=["/oauth/revoke", "/o/revoke_token"])
async def revoke(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form = await read_form(request)
    form.require_single()
    client = await the_client(request, door, form)
    await _count(request, door, form, client)
    await door.identity.issuance.revoke(
        form.required("token"), client, request_id=request_id_var.get()
    )
    return protocol_json({})


@endpoint("POST", paths=["/oauth/par"])
async def push(request: AnyRequest, door: TheDoor) -> AnyResponse:
    form = await read_form(request)
    client = await the_client(request, door, form)
    if client.client_type is ClientType.PUBLIC:
        await door.count_anonymous(request)
    else:
        key = f"pushed:{client.client_id}"
        await count_request(request, door, key, door.options.rate_limit)
    request_uri, seconds = await door.identity.authorization.push(form, client=client)
    return protocol_json({"request_uri": request_uri, "expires_in": seconds}, status=201)


# --- userinfo ------------------------------------------------------------------------------------


@endpoint("GET", "POST", paths=["/oauth/userinfo", "/o/userinfo"])
async def userinfo(request: AnyRequest, door: TheDoor) -> AnyResponse:
    shown = await _shown_token(request)
    try:
        thumbprint = await key_thumbprint(request, door, shown)
        claims = await door.identity.issuance.user_claims(shown.token, key_thumbprint=thumbprint)
    except Unauthenticated:
        await door.count_refused(request)
        raise
    await count_request(request, door, f"user:{claims['sub']}", door.options.rate_limit)
    return protocol_json(claims)


async def _shown_token(request: AnyRequest) -> ShownToken:
    """The access token in the header or, for POST, in the form body (RFC 6750 section 2).

    Raises: AuthenticationRequired, InvalidToken, OAuthError.
    """
    if "access_token" in dict(read_query(request).pairs):
        raise OAuthError("invalid_request", "A token does not belong into an address")
    shown = access_token(request)
    found = [] if shown is None else [shown]
    if request.method == "POST" and request.headers.get("content-type", "").startswith(
        "application/x-www-form-urlencoded"
    ):
        form = await read_form(request)
        if (inside := form.one("access_token")) is not None:
            found.append(ShownToken(inside, bound=False))
    if len(found) > 1:
        raise OAuthError("invalid_request", "Show the token in one way")
    if not found:
        raise AuthenticationRequired
    return found[0]


ROUTES: Final = [
    get_metadata,
    get_resource_metadata,
    get_keys,
    issue_tokens,
    introspect,
    revoke,
    push,
    userinfo,
]
