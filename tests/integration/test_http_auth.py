"""Accounts, apps and logins over HTTP, with the walk-through of the README word for word."""

from ipaddress import ip_network

import pytest

from savannah.application.identity import IdentitySettings
from savannah.application.ports import AccessClaims
from savannah.domain.access import Caller, Role
from savannah.domain.identity import Grant, GrantId
from savannah.domain.notification_policy import Rate

PASSWORD = "securepassword123"
JOHN = {
    "username": "johndoe",
    "email": "john@example.com",
    "password": PASSWORD,
    "confirm_password": PASSWORD,
    "first_name": "John",
    "last_name": "Doe",
}

CHALLENGE = (
    'Bearer realm="savannah", '
    'resource_metadata="http://desk.test/.well-known/oauth-protected-resource/api/"'
)


@pytest.fixture
def app(desk):
    return desk.post("/api/auth/create-app/", json={"name": "My Mobile App"}).json()


@pytest.fixture
def john(desk):
    return desk.post("/api/auth/register/", json=JOHN).json()["user"]


def credentials(app, **more):
    return {
        "username": "johndoe",
        "password": PASSWORD,
        "client_id": app["client_id"],
        "client_secret": app["client_secret"],
        **more,
    }


def log_in(desk, app, **more):
    return desk.post("/api/auth/login/", json=credentials(app, **more))


@pytest.fixture
def login(desk, app, john):
    answer = log_in(desk, app)
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(login):
    return f"Bearer {login['access_token']}"


# --- the walk-through ----------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["/", ""], ids=["with slash", "without slash"])
def test_the_walk_through_works_as_printed(desk, slash):
    registered = desk.post(f"/api/auth/register{slash}", json=JOHN)
    assert registered.status_code == 201
    assert registered.json()["message"] == "User registered successfully"
    user = registered.json()["user"]
    assert (user["username"], user["email"], user["role"]) == (
        "johndoe",
        "john@example.com",
        "staff",
    )
    assert (user["first_name"], user["last_name"], user["last_login"]) == ("John", "Doe", None)

    made = desk.post(f"/api/auth/create-app{slash}", json={"name": "My Mobile App"})
    assert made.status_code == 201
    app = made.json()
    assert app["name"] == "My Mobile App"
    assert app["client_type"] == "confidential"
    assert app["grant_types"] == ["authorization_code", "refresh_token"]

    answer = desk.post(f"/api/auth/login{slash}", json=credentials(app))
    assert answer.status_code == 200
    login = answer.json()
    assert (login["token_type"], login["expires_in"]) == ("Bearer", 3600)
    assert login["refresh_token"].startswith("rt_")
    assert login["scope"] == (
        "openid profile email customers:read customers:write orders:read orders:write "
        "analytics:read notifications:write"
    )
    assert login["user"]["id"] == user["id"]
    assert login["user"]["last_login"] is not None

    customer = desk.post(
        f"/api/customers{slash}",
        by=bearer(login),
        json={"name": "Jane Smith", "email": "jane@example.com", "phone_number": "+254700123456"},
    )
    assert customer.status_code == 201

    order = desk.post(
        f"/api/orders{slash}",
        by=bearer(login),
        json={
            "customer": customer.json()["id"],
            "item": "Laptop Computer",
            "amount": "999.99",
            "quantity": 1,
            "notes": "Urgent delivery required",
        },
    )
    assert order.status_code == 201
    assert order.json()["total_amount"] == "999.99"
    assert order.json()["sms"]["status"] == "queued"
    desk.dispatch()
    assert [sms.to for sms in desk.gateway.sent] == ["+254700123456"]


def test_placeholders_left_in_the_examples_are_told_apart(desk, app, john, refused):
    refused(desk.get("/api/orders/", by="Bearer your-access-token"), 401, "invalid_token")
    unknown = {**credentials(app), "client_id": "your-client-id"}
    refused(desk.post("/api/auth/login/", json=unknown), 401, "invalid_client")
    body = {"customer": "customer-uuid", "item": "Laptop Computer", "amount": "999.99"}
    refused(
        desk.post("/api/orders/", by="staff", json=body),
        422,
        "validation_error",
        ("#/customer", "invalid_uuid"),
    )


# --- register ------------------------------------------------------------------------------------


def test_an_account_takes_a_user_name_and_a_password_only(desk):
    answer = desk.post("/api/auth/register/", json={"username": "jane", "password": PASSWORD})
    assert answer.status_code == 201
    assert answer.json()["user"]["email"] is None


def test_a_new_account_never_shows_its_password(desk):
    answer = desk.post("/api/auth/register/", json=JOHN)
    assert PASSWORD not in answer.text
    assert "password" not in answer.json()["user"]


def test_taken_names_are_field_errors_whatever_their_case(desk, john, refused):
    again = {**JOHN, "username": "JohnDoe", "email": "JOHN@example.com"}
    refused(
        desk.post("/api/auth/register/", json=again),
        422,
        "validation_error",
        ("#/username", "username_taken"),
        ("#/email", "email_taken"),
    )


@pytest.mark.parametrize(
    ("change", "place", "code"),
    [
        ({"confirm_password": "another one 1"}, "#/confirm_password", "password_mismatch"),
        ({"password": "short1", "confirm_password": "short1"}, "#/password", "password_too_short"),
        ({"password": 12345678}, "#/password", "wrong_type"),
        ({"password": None}, "#/password", "null_not_allowed"),
        ({"email": "not an address"}, "#/email", "invalid_email"),
        ({"username": "j d"}, "#/username", "invalid_format"),
        ({"username": ["johndoe"]}, "#/username", "wrong_type"),
        ({"first_name": "J" * 151}, "#/first_name", "too_long"),
        ({"role": "admin"}, "#/role", "read_only_field"),
        ({"is_admin": True}, "#/is_admin", "unknown_field"),
    ],
)
def test_a_broken_registration_names_the_field(desk, refused, change, place, code):
    answer = desk.post("/api/auth/register/", json={**JOHN, **change})
    refused(answer, 422, "validation_error", (place, code))


def test_closed_registration_is_said_before_anything_about_the_body(open_desk, refused):
    desk = open_desk(identity=IdentitySettings())
    refused(desk.post("/api/auth/register/", json=JOHN), 403, "registration_closed")
    refused(desk.post("/api/auth/register/", content=b"{"), 403, "registration_closed")


def test_idempotency_keys_do_nothing_for_accounts(desk, refused):
    key = {"Idempotency-Key": "once"}
    assert desk.post("/api/auth/register/", json=JOHN, headers=key).status_code == 201
    again = desk.post("/api/auth/register/", json=JOHN, headers=key)
    assert "idempotent-replayed" not in again.headers
    refused(again, 422, "validation_error")


# --- apps ----------------------------------------------------------------------------------------


def test_a_public_app_has_no_secret_member(desk):
    body = {"name": "Till", "client_type": "public", "redirect_uris": ["http://127.0.0.1/done"]}
    answer = desk.post("/api/auth/create-app/", json=body)
    assert answer.status_code == 201
    assert "client_secret" not in answer.json()


def test_an_app_says_which_scopes_it_has(desk):
    body = {"name": "Reports", "scopes": ["read", "openid"]}
    answer = desk.post("/api/auth/create-app/", json=body)
    assert answer.json()["scopes"] == [
        "openid",
        "customers:read",
        "orders:read",
        "analytics:read",
        "audit:read",
    ]


@pytest.mark.parametrize(
    ("change", "place", "code"),
    [
        ({"redirect_uris": ["http://example.com/"]}, "#/redirect_uris/0", "invalid_redirect_uri"),
        ({"redirect_uris": "https://example.com/"}, "#/redirect_uris", "wrong_type"),
        ({"client_type": "secret"}, "#/client_type", "invalid_choice"),
        ({"grant_types": ["password"]}, "#/grant_types/0", "invalid_choice"),
        ({"scopes": ["everything"]}, "#/scopes/0", "invalid_choice"),
        ({"name": "  "}, "#/name", "blank"),
        ({"client_secret": "mine"}, "#/client_secret", "read_only_field"),
    ],
)
def test_a_broken_app_names_the_field(desk, refused, change, place, code):
    answer = desk.post("/api/auth/create-app/", json={"name": "App", **change})
    refused(answer, 422, "validation_error", (place, code))


def test_an_app_without_a_name_is_refused(desk, refused):
    answer = desk.post("/api/auth/create-app/", json={})
    refused(answer, 422, "validation_error", ("#/name", "required"))


def test_nobody_in_particular_gets_tokens_for_machines(desk, refused):
    body = {"name": "Robot", "grant_types": ["client_credentials"]}
    found = refused(desk.post("/api/auth/create-app/", json=body), 403, "insufficient_scope")
    assert found["required_scope"] == "apps:manage"


def test_apps_may_be_for_administrators_to_make(open_desk, refused):
    desk = open_desk(identity=IdentitySettings())
    path = "/api/auth/create-app/"
    refused(desk.post(path, json={"name": "App"}), 401, "authentication_required")
    refused(desk.post(path, content=b"{"), 401, "authentication_required")
    found = refused(desk.post(path, by="staff", content=b"{"), 403, "insufficient_scope")
    assert found["required_scope"] == "apps:manage"
    assert desk.post(path, by="admin", json={"name": "App"}).status_code == 201


def test_a_token_that_is_no_good_is_refused_where_none_is_needed(desk, refused):
    answer = desk.post("/api/auth/create-app/", by="Bearer nonsense", json={"name": "App"})
    refused(answer, 401, "invalid_token")


# --- login ---------------------------------------------------------------------------------------


def test_the_e_mail_address_is_as_good_as_the_user_name(desk, app, john):
    assert log_in(desk, app, username="John@Example.com").status_code == 200


def test_unknown_users_and_wrong_passwords_look_the_same(desk, app, john, refused):
    wrong = refused(log_in(desk, app, password="wrong password 1"), 401, "invalid_credentials")
    unknown = refused(log_in(desk, app, username="nobody"), 401, "invalid_credentials")
    del wrong["request_id"], unknown["request_id"]
    assert wrong == unknown


def test_a_bad_client_counts_before_a_bad_user(desk, app, john, refused):
    body = credentials(app, username="nobody", client_secret="wrong")
    refused(desk.post("/api/auth/login/", json=body), 401, "invalid_client")
    without = {name: value for name, value in credentials(app).items() if name != "client_secret"}
    refused(desk.post("/api/auth/login/", json=without), 401, "invalid_client")


def test_refused_logins_carry_a_challenge_without_an_error(desk, app, john):
    answer = log_in(desk, app, password="wrong password 1")
    assert answer.headers["www-authenticate"] == f"{CHALLENGE}"


@pytest.mark.parametrize("field", ["username", "password", "client_id"])
def test_a_login_needs_its_fields(desk, app, john, refused, field):
    body = credentials(app)
    del body[field]
    answer = desk.post("/api/auth/login/", json=body)
    refused(answer, 422, "validation_error", (f"#/{field}", "required"))


@pytest.mark.parametrize("field", ["username", "password", "client_id", "client_secret", "scope"])
def test_a_login_takes_texts_only(desk, app, john, refused, field):
    answer = log_in(desk, app, **{field: {"$ne": ""}})
    refused(answer, 422, "validation_error", (f"#/{field}", "wrong_type"))


def test_a_login_can_ask_for_less(desk, app, john, refused):
    login = log_in(desk, app, scope="orders:read users:manage").json()
    assert login["scope"] == "orders:read"
    assert "id_token" not in login
    assert desk.get("/api/orders/", by=bearer(login)).status_code == 200
    refused(desk.get("/api/customers/", by=bearer(login)), 403, "insufficient_scope")


def test_nothing_that_can_be_granted_is_a_field_error(desk, app, john, refused):
    answer = log_in(desk, app, scope="users:manage")
    refused(answer, 422, "validation_error", ("#/scope", "invalid_choice"))


def test_five_wrong_passwords_lock_the_login_of_that_address(desk, app, john, refused):
    for _ in range(5):
        refused(log_in(desk, app, password="wrong password 1"), 401, "invalid_credentials")
    locked = log_in(desk, app)
    refused(locked, 429, "too_many_attempts")
    assert 0 < int(locked.headers["retry-after"]) <= 900
    desk.advance(minutes=16)
    assert log_in(desk, app).status_code == 200


def test_another_address_is_not_locked_out(open_desk, refused):
    desk = open_desk(trusted_proxies=(ip_network("127.0.0.0/8"),))
    desk.post("/api/auth/register/", json=JOHN)
    app = desk.post("/api/auth/create-app/", json={"name": "App"}).json()

    def attempt(address, password):
        body = credentials(app, password=password)
        return desk.post("/api/auth/login/", json=body, headers={"X-Forwarded-For": address})

    for _ in range(5):
        attempt("203.0.113.7", "wrong password 1")
    refused(attempt("203.0.113.7", PASSWORD), 429, "too_many_attempts")
    assert attempt("203.0.113.8", PASSWORD).status_code == 200


def test_a_disabled_account_is_told_so_only_with_the_right_password(desk, app, john, refused):
    desk.run(desk.identity.accounts.set_active("johndoe", active=False, by=None))
    refused(log_in(desk, app, password="wrong password 1"), 401, "invalid_credentials")
    refused(log_in(desk, app), 403, "account_disabled")


def test_tokens_of_a_disabled_account_end_at_once(desk, login, refused):
    desk.run(desk.identity.accounts.set_active("johndoe", active=False, by=None))
    refused(desk.get("/api/orders/", by=bearer(login)), 403, "account_disabled")


def test_anonymous_calls_have_a_limit_per_address(open_desk, refused):
    desk = open_desk(rate_limit_auth=Rate.parse("3/min"))
    body = {"username": "a", "password": "b", "client_id": "c"}
    first = desk.post("/api/auth/login/", json=body)
    refused(first, 401, "invalid_client")
    assert first.headers["ratelimit-limit"] == "3"
    assert first.headers["ratelimit-remaining"] == "2"
    assert 0 < int(first.headers["ratelimit-reset"]) <= 60
    desk.post("/api/auth/register/", json={})
    # A token does not buy more tries.
    desk.post("/api/auth/login/", json=body, by="staff")
    limited = desk.post("/api/auth/login/", json=body)
    refused(limited, 429, "rate_limited")
    assert int(limited.headers["retry-after"]) == int(limited.headers["ratelimit-reset"])
    assert limited.headers["ratelimit-remaining"] == "0"
    refused(desk.post("/api/auth/create-app/", json={"name": "App"}), 429, "rate_limited")
    assert desk.post("/api/auth/create-app/", by="staff", json={"name": "App"}).status_code == 201
    desk.advance(seconds=61)
    refused(desk.post("/api/auth/login/", json=body), 401, "invalid_client")


# --- with a token --------------------------------------------------------------------------------


def test_logging_out_ends_the_token(desk, login, refused):
    answer = desk.post("/api/auth/logout/", by=bearer(login))
    assert (answer.status_code, answer.content) == (204, b"")
    refused(desk.get("/api/auth/profile/", by=bearer(login)), 401, "token_revoked")
    refused(desk.post("/api/auth/logout/", by=bearer(login)), 401, "token_revoked")


def test_logging_out_ends_the_login_of_a_refresh_token_too(desk, app, login, refused):
    other = log_in(desk, app).json()
    body = {"refresh_token": other["refresh_token"]}
    assert desk.post("/api/auth/logout/", by=bearer(login), json=body).status_code == 204
    refused(desk.get("/api/auth/profile/", by=bearer(other)), 401, "token_revoked")


def test_a_stranger_cannot_end_a_login_by_its_refresh_token(desk, login):
    body = {"refresh_token": login["refresh_token"]}
    assert desk.post("/api/auth/logout/", by="admin", json=body).status_code == 204
    assert desk.get("/api/auth/profile/", by=bearer(login)).status_code == 200


def test_a_broken_logout_ends_nothing(desk, login, refused):
    path = "/api/auth/logout/"
    found = desk.post(path, by=bearer(login), json={"refresh_token": 5})
    refused(found, 422, "validation_error", ("#/refresh_token", "wrong_type"))
    found = desk.post(path, by=bearer(login), json={"token": "x"})
    refused(found, 422, "validation_error", ("#/token", "unknown_field"))
    assert desk.get("/api/auth/profile/", by=bearer(login)).status_code == 200


def test_the_profile_is_ones_own_account(desk, login):
    answer = desk.get("/api/auth/profile/", by=bearer(login))
    assert answer.status_code == 200
    assert answer.json() == login["user"]


def test_the_profile_takes_a_merge_patch(desk, login):
    path = "/api/auth/profile/"
    merge = {"Content-Type": "application/merge-patch+json"}
    body = '{"first_name": " Joan ", "email": null}'
    answer = desk.patch(path, by=bearer(login), content=body, headers=merge)
    assert answer.status_code == 200
    changed = {"first_name": "Joan", "email": None}
    assert answer.json() == {**login["user"], **changed}
    assert desk.patch(path, by=bearer(login), json={}).json() == answer.json()


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"role": "admin"}, ("#/role", "read_only_field")),
        ({"username": "other"}, ("#/username", "read_only_field")),
        ({"password": "another one 1"}, ("#/password", "unknown_field")),
        ({"last_name": None}, ("#/last_name", "null_not_allowed")),
        ({"email": "taken@example.com"}, ("#/email", "email_taken")),
    ],
)
def test_a_broken_change_of_the_profile_names_the_field(desk, login, refused, change, entry):
    taken = {**JOHN, "username": "other", "email": "taken@example.com"}
    assert desk.post("/api/auth/register/", json=taken).status_code == 201
    answer = desk.patch("/api/auth/profile/", by=bearer(login), json=change)
    refused(answer, 422, "validation_error", entry)


def test_a_new_password_ends_every_login(desk, app, login, refused):
    other = log_in(desk, app).json()
    new = "anotherpassword456"
    body = {"old_password": PASSWORD, "new_password": new, "confirm_password": new}
    answer = desk.post("/api/auth/change-password/", by=bearer(login), json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    for each in (login, other):
        refused(desk.get("/api/auth/profile/", by=bearer(each)), 401, "token_revoked")
    refused(log_in(desk, app), 401, "invalid_credentials")
    assert log_in(desk, app, password=new).status_code == 200


def test_a_wrong_old_password_is_a_field_error_and_counts_as_a_failed_login(
    desk, app, login, refused
):
    new = "anotherpassword456"
    body = {"old_password": "wrong 1234", "new_password": new, "confirm_password": new}
    for _ in range(5):
        answer = desk.post("/api/auth/change-password/", by=bearer(login), json=body)
        refused(answer, 422, "validation_error", ("#/old_password", "wrong_password"))
    answer = desk.post("/api/auth/change-password/", by=bearer(login), json=body)
    refused(answer, 429, "too_many_attempts")
    refused(log_in(desk, app), 429, "too_many_attempts")


def test_a_new_password_must_be_a_good_one_typed_twice(desk, login, refused):
    body = {"old_password": PASSWORD, "new_password": "johndoe", "confirm_password": "other"}
    answer = desk.post("/api/auth/change-password/", by=bearer(login), json=body)
    refused(
        answer,
        422,
        "validation_error",
        ("#/new_password", "password_too_short"),
        ("#/new_password", "password_too_simple"),
        ("#/new_password", "password_too_similar"),
        ("#/confirm_password", "password_mismatch"),
    )
    found = desk.post("/api/auth/change-password/", by=bearer(login), json={"old_password": 5})
    refused(
        found,
        422,
        "validation_error",
        ("#/new_password", "required"),
        ("#/confirm_password", "required"),
    )


def test_token_info_tells_what_the_token_allows(desk, app, login):
    desk.advance(seconds=100)
    answer = desk.get("/api/auth/token-info/", by=bearer(login))
    assert answer.status_code == 200
    found = answer.json()
    assert found == {
        "active": True,
        "token_type": "Bearer",
        "sub": login["user"]["id"],
        "username": "johndoe",
        "role": "staff",
        "client_id": app["client_id"],
        "client_name": "My Mobile App",
        "scope": login["scope"],
        "iat": found["iat"],
        "exp": found["iat"] + 3600,
        "expires_in": 3500,
    }
    assert login["access_token"] not in answer.text


def test_a_machine_client_has_a_token_and_no_profile(desk, refused):
    robot = f"Bearer {desk.run(robot_token(desk))}"
    found = desk.get("/api/auth/token-info/", by=robot).json()
    assert (found["username"], found["role"], found["scope"]) == (None, None, "orders:read")
    assert desk.get("/api/orders/", by=robot).status_code == 200
    refused(desk.get("/api/customers/", by=robot), 403, "insufficient_scope")
    refused(desk.get("/api/auth/profile/", by=robot), 403, "role_forbidden")


async def robot_token(desk):
    client, _ = await desk.identity.apps.create_client(
        name="Robot",
        grant_types=["client_credentials"],
        scopes=["orders:read"],
        by=Caller.admin("tests"),
    )
    now, grant_id = desk.clock.now(), GrantId(client.id)
    grant = Grant(
        id=grant_id,
        user_id=None,
        client_id=client.client_id,
        scopes=client.scopes,
        created_at=now,
    )
    async with desk.storage() as uow:
        await uow.grants.add(grant)
        await uow.commit()
    claims = AccessClaims(
        subject=client.client_id,
        client_id=client.client_id,
        grant_id=grant_id,
        scopes=client.scopes,
        role=None,
        token_id=client.id,
        issued_at=now,
        expires_at=now.replace(year=now.year + 1),
    )
    return await desk.tokens.sign_access(claims)


def test_a_token_ends_after_its_hour(desk, login, refused):
    desk.advance(seconds=3599)
    assert desk.get("/api/auth/profile/", by=bearer(login)).status_code == 200
    desk.advance(seconds=1)
    answer = desk.get("/api/auth/profile/", by=bearer(login))
    refused(answer, 401, "token_expired")
    assert answer.headers["www-authenticate"] == f'{CHALLENGE}, error="invalid_token"'


def test_a_new_role_acts_at_the_next_request(desk, login, refused):
    assert desk.post("/api/customers/", by=bearer(login), json={}).status_code == 422
    desk.run(desk.identity.accounts.set_role("johndoe", Role.VIEWER, by=None))
    answer = desk.post("/api/customers/", by=bearer(login), json={})
    found = refused(answer, 403, "insufficient_scope")
    assert found["required_scope"] == "customers:write"
    assert desk.get("/api/auth/profile/", by=bearer(login)).json()["role"] == "viewer"


def test_an_id_token_is_no_access_token(desk, login, refused):
    refused(desk.get("/api/orders/", by=f"Bearer {login['id_token']}"), 401, "invalid_token")
    refused(desk.get("/api/orders/", by=f"Bearer {login['refresh_token']}"), 401, "invalid_token")
