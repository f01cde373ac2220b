"""People who may call: accounts, their grants and tokens, and the rules for their fields."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NewType, Self
from uuid import UUID

from savannah.domain import text
from savannah.domain.access import Role
from savannah.domain.errors import Problems, Refused
from savannah.domain.passwords import new_password

UserId = NewType("UserId", UUID)
GrantId = NewType("GrantId", UUID)

USERNAME_MAX: Final = 150
PERSON_NAME_MAX: Final = 150

# Without look-alikes of encoding trouble: clients disagree on how to escape anything else in a
# Basic header (RFC 6749 section 2.3.1). 43 of these 62 symbols are 256 bits.
ALPHANUMERIC: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SECRET_LENGTH: Final = 43

_USERNAME: Final = re.compile(r"[A-Za-z0-9@.+_-]+")


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


def digest(secret: str) -> str:
    """What is stored of a generated secret: its SHA-256, in hex.

    Enough for 256 random bits, and no lever for wasting our time as a slow hash would be.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


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
    "is_active": text.flag,
}
_PUBLIC_FIELDS: Final = frozenset(
    {"id", "username", "email", "first_name", "last_name", "role", "is_active"}
    | {"date_joined", "last_login"}
)
