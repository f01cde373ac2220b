"""OIDC_TRUSTED_ISSUERS: how an issuer is written, and what is said of one that is wrong."""

import json
import re
from pathlib import Path

import pytest

from savannah.domain.access import Role, Scope
from savannah.domain.trusted_issuers import TrustedIssuer
from savannah.entrypoints.issuers import _MEMBERS
from savannah.entrypoints.settings import SettingsError, parse

TENANTS = ["11111111-2222-3333-4444-555555555555", "AAAAAAAA-2222-3333-4444-555555555555"]
LEAST = {"issuer": "https://id.example.com", "audiences": ["savannah"]}


def issuers(*entries, **more):
    return parse({"OIDC_TRUSTED_ISSUERS": json.dumps(entries), **more}).trusted_issuers


def rule(*entries, **more):
    with pytest.raises(SettingsError) as refused:
        issuers(*entries, **more)
    [(name, said)] = refused.value.problems
    assert name == "OIDC_TRUSTED_ISSUERS"
    return said


def test_an_issuer_needs_a_name_and_an_audience_and_is_strict_otherwise():
    assert issuers(LEAST) == (
        TrustedIssuer(issuer="https://id.example.com", audiences=frozenset({"savannah"})),
    )
    [found] = issuers(LEAST)
    assert found.algorithms == ("RS256",)
    assert found.token_types == {"at+jwt"}


def test_one_audience_may_be_written_as_such():
    assert issuers(
        {"issuer": "https://id.example.com", "audience": "savannah", "roles": {"desk": "staff"}}
    ) == (
        TrustedIssuer(
            issuer="https://id.example.com",
            audiences=frozenset({"savannah"}),
            roles={"desk": Role.STAFF},
        ),
    )


def test_everything_can_be_said():
    [found] = issuers(
        {
            "issuer": "https://shop.eu.auth0.com/",
            "audiences": ["https://orders.example.com", "savannah"],
            "algorithms": ["RS256", "ES256"],
            "token_types": ["at+jwt", "JWT"],
            "roles": {"desk": "staff", "boss": "admin"},
            "roles_claim": ["https://orders.example.com/roles"],
            "default_role": "viewer",
            "scopes_from": "role",
            "scope_claim": "permissions",
            "scope_names": {"Orders.Read": "orders:read", "all": "read"},
            "machine_scopes": ["orders:read", "write"],
            "jwks_uri": "https://keys.example.com/jwks",
        }
    )
    assert found == TrustedIssuer(
        issuer="https://shop.eu.auth0.com/",
        audiences=frozenset({"https://orders.example.com", "savannah"}),
        algorithms=("RS256", "ES256"),
        token_types=frozenset({"at+jwt", "jwt"}),
        roles={"desk": Role.STAFF, "boss": Role.ADMIN},
        roles_claim=(("https://orders.example.com/roles",),),
        default_role=Role.VIEWER,
        scopes_from_role=True,
        scope_claim=(("permissions",),),
        scope_names={"Orders.Read": "orders:read", "all": "read"},
        machine_scopes=frozenset(
            {
                Scope.ORDERS_READ,
                Scope.ORDERS_WRITE,
                Scope.CUSTOMERS_WRITE,
                Scope.NOTIFICATIONS_WRITE,
            }
        ),
        jwks_uri="https://keys.example.com/jwks",
    )


def test_a_claim_with_dots_is_a_name_or_a_path():
    [found] = issuers({**LEAST, "roles_claim": "realm_access.roles"})
    assert found.roles_claim == (("realm_access.roles",), ("realm_access", "roles"))
    [found] = issuers({**LEAST, "roles_claim": ["resource_access", "my.till", "roles"]})
    assert found.roles_claim == (("resource_access", "my.till", "roles"),)


def test_an_issuer_with_tenants_is_one_issuer_for_each():
    entry = {
        "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0",
        "audience": "api",
        "tenants": TENANTS,
    }
    found = issuers(entry)
    assert [(each.issuer, each.tenant) for each in found] == [
        (f"https://login.microsoftonline.com/{tenant.lower()}/v2.0", tenant.lower())
        for tenant in TENANTS
    ]
    one = {**entry, "issuer": "https://sts.windows.net/x/", "tenants": TENANTS[:1]}
    assert [each.tenant for each in issuers(one)] == TENANTS[:1]


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("issuer", "id.example.com", "issuer must be an https:// address"),
        ("issuer", "https://id.example.com?x=1", "issuer must be an https:// address"),
        ("issuer", "https://id.example.com/#top", "issuer must be an https:// address"),
        ("issuer", "https://user@id.example.com", "issuer must be an https:// address"),
        ("issuer", "https://id.example.com:port", "issuer must be an https:// address"),
        ("issuer", "https://[::1", "issuer must be an https:// address"),
        ("issuer", "http://id.example.com", "issuer must be an https:// address"),
        ("issuer", "https://accounts.google.com", "issuer must not be Google"),
        ("issuer", "https://id.example.com/{tenantid}", "tenants must be there"),
        ("issuer", 7, "issuer must be an https:// address"),
        ("audiences", [], "audiences must be a list of at least one"),
        ("audiences", "savannah", "audiences must be a list"),
        ("audiences", [7], "audiences must be text without blanks"),
        ("audience", "savannah", "either audiences or audience"),
        ("algorithms", [], "algorithms must be a list of at least one"),
        ("algorithms", ["HS256"], "algorithms must be among RS256"),
        ("algorithms", ["none"], "algorithms must be among RS256"),
        ("algorithms", ["EdDSA"], "algorithms must be among RS256"),
        ("token_types", ["id"], "token_types must be among at+jwt, JWT"),
        ("roles", {"boss": "owner"}, "roles must be among viewer, staff, admin"),
        ("roles", ["boss"], "roles must be an object"),
        ("roles_claim", "", "roles_claim must be a claim"),
        ("roles_claim", "a..b", "roles_claim must be a claim"),
        ("roles_claim", [], "roles_claim must be a claim"),
        ("roles_claim", ["a", 7], "roles_claim must be a claim"),
        ("default_role", None, "default_role must be among"),
        ("scopes_from", "both", "scopes_from must be among token, role"),
        ("scope_names", {"a": "orders"}, "scope_names must name scopes of this service"),
        ("machine_scopes", ["orders"], "machine_scopes must name scopes"),
        ("tenants", ["contoso"], "tenants must be tenant ids"),
        ("tenants", [7], "tenants must be tenant ids"),
        ("tenants", TENANTS, "issuer must say {tenantid}"),
        ("jwks_uri", "http://keys.example.com", "jwks_uri must be an https:// address"),
        ("secret", "x", "members may be only issuer,"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_by_its_number_and_member(member, value, said):
    told = rule({**LEAST, "issuer": "https://other.example.com"}, {**LEAST, member: value})
    assert told.startswith("must be right in every entry: in entry 2, ")
    assert said in told


def test_an_entry_needs_an_issuer_and_an_audience():
    for entry in ({"issuer": "https://id.example.com"}, {"audience": "savannah"}):
        assert "there must be issuer, and either audiences or audience" in rule(entry)
    assert "in entry 1, all must be an object" in rule("https://id.example.com")


@pytest.mark.parametrize("typed", ["{", "[]", "{}", "7", "[" * 100_000])
def test_what_is_no_list_of_issuers_is_refused(typed):
    with pytest.raises(SettingsError, match="must be a JSON list of objects"):
        parse({"OIDC_TRUSTED_ISSUERS": typed})


def test_an_issuer_is_named_once_and_is_not_this_service():
    assert rule(LEAST, {**LEAST, "audiences": ["other"]}) == "must name each issuer once"
    for own in ("https://id.example.com", "https://id.example.com/"):
        said = rule(LEAST, PUBLIC_URL=own)
        assert said == "must not name this service itself, which PUBLIC_URL does"


def test_plain_http_to_this_machine_is_for_development():
    local = {**LEAST, "issuer": "http://127.0.0.1:8080/realms/shop"}
    assert issuers(local)[0].issuer == local["issuer"]
    assert rule(local, DEBUG="false") == "must be https:// addresses when DEBUG is false"
    keys = {**LEAST, "jwks_uri": "http://localhost/keys"}
    assert rule(keys, DEBUG="false") == "must be https:// addresses when DEBUG is false"


def test_no_value_is_repeated():
    assert "hunter2" not in rule({**LEAST, "issuer": "hunter2"})


def test_what_the_how_to_page_prints_is_accepted():
    page = (Path(__file__).parents[2] / "docs/how-to/trust-another-issuer.md").read_text()
    printed = re.findall(r"```json\n(.*?)```|OIDC_TRUSTED_ISSUERS='(.*?)'", page, re.DOTALL)
    assert len(printed) == 3
    for block, line in printed:
        assert parse({"OIDC_TRUSTED_ISSUERS": block or line}).trusted_issuers
    named = set(re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE)) | {"audience"}
    assert named == set(_MEMBERS)
