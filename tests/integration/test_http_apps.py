"""`/api/auth/apps/`: programs that ask for tokens, and their secrets."""

import pytest

PASSWORD = "securepassword123"


@pytest.fixture
def app(desk):
    """A new app's JSON, its secret among it."""
    body = {"name": "Till", "first_party": True}
    answer = desk.post("/api/auth/apps/", by="admin", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/auth/apps/{answer.json()['client_id']}/"
    return answer.json()


def login(desk, app, secret):
    desk.token("staff")
    body = {
        "username": "a-staff",
        "password": PASSWORD,
        "client_id": app["client_id"],
        "client_secret": secret,
    }
    return desk.post("/api/auth/login/", json=body).status_code


def test_an_app_shows_everything_but_its_secret_again(desk, app):
    secret = app.pop("client_secret")
    path = f"/api/auth/apps/{app['client_id']}/"
    answer = desk.get(path, by="admin")
    assert answer.json() == app
    assert secret not in answer.text
    assert len(app["secrets"]) == 1
    assert desk.get("/api/auth/apps/?first_party=true&limit=1", by="admin").json()["results"] == [
        app
    ]


def test_an_administrator_says_whether_people_give_an_app_their_password(desk):
    for first_party in (False, True):
        body = {"name": "Till", "first_party": first_party}
        made = desk.post("/api/auth/apps/", by="admin", json=body).json()
        assert made["first_party"] is first_party
    quiet = desk.post("/api/auth/apps/", by="admin", json={"name": "Till"}).json()
    assert quiet["first_party"] is False
    public = {"name": "Phone", "client_type": "public"}
    assert "client_secret" not in desk.post("/api/auth/apps/", by="admin", json=public).json()


def test_apps_are_listed_in_pages_and_by_what_they_are(desk, app):
    public = {"name": "Phone", "client_type": "public"}
    desk.post("/api/auth/apps/", by="admin", json=public)
    for query, names in (
        ("client_type=public", ["Phone"]),
        ("first_party=false&ordering=name", ["Phone"]),
        ("is_active=false", []),
    ):
        found = desk.get(f"/api/auth/apps/?{query}", by="admin").json()
        assert [each["name"] for each in found["results"]] == names
    page = desk.get("/api/auth/apps/?ordering=name&limit=1", by="admin").json()
    assert page["results"][0]["name"] == "Phone"
    assert page["next"]


def test_an_app_is_renamed_and_switched_off(desk, app, refused):
    path = f"/api/auth/apps/{app['client_id']}/"
    changed = desk.patch(path, by="admin", json={"name": "Till 2", "scopes": ["read"]}).json()
    assert changed["name"] == "Till 2"
    assert changed["scopes"] == ["customers:read", "orders:read", "analytics:read", "audit:read"]
    assert login(desk, app, app["client_secret"]) == 200
    assert desk.patch(path, by="admin", json={"is_active": False}).json()["is_active"] is False
    assert login(desk, app, app["client_secret"]) == 401
    refused(
        desk.patch(path, by="admin", json={"client_type": "public", "grant_types": [], "x": 1}),
        422,
        "validation_error",
        ("#/client_type", "read_only_field"),
        ("#/x", "unknown_field"),
    )


def test_a_secret_is_rotated_without_a_gap(desk, app, refused):
    path = f"/api/auth/apps/{app['client_id']}/secrets/"
    answer = desk.post(path, by="admin")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    rotated = answer.json()
    assert len(rotated["secrets"]) == 2
    newest, oldest = rotated["secrets"]
    assert login(desk, app, app["client_secret"]) == 200
    assert login(desk, app, rotated["client_secret"]) == 200
    assert desk.delete(f"{path}{oldest}/", by="admin").status_code == 204
    assert login(desk, app, app["client_secret"]) == 401
    assert login(desk, app, rotated["client_secret"]) == 200
    refused(desk.delete(f"{path}{oldest}/", by="admin"), 404, "not_found")
    refused(desk.delete(f"{path}{newest}/", by="admin"), 409, "last_secret")


def test_a_secret_that_others_know_is_replaced_together_with_all_it_has_opened(desk, app, refused):
    path = f"/api/auth/apps/{app['client_id']}/secrets/"
    desk.token("staff")
    known = {"username": "a-staff", "password": PASSWORD, "client_id": app["client_id"]}
    opened = desk.post(
        "/api/auth/login/", json={**known, "client_secret": app["client_secret"]}
    ).json()
    mine = f"Bearer {opened['access_token']}"
    desk.post(path, by="admin", json={"end_logins": False})
    assert desk.get("/api/auth/profile/", by=mine).status_code == 200
    wrong = desk.post(path, by="admin", json={"end_logins": "yes"})
    refused(wrong, 422, "validation_error", ("#/end_logins", "wrong_type"))
    rotated = desk.post(path, by="admin", json={"end_logins": True}).json()
    assert len(rotated["secrets"]) == 1
    assert desk.get("/api/auth/profile/", by=mine).status_code == 401
    form = {"grant_type": "refresh_token", "refresh_token": opened["refresh_token"]}
    auth = {"client_id": app["client_id"], "client_secret": rotated["client_secret"]}
    answer = desk.post("/oauth/token", data={**form, **auth})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert login(desk, app, app["client_secret"]) == 401
    assert login(desk, app, rotated["client_secret"]) == 200


def test_an_administrator_decides_how_the_provider_treats_an_app(desk, app, refused):
    path = f"/api/auth/apps/{app['client_id']}/provider/"
    usual = {
        "token_endpoint_auth_method": None,
        "jwks": None,
        "post_logout_redirect_uris": [],
        "backchannel_logout_uri": None,
        "require_pkce": True,
        "skip_consent": False,
        "resource_server": False,
    }
    assert desk.get(path, by="admin").json() == usual
    key = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
    changes = {
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [key]},
        "post_logout_redirect_uris": ["https://till.example/bye"],
        "backchannel_logout_uri": "https://till.example/out",
        "require_pkce": False,
        "skip_consent": True,
        "resource_server": True,
    }
    assert desk.patch(path, by="admin", json=changes).json() == changes
    back = {"token_endpoint_auth_method": None, "jwks": None, "backchannel_logout_uri": None}
    assert desk.patch(path, by="admin", json=back).json() == {**changes, **back}
    assert desk.get(path, by="admin").json() == {**changes, **back}
    wrong = {"jwks": {"keys": [{**key, "d": "AA"}]}, "require_pkce": None, "more": 1}
    refused(
        desk.patch(path, by="admin", json=wrong),
        422,
        "validation_error",
        ("#/jwks", "invalid_format"),
        ("#/require_pkce", "null_not_allowed"),
        ("#/more", "unknown_field"),
    )
    nobody = "/api/auth/apps/nobody/provider/"
    refused(desk.get(nobody, by="admin"), 404, "not_found")
    refused(desk.patch(nobody, by="admin", content=b"{"), 404, "not_found")


def test_a_public_app_has_no_secret(desk, refused):
    public = {"name": "Phone", "client_type": "public"}
    made = desk.post("/api/auth/apps/", by="admin", json=public).json()
    answer = desk.post(f"/api/auth/apps/{made['client_id']}/secrets/", by="admin")
    refused(answer, 422, "validation_error", ("#", "invalid_choice"))


def test_an_app_that_is_not_there_outranks_what_is_sent(desk, refused):
    for path in ("/api/auth/apps/nobody/", "/api/auth/apps/caf%C3%A9/"):
        refused(desk.get(f"{path}?x=1", by="admin"), 404, "not_found")
        refused(desk.patch(path, by="admin", content=b"{"), 404, "not_found")
        refused(desk.post(f"{path}secrets/?x=1", by="admin"), 404, "not_found")
        refused(desk.delete(f"{path}secrets/x/?x=1", by="admin"), 404, "not_found")


def test_guesses_at_a_secret_are_slowed_down(desk, app):
    codes = [login(desk, app, "wrong") for _ in range(6)]
    assert codes == [401] * 5 + [429]
