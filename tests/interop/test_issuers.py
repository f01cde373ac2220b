"""Issuers that others wrote, whose access tokens our API takes where an operator says so."""

from __future__ import annotations

import json

import httpx
import pytest

from interop.outsiders import Desk

pytestmark = pytest.mark.e2e

ROLES = {"order-desk": "staff", "owner": "admin"}


def trusting(shared, *entries):
    """A server that trusts these issuers, and an own token of one of its people."""
    running = shared.start(
        "serve",
        "--port",
        "0",
        RATE_LIMIT="off",
        RATE_LIMIT_AUTH="off",
        OIDC_TRUSTED_ISSUERS=json.dumps(entries),
    )
    return Desk(shared, running)


def own_token(desk):
    return desk.boss()["Authorization"].removeprefix("Bearer ")


def machine_token(issuer, **fields):
    """As a program gets one from oidc-provider."""
    answer = httpx.post(
        f"{issuer.url}/token",
        auth=("till", "a-secret-of-the-till"),
        data={"grant_type": "client_credentials", **fields},
        trust_env=False,
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def mocked_token(issuer, *, claims=None, header=None, expires_in=None):
    """One of oauth2-mock-server that says what a test wants it to say."""
    said = {"sub": "jane", "aud": "urn:savannah", "roles": ["order-desk"], **(claims or {})}
    issuer.do("next", claims=said, header=header or {}, expires_in=expires_in)
    form = {"grant_type": "client_credentials", "scope": "orders:read"}
    answer = httpx.post(f"{issuer.url}/token", data=form, trust_env=False, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


def test_a_program_that_oidc_provider_knows_uses_our_api(shared, issuer_of):
    issuer = issuer_of("oidc-provider")
    desk = trusting(
        shared,
        {
            "issuer": issuer.url,
            "audiences": ["urn:savannah"],
            "machine_scopes": ["orders:read"],
        },
    )
    asked = {"resource": "urn:savannah", "scope": "orders:read customers:write"}
    token = machine_token(issuer, **asked)
    assert desk.orders(token) == 200
    # Its own word is not enough: the operator has given machines of this issuer one scope.
    body = {"name": "Jane", "phone_number": "0700 123 456"}
    bearer = {"Authorization": f"Bearer {token}"}
    assert desk.client.post("/api/customers/", json=body, headers=bearer).status_code == 403
    other = machine_token(issuer, resource="urn:somewhere-else", scope="orders:read")
    assert desk.orders(other) == 401


@pytest.fixture
def mock(issuer_of):
    return issuer_of("oauth2-mock-server")


@pytest.fixture
def desk(shared, mock):
    entry = {
        "issuer": mock.url,
        "audiences": ["urn:savannah"],
        "token_types": ["at+jwt", "JWT"],
        "roles": ROLES,
        "scopes_from": "role",
    }
    return trusting(shared, entry)


def test_roles_of_another_issuer_are_mapped_to_ours(desk, mock):
    assert desk.orders(mocked_token(mock)) == 200
    nobody = mocked_token(mock, claims={"roles": ["guest"]})
    assert desk.orders(nobody) == 403
    body = {"name": "Jane", "phone_number": "0700 123 456"}
    staff = {"Authorization": f"Bearer {mocked_token(mock)}"}
    assert desk.client.post("/api/customers/", json=body, headers=staff).status_code == 201


def test_tokens_for_others_and_tokens_that_have_ended_are_refused(desk, mock):
    assert desk.orders(mocked_token(mock, claims={"aud": "urn:somewhere-else"})) == 401
    assert desk.orders(mocked_token(mock, claims={"sub": None})) == 401
    assert desk.orders(mocked_token(mock, claims={"exp": None})) == 401
    assert desk.orders(mocked_token(mock, expires_in=-120)) == 401
    assert desk.orders(mocked_token(mock, claims={"iss": "http://127.0.0.1:9"})) == 401
    assert desk.orders(mocked_token(mock)) == 200


def test_an_issuer_may_end_and_come_back_and_harms_no_token_of_ours(desk, mock):
    ours, theirs = own_token(desk), mocked_token(mock)
    assert (desk.orders(ours), desk.orders(theirs)) == (200, 200)
    mock.end()
    # Its keys are known, so what it has signed is still good.
    assert (desk.orders(ours), desk.orders(theirs)) == (200, 200)
    mock.begin()
    assert (desk.orders(ours), desk.orders(mocked_token(mock))) == (200, 200)


def test_an_issuer_that_nobody_trusts_is_not_asked(desk, issuer_of):
    stranger = issuer_of("oauth2-mock-server")
    assert desk.orders(mocked_token(stranger)) == 401
