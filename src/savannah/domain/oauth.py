"""OAuth 2 and OpenID Connect: how a request is read, and what is kept while it is under way.

Nothing here talks to anybody. Sources: RFC 6749 and RFC 9700 for requests and errors, RFC 7636 for
PKCE, RFC 8252 for loopback addresses, OpenID Connect Core 1.0 section 3.1 for the parameters.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from savannah.domain import text
from savannah.domain.access import OFFLINE, Role, expand, scopes_of
from savannah.domain.clients import AuthMethod, Client, ClientType, GrantType, redirect_uri
from savannah.domain.errors import Problems, Refused
from savannah.domain.identity import GrantId, UserId

# The identifier of our API as a resource is this path under the issuer (RFC 8707).
API_PATH: Final = "/api/"
REQUEST_URI_PREFIX: Final = "urn:ietf:params:oauth:request_uri:"

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_LOOPBACK: Final = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\]))(?::[0-9]{1,5})?((?:[/?].*)?)")
_AGE: Final = re.compile(r"[0-9]{1,9}")


class OAuthError(Exception):
    """A refusal in the words of the protocol.

    `description` is for the developer of the client and never repeats what came (RFC 6749
    section 5.2 limits its characters).
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class UnsafeRequest(OAuthError):
    """An authorization request whose sender cannot be answered by redirect: a page says why."""


# --- what is stored ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationCode:
    """A code under way, known by its SHA-256 digest; what it is for stands in its grant."""

    digest: str
    grant_id: GrantId
    client_id: str
    redirect_uri: str
    code_challenge: str | None
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None = None

    def fits(self, verifier: str | None) -> bool:
        """Whether this is the verifier of the code; one that was never announced is refused too.

        Source: RFC 7636 section 4.6, RFC 9700 section 2.1.1 (downgrade).
        """
        if self.code_challenge is None or verifier is None:
            return self.code_challenge is None and verifier is None
        return hmac.compare_digest(s256(verifier), self.code_challenge)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """Somebody who is logged in here with a browser; `digest` is that of the cookie's value.

    `id` is the `sid` of ID tokens: it stays when the same person logs in again.
    """

    id: UUID
    digest: str
    user_id: UserId
    auth_time: datetime
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        return self.ended_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What somebody has allowed an app, once and for all."""

    user_id: UserId
    client_id: str
    scopes: frozenset[str]
    given_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRequest:
    """The parameters of an authorization request, sent ahead by its client (RFC 9126)."""

    digest: str
    client_id: str
    parameters: tuple[tuple[str, str], ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutNotice:
    """One message to one app: this session is over (OpenID Connect Back-Channel Logout 1.0)."""

    id: UUID
    client_id: str
    uri: str
    user_id: UserId
    session_id: UUID
    created_at: datetime
    due_at: datetime
    attempts: int = 0


# --- what clients register -----------------------------------------------------------------------

_KEYS_MOST: Final = 10
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def registered(client: Client, changes: Mapping[str, object]) -> Client:
    """The client with other metadata; what is not named stays as it is.

    Raises:
        Invalid: with every broken or unknown field.
    """
    problems = Problems()
    new: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in _METADATA_RULES:
            problems.add_unknown(name)
            continue
        if value is None and name not in _NULLABLE:
            problems.add(name, "null_not_allowed", "This cannot be null")
            continue
        rule = partial(_METADATA_RULES[name], value)
        new[name] = problems.check(name, rule, default=getattr(client.metadata, name))
    after = replace(client.metadata, **new)
    method, public = after.token_endpoint_auth_method, client.client_type is ClientType.PUBLIC
    if method is not None and (method is AuthMethod.NONE) is not public:
        problems.add(
            "token_endpoint_auth_method", "invalid_choice", "This does not suit the client's type"
        )
    if method is AuthMethod.PRIVATE_KEY_JWT and after.jwks is None:
        problems.add("jwks", "required", "The client's public keys are needed for that")
    problems.raise_if_any()
    return replace(client, metadata=after)


def _auth_method(value: object) -> AuthMethod | None:
    return None if value is None else text.choice(value, AuthMethod)


def _public_keys(value: object) -> Mapping[str, Any] | None:
    if value is None:
        return None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise Refused("wrong_type", "This must be a JSON Web Key Set")
    if len(keys) > _KEYS_MOST:
        raise Refused("too_long", f"At most {_KEYS_MOST} keys are allowed")
    if any(_PRIVATE_MEMBERS & set(key) for key in keys):
        raise Refused("invalid_format", "Private and secret keys stay with the client")
    return {"keys": keys}


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise Refused("wrong_type", "This must be a list")
    return tuple(redirect_uri(each) for each in value)


def _web_address(value: object) -> str | None:
    if value is None:
        return None
    address = redirect_uri(value)
    if not address.startswith(("https://", "http://")):
        raise Refused("invalid_redirect_uri", "Use https, or http to this machine")
    return address


_METADATA_RULES: Final[Mapping[str, Callable[[object], Any]]] = {
    "token_endpoint_auth_method": _auth_method,
    "jwks": _public_keys,
    "post_logout_redirect_uris": _addresses,
    "backchannel_logout_uri": _web_address,
    "require_pkce": text.flag,
    "skip_consent": text.flag,
    "resource_server": text.flag,
}
_NULLABLE: Final = frozenset({"token_endpoint_auth_method", "jwks", "backchannel_logout_uri"})


# --- parameters ----------------------------------------------------------------------------------


class Parameters:
    """The parameters of one request: an empty one counts as absent (RFC 6749 section 3.1)."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs: tuple[tuple[str, str], ...] = tuple(pairs)
        self._values: dict[str, list[str]] = {}
        for name, value in self.pairs:
            self._values.setdefault(name, []).append(value)

    @property
    def length(self) -> int:
        """In characters, without what encoding adds."""
        return sum(len(name) + len(value) for name, value in self.pairs)

    def one(self, name: str) -> str | None:
        """Raises: OAuthError, `invalid_request`, for one that came more than once."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise OAuthError("invalid_request", "A parameter came more than once")
        return values[0] or None if values else None

    def required(self, name: str) -> str:
        """Raises: OAuthError, `invalid_request`."""
        value = self.one(name)
        if value is None:
            raise OAuthError("invalid_request", f"The parameter {name} is missing")
        return value

    def many(self, name: str) -> tuple[str, ...]:
        return tuple(value for value in self._values.get(name, []) if value)

    def require_single(self, *, but: Sequence[str] = ()) -> None:
        """Raises: OAuthError, when any parameter save `but` came more than once."""
        for name in self._values:
            if name not in but:
                self.one(name)


# --- authorization requests ----------------------------------------------------------------------


class ResponseMode(StrEnum):
    QUERY = "query"
    FORM_POST = "form_post"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnAddress:
    """Where the answer to an authorization request goes, in which form and with which state."""

    redirect_uri: str
    mode: ResponseMode
    state: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """A sound authorization request; `max_age` counts seconds."""

    address: ReturnAddress
    scope: tuple[str, ...]
    nonce: str | None
    code_challenge: str | None
    prompts: frozenset[str]
    max_age: int | None
    id_token_hint: str | None
    login_hint: str | None
    resources: tuple[str, ...]


def return_address(parameters: Parameters, client: Client) -> ReturnAddress:
    """Where answers go: an address the client has registered, character for character.

    Raises: UnsafeRequest. Nobody is sent anywhere before this has succeeded.
    """
    try:
        asked = parameters.required("redirect_uri")
    except OAuthError as error:
        raise UnsafeRequest(error.error, error.description) from None
    if not any(_same_address(kept, asked, client) for kept in client.redirect_uris):
        raise UnsafeRequest("invalid_request", "The redirect_uri is not registered for the client")
    modes = parameters.many("response_mode")
    states = parameters.many("state")
    return ReturnAddress(
        redirect_uri=asked,
        mode=ResponseMode.FORM_POST if modes == ("form_post",) else ResponseMode.QUERY,
        state=states[0] if len(states) == 1 else None,
    )


def _same_address(kept: str, asked: str, client: Client) -> bool:
    if kept == asked:
        return True
    # RFC 8252 section 7.3: an app on this machine takes any port that is free.
    ours, theirs = _LOOPBACK.fullmatch(kept), _LOOPBACK.fullmatch(asked)
    if client.client_type is not ClientType.PUBLIC or ours is None or theirs is None:
        return False
    return ours.groups() == theirs.groups()


def authorization_request(
    parameters: Parameters, client: Client, address: ReturnAddress, *, resources: Sequence[str]
) -> AuthorizationRequest:
    """The rest of a request whose client and return address are known.

    Args:
        resources: the identifiers of the APIs tokens can be for (RFC 8707).

    Raises:
        OAuthError: to be told to the client by redirect.
    """
    parameters.require_single(but=("resource",))
    for name in ("request", "registration"):
        if parameters.one(name) is not None:
            raise OAuthError(f"{name}_not_supported", f"The parameter {name} is not supported")
    if parameters.one("request_uri") is not None:
        raise OAuthError("request_uri_not_supported", "Only requests pushed to us have a URI here")
    kind = parameters.required("response_type")
    if kind != "code":
        raise OAuthError("unsupported_response_type", "Only the response type code is supported")
    if GrantType.AUTHORIZATION_CODE not in client.grant_types:
        raise OAuthError("unauthorized_client", "The client may not use this grant")
    if (parameters.one("response_mode") or "query") not in tuple(ResponseMode):
        raise OAuthError("invalid_request", "The response mode is query or form_post")
    prompts = frozenset((parameters.one("prompt") or "").split())
    if not prompts <= {"none", "login", "consent", "select_account"}:
        raise OAuthError("invalid_request", "The prompt is not one of those supported")
    if "none" in prompts and len(prompts) > 1:
        raise OAuthError("invalid_request", "The prompt none stands alone")
    max_age = parameters.one("max_age")
    if max_age is not None and not _AGE.fullmatch(max_age):
        raise OAuthError("invalid_request", "The max_age is a whole number of seconds")
    return AuthorizationRequest(
        address=address,
        scope=tuple((parameters.one("scope") or "").split(" ")),
        nonce=parameters.one("nonce"),
        code_challenge=_challenge(parameters, client),
        prompts=prompts,
        max_age=None if max_age is None else int(max_age),
        id_token_hint=parameters.one("id_token_hint"),
        login_hint=parameters.one("login_hint"),
        resources=known_resources(parameters, resources),
    )


def _challenge(parameters: Parameters, client: Client) -> str | None:
    challenge, method = parameters.one("code_challenge"), parameters.one("code_challenge_method")
    if challenge is None:
        if method is not None:
            raise OAuthError("invalid_request", "The code_challenge is missing")
        if client.client_type is ClientType.PUBLIC or client.metadata.require_pkce:
            raise OAuthError("invalid_request", "This client has to use PKCE")
        return None
    if method != "S256":
        raise OAuthError("invalid_request", "The code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "The code_challenge is malformed")
    return challenge


def code_verifier(parameters: Parameters) -> str | None:
    """Raises: OAuthError, `invalid_grant`, for one that nobody can have announced."""
    verifier = parameters.one("code_verifier")
    if verifier is not None and not _CHALLENGE.fullmatch(verifier):
        raise OAuthError("invalid_grant", "The code_verifier is malformed")
    return verifier


def s256(verifier: str) -> str:
    """The challenge of a verifier (RFC 7636 section 4.2)."""
    hashed = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


def known_resources(parameters: Parameters, known: Sequence[str]) -> tuple[str, ...]:
    """The APIs a token is asked for. Raises: OAuthError, `invalid_target` (RFC 8707)."""
    asked = tuple(dict.fromkeys(parameters.many("resource")))
    if not set(asked) <= set(known):
        raise OAuthError("invalid_target", "The resource is not one of ours")
    return asked


def granted_scopes(words: Iterable[str], client: Client, role: Role | None) -> frozenset[str]:
    """What of the scopes asked for is granted; without any, all that may be, save offline access.

    Args:
        role: of the person the token is for; None for a machine client.

    Raises:
        OAuthError: `invalid_scope`, when nothing is left.
    """
    asked = [word for word in words if word]
    allowed = client.scopes if role is None else client.scopes & scopes_of(role)
    granted = expand(asked) & allowed if asked else allowed
    if not granted:
        raise OAuthError("invalid_scope", "Nothing of the scope can be granted")
    may_stay = role is not None and GrantType.REFRESH_TOKEN in client.grant_types
    return granted | {OFFLINE} if may_stay and OFFLINE in asked else granted


def narrowed_scopes(words: str | None, ceiling: frozenset[str]) -> frozenset[str]:
    """The scopes of a refreshed token (RFC 6749 section 6). Raises: OAuthError, `invalid_scope`."""
    asked = [word for word in (words or "").split(" ") if word]
    if not asked:
        return ceiling
    wanted = expand(asked) | ({OFFLINE} & set(asked))
    if not wanted or not wanted <= ceiling:
        raise OAuthError("invalid_scope", "The scope is wider than what was granted")
    return wanted


def answer_parameters(
    address: ReturnAddress, issuer: str, answer: Mapping[str, str]
) -> dict[str, str]:
    """What goes back to the client's address, with `state` as it came and `iss` (RFC 9207)."""
    state = {} if address.state is None else {"state": address.state}
    return {**answer, **state, "iss": issuer}


def origin_of(uri: str) -> str:
    """The origin of a redirect URI as a content security policy names it."""
    parts = urlsplit(uri)
    # Only the rule for web addresses keeps out signs that mean something in a policy.
    web = parts.scheme in ("http", "https")
    return f"{parts.scheme}://{parts.netloc}" if web else f"{parts.scheme}:"
