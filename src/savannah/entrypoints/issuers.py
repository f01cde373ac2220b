"""How OIDC_TRUSTED_ISSUERS is written: a JSON list with one object per issuer.

What is refused names the entry and its member, never a value.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from savannah.domain.access import Role, Scope, expand
from savannah.domain.trusted_issuers import ALGORITHMS, AT_JWT, PLAIN_JWT, Path, TrustedIssuer
from savannah.entrypoints.variables import Kind, Refusal

T = TypeVar("T")

TENANT: Final = "{tenantid}"
_MOST: Final = 255
_OPAQUE: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})


def is_loopback(url: str | None) -> bool:
    """Whether a URL stays on this machine."""
    try:
        host = urlsplit(url or "").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Wrong(Exception):
    """One member breaks this rule."""


def _address(value: object) -> str:
    """An issuer or an address of keys, kept as it is written: with or without a slash at its end.

    Source: RFC 8414 section 2, which knows neither query nor fragment.
    """
    rule = _Wrong("must be an https:// address without query (http:// on this machine only)")
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]+", value):
        raise rule
    try:
        url = urlsplit(value)
        odd = not url.hostname or url.port == 0 or "@" in url.netloc or set(value) & set('?#\\"<>')
    except ValueError:
        raise rule from None
    if odd or len(value) > _MOST or (url.scheme == "http" and not is_loopback(value)):
        raise rule
    return value


def _issuer(value: object) -> str:
    if value in _OPAQUE:
        raise _Wrong("must not be Google: its access tokens can only be read by Google")
    return _address(value)


def _word(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\S{1,255}", value):
        raise _Wrong("must be text without blanks")
    return value


def _list(of: Callable[[object], T], value: object, *, may_be_empty: bool = False) -> list[T]:
    if not isinstance(value, list) or not (value or may_be_empty):
        raise _Wrong("must be a list" if may_be_empty else "must be a list of at least one")
    return [of(each) for each in value]


def _among(allowed: Iterable[str], value: object) -> str:
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise _Wrong(f"must be among {', '.join(words)}")
    return value


def _mapping(of: Callable[[object], T], value: object) -> dict[str, T]:
    if not isinstance(value, dict):
        raise _Wrong("must be an object")
    return {name: of(each) for name, each in value.items()}


def _role(value: object) -> Role:
    return Role(_among(Role, value))


def _scope_name(value: object) -> str:
    if not isinstance(value, str) or not expand([value]):
        raise _Wrong(f"must name scopes of this service: {', '.join(Scope)}, read or write")
    return value


def _paths(value: object) -> tuple[Path, ...]:
    """A text is a name, or names parted by dots; a list is one name after the other."""
    match value:
        case str(text) if text and all(text.split(".")):
            return ((text,), tuple(text.split("."))) if "." in text else ((text,),)
        case [*names] if names and all(isinstance(name, str) and name for name in names):
            return (tuple(str(name) for name in names),)
    raise _Wrong("must be a claim such as realm_access.roles, or a list of names")


def _tenant(value: object) -> str:
    try:
        if isinstance(value, str):
            return str(UUID(value))
    except ValueError:
        pass
    raise _Wrong("must be tenant ids, which are UUIDs")


def _scopes_from(value: object) -> bool:
    return _among(("token", "role"), value) == "role"


def _machine_scopes(value: object) -> frozenset[Scope]:
    names = expand(_list(_scope_name, value, may_be_empty=True))
    return frozenset(scope for scope in Scope if scope in names)


def _token_types(value: object) -> frozenset[str]:
    spelled = {AT_JWT: AT_JWT, "JWT": PLAIN_JWT}
    return frozenset(spelled[each] for each in _list(partial(_among, spelled), value))


_MEMBERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "issuer": _issuer,
    "audiences": lambda value: frozenset(_list(_word, value)),
    "audience": lambda value: frozenset({_word(value)}),
    "algorithms": lambda value: tuple(_list(partial(_among, ALGORITHMS), value)),
    "token_types": _token_types,
    "roles": partial(_mapping, _role),
    "roles_claim": _paths,
    "default_role": _role,
    "scopes_from": _scopes_from,
    "scope_claim": _paths,
    "scope_names": partial(_mapping, _scope_name),
    "machine_scopes": _machine_scopes,
    "tenants": partial(_list, _tenant),
    "jwks_uri": _address,
}
_FIELDS: Final[Mapping[str, str]] = {"audience": "audiences", "scopes_from": "scopes_from_role"}


def _entry(value: object) -> list[TrustedIssuer]:
    """The issuers one entry stands for: one, or one for each of its tenants."""
    if not isinstance(value, dict):
        raise _Wrong("all must be an object")
    fields: dict[str, Any] = {}
    if not value.keys() <= _MEMBERS.keys():
        raise _Wrong(f"members may be only {', '.join(_MEMBERS)}")
    for name in (each for each in _MEMBERS if each in value):
        try:
            fields[_FIELDS.get(name, name)] = _MEMBERS[name](value[name])
        except _Wrong as wrong:
            raise _Wrong(f"{name} {wrong}") from None
    if "issuer" not in fields or ("audience" in value) == ("audiences" in value):
        raise _Wrong("there must be issuer, and either audiences or audience")
    tenants: list[str] | None = fields.pop("tenants", None)
    issuer: str = fields["issuer"]
    if (TENANT in issuer) and tenants is None:
        raise _Wrong(f"tenants must be there, since issuer says {TENANT}")
    if tenants is None:
        return [TrustedIssuer(**fields)]
    if TENANT not in issuer and len(tenants) > 1:
        raise _Wrong(f"issuer must say {TENANT}, since there are several tenants")
    whole = TrustedIssuer(**fields)
    return [
        replace(whole, issuer=issuer.replace(TENANT, tenant), tenant=tenant) for tenant in tenants
    ]


def _read(raw: str) -> tuple[TrustedIssuer, ...]:
    try:
        entries = json.loads(raw)
    except RecursionError:
        raise ValueError from None
    if not isinstance(entries, list) or not entries:
        raise ValueError
    found: list[TrustedIssuer] = []
    for number, entry in enumerate(entries, start=1):
        try:
            found += _entry(entry)
        except _Wrong as wrong:
            raise Refusal(f"must be right in every entry: in entry {number}, {wrong}") from None
    if len({each.issuer for each in found}) < len(found):
        raise Refusal("must name each issuer once")
    return tuple(found)


TRUSTED_ISSUERS: Final = Kind(
    "must be a JSON list of objects with issuer, audiences and, if need be, roles", _read
)
