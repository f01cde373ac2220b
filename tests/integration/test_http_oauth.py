"""What clients get from the provider's own endpoints, and what they do not get."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from relying_party import (
    CALLBACK,
    NONCE,
    PASSWORD,
    VERIFIER,
    challenge,
    is_consent,
    new_app,
    register,
)
from savannah.application.identity import IdentitySettings
from savannah.domain.access import Caller, Role
from savannah.domain.clients import AuthMethod, GrantType
from savannah.domain.identity import digest
from savannah.domain.notification_policy import Rate

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
ISSUER = "http://desk.test"
REFRESHING = {"scope": "openid offline_access", "prompt": "consent"}


@pytest.fixture
def op(desk):
    register(desk)
    return desk


@pytest.fixture
def app(op):
    return new_app(op)


@pytest.fixture
def machine(op):
    return new_app(op, name="ERP", grant_types=["client_credentials"], scopes=["orders:read"])


@pytest.fixture
def resource_server(op):
    return new_app(op, name="Reports", metadata={"resource_server": True})


def is_refused(answer, status, error):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["error"] == error
    assert set(found) <= {"error", "error_description"}
    return answer


def api(desk, token, *, scheme="Bearer", **headers):
    return desk.get("/api/customers/", headers={"Authorization": f"{scheme} {token}", **headers})


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        "/o/.well-known/openid-configuration",
    ],
)
def test_metadata_is_open_cacheable_and_states_every_field(desk, path):
    answer = desk.get(path)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "public, max-age=300"
    found = answer.json()
    assert found["issuer"] == ISSUER
    assert found["grant_types_supported"] == [
        "authorization_code",
        "refresh_token",
        "client_credentials",
    ]
    assert found["request_uri_parameter_supported"] is False
    assert found["response_modes_supported"] == ["query", "form_post"]
    assert "password" not in json.dumps(found)
    assert "none" not in found["introspection_endpoint_auth_methods_supported"]


def test_the_issuer_is_never_taken_from_the_request(desk):
    found = desk.get("/.well-known/openid-configuration", headers={"Host": "evil.example"})
    assert "evil" not in found.text


def test_metadata_of_an_issuer_with_a_path_stands_where_rfc_8414_puts_it(open_desk):
    desk = open_desk(issuer="http://desk.test/shop")
    found = desk.get("/.well-known/oauth-authorization-server/shop").json()
    assert found["token_endpoint"] == "http://desk.test/shop/oauth/token"
    assert desk.get("/.well-known/oauth-authorization-server/other").status_code == 404
    where = desk.get("/api/customers/").headers["www-authenticate"]
    assert '"http://desk.test/.well-known/oauth-protected-resource/shop/api/"' in where


def test_a_challenge_leads_to_the_provider_and_back(desk):
    challenged = desk.get("/api/customers/").headers["www-authenticate"]
    where = challenged.split('resource_metadata="')[1].split('"')[0]
    found = desk.get(where.removeprefix(ISSUER)).json()
    assert found["resource"] == f"{ISSUER}/api/"
    assert found["authorization_servers"] == [ISSUER]
    assert desk.get("/.well-known/oauth-protected-resource/other").status_code == 404


def test_keys_are_public_and_cacheable(desk):
    for path in ("/oauth/jwks", "/o/.well-known/jwks.json"):
        answer = desk.get(path)
        assert answer.headers["cache-control"] == "public, max-age=300"
        assert {key["kty"] for key in answer.json()["keys"]} == {"RSA"}


# --- client authentication -----------------------------------------------------------------------


def basic(text):
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def token_call(desk, fields, headers=None):
    return desk.post("/oauth/token", data=fields, headers=headers or {})


MACHINE = {"grant_type": "client_credentials"}


def test_every_failure_of_a_client_looks_the_same(op, machine):
    wrong = [
        basic(f"{machine.client_id}:wrong"),
        basic(f"{'x' * 32}:{machine.secret}"),
        basic(f"{machine.client_id}:"),
        basic(f"\x00:{machine.secret}"),
        basic(machine.client_id),
        {"Authorization": "Basic ====="},
        {"Authorization": f"Basic {'A' * 5000}"},
        {"Authorization": "Basic /w=="},
        {"Authorization": f"Bearer {machine.secret}"},
    ]
    answers = [token_call(op, MACHINE, headers) for headers in wrong]
    for answer in answers:
        is_refused(answer, 401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert len({answer.text for answer in answers}) == 1


def test_without_the_header_there_is_no_basic_challenge(op, machine):
    for fields in (
        {"client_id": machine.client_id},
        {"client_id": machine.client_id, "client_secret": "wrong"},
        {},
        {"client_id": "nobody"},
    ):
        answer = is_refused(token_call(op, {**MACHINE, **fields}), 401, "invalid_client")
        assert "www-authenticate" not in answer.headers


def test_a_disabled_client_is_no_client(op, machine):
    async def disable():
        async with op.storage() as uow:
            client = await uow.clients.find(machine.client_id)
            await uow.clients.save(replace(client, is_active=False))
            await uow.commit()

    token = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    op.run(disable())
    is_refused(machine.post("/oauth/token", **MACHINE), 401, "invalid_client")
    assert api(op, token).status_code == 401


def test_both_halves_of_a_basic_header_are_form_decoded(op, machine):
    escaped = "".join(f"%{ord(sign):02X}" for sign in machine.secret)
    answer = token_call(op, MACHINE, basic(f"{machine.client_id}:{escaped}"))
    assert answer.status_code == 200


def test_one_way_at_a_time(op, machine):
    header = basic(f"{machine.client_id}:{machine.secret}")
    twice = {**MACHINE, "client_secret": machine.secret}
    is_refused(token_call(op, twice, header), 400, "invalid_request")
    other = {**MACHINE, "client_id": "another"}
    is_refused(token_call(op, other, header), 400, "invalid_request")
    same = {**MACHINE, "client_id": machine.client_id}
    assert token_call(op, same, header).status_code == 200


def test_the_registered_method_is_the_only_one(op):
    strict = new_app(
        op,
        grant_types=["client_credentials"],
        metadata={"token_endpoint_auth_method": AuthMethod.POST},
    )
    is_refused(strict.post("/oauth/token", **MACHINE), 401, "invalid_client")
    strict.method = "client_secret_post"
    assert strict.post("/oauth/token", **MACHINE).status_code == 200


def test_wrong_secrets_are_counted_by_address(open_desk):
    desk = open_desk(rate_limit_auth=Rate(3, MINUTE))
    app = new_app(desk, grant_types=["client_credentials"])
    for _ in range(3):
        is_refused(token_call(desk, MACHINE, basic("x:y")), 401, "invalid_client")
    answer = is_refused(token_call(desk, MACHINE, basic("x:y")), 429, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    right = {**MACHINE, "client_id": app.client_id, "client_secret": app.secret}
    is_refused(token_call(desk, right), 429, "temporarily_unavailable")
    desk.clock.advance(MINUTE)
    for _ in range(5):
        assert token_call(desk, right).status_code == 200


# --- private_key_jwt -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client_key():
    return ECKey.generate_key("P-256", {"kid": "k1", "use": "sig", "alg": "ES256"})


@pytest.fixture
def signer(op, client_key):
    odd = {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}
    small = {"kty": "RSA", "kid": "small", "e": "AQAB", "n": f"{'z' * 170}w"}  # 1024 bits
    return new_app(
        op,
        grant_types=["client_credentials"],
        metadata={
            "token_endpoint_auth_method": AuthMethod.PRIVATE_KEY_JWT,
            "jwks": {"keys": [odd, small, client_key.as_dict(private=False)]},
        },
    )


def assertion_of(desk, client_id, key, *, header=None, **changes):
    now = int(desk.clock.now().timestamp())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": ISSUER,
        "exp": now + 60,
        "jti": f"jti-{len(json.dumps(changes))}-{changes.get('jti', 1)}",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "ES256", "kid": "k1", **(header or {})}, claims, key)


def by_assertion(desk, assertion, **more):
    fields = {
        **MACHINE,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    sent = {name: value for name, value in {**fields, **more}.items() if value is not None}
    return token_call(desk, sent)


def test_a_client_shows_who_it_is_by_signing_and_each_signature_is_good_once(
    op, signer, client_key
):
    assertion = assertion_of(op, signer.client_id, client_key)
    assert by_assertion(op, assertion).status_code == 200
    is_refused(by_assertion(op, assertion), 401, "invalid_client")
    for aud in (f"{ISSUER}/oauth/token", [ISSUER]):
        fresh = assertion_of(op, signer.client_id, client_key, aud=aud, jti=str(aud))
        assert by_assertion(op, fresh, client_id=signer.client_id).status_code == 200
    is_refused(signer.post("/oauth/token", **MACHINE), 401, "invalid_client")


def test_an_assertion_that_is_not_quite_right_is_refused(op, signer, client_key):
    now = int(op.clock.now().timestamp())
    stranger = ECKey.generate_key("P-256", {"kid": "k1"})
    for changes in (
        {"iss": "somebody"},
        {"sub": "somebody"},
        {"aud": "https://other.example"},
        {"aud": [ISSUER, "https://other.example"]},
        {"aud": None},
        {"exp": None},
        {"exp": now - 61},
        {"exp": now + 600},
        {"exp": True},
        {"exp": "soon"},
        {"nbf": now + 120},
        {"jti": None},
        {"jti": ""},
    ):
        assertion = assertion_of(op, signer.client_id, client_key, **changes)
        answer = by_assertion(op, assertion, client_id=signer.client_id)
        is_refused(answer, 401, "invalid_client")
    forged = assertion_of(op, signer.client_id, stranger)
    is_refused(by_assertion(op, forged), 401, "invalid_client")
    unknown = assertion_of(op, signer.client_id, client_key, header={"kid": "k2"})
    is_refused(by_assertion(op, unknown), 401, "invalid_client")
    for text in ("", "x", "a.b.c", "e30.e30.", "x" * 9000):
        is_refused(by_assertion(op, text or "."), 401, "invalid_client")
    right = assertion_of(op, signer.client_id, client_key)
    is_refused(by_assertion(op, right, client_assertion_type="x"), 401, "invalid_client")
    is_refused(by_assertion(op, right, client_assertion_type=None), 401, "invalid_client")
    is_refused(by_assertion(op, right, client_secret="x"), 400, "invalid_request")
    assert by_assertion(op, right).status_code == 200


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_an_rsa_key_signs_too_and_needs_no_name_when_it_is_the_only_one(op, algorithm):
    key = RSAKey.generate_key(2048)
    app = new_app(
        op,
        grant_types=["client_credentials"],
        metadata={
            "token_endpoint_auth_method": AuthMethod.PRIVATE_KEY_JWT,
            "jwks": {"keys": [key.as_dict(private=False)]},
        },
    )
    now = int(op.clock.now().timestamp())
    claims = {"iss": app.client_id, "sub": app.client_id, "aud": ISSUER, "exp": now + 60}
    signed = jwt.encode(
        {"alg": algorithm}, {**claims, "jti": "1"}, key, algorithms=["RS256", "PS256"]
    )
    assert by_assertion(op, signed).status_code == 200
    for confused in ("HS256", "none"):
        header = base64.urlsafe_b64encode(json.dumps({"alg": confused}).encode()).decode()
        forged = ".".join([header.rstrip("="), *signed.split(".")[1:]])
        is_refused(by_assertion(op, forged), 401, "invalid_client")


def test_keys_do_no_good_to_a_client_that_registered_a_secret(op, client_key):
    app = new_app(
        op,
        grant_types=["client_credentials"],
        metadata={"jwks": {"keys": [client_key.as_dict(private=False)]}},
    )
    assertion = assertion_of(op, app.client_id, client_key)
    is_refused(by_assertion(op, assertion), 401, "invalid_client")
    plain = new_app(op, grant_types=["client_credentials"])
    assertion = assertion_of(op, plain.client_id, client_key)
    is_refused(by_assertion(op, assertion), 401, "invalid_client")


# --- the token endpoint --------------------------------------------------------------------------


def test_only_a_posted_form_gets_an_answer(op, machine):
    answer = op.get("/oauth/token")
    is_refused(answer, 405, "invalid_request")
    assert "POST" in answer.headers["allow"]
    header = basic(f"{machine.client_id}:{machine.secret}")
    is_refused(op.post("/oauth/token", json=MACHINE, headers=header), 400, "invalid_request")
    is_refused(op.post("/oauth/token", headers=header), 400, "invalid_request")
    form = {**header, "Content-Type": "application/x-www-form-urlencoded"}
    for body in (
        b"grant_type=client_credentials&grant_type=client_credentials",
        b"grant_type=%ff",
        b"grant_type=\xff",
        b"grant_type=client_credentials&x=%00",
        b"&".join(b"a%d=1" % number for number in range(101)),
    ):
        is_refused(op.post("/oauth/token", content=body, headers=form), 400, "invalid_request")
    big = b"grant_type=" + b"x" * 70_000
    is_refused(op.post("/oauth/token", content=big, headers=form), 413, "invalid_request")
    charset = {**header, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    body = b"grant_type=client_credentials&scope="
    assert op.post("/oauth/token", content=body, headers=charset).status_code == 200


def test_grant_types_are_those_of_the_client(app, machine):
    is_refused(app.post("/oauth/token"), 400, "invalid_request")
    is_refused(app.post("/oauth/token", grant_type="password"), 400, "unsupported_grant_type")
    is_refused(app.post("/oauth/token", **MACHINE), 400, "unauthorized_client")
    refused = machine.post("/oauth/token", grant_type="refresh_token", refresh_token="x")
    is_refused(refused, 400, "unauthorized_client")


def test_a_machine_gets_a_token_of_its_own_and_nothing_else(op, machine):
    answer = machine.post("/oauth/token", **MACHINE, scope="orders:read customers:read openid")
    found = answer.json()
    assert set(found) == {"access_token", "token_type", "expires_in", "scope"}
    assert found["scope"] == "orders:read"
    assert op.get("/api/orders/", by=f"Bearer {found['access_token']}").status_code == 200
    assert api(op, found["access_token"]).status_code == 403
    answer = machine.userinfo(found["access_token"])
    is_refused(answer, 403, "insufficient_scope")
    assert 'scope="openid"' in answer.headers["www-authenticate"]
    is_refused(machine.post("/oauth/token", **MACHINE, scope="users:manage"), 400, "invalid_scope")
    anything = new_app(op, grant_types=["client_credentials"])
    for each in (machine, anything):
        is_refused(each.post("/oauth/token", **MACHINE, scope="openid"), 400, "invalid_scope")


def test_what_a_public_client_was_given_by_mistake_it_does_not_get(op):
    app = new_app(op, client_type="public")

    async def mistake():
        async with op.storage() as uow:
            client = await uow.clients.find(app.client_id)
            await uow.clients.save(replace(client, grant_types=tuple(GrantType)))
            await uow.commit()

    op.run(mistake())
    is_refused(app.post("/oauth/token", **MACHINE), 400, "unauthorized_client")


def test_a_code_is_bound_to_everything_it_was_asked_with(op, app):
    other = new_app(op, name="Other")
    code = app.code(code_challenge=challenge(), code_challenge_method="S256")
    is_refused(app.redeem("x", code_verifier=VERIFIER), 400, "invalid_grant")
    is_refused(other.redeem(code, code_verifier=VERIFIER), 400, "invalid_grant")
    is_refused(app.redeem(code, code_verifier=VERIFIER, redirect_uri=None), 400, "invalid_grant")
    is_refused(
        app.redeem(code, code_verifier=VERIFIER, redirect_uri=f"{CALLBACK}&"),
        400,
        "invalid_grant",
    )
    is_refused(app.redeem(code), 400, "invalid_grant")
    is_refused(app.redeem(code, code_verifier="w" * 43), 400, "invalid_grant")
    is_refused(app.redeem(code, code_verifier="short"), 400, "invalid_grant")
    assert app.redeem(code, code_verifier=VERIFIER).status_code == 200
    downgraded = app.code()
    is_refused(app.redeem(downgraded, code_verifier=VERIFIER), 400, "invalid_grant")


def test_a_code_ends_after_a_minute(op, app):
    code = app.code()
    op.clock.advance(MINUTE)
    is_refused(app.redeem(code), 400, "invalid_grant")
    code = app.code()
    op.clock.advance(MINUTE - SECOND)
    assert app.redeem(code).status_code == 200


def test_a_code_of_somebody_disabled_meanwhile_is_worth_nothing(op, app):
    code = app.code()
    op.run(op.identity.accounts.set_active("johndoe", active=False, by=None))
    is_refused(app.redeem(code), 400, "invalid_grant")


def test_tokens_shrink_with_the_role(op, app):
    tokens = app.tokens(scope="openid orders:write offline_access", prompt="consent")
    assert "orders:write" in tokens["scope"]
    op.run(op.identity.accounts.set_role("johndoe", Role.VIEWER, by=None))
    again = app.refresh(tokens["refresh_token"]).json()
    assert again["scope"] == "openid offline_access"


# --- refresh -------------------------------------------------------------------------------------


def test_refresh_tokens_come_to_those_who_asked_for_them(op, app):
    assert "refresh_token" not in app.tokens()
    assert "refresh_token" in app.tokens(scope="orders:read", nonce=None)
    first_party = new_app(op, first_party=True)
    assert "refresh_token" in first_party.tokens()
    without = new_app(op, grant_types=["authorization_code"])
    tokens = without.tokens(**REFRESHING)
    assert "refresh_token" not in tokens
    assert tokens["scope"] == "openid"


def test_a_refresh_token_used_twice_ends_its_family(op, app):
    tokens = app.tokens(**REFRESHING)
    second = app.refresh(tokens["refresh_token"]).json()
    third = app.refresh(second["refresh_token"]).json()
    assert app.userinfo(third["access_token"]).status_code == 200
    is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")
    is_refused(app.refresh(third["refresh_token"]), 400, "invalid_grant")
    for each in (tokens, second, third):
        assert app.userinfo(each["access_token"]).status_code == 401


def test_a_lost_answer_is_forgiven_shortly_where_the_operator_allows_it(open_desk):
    desk = open_desk(identity=IdentitySettings(registration_open=True, refresh_grace=10 * SECOND))
    register(desk)
    app = new_app(desk)
    tokens = app.tokens(**REFRESHING)
    first = app.refresh(tokens["refresh_token"]).json()
    desk.clock.advance(9 * SECOND)
    again = app.refresh(tokens["refresh_token"])
    assert again.status_code == 200
    # Once the client went on with the newer one, the older one is a stolen one.
    assert app.refresh(first["refresh_token"]).status_code == 200
    is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")
    is_refused(app.refresh(again.json()["refresh_token"]), 400, "invalid_grant")
    tokens = app.tokens(**REFRESHING)
    app.refresh(tokens["refresh_token"])
    desk.clock.advance(10 * SECOND)
    is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")


def test_a_refresh_token_ends_when_nobody_uses_it_and_with_its_family(op, app):
    tokens = app.tokens(**REFRESHING)
    op.clock.advance(14 * DAY)
    is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")
    token = app.tokens(**REFRESHING)["refresh_token"]
    for _ in range(6):
        op.clock.advance(13 * DAY)
        token = app.refresh(token).json()["refresh_token"]
    op.clock.advance(12 * DAY)  # the 90th day
    is_refused(app.refresh(token), 400, "invalid_grant")


def test_the_scope_narrows_and_never_widens(op, app):
    tokens = app.tokens(scope="openid email orders:read offline_access", prompt="consent")
    narrow = app.refresh(tokens["refresh_token"], scope="orders:read").json()
    assert narrow["scope"] == "orders:read"
    assert "id_token" not in narrow
    for wider in ("openid profile", "users:manage", "nonsense"):
        refused = app.refresh(narrow["refresh_token"], scope=wider)
        is_refused(refused, 400, "invalid_scope")
    whole = app.refresh(narrow["refresh_token"], scope="openid email offline_access").json()
    assert whole["scope"] == "openid email offline_access"
    is_refused(app.refresh("rt_unknown"), 400, "invalid_grant")


def test_what_ends_a_login_ends_its_tokens_at_once(op, app):
    async def change():
        async with op.storage(reading=True) as uow:
            user = await uow.users.by_login("johndoe")
        caller = replace(Caller.staff(f"user:{user.id}"), user_id=user.id)
        await op.identity.accounts.change_password(
            old_password="securepassword123",
            new_password="Jambo-2026x",
            confirm_password="Jambo-2026x",
            by=caller,
            address="1.1.1.1",
        )

    tokens = app.tokens(**REFRESHING)
    op.run(change())
    assert app.userinfo(tokens["access_token"]).status_code == 401
    is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")
    assert app.returned(app.authorize(prompt="none"))["error"] == "login_required"


def test_logging_out_spares_what_was_granted_for_offline_use(op, app):
    first_party = new_app(op, first_party=True, name="Till")
    offline = app.tokens(**REFRESHING)
    online = first_party.tokens()
    first_party.browser = app.browser
    shared = first_party.tokens()
    hint = shared["id_token"]
    assert app.browser.get(f"/oauth/logout?id_token_hint={hint}").status_code == 200
    assert app.userinfo(offline["access_token"]).status_code == 200
    assert app.refresh(offline["refresh_token"]).status_code == 200
    assert app.userinfo(shared["access_token"]).status_code == 401
    is_refused(first_party.refresh(shared["refresh_token"]), 400, "invalid_grant")
    assert app.userinfo(online["access_token"]).status_code == 200  # another browser's


# --- resource indicators -------------------------------------------------------------------------


def claims_of(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=="))


def test_a_token_names_the_api_it_is_for(op, app, machine):
    assert claims_of(app.tokens()["access_token"])["aud"] == "savannah"
    tokens = app.tokens(resource=f"{ISSUER}/api/", scope="openid customers:read")
    assert claims_of(tokens["access_token"])["aud"] == f"{ISSUER}/api/"
    assert api(op, tokens["access_token"]).status_code == 200
    own = machine.post("/oauth/token", **MACHINE, resource=f"{ISSUER}/api/").json()
    assert claims_of(own["access_token"])["aud"] == f"{ISSUER}/api/"
    refused = machine.post("/oauth/token", **MACHINE, resource="https://other.example/")
    is_refused(refused, 400, "invalid_target")
    returned = app.through(app.authorize(resource="https://other.example/"))
    assert returned["error"] == "invalid_target"


# --- userinfo and bearer tokens ------------------------------------------------------------------


def test_userinfo_tells_apart_nothing_wrong_and_too_little(op, app):
    answer = op.get("/oauth/userinfo")
    assert (answer.status_code, answer.json()) == (401, {})
    assert "error" not in answer.headers["www-authenticate"]
    for headers in (
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer"},
        {"Authorization": f"bearer {app.tokens()['id_token']}"},
    ):
        answer = op.get("/oauth/userinfo", headers=headers)
        is_refused(answer, 401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "resource_metadata=" in answer.headers["www-authenticate"]
    plain = app.tokens(scope="orders:read", nonce=None)["access_token"]
    is_refused(app.userinfo(plain), 403, "insufficient_scope")
    token = app.tokens()["access_token"]
    is_refused(op.get(f"/oauth/userinfo?access_token={token}"), 400, "invalid_request")
    both = op.post(
        "/oauth/userinfo",
        data={"access_token": token},
        headers={"Authorization": f"Bearer {token}"},
    )
    is_refused(both, 400, "invalid_request")
    assert op.post("/oauth/userinfo", data={"x": "y"}).status_code == 401
    assert op.get("/o/userinfo/", headers={"Authorization": f"BEARER {token}"}).status_code == 200
    op.clock.advance(timedelta(hours=1))
    is_refused(app.userinfo(token), 401, "invalid_token")


def test_userinfo_leaves_out_what_is_not_known(op, app):
    register(op, "bare", email=None, first_name="", last_name="")
    answer = app.browser.send(
        app.authorize(scope="openid profile email"), username="bare", password="securepassword123"
    )
    returned = app.returned(app.browser.send(answer, decision="allow"))
    token = app.redeem(returned["code"]).json()["access_token"]
    found = app.userinfo(token).json()
    assert found == {"sub": found["sub"], "preferred_username": "bare"}


# --- introspection and revocation ----------------------------------------------------------------


def look(app, token):
    return app.post("/oauth/introspect", token=token)


def test_introspection_tells_the_owner_and_resource_servers(op, app, resource_server):
    tokens = app.tokens(scope="openid offline_access orders:read", prompt="consent")
    for who in (app, resource_server):
        found = look(who, tokens["access_token"]).json()
        assert found == {
            "active": True,
            "scope": "openid offline_access orders:read",
            "client_id": app.client_id,
            "username": "johndoe",
            "token_type": "Bearer",
            "exp": found["iat"] + 3600,
            "iat": int(op.clock.now().timestamp()),
            "sub": tokens["claims"]["sub"],
            "aud": f"{ISSUER}/api/",
            "iss": ISSUER,
            "jti": claims_of(tokens["access_token"])["jti"],
        }
        found = look(who, tokens["refresh_token"]).json()
        assert found["active"] is True
        assert found["scope"] == "openid offline_access orders:read"
        assert "token_type" not in found


def test_everything_else_is_just_not_active(op, app, machine):
    other = new_app(op, name="Other")
    tokens = app.tokens(**REFRESHING)
    nothing = {"active": False}
    for name in ("access_token", "refresh_token"):
        assert look(other, tokens[name]).json() == nothing
    assert look(app, "nonsense").json() == nothing
    assert look(app, "rt_nonsense").json() == nothing
    assert look(app, tokens["id_token"]).json() == nothing
    app.refresh(tokens["refresh_token"])
    assert look(app, tokens["refresh_token"]).json() == nothing
    own = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    assert "username" not in look(machine, own).json()
    app.post("/oauth/revoke", token=tokens["access_token"])
    assert look(app, tokens["access_token"]).json() == nothing
    second = app.tokens(**REFRESHING)
    app.post("/oauth/revoke", token=second["refresh_token"])
    assert look(app, second["refresh_token"]).json() == nothing
    third = app.tokens(**REFRESHING)
    op.run(op.identity.accounts.set_active("johndoe", active=False, by=None))
    assert look(app, third["access_token"]).json() == nothing
    is_refused(app.post("/oauth/introspect"), 400, "invalid_request")
    is_refused(op.post("/oauth/introspect", data={"token": "x"}), 401, "invalid_client")
    public = new_app(op, client_type="public")
    is_refused(look(public, "x"), 401, "invalid_client")


def test_what_is_revoked_stops_at_once_with_all_that_belongs_to_it(op, app):
    for name in ("access_token", "refresh_token"):
        tokens = app.tokens(**REFRESHING)
        answer = app.post("/oauth/revoke", token=tokens[name], token_type_hint="nonsense")
        assert (answer.status_code, answer.json()) == (200, {})
        assert app.userinfo(tokens["access_token"]).status_code == 401
        is_refused(app.refresh(tokens["refresh_token"]), 400, "invalid_grant")
        assert app.post("/oauth/revoke", token=tokens[name]).status_code == 200
    for text in ("nonsense", "rt_nonsense"):
        assert app.post("/oauth/revoke", token=text).status_code == 200
    is_refused(app.post("/oauth/revoke"), 400, "invalid_request")


def test_nobody_revokes_the_tokens_of_another_client(op, app, machine):
    other = new_app(op, name="Other", client_type="public")
    tokens = app.tokens(**REFRESHING)
    for name in ("access_token", "refresh_token"):
        is_refused(other.post("/oauth/revoke", token=tokens[name]), 400, "invalid_grant")
    assert app.userinfo(tokens["access_token"]).status_code == 200
    own = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    assert machine.post("/o/revoke_token/", token=own).status_code == 200
    assert op.get("/api/orders/", by=f"Bearer {own}").status_code == 401


def test_a_password_login_stands_on_the_same_tokens(op):
    app = new_app(op, first_party=True)
    body = {
        "username": "johndoe",
        "password": "securepassword123",
        "client_id": app.client_id,
        "client_secret": app.secret,
    }
    opened = op.post("/api/auth/login/", json=body).json()
    assert look(app, opened["access_token"]).json()["active"] is True
    again = app.refresh(opened["refresh_token"]).json()
    assert api(op, again["access_token"]).status_code == 200
    claims = app.id_claims(again, nonce=None)
    assert claims["sub"] == opened["user"]["id"]
    answer = op.post("/api/auth/logout/", by=f"Bearer {again['access_token']}")
    assert answer.status_code == 204
    is_refused(app.refresh(again["refresh_token"]), 400, "invalid_grant")
    third = new_app(op)
    refused = {**body, "client_id": third.client_id, "client_secret": third.secret}
    assert op.post("/api/auth/login/", json=refused).status_code == 401


# --- pushed requests -----------------------------------------------------------------------------


def push(app, **more):
    asked = app.request(**more)
    asked.pop("client_id")
    return app.post("/oauth/par", **asked)


def test_a_pushed_request_is_good_once_and_for_its_client(op, app):
    answer = push(app, state="pushed")
    assert answer.status_code == 201
    found = answer.json()
    assert found["expires_in"] == 60
    start = f"/oauth/authorize?client_id={app.client_id}&request_uri={found['request_uri']}"
    other = new_app(op, name="Other")
    foreign = app.browser.get(start.replace(app.client_id, other.client_id))
    assert foreign.status_code == 400
    returned = app.through(app.browser.get(start))
    assert returned["state"] == "pushed"
    assert app.redeem(returned["code"]).status_code == 200
    page = app.browser.get(start)
    assert page.status_code == 400
    assert "invalid_request_uri" in page.text
    late = push(app).json()["request_uri"]
    op.clock.advance(MINUTE)
    page = app.browser.get(f"/oauth/authorize?client_id={app.client_id}&request_uri={late}")
    assert page.status_code == 400


def test_a_pushed_request_is_checked_when_it_is_pushed(op, app):
    is_refused(push(app, redirect_uri="https://evil.example/"), 400, "invalid_request")
    is_refused(push(app, response_type="token"), 400, "unsupported_response_type")
    is_refused(push(app, request_uri="urn:x"), 400, "invalid_request")
    is_refused(op.post("/oauth/par", data=app.request()), 401, "invalid_client")
    app.method = "client_secret_post"
    assert push(app).status_code == 201
    public = new_app(op, client_type="public")
    pkce = {"code_challenge": challenge(), "code_challenge_method": "S256"}
    found = push(public, **pkce).json()
    start = f"/oauth/authorize?client_id={public.client_id}&request_uri={found['request_uri']}"
    returned = public.through(public.browser.get(start))
    assert public.redeem(returned["code"], code_verifier=VERIFIER).status_code == 200


def test_a_client_pushes_for_itself_alone(op, app, machine):
    header = basic(f"{app.client_id}:{app.secret}")
    asked = app.request(client_id=machine.client_id)
    is_refused(op.post("/oauth/par", data=asked, headers=header), 400, "invalid_request")


def test_nothing_is_kept_that_is_too_long_to_be_used(app):
    is_refused(app.post("/oauth/par", **app.request(state="s" * 9000)), 400, "invalid_request")


# --- consents ------------------------------------------------------------------------------------


def test_what_was_allowed_is_seen_and_withdrawn_and_ends_every_login(op, app):
    mine = f"Bearer {op.run(op.log_in('johndoe')).access_token}"
    assert op.get("/api/auth/consents/", by=mine).json() == {"results": []}
    found = app.tokens(scope="openid offline_access customers:read")
    assert op.get("/api/auth/consents/", by=mine).json() == {
        "results": [
            {
                "client_id": app.client_id,
                "client_name": "My <App> & Co",
                "scopes": ["openid", "offline_access", "customers:read"],
                "given_at": "2026-11-23T09:00:00Z",
            }
        ]
    }
    path = f"/api/auth/consents/{app.client_id}/"
    assert op.delete(path, by="staff").status_code == 404  # somebody else's
    assert app.userinfo(found["access_token"]).status_code == 200
    assert op.delete(path, by=mine).status_code == 204
    assert app.userinfo(found["access_token"]).status_code == 401
    is_refused(app.refresh(found["refresh_token"]), 400, "invalid_grant")
    assert op.get("/api/auth/consents/", by=mine).json() == {"results": []}
    for again in (path, "/api/auth/consents/caf%C3%A9/"):
        assert op.delete(again, by=mine).status_code == 404
    assert is_consent(app.authorize(scope="openid"))


def test_an_app_of_somebody_else_looks_after_no_account(op, app):
    """Its scopes say what it may read, and nothing about changes."""
    theirs = f"Bearer {app.tokens(scope='openid profile email read')['access_token']}"
    assert op.get("/api/orders/", by=theirs).status_code == 200
    password = {"old_password": PASSWORD, "new_password": "new-Password-1"}
    assert op.get("/api/auth/profile/", by=theirs).json()["email"] == "johndoe@example.com"
    blind = f"Bearer {app.tokens(scope='openid profile read')['access_token']}"
    unread = op.get("/api/auth/profile/", by=blind)
    assert (unread.status_code, unread.json()["code"]) == (403, "insufficient_scope")
    assert "johndoe@example.com" not in unread.text
    for answer in (
        op.patch("/api/auth/profile/", by=theirs, json={"email": "evil@example.com"}),
        op.get("/api/auth/consents/", by=theirs),
        op.delete(f"/api/auth/consents/{app.client_id}/", by=theirs),
        op.post(
            "/api/auth/change-password/",
            by=theirs,
            json={**password, "confirm_password": password["new_password"]},
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "role_forbidden")
    ours = new_app(op, first_party=True)
    own = f"Bearer {ours.tokens(scope='openid')['access_token']}"
    assert op.get("/api/auth/profile/", by=own).json()["email"] == "johndoe@example.com"


# --- proof of possession -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_key():
    return ECKey.generate_key("P-256")


def proof(desk, key, method, uri, *, token=None, header=None, **changes):
    claims = {
        "jti": f"{method}{uri}{desk.clock.now()}{changes}{token}",
        "htm": method,
        "htu": uri,
        "iat": int(desk.clock.now().timestamp()),
        **changes,
    }
    if token is not None:
        hashed = hashlib.sha256(token.encode()).digest()
        claims.setdefault("ath", base64.urlsafe_b64encode(hashed).rstrip(b"=").decode())
    said = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False), **(header or {})}
    return jwt.encode(said, {k: v for k, v in claims.items() if v is not None}, key)


def bound_call(desk, app, fields, shown):
    header = {} if app.secret is None else basic(f"{app.client_id}:{app.secret}")
    if app.secret is None:
        fields = {**fields, "client_id": app.client_id}
    return desk.post("/oauth/token", data=fields, headers={**header, "DPoP": shown})


TOKEN_URI = f"{ISSUER}/oauth/token"
API_URI = f"{ISSUER}/api/orders/"


def test_a_bound_token_is_good_with_its_key_alone(op, machine, own_key):
    shown = proof(op, own_key, "POST", TOKEN_URI)
    found = bound_call(op, machine, MACHINE, shown).json()
    assert found["token_type"] == "DPoP"
    token = found["access_token"]
    assert claims_of(token)["cnf"] == {"jkt": own_key.thumbprint()}

    def orders(scheme, *proofs):
        headers = [("Authorization", f"{scheme} {token}"), *(("DPoP", each) for each in proofs)]
        return op.run(op.client.get("/api/orders/", headers=headers)).status_code

    good = proof(op, own_key, "GET", API_URI, token=token)
    assert orders("DPoP", good) == 200
    assert orders("DPoP", good) == 401  # each proof is good once
    assert orders("Bearer") == 401
    assert orders("DPoP") == 401
    stranger = ECKey.generate_key("P-256")
    fresh = {"jti": "fresh"}
    assert orders("DPoP", proof(op, stranger, "GET", API_URI, token=token)) == 401
    assert orders("DPoP", proof(op, own_key, "POST", API_URI, token=token)) == 401
    assert orders("DPoP", proof(op, own_key, "GET", TOKEN_URI, token=token)) == 401
    assert orders("DPoP", proof(op, own_key, "GET", API_URI, **fresh)) == 401
    assert orders("DPoP", proof(op, own_key, "GET", API_URI, token="x")) == 401
    one, two = (proof(op, own_key, "GET", API_URI, token=token, jti=jti) for jti in "ab")
    assert orders("DPoP", one, two) == 401
    assert orders("DPoP", one) == 200
    info = op.get(
        "/api/auth/token-info/",
        headers={
            "Authorization": f"DPoP {token}",
            "DPoP": proof(op, own_key, "GET", f"{ISSUER}/api/auth/token-info/", token=token),
        },
    )
    assert info.json()["token_type"] == "DPoP"
    seen = look(machine, token).json()
    assert (seen["token_type"], seen["cnf"]) == ("DPoP", {"jkt": own_key.thumbprint()})


def test_nobody_in_particular_makes_us_keep_proofs(op, machine, own_key):
    bound = bound_call(op, machine, MACHINE, proof(op, own_key, "POST", TOKEN_URI)).json()
    plain = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    stranger = ECKey.generate_key("P-256")
    for key, token in (
        (own_key, "rubbish"),
        (own_key, f"{bound['access_token']}x"),
        (stranger, bound["access_token"]),
        (own_key, plain),
    ):
        for uri in (API_URI, f"{ISSUER}/oauth/userinfo"):
            shown = proof(op, key, "GET", uri, token=token, jti="once")
            headers = {"Authorization": f"DPoP {token}", "DPoP": shown}
            assert op.get(uri.removeprefix(ISSUER), headers=headers).status_code == 401

    async def is_new(key):
        async with op.storage() as uow:
            kept = digest(f"proof {key.thumbprint()} once")
            return await uow.handshakes.claim(kept, expires_at=op.clock.now() + MINUTE)

    assert op.run(is_new(own_key))
    assert op.run(is_new(stranger))


def test_proofs_under_the_name_of_a_public_client_have_a_limit(open_desk, own_key):
    desk = open_desk(rate_limit=Rate(2, MINUTE))
    app = new_app(desk, client_type="public")
    fields = {"grant_type": "refresh_token", "refresh_token": "rt_nobodys"}
    for place in range(3):
        shown = proof(desk, own_key, "POST", TOKEN_URI, jti=f"{place}")
        answer = bound_call(desk, app, fields, shown)
        if place < 2:
            is_refused(answer, 400, "invalid_grant")
    is_refused(answer, 429, "temporarily_unavailable")

    async def is_new(jti):
        async with desk.storage() as uow:
            kept = digest(f"proof {own_key.thumbprint()} {jti}")
            return await uow.handshakes.claim(kept, expires_at=desk.clock.now() + MINUTE)

    assert [desk.run(is_new(f"{place}")) for place in range(3)] == [False, False, True]


def test_guesses_under_the_name_of_a_public_client_have_a_limit(open_desk):
    desk = open_desk(rate_limit=Rate(2, MINUTE))
    app = new_app(desk, client_type="public")
    assert [app.refresh(f"rt_{guess}").status_code for guess in range(3)] == [400, 400, 429]
    desk.clock.advance(MINUTE)
    asked = {"token": "rt_guess", "client_id": app.client_id}
    revoked = [desk.post("/oauth/revoke", data=asked).status_code for _ in range(3)]
    assert revoked == [200, 200, 429]


def test_pushed_requests_have_a_limit_per_client(open_desk):
    desk = open_desk(rate_limit=Rate(2, MINUTE))
    app = new_app(desk)
    pushed = [app.post("/oauth/par", **app.request()).status_code for _ in range(3)]
    assert pushed == [201, 201, 429]


def test_what_a_client_does_in_its_own_name_has_the_limit_of_its_calls(open_desk):
    desk = open_desk(rate_limit=Rate(3, MINUTE))
    register(desk)
    machine = new_app(desk, grant_types=["client_credentials"])
    token = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    for _ in range(2):
        assert desk.get("/api/orders/", by=f"Bearer {token}").status_code == 200
    is_refused(machine.post("/oauth/token", **MACHINE), 429, "temporarily_unavailable")
    app = new_app(desk)
    token = app.tokens(scope="openid")["access_token"]
    assert [app.userinfo(token).status_code for _ in range(4)] == [200, 200, 200, 429]
    # Guesses have that of their address.
    assert [app.userinfo("guess").status_code for _ in range(4)] == [401, 401, 401, 429]


def test_a_plain_token_is_no_better_with_a_proof(op, machine, own_key):
    token = machine.post("/oauth/token", **MACHINE).json()["access_token"]
    shown = proof(op, own_key, "GET", API_URI, token=token)
    answer = op.get("/api/orders/", headers={"Authorization": f"DPoP {token}", "DPoP": shown})
    assert answer.status_code == 401


def test_a_proof_that_is_not_quite_right_gets_no_token(op, machine, own_key):
    now = int(op.clock.now().timestamp())
    private = own_key.as_dict(private=True)
    for shown in (
        "nonsense",
        proof(op, own_key, "GET", TOKEN_URI),
        proof(op, own_key, "POST", f"{TOKEN_URI}/"),
        proof(op, own_key, "POST", TOKEN_URI, iat=now - 61),
        proof(op, own_key, "POST", TOKEN_URI, iat=now + 61),
        proof(op, own_key, "POST", TOKEN_URI, iat=None),
        proof(op, own_key, "POST", TOKEN_URI, jti=None),
        proof(op, own_key, "POST", TOKEN_URI, ath=7),
        proof(op, own_key, "POST", TOKEN_URI, header={"typ": "JWT"}),
        proof(op, own_key, "POST", TOKEN_URI, header={"jwk": private}),
        proof(op, own_key, "POST", TOKEN_URI, header={"jwk": {"kty": "oct", "k": "AA"}}),
    ):
        is_refused(bound_call(op, machine, MACHINE, shown), 400, "invalid_dpop_proof")
    query = proof(op, own_key, "POST", f"{TOKEN_URI}?x=1#y")
    assert bound_call(op, machine, MACHINE, query).status_code == 200


def test_the_refresh_token_of_a_public_client_is_bound_too(op, own_key):
    app = new_app(op, client_type="public")
    pkce = {"code_challenge": challenge(), "code_challenge_method": "S256"}
    fields = {
        "grant_type": "authorization_code",
        "code": app.code(**pkce, **REFRESHING),
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    }
    shown = proof(op, own_key, "POST", TOKEN_URI)
    found = bound_call(op, app, fields, shown).json()
    token = found["access_token"]
    claims = op.get(
        "/oauth/userinfo",
        headers={
            "Authorization": f"DPoP {token}",
            "DPoP": proof(op, own_key, "GET", f"{ISSUER}/oauth/userinfo", token=token),
        },
    )
    assert claims.status_code == 200
    assert app.userinfo(token).status_code == 401
    fields = {"grant_type": "refresh_token", "refresh_token": found["refresh_token"]}
    stranger = ECKey.generate_key("P-256")
    shown = proof(op, stranger, "POST", TOKEN_URI)
    is_refused(bound_call(op, app, fields, shown), 400, "invalid_grant")
    is_refused(app.refresh(found["refresh_token"]), 400, "invalid_grant")
    op.clock.advance(SECOND)
    assert bound_call(op, app, fields, proof(op, own_key, "POST", TOKEN_URI)).status_code == 200


def test_nothing_but_the_nonce_of_the_request_comes_back(op, app):
    assert app.tokens(nonce="n-0S6 Æ'\"<")["claims"]["nonce"] == "n-0S6 Æ'\"<"
    assert NONCE not in app.tokens(nonce="other")["id_token"]
