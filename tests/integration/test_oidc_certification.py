"""The modules of the OpenID Foundation's certification plans, each under its own name.

Basic OP (38 modules), Config OP, RP-initiated logout and back-channel logout. What a module checks
was read in the conformance suite; here it runs in-process, with the clock in the test's hand. What
the suite does with a sleep, the clock does here.
"""

import base64
import re
from datetime import timedelta
from urllib.parse import urlencode, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from relying_party import (
    NONCE,
    VERIFIER,
    App,
    Form,
    challenge,
    is_login,
    new_app,
    register,
)

SECOND = timedelta(seconds=1)
ISSUER = "https://desk.test"


@pytest.fixture
def op(secure_desk):
    register(secure_desk)
    return secure_desk


@pytest.fixture
def app(op):
    return new_app(op)


@pytest.fixture
def second_app(op):
    return new_app(op, name="Second")


def is_refused(answer, status, error):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["error"] == error
    # RFC 6749 section 5.2
    assert re.fullmatch(r"[\x20-\x21\x23-\x5B\x5D-\x7E]*", found.get("error_description", ""))
    return found


# --- Basic OP ------------------------------------------------------------------------------------


def test_oidcc_server(app):
    tokens = app.tokens()
    assert tokens["claims"]["sub"]
    assert app.userinfo(tokens["access_token"]).json()["sub"] == tokens["claims"]["sub"]


def test_oidcc_response_type_missing(app):
    returned = app.through(app.authorize(response_type=None))
    assert returned["error"] == "invalid_request"
    assert returned["state"] == "s" * 128


def test_oidcc_idtoken_signature(app):
    tokens = app.tokens()
    token = jwt.decode(tokens["id_token"], KeySet.import_key_set(app.keys()), algorithms=["RS256"])
    assert token.header["alg"] == "RS256"
    assert token.header["kid"]


def test_oidcc_idtoken_unsigned(app):
    """The suite skips this one where `none` is not offered, and it must not be."""
    found = app.browser.get("/.well-known/openid-configuration").json()
    assert found["id_token_signing_alg_values_supported"] == ["RS256"]


def test_oidcc_userinfo_get(app):
    tokens = app.tokens()
    assert app.userinfo(tokens["access_token"]).json()["sub"] == tokens["claims"]["sub"]


def test_oidcc_userinfo_post_header(app):
    tokens = app.tokens()
    answer = app.userinfo(tokens["access_token"], by="POST")
    assert answer.json()["sub"] == tokens["claims"]["sub"]


def test_oidcc_userinfo_post_body(app):
    tokens = app.tokens()
    answer = app.browser.post("/oauth/userinfo", data={"access_token": tokens["access_token"]})
    assert answer.json()["sub"] == tokens["claims"]["sub"]


def test_oidcc_ensure_request_without_nonce_succeeds_for_code_flow(app):
    assert "nonce" not in app.tokens(nonce=None)["claims"]


def test_oidcc_scope_profile(app):
    tokens = app.tokens(scope="openid profile")
    assert app.userinfo(tokens["access_token"]).json() == {
        "sub": tokens["claims"]["sub"],
        "name": "John Doe",
        "given_name": "John",
        "family_name": "Doe",
        "preferred_username": "johndoe",
    }


def test_oidcc_scope_email(app):
    tokens = app.tokens(scope="openid email")
    assert app.userinfo(tokens["access_token"]).json() == {
        "sub": tokens["claims"]["sub"],
        "email": "johndoe@example.com",
        "email_verified": False,
    }


def _unsupported_scope(app, scope):
    """Not offered: the scope is dropped, and the response says which ones were granted."""
    supported = app.browser.get("/.well-known/openid-configuration").json()["scopes_supported"]
    assert scope not in supported
    tokens = app.tokens(scope=f"openid {scope}")
    assert tokens["scope"] == "openid"
    assert set(app.userinfo(tokens["access_token"]).json()) == {"sub"}


def test_oidcc_scope_address(app):
    _unsupported_scope(app, "address")


def test_oidcc_scope_phone(app):
    _unsupported_scope(app, "phone")


def test_oidcc_scope_all(app):
    tokens = app.tokens(scope="openid profile email address phone")
    assert tokens["scope"] == "openid profile email"
    claims = app.userinfo(tokens["access_token"]).json()
    assert {"sub", "name", "email", "email_verified"} <= set(claims)


def test_oidcc_alternate_happy_flow(app):
    """Formerly ensure-other-scope-order-succeeds."""
    tokens = app.tokens(scope="email openid")
    assert set(tokens["scope"].split()) == {"openid", "email"}
    assert "id_token" in tokens


def test_oidcc_display_page(app):
    app.tokens(display="page")


def test_oidcc_display_popup(app):
    app.tokens(display="popup")


def test_oidcc_prompt_login(op, app):
    first = app.tokens()["claims"]
    op.clock.advance(SECOND)
    page = app.authorize(prompt="login")
    assert is_login(page)
    answer = app.redeem(app.through(page)["code"])
    second = app.id_claims(answer.json(), nonce=NONCE)
    assert second["auth_time"] > first["auth_time"]
    assert (second["sub"], second["sid"]) == (first["sub"], first["sid"])


def test_oidcc_prompt_none_not_logged_in(app):
    returned = app.returned(app.authorize(prompt="none"))
    assert returned["error"] == "login_required"
    assert returned["state"] == "s" * 128


def test_oidcc_prompt_none_logged_in(op, app):
    first = app.tokens()["claims"]
    op.clock.advance(SECOND)
    returned = app.returned(app.authorize(prompt="none"))
    second = app.id_claims(app.redeem(returned["code"]).json(), nonce=NONCE)
    assert (second["sub"], second["auth_time"]) == (first["sub"], first["auth_time"])


def test_oidcc_max_age_1(op, app):
    first = app.tokens()["claims"]
    op.clock.advance(2 * SECOND)
    page = app.authorize(max_age="1")
    assert is_login(page)
    second = app.id_claims(app.redeem(app.through(page)["code"]).json(), nonce=NONCE)
    assert second["auth_time"] > first["auth_time"]


def test_oidcc_max_age_10000(op, app):
    first = app.tokens()["claims"]
    op.clock.advance(2 * SECOND)
    returned = app.returned(app.authorize(max_age="10000"))
    second = app.id_claims(app.redeem(returned["code"]).json(), nonce=NONCE)
    assert second["auth_time"] == first["auth_time"]


def test_oidcc_ensure_request_with_unknown_parameter_succeeds(app):
    app.tokens(extra="foobar")


def test_oidcc_id_token_hint(app):
    first = app.tokens()
    returned = app.returned(app.authorize(prompt="none", id_token_hint=first["id_token"]))
    second = app.id_claims(app.redeem(returned["code"]).json(), nonce=NONCE)
    assert second["sub"] == first["claims"]["sub"]


def test_oidcc_login_hint(app):
    page = app.authorize(login_hint="john@example.com")
    assert Form(page.text).fields["username"] == "john@example.com"
    app.redeem(app.through(page)["code"]).raise_for_status()


def test_oidcc_ui_locales(app):
    page = app.authorize(ui_locales="se sw-KE")
    assert Form(page.text).lang == "sw"
    app.redeem(app.through(page)["code"]).raise_for_status()


def test_oidcc_claims_locales(app):
    app.tokens(claims_locales="se")


def test_oidcc_ensure_request_with_acr_values_succeeds(app):
    app.tokens(acr_values="1 2")


def test_oidcc_codereuse(app):
    code = app.code()
    assert app.redeem(code).status_code == 200
    is_refused(app.redeem(code), 400, "invalid_grant")


def test_oidcc_codereuse_30seconds(op, app):
    code = app.code()
    token = app.redeem(code).json()["access_token"]
    assert app.userinfo(token).status_code == 200
    op.clock.advance(30 * SECOND)
    is_refused(app.redeem(code), 400, "invalid_grant")
    assert app.userinfo(token).status_code == 401


def test_oidcc_ensure_registered_redirect_uri(app):
    page = app.authorize(redirect_uri="https://app.example/callback?x=1&foo=bar")
    assert page.status_code == 400
    assert "location" not in page.headers
    assert page.headers["content-type"].startswith("text/html")


def test_oidcc_ensure_post_request_succeeds(app):
    returned = app.through(app.authorize(by="POST"))
    assert app.redeem(returned["code"]).status_code == 200


def test_oidcc_server_client_secret_post(app):
    app.method = "client_secret_post"
    app.tokens()


def test_oidcc_request_uri_unsigned_supported_correctly_or_rejected_as_unsupported(app):
    returned = app.through(app.authorize(request_uri="https://app.example/request.jwt"))
    assert returned["error"] == "request_uri_not_supported"
    assert returned["state"] == "s" * 128


def test_oidcc_unsigned_request_object_supported_correctly_or_rejected_as_unsupported(app):
    unsigned = "eyJhbGciOiJub25lIn0.eyJzY29wZSI6Im9wZW5pZCJ9."
    returned = app.through(app.authorize(request=unsigned))
    assert returned["error"] == "request_not_supported"


def test_oidcc_claims_essential(app):
    """Metadata says that the parameter is not supported; it does no harm."""
    app.tokens(claims='{"userinfo": {"name": {"essential": true}}}')


def test_oidcc_ensure_request_object_with_redirect_uri(app):
    unsigned = "eyJhbGciOiJub25lIn0.eyJyZWRpcmVjdF91cmkiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9."
    returned = app.through(app.authorize(request=unsigned))
    assert returned["error"] == "request_not_supported"


def test_oidcc_refresh_token(op, app, second_app):
    tokens = app.tokens(scope="openid offline_access", prompt="consent")
    op.clock.advance(SECOND)
    answer = app.refresh(tokens["refresh_token"])
    assert answer.status_code == 200
    again = answer.json()
    claims = app.id_claims(again, nonce=None)
    before = tokens["claims"]
    for name in ("iss", "sub", "aud", "auth_time"):
        assert claims[name] == before[name]
    assert claims["iat"] > before["iat"]
    assert again["access_token"] != tokens["access_token"]
    is_refused(second_app.refresh(again["refresh_token"]), 400, "invalid_grant")
    # A foreign client does not end the family.
    assert app.refresh(again["refresh_token"]).status_code == 200


def test_oidcc_ensure_request_with_valid_pkce_succeeds(app):
    app.tokens(code_challenge=challenge(), code_challenge_method="S256", verifier=VERIFIER)


# --- Config OP -----------------------------------------------------------------------------------


def test_oidcc_discovery_endpoint_verification(op, app):
    answer = app.browser.get("/.well-known/openid-configuration")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert found["issuer"] == ISSUER
    assert "code" in found["response_types_supported"]
    assert found["subject_types_supported"] == ["public"]
    assert "RS256" in found["id_token_signing_alg_values_supported"]
    for name, value in found.items():
        if name.endswith(("_endpoint", "_uri")):
            assert value.startswith(f"{ISSUER}/"), name
    assert "sub" in found["claims_supported"]
    assert found["grant_types_supported"]
    assert "openid" in found["scopes_supported"]
    assert found["code_challenge_methods_supported"] == ["S256"]
    keys = app.browser.get(urlsplit(found["jwks_uri"]).path).json()["keys"]
    assert len({key["kid"] for key in keys}) == len(keys) > 0
    for key in keys:
        assert key["kty"] == "RSA"
        assert (key["use"], key["alg"]) == ("sig", "RS256")
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key)
        assert "=" not in key["n"]


# --- RP-initiated logout -------------------------------------------------------------------------

BYE = "https://app.example/bye"
NOTIFY = "https://app.example/backchannel"


@pytest.fixture
def leaver(op):
    return new_app(
        op,
        metadata={"post_logout_redirect_uris": (BYE,), "backchannel_logout_uri": NOTIFY},
    )


def logout(app: App, **fields):
    return app.browser.get(f"/oauth/logout?{urlencode(fields)}")


def is_logged_in(app):
    return "code" in app.returned(app.authorize(prompt="none"))


def page_without_redirect(answer, status):
    assert answer.status_code == status
    assert "location" not in answer.headers
    assert answer.headers["content-type"].startswith("text/html")


def test_oidcc_rp_initiated_logout_discovery_endpoint_verification(app):
    found = app.browser.get("/.well-known/openid-configuration").json()
    assert found["end_session_endpoint"] == f"{ISSUER}/oauth/logout"


def test_oidcc_rp_initiated_logout(leaver):
    tokens = leaver.tokens()
    answer = logout(
        leaver,
        id_token_hint=tokens["id_token"],
        post_logout_redirect_uri=BYE,
        state="xyz 1",
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{BYE}?state=xyz+1"
    assert not is_logged_in(leaver)


def test_oidcc_rp_initiated_logout_bad_post_logout_redirect_uri(leaver):
    tokens = leaver.tokens()
    answer = logout(
        leaver, id_token_hint=tokens["id_token"], post_logout_redirect_uri="https://evil.example/"
    )
    page_without_redirect(answer, 400)
    assert "evil" not in answer.text


def test_oidcc_rp_initiated_logout_query_added_to_post_logout_redirect_uri(leaver):
    tokens = leaver.tokens()
    answer = logout(
        leaver, id_token_hint=tokens["id_token"], post_logout_redirect_uri=f"{BYE}?foo=bar"
    )
    page_without_redirect(answer, 400)


def test_oidcc_rp_initiated_logout_modified_id_token_hint(leaver):
    """The same claims, unsigned under `alg: none`."""
    tokens = leaver.tokens()
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    unsigned = f"{header}.{tokens['id_token'].split('.')[1]}."
    answer = logout(leaver, id_token_hint=unsigned, post_logout_redirect_uri=BYE)
    page_without_redirect(answer, 400)
    assert is_logged_in(leaver)


def test_oidcc_rp_initiated_logout_bad_id_token_hint(leaver):
    leaver.tokens()
    answer = logout(leaver, id_token_hint="invalid", post_logout_redirect_uri=BYE)
    page_without_redirect(answer, 400)


def test_oidcc_rp_initiated_logout_no_id_token_hint(leaver):
    leaver.tokens()
    answer = logout(leaver, post_logout_redirect_uri=BYE, state="x")
    page_without_redirect(answer, 400)


def test_oidcc_rp_initiated_logout_no_params(leaver):
    leaver.tokens()
    page = logout(leaver)
    page_without_redirect(page, 200)
    assert is_logged_in(leaver)
    page_without_redirect(leaver.browser.send(page), 200)
    assert not is_logged_in(leaver)


def test_oidcc_rp_initiated_logout_no_post_logout_redirect_uri(leaver):
    tokens = leaver.tokens()
    page_without_redirect(logout(leaver, id_token_hint=tokens["id_token"], state="x"), 200)
    assert not is_logged_in(leaver)


def test_oidcc_rp_initiated_logout_no_state(leaver):
    tokens = leaver.tokens()
    answer = logout(leaver, id_token_hint=tokens["id_token"], post_logout_redirect_uri=BYE)
    assert answer.headers["location"] == BYE
    assert not is_logged_in(leaver)


def test_oidcc_rp_initiated_logout_only_state(leaver):
    leaver.tokens()
    page = logout(leaver, state="x")
    page_without_redirect(page, 200)
    page_without_redirect(leaver.browser.send(page), 200)
    assert not is_logged_in(leaver)


# --- back-channel logout -------------------------------------------------------------------------


def test_oidcc_backchannel_rp_initiated_logout_discovery_endpoint_verification(app):
    found = app.browser.get("/.well-known/openid-configuration").json()
    assert found["backchannel_logout_supported"] is True
    assert found["backchannel_logout_session_supported"] is True


def test_oidcc_backchannel_rp_initiated_logout(op, leaver):
    tokens = leaver.tokens()
    logout(leaver, id_token_hint=tokens["id_token"], post_logout_redirect_uri=BYE)
    assert op.run(op.identity.sessions.deliver_notices()) == 1
    [(uri, logout_token)] = op.logout_sender.sent
    assert uri == NOTIFY
    token = jwt.decode(logout_token, KeySet.import_key_set(leaver.keys()), algorithms=["RS256"])
    assert token.header["typ"] == "logout+jwt"
    claims, now = token.claims, op.clock.now().timestamp()
    assert (claims["iss"], claims["aud"]) == (ISSUER, leaver.client_id)
    assert claims["iat"] <= now < claims["exp"] <= claims["iat"] + 120
    assert (claims["sub"], claims["sid"]) == (tokens["claims"]["sub"], tokens["claims"]["sid"])
    assert claims["jti"]
    assert claims["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "nonce" not in claims
    assert op.run(op.identity.sessions.deliver_notices()) == 0


def test_every_module_of_the_basic_plan_has_its_test():
    """The 38 names, so that none gets lost."""
    names = [
        "server",
        "response-type-missing",
        "idtoken-signature",
        "idtoken-unsigned",
        "userinfo-get",
        "userinfo-post-header",
        "userinfo-post-body",
        "ensure-request-without-nonce-succeeds-for-code-flow",
        "scope-profile",
        "scope-email",
        "scope-address",
        "scope-phone",
        "scope-all",
        "alternate-happy-flow",
        "display-page",
        "display-popup",
        "prompt-login",
        "prompt-none-not-logged-in",
        "prompt-none-logged-in",
        "max-age-1",
        "max-age-10000",
        "ensure-request-with-unknown-parameter-succeeds",
        "id-token-hint",
        "login-hint",
        "ui-locales",
        "claims-locales",
        "ensure-request-with-acr-values-succeeds",
        "codereuse",
        "codereuse-30seconds",
        "ensure-registered-redirect-uri",
        "ensure-post-request-succeeds",
        "server-client-secret-post",
        "request-uri-unsigned-supported-correctly-or-rejected-as-unsupported",
        "unsigned-request-object-supported-correctly-or-rejected-as-unsupported",
        "claims-essential",
        "ensure-request-object-with-redirect-uri",
        "refresh-token",
        "ensure-request-with-valid-pkce-succeeds",
    ]
    assert len(names) == 38
    for name in names:
        assert f"test_oidcc_{name.replace('-', '_')}" in globals(), name
