"""openid-client, which is certified, uses Savannah as its provider, unchanged."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import jwt
import pytest

from interop.outsiders import BACK, BYE, Failed

SCOPE = "openid profile email orders:read offline_access"


@pytest.fixture(scope="module")
def till(desk, openid_client, receiver):
    """An app with a secret, and all that it can be told about a logout."""
    provider = {"post_logout_redirect_uris": [BYE], "backchannel_logout_uri": receiver.url}
    app = desk.app(name="Till", provider={**provider, "resource_server": True})
    shown(openid_client, "till", desk, app)
    return app


def shown(openid_client, name, desk, app, *, auth="client_secret_basic", **more):
    """The app has read the discovery document; what it read."""
    return openid_client.do(
        "discover",
        app=name,
        issuer=desk.url,
        client_id=app["client_id"],
        secret=app.get("client_secret"),
        auth=auth,
        **more,
    )


def logged_in(openid_client, browser, name="till", *, pushed=False, scope=SCOPE, **more):
    """The whole of a login; the tokens as the library has checked them."""
    asked = {"redirect_uri": BACK, "scope": scope, **more}
    url = openid_client.do("begin", app=name, parameters=asked, pushed=pushed)
    return openid_client.do("finish", app=name, url=browser.back(url))


def with_parameter(url: str, **changed: str | None) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changed
    kept = {name: value for name, value in query.items() if value is not None}
    return urlunsplit(parts._replace(query=urlencode(kept)))


@pytest.mark.parametrize("algorithm", ["oidc", "oauth2"])
def test_it_discovers_the_provider(desk, openid_client, till, algorithm):
    found = shown(openid_client, "found", desk, till, algorithm=algorithm)
    assert found["issuer"] == desk.url
    assert found["authorization_response_iss_parameter_supported"] is True
    assert found["pushed_authorization_request_endpoint"].startswith(desk.url)


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post"])
def test_a_person_logs_in_with_pkce_through_the_pages(desk, openid_client, browser, auth):
    app = desk.app(provider={"token_endpoint_auth_method": auth})
    shown(openid_client, auth, desk, app, auth=auth)
    tokens = logged_in(openid_client, browser, auth)
    assert tokens["claims"]["iss"] == desk.url
    assert tokens["claims"]["aud"] == app["client_id"]
    assert set(tokens["scope"].split()) == set(SCOPE.split())
    assert desk.orders(tokens["access_token"]) == 200
    subject = tokens["claims"]["sub"]
    token = tokens["access_token"]
    person = openid_client.do("userinfo", app=auth, access_token=token, subject=subject)
    assert person["preferred_username"] == "johndoe"
    assert person["email"] == "johndoe@example.com"
    assert person["name"] == "John Doe"


def test_a_person_who_is_logged_in_sees_no_page_again(desk, openid_client, till, browser):
    first = logged_in(openid_client, browser)
    asked = {"redirect_uri": BACK, "scope": SCOPE, "prompt": "none", "max_age": "3600"}
    url = openid_client.do("begin", app="till", parameters=asked)
    answer = browser.visit(url)
    checks = {"maxAge": 3600}
    again = openid_client.do("finish", app="till", url=answer.headers["location"], checks=checks)
    assert again["claims"]["auth_time"] == first["claims"]["auth_time"]
    assert again["claims"]["sid"] == first["claims"]["sid"]
    assert again["claims"]["sub"] == first["claims"]["sub"]


def test_what_the_person_refuses_reaches_the_app_as_the_protocols_error(
    desk, openid_client, till, browser
):
    asked = {"redirect_uri": BACK, "scope": SCOPE, "prompt": "consent"}
    url = openid_client.do("begin", app="till", parameters=asked)
    with pytest.raises(Failed) as refused:
        openid_client.do("finish", app="till", url=browser.back(url, allow=False))
    assert refused.value.error == "access_denied"


def test_prompt_none_without_a_login_is_told_as_login_required(desk, openid_client, till, browser):
    asked = {"redirect_uri": BACK, "scope": "openid", "prompt": "none"}
    url = openid_client.do("begin", app="till", parameters=asked)
    with pytest.raises(Failed) as refused:
        openid_client.do("finish", app="till", url=browser.back(url))
    assert refused.value.error == "login_required"


@pytest.mark.parametrize("iss", [None, "http://127.0.0.1:1"])
def test_an_answer_that_names_another_issuer_or_none_is_not_taken(
    desk, openid_client, till, browser, iss
):
    asked = {"redirect_uri": BACK, "scope": "openid"}
    url = openid_client.do("begin", app="till", parameters=asked)
    back = browser.back(url)
    with pytest.raises(Failed, match="iss"):
        openid_client.do("finish", app="till", url=with_parameter(back, iss=iss))
    # It was about that alone: as it came, the answer is good.
    assert openid_client.do("finish", app="till", url=back)["access_token"]


def test_a_code_redeemed_twice_ends_what_it_gave(desk, openid_client, till, browser):
    asked = {"redirect_uri": BACK, "scope": SCOPE}
    url = openid_client.do("begin", app="till", parameters=asked)
    back = browser.back(url)
    tokens = openid_client.do("finish", app="till", url=back)
    assert desk.orders(tokens["access_token"]) == 200
    with pytest.raises(Failed) as refused:
        openid_client.do("finish", app="till", url=back)
    assert (refused.value.error, refused.value.status) == ("invalid_grant", 400)
    assert desk.orders(tokens["access_token"]) == 401


def test_the_wrong_verifier_redeems_nothing(desk, openid_client, till, browser):
    asked = {"redirect_uri": BACK, "scope": "openid"}
    url = openid_client.do("begin", app="till", parameters=asked)
    back = browser.back(url)
    with pytest.raises(Failed) as refused:
        openid_client.do("finish", app="till", url=back, checks={"pkceCodeVerifier": "x" * 43})
    assert refused.value.error == "invalid_grant"


def test_refresh_tokens_rotate_and_one_used_twice_ends_the_family(
    desk, openid_client, till, browser
):
    first = logged_in(openid_client, browser)
    second = openid_client.do("refresh", app="till", refresh_token=first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    assert second["claims"]["sub"] == first["claims"]["sub"]
    assert second["claims"]["auth_time"] == first["claims"]["auth_time"]
    narrow = {"scope": "openid orders:read"}
    token = second["refresh_token"]
    third = openid_client.do("refresh", app="till", refresh_token=token, parameters=narrow)
    assert set(third["scope"].split()) == {"openid", "orders:read"}
    assert desk.orders(third["access_token"]) == 200
    with pytest.raises(Failed) as refused:
        openid_client.do("refresh", app="till", refresh_token=first["refresh_token"])
    assert (refused.value.error, refused.value.status) == ("invalid_grant", 400)
    with pytest.raises(Failed):
        openid_client.do("refresh", app="till", refresh_token=third["refresh_token"])
    assert desk.orders(third["access_token"]) == 401


def test_introspection_and_revocation_agree_with_the_api(desk, openid_client, till, browser):
    tokens = logged_in(openid_client, browser)
    for kind in ("access_token", "refresh_token"):
        said = openid_client.do("introspect", app="till", token=tokens[kind])
        assert said["active"] is True
        assert said["sub"] == tokens["claims"]["sub"]
        assert said["client_id"] == till["client_id"]
        assert set(said["scope"].split()) == set(SCOPE.split())
    assert openid_client.do("introspect", app="till", token="rubbish") == {"active": False}
    hint = {"token_type_hint": "refresh_token"}
    token = tokens["refresh_token"]
    assert openid_client.do("revoke", app="till", token=token, parameters=hint) is None
    for kind in ("access_token", "refresh_token"):
        assert openid_client.do("introspect", app="till", token=tokens[kind]) == {"active": False}
    assert desk.orders(tokens["access_token"]) == 401
    assert openid_client.do("revoke", app="till", token=token) is None  # again, as RFC 7009 has it


def test_an_access_token_alone_can_be_revoked(desk, openid_client, till, browser):
    tokens = logged_in(openid_client, browser)
    assert openid_client.do("revoke", app="till", token=tokens["access_token"]) is None
    assert desk.orders(tokens["access_token"]) == 401


def test_a_public_app_logs_people_in_without_a_secret(desk, openid_client, browser):
    app = desk.app(name="Phone", client_type="public")
    assert "client_secret" not in app
    shown(openid_client, "phone", desk, app, auth="none")
    tokens = logged_in(openid_client, browser, "phone")
    again = openid_client.do("refresh", app="phone", refresh_token=tokens["refresh_token"])
    assert openid_client.do("revoke", app="phone", token=again["refresh_token"]) is None
    assert desk.orders(again["access_token"]) == 401


def test_a_request_is_pushed_and_only_its_name_goes_through_the_browser(
    desk, openid_client, till, browser
):
    asked = {"redirect_uri": BACK, "scope": "openid orders:read"}
    url = openid_client.do("begin", app="till", parameters=asked, pushed=True)
    assert set(parse_qs(urlsplit(url).query)) == {"client_id", "request_uri"}
    tokens = openid_client.do("finish", app="till", url=browser.back(url))
    assert desk.orders(tokens["access_token"]) == 200


@pytest.mark.parametrize("alg", ["ES256", "RS256", "PS256"])
def test_an_app_shows_a_private_key_instead_of_a_secret(desk, openid_client, browser, alg):
    name = f"key-{alg}"
    key = openid_client.do("make_key", name=name, alg=alg)
    method = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [key]}}
    app = desk.app(name="Rider app", provider=method)
    shown(openid_client, name, desk, app, auth="private_key_jwt", key=name)
    tokens = logged_in(openid_client, browser, name, pushed=True)
    again = openid_client.do("refresh", app=name, refresh_token=tokens["refresh_token"])
    assert openid_client.do("introspect", app=name, token=again["access_token"])["active"] is True
    assert openid_client.do("revoke", app=name, token=again["refresh_token"]) is None
    # Its secret is no longer a way in.
    shown(openid_client, "old way", desk, app)
    with pytest.raises(Failed) as refused:
        openid_client.do("introspect", app="old way", token="rubbish")
    assert refused.value.status == 401  # with a challenge, which is all that this client shows


@pytest.mark.parametrize("client_type", ["confidential", "public"])
@pytest.mark.parametrize("pushed", [False, True])
def test_tokens_bound_to_a_key_are_good_with_that_key_only(
    desk, openid_client, browser, client_type, pushed
):
    app = desk.app(name="Bound", client_type=client_type)
    auth = "none" if client_type == "public" else "client_secret_basic"
    shown(openid_client, "bound", desk, app, auth=auth, bound=True)
    tokens = logged_in(openid_client, browser, "bound", pushed=pushed)
    assert tokens["token_type"].lower() == "dpop"
    token, subject = tokens["access_token"], tokens["claims"]["sub"]
    url = f"{desk.url}/api/orders/?limit=1"
    assert openid_client.do("call", app="bound", access_token=token, url=url)["status"] == 200
    person = openid_client.do("userinfo", app="bound", access_token=token, subject=subject)
    assert person["preferred_username"] == "johndoe"
    assert desk.orders(token) == 401
    assert desk.orders(token, scheme="DPoP") == 401
    again = openid_client.do("refresh", app="bound", refresh_token=tokens["refresh_token"])
    # A thief with a key of his own gets nothing for the refresh token of a public app.
    shown(openid_client, "thief", desk, app, auth=auth, bound=True)
    with pytest.raises(Failed) as refused:
        openid_client.do("call", app="thief", access_token=again["access_token"], url=url)
    assert refused.value.status == 401
    if client_type == "public":
        with pytest.raises(Failed) as refused:
            openid_client.do("refresh", app="thief", refresh_token=again["refresh_token"])
        assert refused.value.error == "invalid_grant"
    assert (
        openid_client.do("call", app="bound", access_token=again["access_token"], url=url)["status"]
        == 200
    )


@pytest.mark.parametrize("bound", [False, True])
def test_a_program_gets_tokens_of_its_own(desk, openid_client, bound):
    scopes = ["customers:write", "orders:read"]
    app = desk.app(name="ERP", grant_types=["client_credentials"], scopes=scopes)
    shown(openid_client, "erp", desk, app, bound=bound)
    tokens = openid_client.do("as_itself", app="erp", parameters={"scope": "orders:read"})
    assert tokens["scope"] == "orders:read"
    assert not {"refresh_token", "id_token"} & set(tokens)
    url = f"{desk.url}/api/orders/"
    token = tokens["access_token"]
    assert openid_client.do("call", app="erp", access_token=token, url=url)["status"] == 200
    tokens = openid_client.do("as_itself", app="erp")
    customer = {"name": "Jane Smith", "phone_number": f"+25470012345{int(bound)}"}
    made = openid_client.do(
        "call",
        app="erp",
        access_token=tokens["access_token"],
        url=f"{desk.url}/api/customers/",
        method="POST",
        body=customer,
    )
    assert made["status"] == 201
    with pytest.raises(Failed) as refused:
        openid_client.do("as_itself", app="erp", parameters={"scope": "users:manage"})
    assert refused.value.error == "invalid_scope"


def test_logging_out_ends_the_session_and_every_app_is_told(
    desk, openid_client, till, browser, receiver, *, until
):
    tokens = logged_in(openid_client, browser, scope="openid orders:read")
    assert desk.orders(tokens["access_token"]) == 200
    leaving = {
        "id_token_hint": tokens["id_token"],
        "post_logout_redirect_uri": BYE,
        "state": "a-state",
    }
    url = openid_client.do("end_session", app="till", parameters=leaving)
    assert browser.visit(url).headers["location"] == f"{BYE}?state=a-state"
    assert desk.orders(tokens["access_token"]) == 401

    def told():
        return [each for each in receiver.tokens if session_of(each) == tokens["claims"]["sid"]]

    [logout_token] = until(told)
    assert jwt.get_unverified_header(logout_token)["typ"] == "logout+jwt"
    key = jwt.PyJWKClient(f"{desk.url}/oauth/jwks").get_signing_key_from_jwt(logout_token)
    said = jwt.decode(
        logout_token,
        key,
        algorithms=["RS256"],
        audience=till["client_id"],
        issuer=desk.url,
        options={"require": ["iss", "aud", "iat", "exp", "jti", "events"]},
    )
    assert said["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert said["sub"] == tokens["claims"]["sub"]
    assert "nonce" not in said

    asked = {"redirect_uri": BACK, "scope": "openid", "prompt": "none"}
    url = openid_client.do("begin", app="till", parameters=asked)
    with pytest.raises(Failed) as refused:
        openid_client.do("finish", app="till", url=browser.visit(url).headers["location"])
    assert refused.value.error == "login_required"


def session_of(logout_token: str) -> str:
    return jwt.decode(logout_token, options={"verify_signature": False})["sid"]


def test_nothing_of_all_that_is_in_the_log(desk):
    log = desk.log()
    assert "/oauth/token" in log
    for private in ("eyJ", "rt_", "Traceback", "client_assertion", "logout_token"):
        assert private not in log
