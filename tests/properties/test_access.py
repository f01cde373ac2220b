"""Who may do what: roles, scopes and their aliases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain.access import (
    IDENTITY_SCOPES,
    ROLE_SCOPES,
    Caller,
    Role,
    Scope,
    expand,
    scope_text,
)
from savannah.domain.errors import InsufficientScope
from savannah.testing import callers

VIEWER = {"customers:read", "orders:read", "analytics:read"}
STAFF = VIEWER | {"customers:write", "orders:write", "notifications:write"}
ADMIN = STAFF | {
    "customers:delete",
    "orders:delete",
    "orders:override",
    "privacy:manage",
    "audit:read",
    "apps:manage",
    "users:manage",
    "webhooks:manage",
}

scopes = st.sampled_from(Scope)
names = st.lists(
    st.sampled_from([*Scope, *IDENTITY_SCOPES, "read", "write"]) | st.text(max_size=8), max_size=8
)


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (Caller.viewer("v"), VIEWER),
        (Caller.staff("s"), STAFF),
        (Caller.admin("a"), ADMIN),
    ],
)
def test_a_role_may_what_its_column_says(caller, allowed):
    assert {scope for scope in Scope if caller.may(scope)} == allowed
    assert caller.permissions == ROLE_SCOPES[caller.role]


def test_the_columns_name_every_scope_there_is():
    assert set(Scope) == ADMIN
    assert set(ROLE_SCOPES) == set(Role)


@given(callers(), scopes)
def test_a_permission_is_had_or_its_name_is_told(caller, scope):
    if scope in caller.permissions:
        caller.require(scope)
    else:
        assert not caller.may(scope)
        with pytest.raises(InsufficientScope) as denied:
            caller.require(scope)
        assert denied.value.required_scope == scope


@given(st.sampled_from(Role), names)
def test_a_token_narrows_a_role_and_never_widens_it(role, asked):
    permissions = ROLE_SCOPES[role] & {Scope(name) for name in expand(asked) if name in set(Scope)}
    caller = Caller(principal="user:x", permissions=permissions, role=role)
    for scope in Scope:
        if caller.may(scope):
            assert Caller.with_role("user:x", role).may(scope)
            assert scope in expand(asked)


@given(names)
def test_read_and_write_stand_for_all_scopes_that_end_so(asked):
    wanted = {name for name in asked if name in {*map(str, Scope), *IDENTITY_SCOPES}}
    for alias in {"read", "write"} & set(asked):
        wanted |= {str(scope) for scope in Scope if scope.endswith(f":{alias}")}
    assert expand(asked) == wanted
    assert expand(expand(asked)) == expand(asked)


def test_the_aliases_name_the_reading_and_the_writing_scopes():
    assert expand(["read"]) == VIEWER | {"audit:read"}
    assert expand(["write"]) == STAFF - VIEWER
    assert expand(["admin", "customers", ""]) == frozenset()


@given(st.lists(st.sampled_from([*map(str, Scope), *IDENTITY_SCOPES, "b:x", "a:x"])), st.randoms())
def test_scopes_are_printed_once_each_in_an_order_of_their_own(found, random):
    printed = scope_text(found)
    assert sorted(printed.split()) == sorted(set(found))
    random.shuffle(found)
    assert scope_text(found) == printed


def test_scopes_are_printed_as_people_read_them():
    everything = scope_text({*STAFF, *IDENTITY_SCOPES})
    assert everything == (
        "openid profile email customers:read customers:write orders:read orders:write "
        "analytics:read notifications:write"
    )
    assert scope_text({"zebra", "orders:delete", "ant", "email"}) == "email orders:delete ant zebra"
