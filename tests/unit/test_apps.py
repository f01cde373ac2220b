"""Apps on the memory storage."""

from __future__ import annotations

from dataclasses import replace

from office import OPEN, Office, Play, field_codes, refusal
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import (
    AuthenticationRequired,
    InsufficientScope,
    Invalid,
)
from savannah.domain.identity import (
    ClientType,
    digest,
)

# --- apps -----------------------------------------------------------------------------------------


def test_anybody_makes_a_first_party_app_where_that_is_open(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.apps.create_client(
            name="My Mobile App", by=None, request_id="req-5"
        )
        assert secret is not None
        assert len(secret) >= 43
        assert secret.isascii()
        assert secret.isalnum()
        assert client.client_id.isalnum()
        assert client.secret_digests == (digest(secret),)
        assert secret not in repr(client)
        assert client.client_type is ClientType.CONFIDENTIAL
        assert [str(grant) for grant in client.grant_types] == [
            "authorization_code",
            "refresh_token",
        ]
        assert client.first_party
        assert client.owner_id is None
        assert client.scopes == {"openid", "profile", "email", *Scope}
        [event] = await office.events("client", client.id)
        assert (event.action, event.actor) == ("client.created", "anonymous")
        assert event.request_id == "req-5"

    play(scene)


def test_tokens_of_its_own_an_app_gets_from_those_who_manage_apps(play: Play) -> None:
    async def scene(office: Office) -> None:
        for by in (None, Caller.staff("user:x")):
            refused = await refusal(office.app(grant_types=["client_credentials"], by=by))
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == "apps:manage"
        boss = await office.boss()
        client, _ = await office.app(grant_types=["client_credentials"], by=boss)
        assert not client.first_party
        assert client.owner_id == boss.user_id
        assert client.scopes == {"openid", "profile", "email", *ROLE_SCOPES[Role.STAFF]}
        [event] = await office.events("client", client.id)
        assert (event.actor, event.request_id) == (boss.principal, "req-boss")

    play(scene)


def test_nobody_gives_a_machine_more_than_they_have(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.boss()
        narrow = replace(boss, permissions=frozenset({Scope.APPS_MANAGE, Scope.ORDERS_READ}))
        refused = await refusal(
            office.app(
                grant_types=["client_credentials"], scopes=["orders:read", "write"], by=narrow
            )
        )
        assert isinstance(refused, InsufficientScope)
        assert refused.required_scope == "customers:write"
        client, _ = await office.app(grant_types=["client_credentials"], by=narrow)
        assert client.scopes == {"openid", "profile", "email", "orders:read"}

    play(scene)


def test_where_administrators_make_apps_nobody_else_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        assert isinstance(await refusal(office.app(name="")), AuthenticationRequired)
        refused = await refusal(office.app(name="", by=Caller.staff("user:x")))
        assert isinstance(refused, InsufficientScope)
        assert refused.required_scope == "apps:manage"
        client, _ = await office.app(by=await office.boss())
        assert client.first_party
        third, _ = await office.app(by=Caller.admin("embedding"), first_party=False)
        assert not third.first_party

    play(scene, replace(OPEN, app_creation_open=False))


def test_a_broken_app_request_makes_no_app(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.app(name="", redirect_uris=["http://evil.example/"]))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("name", "blank"),
            ("redirect_uris/0", "invalid_redirect_uri"),
        }

    play(scene)
