"""People and programs that may call: accounts, clients, grants, and the rules for their fields."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final, NewType, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from savannah.domain import text
from savannah.domain.access import IDENTITY_SCOPES, SCOPE_ALIASES, Role, Scope, expand
from savannah.domain.common_passwords import COMMON_PASSWORDS
from savannah.domain.errors import Invalid, LastSecret, NotFound, Problems, Refused

T = TypeVar("T")
UserId = NewType("UserId", UUID)
GrantId = NewType("GrantId", UUID)

USERNAME_MAX: Final = 150
PERSON_NAME_MAX: Final = 150
APP_NAME_MAX: Final = 100
PASSWORD_LEAST: Final = 8
PASSWORD_MOST: Final = 128
REDIRECT_URI_MAX: Final = 2000

# Without look-alikes of encoding trouble: clients disagree on how to escape anything else in a
# Basic header (RFC 6749 section 2.3.1). 43 of these 62 symbols are 256 bits.
ALPHANUMERIC: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SECRET_LENGTH: Final = 43

_SECRET_ID_LENGTH: Final = 12

_PLAIN: Final = re.compile(r"[!-~]{1,255}")
_USERNAME: Final = re.compile(r"[A-Za-z0-9@.+_-]+")
_SIMILAR_FROM: Final = 4  # shorter names are found in honest passwords by chance
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
class User:
    """A person with an account.

    `password_hash` is an argon2id PHC string; that of an imported account is Django's until the
    first login.
    """

    id: UserId
    username: str
    email: str | None
    first_name: str
    last_name: str
    role: Role
    password_hash: str
    is_active: bool = True
    date_joined: datetime
    last_login: datetime | None = None

    def updated(self, changes: Mapping[str, object]) -> tuple[Self, tuple[str, ...]]:
        """The account after its owner's changes, and the names of the fields that changed.

        Nothing changed means the same object and no names.

        Raises:
            Invalid: with every broken, unknown or read-only field.
        """
        return self._merged(changes, _OWNER_RULES)

    def administered(self, changes: Mapping[str, object]) -> tuple[Self, tuple[str, ...]]:
        """As `updated`, for what an administrator decides: `role` and `is_active`.

        Raises:
            Invalid: with every broken, unknown or read-only field.
        """
        return self._merged(changes, _ADMIN_RULES)

    @property
    def is_active_admin(self) -> bool:
        return self.is_active and self.role is Role.ADMIN

    def _merged(
        self, changes: Mapping[str, object], rules: Mapping[str, Callable[[object], Any]]
    ) -> tuple[Self, tuple[str, ...]]:
        problems = Problems()
        new: dict[str, Any] = {}
        for name, value in changes.items():
            if name in rules:
                rule = partial(rules[name], value)
                new[name] = problems.check(name, rule, default=None)
            elif name in _PUBLIC_FIELDS:
                problems.add(name, "read_only_field", "This cannot be changed here")
            else:
                problems.add_unknown(name)
        problems.raise_if_any()
        changed = {name: value for name, value in new.items() if value != getattr(self, name)}
        return (replace(self, **changed), tuple(changed)) if changed else (self, ())


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
        flag = partial(_flag, changes.get("is_active", self.is_active))
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
class Grant:
    """What one login gave one client; parent of its code, its access and its refresh tokens.

    Revoking it stops them all at the next request. `user_id` is None for a machine client.

    Attributes:
        resources: the APIs its tokens are for (RFC 8707); none named means ours.
        session_id: the browser session it came from; None for the password door.
        auth_time: when the person proved who they are, where that was earlier than the grant.
    """

    id: GrantId
    user_id: UserId | None
    client_id: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None
    resources: tuple[str, ...] = ()
    session_id: UUID | None = None
    nonce: str | None = None
    auth_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """One refresh token of a grant, known by its SHA-256 hex digest only.

    Used once: then `successor` is the digest of the one that took its place. With a
    `key_thumbprint` it is only good together with a proof of that key (RFC 9449 section 5).
    """

    digest: str
    grant_id: GrantId
    issued_at: datetime
    expires_at: datetime
    consumed_at: datetime | None = None
    successor: str | None = None
    key_thumbprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key pair for tokens: `sealed` is the private JWK, encrypted by the tokens adapter.

    Its life: made and published, so that others have it in their caches; `activated_at`, from
    when it signs; `retired_at`, from when it only verifies what it has signed. One that was
    stolen is `revoked_at`, and good for nothing from then on.
    """

    kid: str
    algorithm: str
    sealed: bytes
    created_at: datetime
    activated_at: datetime | None = None
    retired_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def signs(self) -> bool:
        """Whether it may sign; of several the one activated last does."""
        return self.activated_at is not None and self.retired_at is None

    def verifies(self, now: datetime, *, overlap: timedelta) -> bool:
        """Whether tokens it has signed are good, for as long as they may live after it retired."""
        return self.retired_at is None or now < self.retired_at + overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a person typed to get an account, after the rules; no account yet."""

    username: str
    email: str | None
    first_name: str
    last_name: str
    password: str = field(repr=False)

    @classmethod
    def check(
        cls,
        problems: Problems,
        *,
        username: object,
        email: object = None,
        password: object,
        confirm_password: object = None,
        first_name: object = "",
        last_name: object = "",
    ) -> Self:
        """Every rule on every field; what is broken goes to `problems`.

        A `confirm_password` of None was not asked for.
        """
        login = problems.check("username", partial(username_rule, username), default="")
        address = problems.check("email", partial(optional_email, email), default=None)
        secret = new_password(
            problems, "password", password, confirm_password, username=login, email=address
        )
        return cls(
            username=login,
            email=address,
            first_name=problems.check("first_name", partial(person_name, first_name), default=""),
            last_name=problems.check("last_name", partial(person_name, last_name), default=""),
            password=secret,
        )

    def user(self, *, id: UserId, role: Role, password_hash: str, at: datetime) -> User:
        """The account, once the password is hashed."""
        return User(
            id=id,
            username=self.username,
            email=self.email,
            first_name=self.first_name,
            last_name=self.last_name,
            role=role,
            password_hash=password_hash,
            date_joined=at,
        )


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
        own = problems.check("first_party", partial(_flag, first_party), default=False)
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


# --- rules for single values ---------------------------------------------------------------------


def username_rule(value: object) -> str:
    """A user name of 3 to 150 symbols, kept as typed.

    Raises:
        Refused: `wrong_type`, `blank`, `too_short`, `too_long`, `invalid_format`.
    """
    name = text.clean(value, most=USERNAME_MAX, least=3)
    if not _USERNAME.fullmatch(name):
        raise Refused("invalid_format", "Use letters A to Z, digits and @ . + _ - only")
    return name


def login_name(typed: str) -> str:
    """How a typed user name or e-mail address is looked up; empty when no account can have it."""
    name = text.nfc(typed).strip()
    # Control characters and lone surrogates; some databases do not even take the question.
    return "" if any(unicodedata.category(char) in ("Cc", "Cs") for char in name) else name


def login_key(name: str) -> str:
    """What two spellings of one user name share."""
    return text.email_key(name)


def person_name(value: object) -> str:
    """A first or last name; may be empty.

    Raises:
        Refused: `wrong_type`, `null_not_allowed`, `too_long`, `invalid_format`.
    """
    if value is None:
        raise Refused("null_not_allowed", "This cannot be null")
    return text.clean(value, most=PERSON_NAME_MAX, least=0)


def optional_email(value: object) -> str | None:
    """An e-mail address, or None for an account without one.

    Raises:
        Refused: as `text.email`.
    """
    return None if value is None else text.email(value)


def password_text(value: object) -> str:
    """A new password as it is hashed: NFC, so that two keyboards agree; never trimmed or cut.

    Raises:
        Refused: `wrong_type`, `invalid_format` (a lone surrogate, which no encoding carries, or a
            pile of marks), `password_too_short` when it is empty.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    if text.is_piled(value) or any(unicodedata.category(char) == "Cs" for char in value):
        raise Refused("invalid_format", "This is not a text that can be stored")
    if not value:
        raise Refused("password_too_short", f"At least {PASSWORD_LEAST} characters are needed")
    return typed_password(value)


def typed_password(typed: str) -> str:
    """A password somebody logs in with, in the form in which it was hashed."""
    return text.nfc(typed)


def password_faults(password: str, *, username: str, email: str | None) -> tuple[Refused, ...]:
    """Everything that is wrong with a new password, so that it can be mended in one go.

    Codes: `password_too_short`, `too_long`, `password_too_common`, `password_too_simple`,
    `password_too_similar`.
    """
    faults: list[Refused] = []
    if len(password) < PASSWORD_LEAST:
        faults.append(
            Refused("password_too_short", f"At least {PASSWORD_LEAST} characters are needed")
        )
    if len(password) > PASSWORD_MOST:
        faults.append(Refused("too_long", f"At most {PASSWORD_MOST} characters are allowed"))
    folded = login_key(password)
    if folded in COMMON_PASSWORDS:
        faults.append(Refused("password_too_common", "Many people use this password"))
    if len({_character_class(char) for char in password}) < 2:
        faults.append(
            Refused(
                "password_too_simple",
                "Use at least two of: lower case, upper case, digits, other characters",
            )
        )
    names = (login_key(username), login_key((email or "").partition("@")[0]))
    if any(len(name) >= _SIMILAR_FROM and name in folded for name in names):
        faults.append(
            Refused("password_too_similar", "It must not contain the user name or e-mail address")
        )
    return tuple(faults)


def new_password(
    problems: Problems,
    name: str,
    password: object,
    confirm_password: object,
    *,
    username: str,
    email: str | None,
) -> str:
    """A password somebody chose, and typed twice unless `confirm_password` is None.

    Everything that is wrong with either goes to `problems`, under `name` or `confirm_password`.
    """
    secret = problems.check(name, partial(password_text, password), default="")
    if not secret:
        return secret
    for refused in password_faults(secret, username=username, email=email):
        problems.add(name, refused.code, refused.detail)
    if confirm_password is not None:
        problems.check("confirm_password", partial(_same, confirm_password, secret), default=None)
    return secret


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


def digest(secret: str) -> str:
    """What is stored of a generated secret: its SHA-256, in hex.

    Enough for 256 random bits, and no lever for wasting our time as a slow hash would be.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _same(confirm_password: object, password: str) -> None:
    if not isinstance(confirm_password, str):
        raise Refused("wrong_type", "This must be a string")
    if typed_password(confirm_password) != password:
        raise Refused("password_mismatch", "The two passwords differ")


def _character_class(char: str) -> str:
    if char.islower():
        return "lower"
    if char.isupper():
        return "upper"
    return "digit" if char.isdecimal() else "other"


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


def _flag(value: object) -> bool:
    if value is None:
        raise Refused("null_not_allowed", "This cannot be null")
    return text.flag(value)


def _role(value: object) -> Role:
    if value is None:
        raise Refused("null_not_allowed", "This cannot be null")
    return text.choice(value, Role)


_OWNER_RULES: Final[Mapping[str, Callable[[object], Any]]] = {
    "first_name": person_name,
    "last_name": person_name,
    "email": optional_email,
}
_ADMIN_RULES: Final[Mapping[str, Callable[[object], Any]]] = {
    "role": _role,
    "is_active": _flag,
}
_PUBLIC_FIELDS: Final = frozenset(
    {"id", "username", "email", "first_name", "last_name", "role", "is_active"}
    | {"date_joined", "last_login"}
)
_APP_FIELDS: Final = frozenset(
    {"name", "redirect_uris", "grant_types", "scopes", "first_party", "is_active"}
)
_FIXED_APP_FIELDS: Final = frozenset(
    {"client_id", "client_type", "client_secret", "secrets", "owner", "created_at"}
)
