"""What a foreign token must say and what it then allows, in the shapes that issuers really use."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain.access import ROLE_SCOPES, Role, Scope
from savannah.domain.errors import InvalidToken, TokenExpired
from savannah.domain.trusted_issuers import SKEW, TrustedIssuer

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
SECOND = int(NOW.timestamp())
HEADER = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
JWT = {**HEADER, "typ": "JWT"}
BOTH = frozenset({"at+jwt", "jwt"})
TIMES = {"iat": SECOND, "exp": SECOND + 300}
READS = ROLE_SCOPES[Role.VIEWER]

PLAIN = TrustedIssuer(
    issuer="https://id.example.com",
    audiences=frozenset({"savannah"}),
    roles={"desk": Role.STAFF, "boss": Role.ADMIN, "eye": Role.VIEWER},
)
CLAIMS = {
    **TIMES,
    "iss": PLAIN.issuer,
    "sub": "jane",
    "aud": "savannah",
    "client_id": "till",
    "roles": ["desk"],
    "scope": "orders:read orders:write",
}

KEYCLOAK = TrustedIssuer(
    issuer="https://sso.example.com/realms/shop",
    audiences=frozenset({"savannah"}),
    token_types=BOTH,
    roles={"order-desk": Role.STAFF},
    roles_claim=(("realm_access.roles",), ("realm_access", "roles")),
    scopes_from_role=True,
)
KEYCLOAK_CLAIMS = {
    **TIMES,
    "jti": "onrtac:0f1c",
    "iss": KEYCLOAK.issuer,
    "aud": ["savannah", "account"],
    "sub": "2f1cb4a5-9be4-4f4a-8d2c-8a63f1b7a201",
    "typ": "Bearer",
    "azp": "till",
    "sid": "1b6f",
    "acr": "1",
    "realm_access": {"roles": ["offline_access", "order-desk"]},
    "resource_access": {"my.till": {"roles": ["cashier"]}, "account": {"roles": ["view"]}},
    "scope": "openid profile email",
    "preferred_username": "jane",
    "nonce": "older versions put one here",
}

AUTH0 = TrustedIssuer(
    issuer="https://shop.eu.auth0.com/",
    audiences=frozenset({"https://orders.example.com"}),
    token_types=BOTH,
    roles={"desk": Role.STAFF},
    roles_claim=(("https://orders.example.com/roles",),),
    machine_scopes=frozenset({Scope.ORDERS_READ}),
)
AUTH0_CLAIMS = {
    **TIMES,
    "iss": AUTH0.issuer,
    "sub": "google-oauth2|1034",
    "aud": ["https://orders.example.com", "https://shop.eu.auth0.com/userinfo"],
    "azp": "Tu5q",
    "scope": "openid profile orders:read",
    "permissions": ["orders:read", "orders:write"],
    "https://orders.example.com/roles": ["desk"],
}
AUTH0_MACHINE = {
    **TIMES,
    "iss": AUTH0.issuer,
    "sub": "Tu5q@clients",
    "aud": "https://orders.example.com",
    "azp": "Tu5q",
    "scope": "orders:read orders:write",
    "gty": "client-credentials",
}

TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA = TrustedIssuer(
    issuer=f"https://login.microsoftonline.com/{TENANT}/v2.0",
    audiences=frozenset({"6e74172b-be56-4843-9ff4-e66a39bb12e3"}),
    token_types=BOTH,
    tenant=TENANT,
    roles={"Orders.Desk": Role.STAFF},
    scope_names={"Orders.Read": "orders:read", "All.Read": "read"},
    machine_scopes=frozenset({Scope.ORDERS_READ}),
)
ENTRA_CLAIMS = {
    **TIMES,
    "nbf": SECOND,
    "iss": ENTRA.issuer,
    "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
    "azp": "till",
    "azpacr": "1",
    "oid": "690222be",
    "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "tid": TENANT.upper(),
    "roles": ["Orders.Desk"],
    "scp": "Orders.Read",
    "ver": "2.0",
}


def read(rules, claims, header=None, now=NOW):
    return rules.identity(header or HEADER, claims, now=now)


def refuse(rules, claims, header=None):
    with pytest.raises(InvalidToken):
        read(rules, claims, header)


def without(claims, *names):
    return {name: value for name, value in claims.items() if name not in names}


# --- the shapes of vendors ------------------------------------------------------------------------


def test_a_keycloak_token_gets_the_rights_of_its_realm_role():
    found = read(KEYCLOAK, KEYCLOAK_CLAIMS, JWT)
    assert (found.role, found.client) == (Role.STAFF, "till")
    assert found.permissions == ROLE_SCOPES[Role.STAFF]
    assert found.principal == f"external:{KEYCLOAK.issuer}#{KEYCLOAK_CLAIMS['sub']}"


def test_a_keycloak_token_may_carry_its_roles_per_client():
    rules = replace(
        KEYCLOAK,
        roles={"cashier": Role.VIEWER},
        roles_claim=(("resource_access", "my.till", "roles"),),
    )
    assert read(rules, KEYCLOAK_CLAIMS, JWT).role is Role.VIEWER


@pytest.mark.parametrize("typ", ["ID", "Refresh", "Offline", "Logout", "id"])
def test_a_keycloak_token_for_another_purpose_is_refused(typ):
    refuse(KEYCLOAK, {**KEYCLOAK_CLAIMS, "typ": typ}, JWT)


def test_a_keycloak_token_without_an_audience_mapper_is_refused():
    refuse(KEYCLOAK, {**KEYCLOAK_CLAIMS, "aud": "account"}, JWT)
    refuse(KEYCLOAK, without(KEYCLOAK_CLAIMS, "aud"), JWT)


def test_an_auth0_token_gets_what_its_role_and_its_scopes_share():
    found = read(AUTH0, AUTH0_CLAIMS, JWT)
    assert (found.role, found.permissions) == (Role.STAFF, {Scope.ORDERS_READ})
    profile = {**without(AUTH0_CLAIMS, "azp"), "client_id": "Tu5q", "jti": "x"}
    assert read(AUTH0, profile) == found  # its RFC 9068 profile
    by_permission = replace(AUTH0, scope_claim=(("permissions",),))
    assert read(by_permission, AUTH0_CLAIMS, JWT).permissions == {
        Scope.ORDERS_READ,
        Scope.ORDERS_WRITE,
    }
    refuse(AUTH0, {**AUTH0_CLAIMS, "iss": AUTH0.issuer.rstrip("/")}, JWT)


def test_an_auth0_machine_gets_no_more_than_machines_may():
    found = read(AUTH0, AUTH0_MACHINE, JWT)
    assert (found.role, found.permissions) == (None, {Scope.ORDERS_READ})
    assert read(replace(AUTH0, machine_scopes=frozenset()), AUTH0_MACHINE, JWT).permissions == set()


def test_an_entra_token_is_for_its_tenant_and_its_names_are_translated():
    found = read(ENTRA, ENTRA_CLAIMS, JWT)
    assert (found.role, found.permissions) == (Role.STAFF, {Scope.ORDERS_READ})
    wide = read(ENTRA, {**ENTRA_CLAIMS, "scp": "All.Read"}, JWT)
    assert wide.permissions == READS
    for tid in ("99999999-2222-3333-4444-555555555555", "no tenant", None, 7):
        refuse(ENTRA, {**ENTRA_CLAIMS, "tid": tid}, JWT)


def test_an_entra_application_has_roles_and_no_scopes():
    app = {**without(ENTRA_CLAIMS, "scp"), "idtyp": "app", "roles": ["Orders.Read"]}
    rules = replace(ENTRA, scope_claim=(("scp",), ("roles",)))
    found = read(rules, app, JWT)
    assert (found.role, found.permissions) == (None, {Scope.ORDERS_READ})
    first_version = {**without(app, "azp", "azpacr"), "appid": "till", "appidacr": "1"}
    assert read(rules, first_version, JWT).client == "till"


def test_an_entra_id_token_for_the_same_audience_is_refused():
    id_token = {**without(ENTRA_CLAIMS, "scp", "azp", "azpacr"), "preferred_username": "jane"}
    refuse(ENTRA, id_token, JWT)


def test_google_style_id_tokens_are_refused_whatever_they_are_called():
    id_token = {**without(CLAIMS, "client_id", "scope", "roles"), "azp": "till", "hd": "x"}
    refuse(replace(PLAIN, token_types=BOTH), id_token, JWT)
    refuse(replace(PLAIN, token_types=BOTH), {**id_token, "at_hash": "abc"}, JWT)


# --- rights ---------------------------------------------------------------------------------------


def test_somebody_without_a_role_of_ours_may_do_nothing_and_is_still_known():
    found = read(PLAIN, {**CLAIMS, "roles": ["gardener"]})
    assert (found.role, found.permissions) == (None, frozenset())
    assert found.caller(request_id="r").principal == "external:https://id.example.com#jane"


def test_a_default_role_is_for_people_and_not_for_programs():
    rules = replace(PLAIN, default_role=Role.VIEWER)
    assert read(rules, without(CLAIMS, "roles")).permissions == {Scope.ORDERS_READ}
    machine = {**without(CLAIMS, "roles"), "sub": "till"}
    assert read(rules, machine).role is None


def test_the_highest_of_several_roles_counts():
    found = read(PLAIN, {**CLAIMS, "roles": ["eye", "boss", "desk"]})
    assert found.role is Role.ADMIN


def test_short_scope_names_mean_nothing_unless_they_are_translated():
    claims = {**CLAIMS, "scope": "read write openid"}
    assert read(PLAIN, claims).permissions == frozenset()
    rules = replace(PLAIN, scope_names={"read": "read"})
    assert read(rules, claims).permissions == READS


@pytest.mark.parametrize(
    ("roles", "role"),
    [("desk", Role.STAFF), ("desk boss", None), (7, None), ([7, "desk"], Role.STAFF), ({}, None)],
)
def test_roles_come_as_a_list_or_as_one_name(roles, role):
    assert read(PLAIN, {**CLAIMS, "roles": roles}).role is role


@given(
    roles=st.lists(st.sampled_from(["desk", "boss", "eye", "other"])),
    words=st.lists(st.sampled_from([*Scope, "openid", "x:y", "read"])),
)
def test_a_foreign_token_never_gets_more_than_both_role_and_scope(roles, words):
    found = read(PLAIN, {**CLAIMS, "roles": roles, "scope": " ".join(words)})
    allowed = ROLE_SCOPES[found.role] if found.role else frozenset()
    assert found.permissions == allowed & set(words)
    caller = found.caller()
    assert (caller.user_id, caller.client_id, caller.grant_id) == (None, None, None)


@given(
    first=st.tuples(st.text(min_size=1), st.text(min_size=1)),
    second=st.tuples(st.text(min_size=1), st.text(min_size=1)),
)
def test_two_people_never_share_a_principal(first, second):
    """An issuer has no `#`, so the first one ends it."""
    whole = read(PLAIN, CLAIMS)
    (one, sub), (other, other_sub) = first, second
    one, other = one.replace("#", ""), other.replace("#", "")
    left = replace(whole, issuer=one, subject=sub).principal
    right = replace(whole, issuer=other, subject=other_sub).principal
    assert (left == right) == ((one, sub) == (other, other_sub))


# --- refusals -------------------------------------------------------------------------------------

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    claims=st.dictionaries(
        st.sampled_from([*CLAIMS, "nbf", "typ", "azp", "cnf", "tid", "gty", "token_use"]), junk
    ),
    header=st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit"]), junk),
    rules=st.sampled_from([PLAIN, KEYCLOAK, AUTH0, ENTRA]),
)
def test_whatever_a_token_says_there_is_an_identity_or_a_refusal(claims, header, rules):
    try:
        found = read(rules, {**CLAIMS, **claims}, {**HEADER, **header})
    except (InvalidToken, TokenExpired):
        return
    assert found.issuer == rules.issuer


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp"])
def test_what_must_be_there_must_be_there(name):
    refuse(PLAIN, without(CLAIMS, name))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://id.example.com/"},
        {"sub": "x" * 256},
        {"sub": "jané"},
        {"sub": "a\nb"},
        {"aud": []},
        {"aud": [7, None]},
        {"aud": "Savannah"},
        {"exp": math.nan},
        {"exp": math.inf},
        {"exp": True},
        {"exp": "1"},
        {"exp": 10**400},
        {"nbf": "soon"},
        {"cnf": {}},
        {"c_hash": "x"},
        {"events": {}},
    ],
)
def test_what_is_odd_is_refused(changed):
    refuse(PLAIN, {**CLAIMS, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": "ES256"},
        {"alg": None},
        {"alg": ["RS256"]},
        {"typ": "JWT"},
        {"typ": None},
        {"kid": 7},
        {"crit": []},
    ],
)
def test_a_header_that_is_odd_is_refused(changed):
    refuse(PLAIN, CLAIMS, {**HEADER, **changed})


@given(st.floats(min_value=-120, max_value=120))
def test_a_token_ends_a_minute_after_its_time_and_begins_a_minute_before(late):
    now = datetime.fromtimestamp(CLAIMS["exp"], UTC) + timedelta(seconds=late)
    if now >= datetime.fromtimestamp(CLAIMS["exp"], UTC) + SKEW:
        with pytest.raises(TokenExpired):
            read(PLAIN, CLAIMS, now=now)
    else:
        assert read(PLAIN, CLAIMS, now=now).subject == "jane"
    begun = datetime.fromtimestamp(SECOND, UTC) + timedelta(seconds=late)
    if begun + SKEW < datetime.fromtimestamp(SECOND, UTC):
        with pytest.raises(InvalidToken):
            read(PLAIN, CLAIMS, now=begun)


def test_a_token_that_does_not_say_when_it_was_issued_was_issued_now_at_the_latest():
    assert read(PLAIN, without(CLAIMS, "iat")).issued_at == NOW
    assert read(PLAIN, {**CLAIMS, "iat": SECOND - 5.5}).issued_at == NOW - timedelta(seconds=5.5)
