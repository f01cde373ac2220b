"""Apps on the memory storage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from office import OPEN, Office, Play, field_codes, refusal
from savannah.application.ports import ClientFilter
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.clients import ClientType, GrantType
from savannah.domain.errors import (
    AuthenticationRequired,
    InsufficientScope,
    Invalid,
    InvalidClient,
    LastSecret,
    NotFound,
    TokenRevoked,
)
from savannah.domain.identity import digest
from savannah.domain.paging import PageRequest

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
        refused = await refusal(
            office.app(name="", redirect_uris=["http://evil.example/"], first_party={})
        )
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("name", "blank"),
            ("first_party", "wrong_type"),
            ("redirect_uris/0", "invalid_redirect_uri"),
        }

    play(scene)


# --- administration -------------------------------------------------------------------------------


def test_managers_and_the_operator_see_every_app(play: Play) -> None:
    async def scene(office: Office) -> None:
        first, _ = await office.app(name="Till")
        public, _ = await office.app(name="Phone", client_type="public")
        for by in (await office.boss(), None):
            page = await office.apps.list_clients(ClientFilter(), PageRequest(), by=by)
            assert {client.client_id for client in page.items} == {
                first.client_id,
                public.client_id,
            }
            where = ClientFilter(client_type=[ClientType.PUBLIC])
            page = await office.apps.list_clients(where, PageRequest(), by=by)
            assert page.items == (public,)
            assert await office.apps.get_client(first.client_id, by=by) == first

    play(scene)


def test_nobody_else_looks_after_apps(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        by = Caller.staff("user:x")
        for attempt in (
            office.apps.list_clients(ClientFilter(), PageRequest(), by=by),
            office.apps.get_client(client.client_id, by=by),
            office.apps.change_client(client.client_id, {"name": 7}, by=by),
            office.apps.rotate_secret("nobody", by=by),
            office.apps.remove_secret("nobody", "x", by=by),
        ):
            refused = await refusal(attempt)
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == "apps:manage"

    play(scene)


@pytest.mark.parametrize("client_id", ["nobody", "", "caf\u00e9", "\x00", "\ud800"])
def test_an_app_that_is_not_there_is_not_found(play: Play, client_id: str) -> None:
    async def scene(office: Office) -> None:
        for attempt in (
            office.apps.get_client(client_id, by=None),
            office.apps.change_client(client_id, {"name": "Till"}, by=None),
            office.apps.rotate_secret(client_id, by=None),
            office.apps.remove_secret(client_id, "x", by=None),
        ):
            assert isinstance(await refusal(attempt), NotFound)

    play(scene)


def test_an_app_is_changed_field_by_field(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        boss = await office.boss()
        changes = {
            "name": " Till 2 ",
            "redirect_uris": ["https://till.example/back", "https://till.example/back"],
            "scopes": ["orders:read", "openid"],
            "grant_types": ["authorization_code"],
            "first_party": False,
        }
        after = await office.apps.change_client(client.client_id, changes, by=boss)
        assert after == replace(
            client,
            name="Till 2",
            redirect_uris=("https://till.example/back",),
            scopes=frozenset({"orders:read", "openid"}),
            grant_types=(GrantType.AUTHORIZATION_CODE,),
            first_party=False,
        )
        again = await office.apps.change_client(client.client_id, changes, by=boss)
        assert again == after
        events = await office.events("client", client.id)
        assert [event.action for event in events] == ["client.created", "client.updated"]
        assert events[1].data == {"fields": list(changes)}
        assert events[1].actor == boss.principal

    play(scene)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"name": ""}, {("name", "blank")}),
        ({"name": None, "colour": 1}, {("name", "null_not_allowed"), ("colour", "unknown_field")}),
        ({"client_id": "x"}, {("client_id", "read_only_field")}),
        ({"client_type": "public"}, {("client_type", "read_only_field")}),
        ({"scopes": ["orders"]}, {("scopes/0", "invalid_choice")}),
        ({"grant_types": []}, {("grant_types", "too_short")}),
        (
            {"redirect_uris": ["http://evil.example/"], "is_active": "no"},
            {("redirect_uris/0", "invalid_redirect_uri"), ("is_active", "wrong_type")},
        ),
        ({"grant_types": ["client_credentials"]}, {("first_party", "invalid_choice")}),
    ],
)
def test_what_breaks_a_rule_changes_nothing(
    play: Play, changes: dict[str, object], broken: set[tuple[str, str]]
) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        refused = await refusal(office.apps.change_client(client.client_id, changes, by=None))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == broken
        assert await office.apps.get_client(client.client_id, by=None) == client

    play(scene)


def test_nobody_widens_a_machine_beyond_themselves(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.boss()
        scopes = ["orders:read", "orders:write"]
        client, _ = await office.app(grant_types=["client_credentials"], scopes=scopes, by=boss)
        narrow = replace(boss, permissions=frozenset({Scope.APPS_MANAGE, Scope.ORDERS_READ}))
        wide = {"scopes": ["orders:read", "customers:read"]}
        refused = await refusal(office.apps.change_client(client.client_id, wide, by=narrow))
        assert isinstance(refused, InsufficientScope)
        assert refused.required_scope == "customers:read"
        # What it has already may stay.
        named = await office.apps.change_client(client.client_id, {"name": "ERP 2"}, by=narrow)
        assert named.scopes == set(scopes)
        person, _ = await office.app(scopes=["customers:read"])
        becomes = {"grant_types": ["client_credentials"], "first_party": False}
        refused = await refusal(office.apps.change_client(person.client_id, becomes, by=narrow))
        assert isinstance(refused, InsufficientScope)
        after = await office.apps.change_client(client.client_id, wide, by=None)
        assert after.scopes == set(wide["scopes"])

    play(scene)


def test_nobody_becomes_a_machine_that_may_do_more_than_themselves(play: Play) -> None:
    """Its new secret, or a key of one's own, would be all of its scopes."""

    async def scene(office: Office) -> None:
        boss = await office.boss()
        machine, _ = await office.app(grant_types=["client_credentials"], by=boss)
        narrow = replace(boss, permissions=frozenset({Scope.APPS_MANAGE, Scope.ORDERS_READ}))
        keys = {"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}
        for attempt in (
            office.apps.rotate_secret(machine.client_id, by=narrow),
            office.apps.configure_provider(
                machine.client_id,
                {"token_endpoint_auth_method": "private_key_jwt", "jwks": keys},
                by=narrow,
            ),
        ):
            assert isinstance(await refusal(attempt), InsufficientScope)
        assert await office.apps.get_client(machine.client_id, by=boss) == machine
        await office.apps.rotate_secret(machine.client_id, by=boss)
        people, _ = await office.app()
        await office.apps.rotate_secret(people.client_id, by=narrow)

    play(scene)


def test_an_app_that_is_switched_off_stops_at_once_and_comes_back(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        login = await office.login(client, secret)
        await office.apps.change_client(client.client_id, {"is_active": False}, by=None)
        assert isinstance(
            await refusal(office.logins.authenticate(login.access_token)), TokenRevoked
        )
        assert isinstance(await refusal(office.login(client, secret)), InvalidClient)
        await office.apps.change_client(client.client_id, {"is_active": True}, by=None)
        await office.login(client, secret)
        actions = await office.actions("client", client.id)
        assert actions == ["client.created", "client.disabled", "client.enabled"]

    play(scene)


# --- secrets --------------------------------------------------------------------------------------


def test_two_secrets_live_while_one_is_rotated(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, first = await office.app()
        rotated, second = await office.apps.rotate_secret(client.client_id, by=None)
        assert second != first
        assert second not in repr(rotated)
        for secret in (first, second):
            await office.login(client, secret)
        newest, oldest = rotated.secret_ids
        after = await office.apps.remove_secret(client.client_id, oldest, by=await office.boss())
        assert after.secret_ids == (newest,)
        assert isinstance(await refusal(office.login(client, first)), InvalidClient)
        await office.login(client, second)
        assert isinstance(
            await refusal(office.apps.remove_secret(client.client_id, oldest, by=None)), NotFound
        )
        assert isinstance(
            await refusal(office.apps.remove_secret(client.client_id, newest, by=None)), LastSecret
        )
        events = await office.events("client", client.id)
        assert [(event.action, event.data) for event in events[1:]] == [
            ("client.secret_added", {"secret": newest}),
            ("client.secret_removed", {"secret": oldest}),
        ]

    play(scene)


def test_a_third_secret_ends_the_first(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, first = await office.app()
        _, second = await office.apps.rotate_secret(client.client_id, by=None)
        rotated, third = await office.apps.rotate_secret(client.client_id, by=None)
        assert len(rotated.secret_ids) == 2
        assert isinstance(await refusal(office.login(client, first)), InvalidClient)
        for secret in (second, third):
            await office.login(client, secret)

    play(scene)


def test_a_public_app_has_no_secret_to_rotate(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app(client_type="public")
        refused = await refusal(office.apps.rotate_secret(client.client_id, by=None))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("", "invalid_choice")}

    play(scene)


def test_only_the_logins_of_an_app_whose_secret_is_known_end(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        other, other_secret = await office.app(name="Other")
        kept = await office.login(other, other_secret)
        client_id = (await office.logins.token_info(login.access_token)).client_id
        after, secret = await office.apps.rotate_secret(client_id, end_logins=True, by=None)
        assert after.accepts_secret(secret)
        assert len(after.secret_digests) == 1
        with pytest.raises(TokenRevoked):
            await office.logins.authenticate(login.access_token)
        assert await office.logins.authenticate(kept.access_token)
        assert (await office.actions("client", after.id))[-2:] == [
            "client.secret_added",
            "client.logins_ended",
        ]

    play(scene)
