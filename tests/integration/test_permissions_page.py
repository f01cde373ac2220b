"""docs/reference/permissions.md says what every use case and every endpoint really does."""

import asyncio
import inspect
import re
from pathlib import Path
from uuid import UUID

import pytest

from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import Denied, InsufficientScope, RoleForbidden
from savannah.entrypoints import permissions
from savannah.entrypoints.http.operations import OPERATION
from savannah.entrypoints.http.routes import API_PREFIX, API_ROUTES

PAGE = (Path(__file__).parents[2] / "docs/reference/permissions.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROW = re.compile(r"^\| `(.+?)` \| `?(.+?)`? \| (yes|-) \| (yes|-) \| (yes|-) \|$", re.MULTILINE)


def rows(section):
    """Name, need, and the roles that are told they may."""
    return [
        pytest.param(
            name,
            need,
            {role for role, told in zip(Role, answers, strict=True) if told == "yes"},
            id=name,
        )
        for name, need, *answers in ROW.findall(SECTIONS[section])
    ]


USE_CASES = dict(permissions.use_cases())
OTHERS = re.findall(r"`([a-z_]+\.[a-z_]+)`", SECTIONS["Use cases"].partition("Without a caller")[2])
HANDLERS = {
    f"{method} {API_PREFIX}{path.replace(':str}', '}').rstrip('/')}/": handler.opt[OPERATION]
    for handler in API_ROUTES
    for path in handler.paths
    for method in handler.http_methods
}


def test_the_page_is_the_one_that_the_code_writes():
    written = asyncio.run(permissions.page())
    assert written == PAGE, "run: savannah permissions --output docs/reference/permissions.md"


def test_the_page_names_every_use_case_and_every_endpoint():
    assert {each.values[0] for each in rows("Use cases")} | set(OTHERS) == set(USE_CASES)
    assert {each.values[0] for each in rows("Endpoints")} == set(HANDLERS)


def refusal_of(name, by):
    """The permission that is missing, if the use case says so; what else it says is no matter."""
    try:
        asyncio.run(permissions.attempt(USE_CASES[name], by))
    except Denied as refused:
        return refused
    except Exception:  # noqa: BLE001 - past the permission there is nothing to work on
        return None
    return None


@pytest.mark.parametrize(("name", "need", "allowed"), rows("Use cases"))
def test_a_use_case_lets_in_exactly_the_roles_and_scopes_on_the_page(name, need, allowed):
    for role in Role:
        refused = refusal_of(name, Caller.with_role("user:x", role))
        if need == permissions.OWN:
            assert isinstance(refused, RoleForbidden)  # the role alone is nobody's account
            continue
        assert (refused is None) == (role in allowed), role
    for scope in Scope:
        refused = refusal_of(name, Caller(principal="client:x", permissions=frozenset({scope})))
        assert (refused is None) == (scope == need), scope
        rest = ROLE_SCOPES[Role.ADMIN] - {scope}
        refused = refusal_of(name, Caller(principal="client:x", permissions=rest))
        if need == scope:
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == need


@pytest.mark.parametrize("name", OTHERS)
def test_a_use_case_without_a_caller_has_none(name):
    assert "by" not in inspect.signature(USE_CASES[name]).parameters


# --- the same over HTTP ---------------------------------------------------------------------------

ID = str(UUID(int=7))


def concrete(path):
    return re.sub(r"\{\w+\}", ID, path)


def knock(desk, name, bearer):
    method, path = name.split()
    return desk.request(method, f"{concrete(path)}?unknown=1", by=bearer, content=b"{")


@pytest.mark.parametrize("who", [*Role, *Scope])
def test_every_endpoint_lets_in_exactly_whom_the_page_says(desk, who):
    """As each role with all its scopes, and as an administrator's token with a single scope."""
    if isinstance(who, Role):
        bearer = f"Bearer {desk.token(who.value)}"
        permitted = ROLE_SCOPES[who]
    else:
        desk.token("admin")
        bearer = f"Bearer {desk.run(desk.log_in('a-admin', scope=who.value)).access_token}"
        permitted = {who}
    for row in rows("Endpoints"):
        name, need, allowed = row.values
        if need not in set(Scope):
            continue
        answer = knock(desk, name, bearer)
        if need in permitted:
            assert answer.status_code in (400, 404), name
        else:
            assert answer.json()["code"] == "insufficient_scope", name
            assert answer.json()["required_scope"] == need
        if isinstance(who, Role):
            assert (who in allowed) == (need in permitted)


@pytest.mark.parametrize(("name", "need", "allowed"), rows("Endpoints"))
def test_an_endpoint_asks_for_a_token_where_the_page_says(desk, name, need, allowed):
    del allowed
    answer = knock(desk, name, None)
    wants_token = answer.status_code == 401 and answer.json()["code"] == "authentication_required"
    assert wants_token == (need != permissions.NOTHING)
