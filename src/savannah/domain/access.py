"""Who may do what: roles, scopes, and the caller on whose behalf a use case runs.

Effective permission is the role's scopes intersected with the token's; a machine client has no
role, only the scopes it was granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from savannah.domain.errors import InsufficientScope


class Role(StrEnum):
    """What a person is in the business."""

    VIEWER = "viewer"
    STAFF = "staff"
    ADMIN = "admin"


class Scope(StrEnum):
    """One permission; its value is the OAuth 2 scope of the same name."""

    CUSTOMERS_READ = "customers:read"
    CUSTOMERS_WRITE = "customers:write"
    CUSTOMERS_DELETE = "customers:delete"
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    ORDERS_DELETE = "orders:delete"
    ORDERS_OVERRIDE = "orders:override"
    ANALYTICS_READ = "analytics:read"
    NOTIFICATIONS_WRITE = "notifications:write"
    PRIVACY_MANAGE = "privacy:manage"
    AUDIT_READ = "audit:read"
    APPS_MANAGE = "apps:manage"
    USERS_MANAGE = "users:manage"
    WEBHOOKS_MANAGE = "webhooks:manage"


# The order of the keys is the order in which scopes are printed.
_READ: Final = (Scope.CUSTOMERS_READ, Scope.ORDERS_READ, Scope.ANALYTICS_READ)
_WRITE: Final = (Scope.CUSTOMERS_WRITE, Scope.ORDERS_WRITE, Scope.NOTIFICATIONS_WRITE)

ROLE_SCOPES: Final[dict[Role, frozenset[Scope]]] = {
    Role.VIEWER: frozenset(_READ),
    Role.STAFF: frozenset(_READ + _WRITE),
    Role.ADMIN: frozenset(Scope),
}

SCOPE_ALIASES: Final[dict[str, frozenset[Scope]]] = {
    "read": frozenset(scope for scope in Scope if scope.endswith(":read")),
    "write": frozenset(scope for scope in Scope if scope.endswith(":write")),
}

IDENTITY_SCOPES: Final = ("openid", "profile", "email")
# Asked for by name only: what is granted goes on while the person is away.
OFFLINE: Final = "offline_access"
PROFILE_SCOPES: Final = frozenset({"profile", "email"})
_PRINT_ORDER: Final = (
    *IDENTITY_SCOPES,
    OFFLINE,
    Scope.CUSTOMERS_READ,
    Scope.CUSTOMERS_WRITE,
    Scope.ORDERS_READ,
    Scope.ORDERS_WRITE,
    Scope.ANALYTICS_READ,
    Scope.NOTIFICATIONS_WRITE,
)


def expand(names: Iterable[str]) -> frozenset[str]:
    """Scope names with the aliases `read` and `write` spelled out; unknown names are dropped.

    Source: RFC 6749 section 3.3 lets a server ignore part of what is asked for.
    """
    found: set[str] = set()
    for name in names:
        if name in SCOPE_ALIASES:
            found |= SCOPE_ALIASES[name]
        elif name in IDENTITY_SCOPES or name in Scope._value2member_map_:
            found.add(name)
    return frozenset(found)


def scopes_of(role: Role) -> frozenset[str]:
    """Everything a person in that role can get into a token."""
    return frozenset({*IDENTITY_SCOPES, *ROLE_SCOPES[role]})


def scope_text(scopes: Iterable[str]) -> str:
    """Scopes as one blank-separated string, in a stable order."""
    rank = {str(name): place for place, name in enumerate((*_PRINT_ORDER, *Scope))}
    plain = {str(scope) for scope in scopes}
    return " ".join(sorted(plain, key=lambda name: (rank.get(name, len(rank)), name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf a use case runs; `principal` is what audit rows and limits name.

    Attributes:
        account: what may be done with the person's own account. An app that is not ours changes
            nothing, and reads the profile with the scopes of OpenID Connect for it.
    """

    principal: str
    permissions: frozenset[Scope]
    role: Role | None = None
    user_id: UUID | None = None
    client_id: str | None = None
    grant_id: UUID | None = None
    account: Literal["change", "read", "none"] = "change"
    request_id: str | None = None

    @classmethod
    def viewer(cls, principal: str) -> Caller:
        return cls.with_role(principal, Role.VIEWER)

    @classmethod
    def staff(cls, principal: str) -> Caller:
        return cls.with_role(principal, Role.STAFF)

    @classmethod
    def admin(cls, principal: str) -> Caller:
        return cls.with_role(principal, Role.ADMIN)

    @classmethod
    def with_role(cls, principal: str, role: Role) -> Caller:
        """A caller with everything the role has, as an embedding program makes one."""
        return cls(principal=principal, permissions=ROLE_SCOPES[role], role=role)

    def may(self, scope: Scope) -> bool:
        return scope in self.permissions

    def require(self, scope: Scope) -> None:
        """Raises: InsufficientScope, naming the scope that is missing."""
        if scope not in self.permissions:
            raise InsufficientScope(scope)
