"""Programs that may call: what a client is, and the rules for its fields."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from savannah.domain import text
from savannah.domain.access import IDENTITY_SCOPES, SCOPE_ALIASES, Scope, expand
from savannah.domain.errors import Invalid, LastSecret, NotFound, Problems, Refused
from savannah.domain.identity import UserId, digest

T = TypeVar("T")
APP_NAME_MAX: Final = 100
REDIRECT_URI_MAX: Final = 2000
_SECRET_ID_LENGTH: Final = 12
_PLAIN: Final = re.compile(r"[!-~]{1,255}")
_URI_SYMBOLS: Final = re.compile(r"[A-Za-z0-9._~:/?@!$&'()+,;=%\[\]-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})


class ClientType(StrEnum):
    """Whether a client can keep a secret (RFC 6749 section 2.1)."""

    CONFIDENTIAL = "confidential"
    PUBLIC = "public"


class GrantType(StrEnum):
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - the grant's name
    CLIENT_CREDENTIALS = "client_credentials"


class AuthMethod(StrEnum):
    """How a client shows who it is (OpenID Connect Core section 9)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    PRIVATE_KEY_JWT = "private_key_jwt"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMetadata:
    """What a client registered besides the usual; the names are those of RFC 7591.

    Attributes:
        token_endpoint_auth_method: the only one it may use; None takes either form of its secret.
        jwks: its public keys, for `private_key_jwt`.
        require_pkce: whether a confidential client has to use PKCE; public ones always have to.
        skip_consent: people are not asked what this client may do.
        resource_server: it may look at the tokens of other clients.
    """

    token_endpoint_auth_method: AuthMethod | None = None
    jwks: Mapping[str, Any] | None = None
    post_logout_redirect_uris: tuple[str, ...] = ()
    backchannel_logout_uri: str | None = None
    require_pkce: bool = True
    skip_consent: bool = False
    resource_server: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that asks for tokens.

    `secret_digests` are SHA-256 hex digests, newest first; two while a secret is being rotated.
    Those of an imported client may be of Django's password hashers until they are first used. A
    `first_party` client may use the password door.
    """

    id: UUID
    client_id: str
    name: str
    client_type: ClientType
    secret_digests: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    grant_types: tuple[GrantType, ...]
    scopes: frozenset[str]
    first_party: bool
    is_active: bool = True
    owner_id: UserId | None = None
    created_at: datetime
    metadata: ClientMetadata = ClientMetadata()

    def accepts_secret(self, secret: str | None) -> bool:
        """Whether a program that shows this secret is this client; public ones show none.

        Takes the same time whatever is wrong with the secret.
        """
        shown = digest(secret or "")
        fits = [hmac.compare_digest(shown, kept) for kept in self.secret_digests]
        return any(fits) if self.client_type is ClientType.CONFIDENTIAL else not secret

    @property
    def foreign_hashes(self) -> tuple[str, ...]:
        """Secrets that were imported with a slow hash, which has signs a digest has not."""
        return tuple(each for each in self.secret_digests if "$" in each)

    @property
    def secret_ids(self) -> tuple[str, ...]:
        """What the live secrets are called, newest first; nothing of a secret can be told by it."""
        return tuple(digest(each)[:_SECRET_ID_LENGTH] for each in self.secret_digests)

    def with_secret(self, secret: str) -> Self:
        """The app with a new secret beside the one before; an older one ends.

        Raises: Invalid, for a public app.
        """
        if self.client_type is ClientType.PUBLIC:
            raise Invalid.one("", "invalid_choice", "A public app has no secret")
        return replace(self, secret_digests=(digest(secret), *self.secret_digests[:1]))

    def without_secret(self, secret_id: str) -> Self:
        """The app after one of its secrets has ended. Raises: NotFound, LastSecret."""
        if secret_id not in self.secret_ids:
            raise NotFound("secret")
        if len(self.secret_digests) == 1:
            raise LastSecret
        named = zip(self.secret_ids, self.secret_digests, strict=True)
        return replace(self, secret_digests=tuple(each for id_, each in named if id_ != secret_id))

    def administered(self, changes: Mapping[str, object]) -> tuple[Self, tuple[str, ...]]:
        """The app after an administrator's changes, and the names of the fields that changed.

        Nothing changed means the same object and no names.

        Raises:
            Invalid: with every broken, unknown or read-only field.
        """
        problems = Problems()
        for name, value in changes.items():
            if name in _FIXED_APP_FIELDS:
                problems.add(name, "read_only_field", "This cannot be changed here")
            elif name not in _APP_FIELDS:
                problems.add_unknown(name)
            elif value is None:
                problems.add(name, "null_not_allowed", "This cannot be null")
        problems.raise_if_any()
        flag = partial(text.flag, changes.get("is_active", self.is_active))
        is_active = problems.check("is_active", flag, default=True)
        try:
            asked = AppRequest.parse(
                client_type=self.client_type,
                **{
                    name: changes.get(name, getattr(self, name))
                    for name in ("name", "redirect_uris", "grant_types", "scopes", "first_party")
                },
            )
        except Invalid as invalid:
            problems.extend(invalid)
            raise Invalid(problems.found) from None
        if asked.first_party and GrantType.AUTHORIZATION_CODE not in asked.grant_types:
            problems.add("first_party", "invalid_choice", "This needs authorization_code")
        problems.raise_if_any()
        after = replace(
            self,
            name=asked.name,
            redirect_uris=asked.redirect_uris,
            grant_types=asked.grant_types,
            scopes=self.scopes if asked.scopes is None else asked.scopes,
            first_party=asked.first_party,
            is_active=is_active,
        )
        changed = tuple(name for name in changes if getattr(after, name) != getattr(self, name))
        return (after, changed) if changed else (self, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequest:
    """What somebody typed to get a client, after the rules; `scopes` None leaves the choice."""

    name: str
    client_type: ClientType
    redirect_uris: tuple[str, ...]
    scopes: frozenset[str] | None
    grant_types: tuple[GrantType, ...]
    first_party: bool

    @classmethod
    def parse(
        cls,
        *,
        name: object,
        client_type: object = ClientType.CONFIDENTIAL,
        redirect_uris: object = (),
        scopes: object = None,
        grant_types: object = None,
        first_party: object = False,
    ) -> Self:
        """The rules on every field; None for grant types means the usual two.

        Raises:
            Invalid: with every broken field.
        """
        problems = Problems()
        kind = problems.check(
            "client_type",
            lambda: text.choice(client_type, ClientType),
            default=ClientType.CONFIDENTIAL,
        )
        uris = _each(problems, "redirect_uris", redirect_uris, redirect_uri)
        wanted = None if scopes is None else _each(problems, "scopes", scopes, scope_name)
        grants = (
            (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN)
            if grant_types is None
            else _each(
                problems, "grant_types", grant_types, lambda value: text.choice(value, GrantType)
            )
        )
        if grant_types in ([], ()):
            problems.add("grant_types", "too_short", "At least one grant type is needed")
        if kind is ClientType.PUBLIC and GrantType.CLIENT_CREDENTIALS in grants:
            problems.add(
                "grant_types", "invalid_choice", "A public client has no secret to get tokens with"
            )
        own = problems.check("first_party", partial(text.flag, first_party), default=False)
        title = problems.check("name", lambda: text.clean(name, most=APP_NAME_MAX), default="")
        problems.raise_if_any()
        return cls(
            name=title,
            client_type=kind,
            redirect_uris=tuple(dict.fromkeys(uris)),
            scopes=None if wanted is None else expand(wanted),
            grant_types=tuple(grant for grant in GrantType if grant in grants),
            first_party=own,
        )

    @property
    def for_machines(self) -> bool:
        """Whether the client may get tokens of its own, with no person behind them."""
        return GrantType.CLIENT_CREDENTIALS in self.grant_types


def redirect_uri(value: object) -> str:
    """Where a browser may be sent with a code; compared character for character later.

    Either https, http to this very machine, or a private-use scheme with a dot. Source: RFC 8252
    sections 7 and 8.4, RFC 6749 section 3.1.2.

    Raises:
        Refused: `wrong_type`, `invalid_redirect_uri`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    if not _is_redirect_uri(value):
        raise Refused(
            "invalid_redirect_uri",
            "Use https, http to 127.0.0.1, [::1] or localhost, or a scheme of your own with a "
            "dot; no fragment, user name or wildcard",
        )
    return value


def scope_name(value: object) -> str:
    """A scope this service knows, or one of the aliases `read` and `write`.

    Raises:
        Refused: `wrong_type`, `invalid_choice`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    if not expand((value,)):
        known = ", ".join((*SCOPE_ALIASES, *IDENTITY_SCOPES, *Scope))
        raise Refused("invalid_choice", f"Use one of {known}")
    return value


def is_plain(client_id: str) -> bool:
    """Whether there can be such a client id; some databases do not even take other questions."""
    return _PLAIN.fullmatch(client_id) is not None


def _is_redirect_uri(value: str) -> bool:
    if len(value) > REDIRECT_URI_MAX or not _URI_SYMBOLS.fullmatch(value):
        return False
    try:
        parts = urlsplit(value)
        # Reading the port is what checks it; user name, host and port make up the authority.
        host = parts.netloc if parts.port is None else parts.netloc.rpartition(":")[0]
    except ValueError:
        return False
    if "@" in parts.netloc:
        return False
    if parts.scheme in ("http", "https"):
        if not _HOST.fullmatch(host):
            return False
        return parts.scheme == "https" or host.lower() in _LOOPBACK
    return "." in parts.scheme


def _each(
    problems: Problems, name: str, values: object, rule: Callable[[object], T]
) -> tuple[T, ...]:
    """The rule on each member of a list; the place of a broken one is part of its path."""
    if not isinstance(values, list | tuple | set | frozenset):
        problems.add(name, "wrong_type", "This must be a list")
        return ()
    kept: list[T] = []
    for place, value in enumerate(values):
        try:
            kept.append(rule(value))
        except Refused as refused:
            problems.add(f"{name}/{place}", refused.code, refused.detail)
    return tuple(kept)


_APP_FIELDS: Final = frozenset(
    {"name", "redirect_uris", "grant_types", "scopes", "first_party", "is_active"}
)
_FIXED_APP_FIELDS: Final = frozenset(
    {"client_id", "client_type", "client_secret", "secrets", "owner", "created_at"}
)
