"""A Flask app with Authlib lets people log in here; PyJWT reads our tokens as other APIs do."""

from __future__ import annotations

import flask
import jwt
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.flask_client import OAuth
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from interop.outsiders import BACK, BYE

SHOP = BACK.removesuffix("/back")
SCOPE = "openid profile email orders:read offline_access"


@pytest.fixture(scope="module")
def registered(desk):
    return desk.app(name="Shop", provider={"post_logout_redirect_uris": [BYE]})


@pytest.fixture(scope="module")
def shop(desk, registered):
    """The app of another company; its pages show what it was told."""
    app = flask.Flask("shop")
    app.secret_key = "a secret of the shop"
    oauth = OAuth(app)
    oauth.register(
        "savannah",
        client_id=registered["client_id"],
        client_secret=registered["client_secret"],
        server_metadata_url=f"{desk.url}/.well-known/openid-configuration",
        client_kwargs={"scope": SCOPE, "code_challenge_method": "S256"},
    )

    @app.get("/login")
    def login():
        return oauth.savannah.authorize_redirect(BACK)

    @app.get("/back")
    def back():
        tokens = oauth.savannah.authorize_access_token()
        person = oauth.savannah.userinfo(token=tokens)
        return {"tokens": tokens, "person": person}

    @app.get("/logout")
    def logout():
        hint = flask.request.args["id_token"]
        return oauth.savannah.logout_redirect(BYE, id_token_hint=hint)

    @app.get("/bye")
    def bye():
        return oauth.savannah.validate_logout_response()

    return app


@pytest.fixture
def visitor(shop):
    """Somebody's browser at the shop."""
    with shop.test_client() as client:
        yield client


@pytest.fixture
def session(desk, registered):
    with OAuth2Session(
        registered["client_id"],
        registered["client_secret"],
        token_endpoint=f"{desk.url}/oauth/token",
        revocation_endpoint=f"{desk.url}/oauth/revoke",
        introspection_endpoint=f"{desk.url}/oauth/introspect",
    ) as opened:
        opened.trust_env = False
        yield opened


def logged_in(visitor, browser):
    """What the shop was told when somebody came back from Savannah's pages."""
    url = visitor.get(f"{SHOP}/login").headers["location"]
    answer = visitor.get(browser.back(url))
    assert answer.status_code == 200, answer.text
    return answer.json


def test_the_metadata_is_what_rfc_8414_asks_for(desk):
    found = AuthorizationServerMetadata(
        desk.client.get("/.well-known/oauth-authorization-server").json()
    )
    assert found["issuer"] == desk.url
    for name in found.REGISTRY_KEYS:
        # Addresses would have to be https, which this machine does without.
        if not name.endswith(("issuer", "_endpoint", "_uri")):
            getattr(found, f"validate_{name}")()


def test_a_person_logs_in_to_the_app_through_our_pages(desk, visitor, browser):
    told = logged_in(visitor, browser)
    tokens = told["tokens"]
    assert tokens["userinfo"]["iss"] == desk.url  # the ID token, as Authlib has checked it
    assert tokens["userinfo"]["sub"] == told["person"]["sub"]
    assert told["person"]["preferred_username"] == "johndoe"
    assert desk.orders(tokens["access_token"]) == 200


def test_what_the_person_refuses_is_the_error_of_the_protocol(visitor, browser, shop):
    url = visitor.get(f"{SHOP}/login").headers["location"]
    back = browser.back(url + "&prompt=consent", allow=False)
    shop.testing = True  # so that what Authlib throws comes through
    with pytest.raises(OAuthError) as refused:
        visitor.get(back)
    assert refused.value.error == "access_denied"


def test_refresh_introspection_and_revocation(desk, visitor, browser, session):
    first = logged_in(visitor, browser)["tokens"]
    second = session.refresh_token(refresh_token=first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    access_token = second["access_token"]
    said = session.introspect_token(f"{desk.url}/oauth/introspect", token=access_token).json()
    assert (said["active"], said["username"]) == (True, "johndoe")
    assert desk.orders(access_token) == 200
    hint = "refresh_token"
    done = session.revoke_token(
        f"{desk.url}/oauth/revoke", token=second["refresh_token"], token_type_hint=hint
    )
    assert done.status_code == 200
    assert session.introspect_token(f"{desk.url}/oauth/introspect", token=access_token).json() == {
        "active": False
    }
    assert desk.orders(access_token) == 401


def test_logging_out_brings_the_person_back_to_the_app(desk, visitor, browser):
    tokens = logged_in(visitor, browser)["tokens"]
    url = visitor.get(f"{SHOP}/logout", query_string={"id_token": tokens["id_token"]}).headers[
        "location"
    ]
    back = browser.visit(url).headers["location"]
    assert visitor.get(back).json["post_logout_redirect_uri"] == BYE
    assert 'name="password"' in browser.visit(visitor.get(f"{SHOP}/login").headers["location"]).text


def test_pyjwt_verifies_our_tokens_through_our_key_set(desk, visitor, browser, registered):
    tokens = logged_in(visitor, browser)["tokens"]
    metadata = desk.client.get("/.well-known/openid-configuration").json()
    keys = jwt.PyJWKClient(metadata["jwks_uri"])

    def read(kind, audience, algorithms=("RS256",)):
        token = tokens[kind]
        key = keys.get_signing_key_from_jwt(token)
        return jwt.decode_complete(
            token, key, algorithms=list(algorithms), audience=audience, issuer=desk.url
        )

    said = read("access_token", "savannah")
    assert said["header"]["typ"] == "at+jwt"
    assert said["payload"]["client_id"] == registered["client_id"]
    assert {"exp", "iat", "jti", "sub", "scope"} <= set(said["payload"])
    told = read("id_token", registered["client_id"])["payload"]
    assert told["sub"] == said["payload"]["sub"]
    with pytest.raises(jwt.InvalidAudienceError):
        read("id_token", "savannah")
    with pytest.raises(jwt.InvalidAudienceError):
        read("access_token", registered["client_id"])
    # An ID token opens nothing here, and neither does a token that somebody has changed.
    assert desk.orders(tokens["id_token"]) == 401
    head, body, seal = tokens["access_token"].split(".")
    changed = f"{head}.{body}.{seal[:-4]}AAAA"
    assert desk.orders(changed) == 401
    tokens["access_token"] = changed
    with pytest.raises(jwt.InvalidSignatureError):
        read("access_token", "savannah")
