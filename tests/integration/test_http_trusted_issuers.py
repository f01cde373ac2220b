"""The REST door with tokens of other issuers: who they are here, and what they may do."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from fake_issuer import AUDIENCE, JWKS, FakeIssuer, rsa_key
from savannah.adapters.trusted_issuers import JwksIssuers
from savannah.application.identity import IdentitySettings
from savannah.domain.access import Role, Scope
from savannah.domain.errors import InvalidToken
from savannah.domain.notification_policy import Rate
from savannah.domain.trusted_issuers import TrustedIssuer

ORDER = "/api/orders/0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11/"


@pytest.fixture
def issuer():
    with FakeIssuer() as running:
        yield running


@pytest.fixture
def issuers(shared, issuer):
    rules = TrustedIssuer(
        issuer=issuer.url,
        audiences=frozenset({AUDIENCE}),
        roles={"desk": Role.STAFF, "boss": Role.ADMIN},
        machine_scopes=frozenset({Scope.ORDERS_READ}),
    )
    trusted = JwksIssuers([rules], clock=shared.clock, loopback=True)
    yield trusted
    asyncio.run(trusted.aclose())


@pytest.fixture
def desk(open_desk, issuers):
    return open_desk(issuers=issuers)


@pytest.fixture
def strict_desk(open_desk, issuers):
    return open_desk(
        issuers=issuers,
        identity=IdentitySettings(),
        rate_limit=Rate(1, timedelta(minutes=1)),
    )


@pytest.fixture
def bearer(shared, issuer):
    """An Authorization header for whoever a test says, with everything unless it says less."""

    def made(*, key=None, header=None, **more):
        now = int(shared.clock.now().timestamp())
        claims = {
            "iss": issuer.url,
            "sub": "jane",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            "client_id": "till",
            "roles": ["desk"],
            "scope": " ".join(Scope),
            **more,
        }
        return f"Bearer {issuer.token(claims, key=key, header=header)}"

    return made


def test_somebody_of_a_trusted_issuer_takes_an_order(desk, bearer):
    made = desk.post(
        "/api/customers/",
        by=bearer(),
        json={"name": "Jane Smith", "phone_number": "+254700123456"},
    )
    assert made.status_code == 201
    order = {"customer": made.json()["id"], "item": "Laptop", "amount": "999.99"}
    answer = desk.post("/api/orders/", by=bearer(), json=order)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"


def test_what_they_did_is_written_down_under_issuer_and_subject(desk, bearer, issuer):
    made = desk.post(
        "/api/customers/", by=bearer(), json={"name": "Jane", "phone_number": "+254700123456"}
    )

    async def actors():
        async with desk.storage(reading=True) as uow:
            events = await uow.events.of("customer", UUID(made.json()["id"]))
            return [each.actor for each in events]

    assert desk.run(actors()) == [f"external:{issuer.url}#jane"]


def test_a_token_that_is_bound_to_no_key_is_no_good_beside_the_proof_of_one(desk, bearer):
    token = bearer().removeprefix("Bearer ")
    logins = desk.savannah.identity.logins
    with pytest.raises(InvalidToken):
        desk.run(logins.authenticate(token, key_thumbprint="of a key"))
    assert desk.run(logins.authenticate(token)).principal.endswith("#jane")


def test_an_idempotency_key_is_theirs_alone(desk, bearer):
    body = {"name": "Jane", "phone_number": "+254700123456"}
    key = {"Idempotency-Key": "one"}
    first = desk.post("/api/customers/", by=bearer(), json=body, headers=key)
    again = desk.post("/api/customers/", by=bearer(jti="another"), json=body, headers=key)
    others = desk.post("/api/customers/", by=bearer(sub="joe"), json=body, headers=key)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert others.json()["id"] != first.json()["id"]


def test_role_and_scope_both_have_to_allow_it(desk, bearer, refused):
    for less in ({"roles": []}, {"scope": "orders:read"}, {"roles": ["boss"], "scope": ""}):
        found = refused(desk.delete(ORDER, by=bearer(**less)), 403, "insufficient_scope")
        assert found["required_scope"] == "orders:delete"
    refused(desk.delete(ORDER, by=bearer(roles=["boss"])), 404, "not_found")


def test_a_machine_gets_its_scopes_and_no_more(desk, bearer):
    machine = bearer(sub="till", roles=[])
    assert desk.get("/api/orders/", by=machine).status_code == 200
    assert desk.get("/api/customers/", by=machine).status_code == 403


@pytest.mark.parametrize(
    "call",
    [
        ("GET", "/api/auth/profile/", None),
        ("PATCH", "/api/auth/profile/", {"first_name": "Jane"}),
        ("POST", "/api/auth/logout/", {}),
        (
            "POST",
            "/api/auth/change-password/",
            {"old_password": "a", "new_password": "b", "confirm_password": "b"},
        ),
    ],
)
def test_what_needs_an_account_here_is_not_for_them(desk, bearer, refused, call):
    method, path, body = call
    more = {} if body is None else {"json": body}
    refused(desk.request(method, path, by=bearer(roles=["boss"]), **more), 403, "role_forbidden")


def test_their_token_can_be_asked_what_it_allows(desk, bearer, issuer):
    answer = desk.get("/api/auth/token-info/", by=bearer(scope="orders:read orders:delete"))
    now = int(desk.clock.now().timestamp())
    assert answer.json() == {
        "active": True,
        "token_type": "Bearer",
        "sub": "jane",
        "username": None,
        "role": "staff",
        "client_id": "till",
        "client_name": issuer.url,
        "scope": "orders:read",
        "iat": now,
        "exp": now + 600,
        "expires_in": 600,
    }
    late = desk.get("/api/auth/token-info/", by=bearer(exp=now - 30, client_id=None, nonce=1))
    assert (late.json()["expires_in"], late.json()["client_id"]) == (0, issuer.url)


def test_what_is_wrong_with_a_token_is_a_challenge_and_never_more(desk, bearer, refused):
    now = int(desk.clock.now().timestamp())
    bad = [
        bearer(aud="another"),
        bearer(iss="https://stranger.example.com"),
        bearer(key=rsa_key(7), header={"kid": rsa_key().kid}),
        bearer(header={"kid": "strange"}),
        bearer(header={"typ": "JWT"}),
        bearer(cnf={"jkt": "x"}),
        bearer(exp=None),
        bearer(filler="x" * 20_000),
        bearer()[:-3] + "AAA",
    ]
    for each in bad:
        answer = desk.get("/api/orders/", by=each)
        refused(answer, 401, "invalid_token")
        assert answer.headers["www-authenticate"].endswith('error="invalid_token"')
    refused(desk.get("/api/orders/", by=bearer(exp=now - 60)), 401, "token_expired")


def test_an_issuer_that_never_answered_is_unavailable_and_nobody_else_is(
    desk, bearer, refused, issuer
):
    issuer.pages[JWKS] = (500, {}, b"")
    answer = desk.get("/api/orders/", by=bearer())
    refused(answer, 503, "service_unavailable")
    assert "retry-after" in answer.headers
    assert desk.get("/api/orders/", by="viewer").status_code == 200


def test_an_issuer_that_hangs_holds_up_its_own_people_only(desk, bearer, issuer):
    """All on one loop, as in one process of the server."""
    issuer.open.clear()
    headers = {"Authorization": bearer()}
    ours = {"Authorization": f"Bearer {desk.token('staff')}"}

    async def story():
        waiting = [
            asyncio.create_task(desk.client.get("/api/orders/", headers=headers)) for _ in range(20)
        ]
        answers = [await desk.client.get("/api/orders/", headers=ours) for _ in range(20)]
        assert {each.status_code for each in answers} == {200}
        assert not any(task.done() for task in waiting)
        issuer.open.set()
        return {each.status_code for each in await asyncio.gather(*waiting)}

    assert desk.run(story()) == {200}


def test_limits_count_each_of_them_apart(strict_desk, bearer, refused):
    for who in ("jane", "joe"):
        assert strict_desk.get("/api/orders/", by=bearer(sub=who)).status_code == 200
    refused(strict_desk.get("/api/orders/", by=bearer()), 429, "rate_limited")


def test_an_administrator_of_theirs_may_make_an_app_where_only_those_may(
    strict_desk, bearer, refused
):
    body = {"name": "Till", "grant_types": ["client_credentials"], "scopes": ["orders:read"]}
    made = strict_desk.post("/api/auth/create-app/", by=bearer(roles=["boss"]), json=body)
    assert made.status_code == 201
    denied = strict_desk.post("/api/auth/create-app/", by=bearer(sub="joe"), json=body)
    refused(denied, 403, "insufficient_scope")
