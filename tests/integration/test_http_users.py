"""`/api/users/`: accounts, as those who manage them see and change them."""

import pytest

from savannah.domain.access import Role


@pytest.fixture
def john(desk):
    body = {"username": "johndoe", "password": "securepassword123", "email": "john@example.com"}
    return desk.post("/api/auth/register/", json=body).json()["user"]


def test_everybody_is_listed_in_pages(desk, john):
    first = desk.get("/api/users/?ordering=username&limit=2", by="admin").json()
    assert first["count"] == 3
    assert [user["username"] for user in first["results"]] == ["a-admin", "chief-of-a-admin"]
    rest = desk.get(first["next"].removeprefix("http://desk.test"), by="admin").json()
    assert rest["results"] == [{**john, "is_active": True}]
    assert rest["next"] is None


def test_accounts_are_found_by_name_role_and_state(desk, john):
    for query, names in (
        ("login=JOHN@example.com", ["johndoe"]),
        ("login=johndoe,nobody", ["johndoe"]),
        ("role=staff,viewer", ["johndoe"]),
        ("role=staff&is_active=false", []),
    ):
        found = desk.get(f"/api/users/?{query}", by="admin").json()
        assert [user["username"] for user in found["results"]] == names


@pytest.mark.parametrize(
    ("query", "code"),
    [("role=owner", "invalid_parameter"), ("name=x", "unknown_parameter"), ("limit=0", None)],
)
def test_a_query_that_is_wrong_is_refused(desk, refused, query, code):
    refused(desk.get(f"/api/users/?{query}", by="admin"), 400, code or "invalid_parameter")


def test_a_role_and_a_lock_act_at_the_next_request(desk, john):
    login = desk.run(desk.log_in("johndoe"))
    bearer = f"Bearer {login.access_token}"
    path = f"/api/users/{john['id']}/"
    assert desk.get(path, by="admin").json() == {
        **desk.get("/api/auth/profile/", by=bearer).json(),
        "is_active": True,
    }
    changed = desk.patch(path, by="admin", json={"role": "viewer"})
    assert changed.json()["role"] == "viewer"
    assert desk.post("/api/customers/", by=bearer, json={}).status_code == 403
    assert desk.patch(path, by="admin", json={"is_active": False}).json()["is_active"] is False
    assert desk.get("/api/orders/", by=bearer).json()["code"] == "account_disabled"


def test_what_an_administrator_does_not_decide_is_refused(desk, john, refused):
    path = f"/api/users/{john['id']}/"
    body = {"username": "x", "role": "owner", "is_active": None, "colour": 1}
    refused(
        desk.patch(path, by="admin", json=body),
        422,
        "validation_error",
        ("#/username", "read_only_field"),
        ("#/role", "invalid_choice"),
        ("#/is_active", "null_not_allowed"),
        ("#/colour", "unknown_field"),
    )


def test_an_account_that_is_not_there_outranks_a_broken_body(desk, refused):
    for id_ in ("0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11", "johndoe"):
        refused(desk.patch(f"/api/users/{id_}/", by="admin", content=b"{"), 404, "not_found")
        refused(desk.get(f"/api/users/{id_}/?x=1", by="admin"), 404, "not_found")


def test_the_last_administrator_stays_one(desk, refused):
    desk.token("admin")
    admins = desk.get("/api/users/?role=admin&ordering=username", by="admin").json()["results"]
    me, chief = (f"/api/users/{user['id']}/" for user in admins)
    assert desk.patch(chief, by="admin", json={"role": Role.STAFF}).status_code == 200
    for body in ({"role": "staff"}, {"is_active": False}):
        refused(desk.patch(me, by="admin", json=body), 409, "last_admin")
