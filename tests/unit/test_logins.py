"""Logins, and whose a request is, on the memory storage."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from office import HERE, OPEN, PASSWORD, CountingHasher, Office, Play, changed, field_codes, refusal
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import (
    AccountDisabled,
    Invalid,
    InvalidClient,
    InvalidCredentials,
    InvalidToken,
    RoleForbidden,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
)
from savannah.domain.identity import Grant, GrantId, UserId, digest
from savannah.domain.notification_policy import Rate

# --- login ----------------------------------------------------------------------------------------


def test_a_login_without_scope_allows_all_the_role_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        office.clock.advance(timedelta(minutes=10))
        login, john = await office.at_work()
        assert login.scope == (
            "openid profile email customers:read customers:write orders:read orders:write "
            "analytics:read notifications:write"
        )
        assert login.expires_in == 3600
        assert login.refresh_token is not None
        assert login.refresh_token.startswith("rt_")
        assert login.id_token is not None
        assert login.user.last_login == office.clock.now()
        assert john == Caller(
            principal=f"user:{login.user.id}",
            permissions=ROLE_SCOPES[Role.STAFF],
            role=Role.STAFF,
            user_id=login.user.id,
            client_id=john.client_id,
            grant_id=john.grant_id,
        )
        assert await office.actions("user", login.user.id) == ["user.registered", "user.logged_in"]
        for secret in (login.access_token, login.refresh_token, login.id_token):
            assert secret not in repr(login)

    play(scene)


def test_the_refresh_token_is_stored_as_a_digest_and_idles_out(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        assert login.refresh_token is not None
        assert len(login.refresh_token) >= 43
        async with office.storage(reading=True) as uow:
            kept = await uow.grants.find_refresh(digest(login.refresh_token))
        assert kept is not None
        assert kept.grant_id == john.grant_id
        assert kept.expires_at == office.clock.now() + timedelta(days=14)

    play(scene)


@pytest.mark.parametrize(
    "spelling", ["JohnDoe", " johndoe ", "john@example.com", "JOHN@Example.com"]
)
def test_people_log_in_by_user_name_or_address_in_any_case(play: Play, spelling: str) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work(username=spelling)
        assert login.user.username == "johndoe"

    play(scene)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("orders:read", "orders:read"),
        ("read", "customers:read orders:read analytics:read"),
        ("openid orders:read users:manage nonsense", "openid orders:read"),
        ("  ", None),
    ],
)
def test_a_login_gets_what_of_the_scope_its_role_has(
    play: Play, asked: str, granted: str | None
) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work(scope=asked)
        if granted is not None:
            assert login.scope == granted
            names = set(granted.split())
            assert john.permissions == {scope for scope in Scope if scope in names}
            assert (login.id_token is not None) == ("openid" in names)
        else:
            assert john.permissions == ROLE_SCOPES[Role.STAFF]

    play(scene)


def test_a_scope_of_which_nothing_can_be_granted_is_invalid(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.at_work(scope="users:manage"))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("scope", "invalid_choice")}

    play(scene)


def test_an_app_never_gets_more_than_it_was_made_for(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app(
            scopes=["orders:read"], grant_types=["authorization_code"]
        )
        login = await office.login(client, secret)
        assert login.scope == "orders:read"
        assert login.refresh_token is None
        assert login.id_token is None

    play(scene)


def test_a_public_app_logs_in_without_a_secret(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app(client_type="public")
        assert secret == ""
        assert (await office.login(client, None)).user.username == "johndoe"

    play(scene)


def test_an_app_that_signs_is_not_let_in_with_its_former_secret(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        assert await office.login(client, secret)
        keys = {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}
        changes = {"token_endpoint_auth_method": "private_key_jwt", "jwks": keys}
        await office.apps.configure_provider(client.client_id, changes, by=None)
        assert isinstance(await refusal(office.login(client, secret)), InvalidClient)

    play(scene)


def test_a_wrong_app_is_refused_before_anything_else_is_looked_at(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        boss = await office.boss()
        third, third_secret = await office.app(first_party=False, by=boss)
        off, off_secret = await office.app()
        async with office.storage() as uow:
            await uow.clients.save(replace(off, is_active=False))
            await uow.commit()
        attempts = [
            (replace(client, client_id="your-client-id"), secret),
            (replace(client, client_id="caf\u00e9"), secret),
            (replace(client, client_id="a\x00b"), secret),
            (client, None),
            (client, ""),
            (client, secret + "x"),
            (client, third_secret),
            (third, third_secret),
            (off, off_secret),
        ]
        for app, shown in attempts:
            assert isinstance(await refusal(office.login(app, shown)), InvalidClient)
        assert office.hasher.verified == []

    play(scene)


def test_wrong_user_and_wrong_password_look_and_cost_the_same(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        wrong = await refusal(office.login(client, secret, password="wrong"))
        nobody = await refusal(office.login(client, secret, username="nobody"))
        strange = await refusal(office.login(client, secret, username="a\x00b"))
        piled = await refusal(office.login(client, secret, username="a" + "\u0301\u0316" * 20))
        for refused in (wrong, nobody, strange, piled):
            assert isinstance(refused, InvalidCredentials)
            assert str(refused) == str(wrong)
        assert office.hasher.verified == [john.password_hash, None, None, None]

    play(scene)


def test_the_audit_log_names_failures_and_no_name_that_is_not_an_account(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        await refusal(office.login(client, secret, password="wrong", request_id="req-9"))
        await refusal(office.login(client, secret, username="MyPassword-Oops"))
        failed = (await office.events("user", john.id))[-1]
        assert (failed.action, failed.data) == ("user.login_failed", {"reason": "wrong_password"})
        assert (failed.actor, failed.request_id) == (f"client:{client.client_id}", "req-9")
        unknown = (await office.events("client", client.id))[-1]
        assert unknown.action == "client.login_failed"
        assert unknown.data == {"reason": "unknown_user"}
        assert "MyPassword-Oops" not in repr(unknown)

    play(scene)


@pytest.mark.parametrize("name", ["johndoe", "nobody"])
def test_five_failures_lock_a_name_at_an_address_known_or_not(play: Play, name: str) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for spelling in (name, name.upper(), f" {name}", name, name):
            refused = await refusal(office.login(client, secret, username=spelling, password="x"))
            assert isinstance(refused, InvalidCredentials)
            office.clock.advance(timedelta(minutes=1))
        hashed = len(office.hasher.verified)
        locked = await refusal(office.login(client, secret, username=name))
        assert isinstance(locked, TooManyAttempts)
        assert locked.retry_after == timedelta(minutes=10)
        assert len(office.hasher.verified) == hashed

    play(scene)


def test_the_lock_is_for_one_address_and_ends(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(5):
            await refusal(office.login(client, secret, password="x"))
        await office.login(client, secret, address="198.51.100.4")
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)
        office.clock.advance(timedelta(minutes=15))
        await office.login(client, secret)

    play(scene)


def test_user_name_and_address_of_one_account_share_the_lock(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for spelling in ("johndoe", "john@example.com") * 2:
            await refusal(office.login(client, secret, username=spelling, password="x"))
        await refusal(office.login(client, secret, password="x"))
        refused = await refusal(office.login(client, secret, username="john@example.com"))
        assert isinstance(refused, TooManyAttempts)

    play(scene)


def test_a_login_that_succeeds_forgets_the_failures(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(3):
            for _ in range(4):
                await refusal(office.login(client, secret, password="x"))
            await office.login(client, secret)

    play(scene)


def test_guesses_sent_at_once_get_no_more_tries_than_one_by_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guesses = [f"guess-{number}" for number in range(11)] + [PASSWORD]
        answers = await asyncio.gather(
            *(office.login(client, secret, password=guess) for guess in guesses),
            return_exceptions=True,
        )
        kinds = [type(answer) for answer in answers]
        assert kinds.count(InvalidCredentials) == 5
        assert kinds.count(TooManyAttempts) == 7  # the right one among them

    play(scene)


def test_right_logins_at_once_do_not_lock_each_other_out(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        logins = await asyncio.gather(*(office.login(client, secret) for _ in range(8)))
        assert len({login.access_token for login in logins}) == 8

    play(scene)


def test_the_lock_can_be_switched_off(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(7):
            refused = await refusal(office.login(client, secret, password="x"))
            assert isinstance(refused, InvalidCredentials)
        await office.login(client, secret)

    play(scene, replace(OPEN, login_lock=None))


def test_another_rate_locks_earlier(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        await refusal(office.login(client, secret, password="x"))
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)

    play(scene, replace(OPEN, login_lock=Rate.parse("1/h")))


def test_only_the_right_password_learns_that_an_account_is_disabled(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        await office.accounts.set_active(john.id, False, by=None)
        wrong = await refusal(office.login(client, secret, password="wrong"))
        right = await refusal(office.login(client, secret))
        assert isinstance(wrong, InvalidCredentials)
        assert isinstance(right, AccountDisabled)
        event = (await office.events("user", john.id))[-1]
        assert (event.action, event.data) == ("user.login_failed", {"reason": "disabled"})

    play(scene)


def test_an_outdated_hash_is_renewed_at_login(play: Play) -> None:
    async def scene(office: Office) -> None:
        before = await office.john()
        client, secret = await office.app()
        stronger = office.with_settings(OPEN, hasher=CountingHasher(time_cost=2))
        login = await stronger.logins.login(
            username="johndoe",
            password=PASSWORD,
            client_id=client.client_id,
            client_secret=secret,
            address=HERE,
        )
        assert "t=1," in before.password_hash
        assert "t=2," in login.user.password_hash
        await office.login(client, secret)

    play(scene)


def test_a_login_that_a_password_change_overtakes_fails(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        client, secret = await office.app()

        async def faster() -> None:
            await changed(office, john)

        office.hasher.meanwhile = faster
        assert isinstance(await refusal(office.login(client, secret)), InvalidCredentials)

    play(scene)


def test_short_lived_and_long_lived_tokens_say_so_and_an_id_token_lives_an_hour_at_most(
    play: Play,
) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        assert login.expires_in == 7200
        assert login.id_token is not None
        # An ID token is no access token, whatever it says.
        refused = await refusal(office.logins.authenticate(login.id_token))
        assert isinstance(refused, InvalidToken)
        office.clock.advance(timedelta(seconds=7199))
        await office.logins.authenticate(login.access_token)
        office.clock.advance(timedelta(seconds=1))
        expired = await refusal(office.logins.authenticate(login.access_token))
        assert isinstance(expired, TokenExpired)

    play(scene, replace(OPEN, access_token_ttl=timedelta(hours=2)))


# --- whose a request is ---------------------------------------------------------------------------


def test_the_placeholder_of_the_documentation_is_no_token(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.logins.authenticate("your-access-token"))
        assert isinstance(refused, InvalidToken)

    play(scene)


def test_the_request_id_goes_into_what_the_caller_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        john = await office.logins.authenticate(login.access_token, request_id="req-77")
        await office.logins.logout(by=john)
        assert (await office.events("user", login.user.id))[-1].request_id == "req-77"

    play(scene)


def test_another_role_acts_at_the_next_request(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        await office.accounts.set_role("johndoe", Role.VIEWER, by=None)
        viewer = await office.logins.authenticate(login.access_token)
        assert (viewer.role, viewer.permissions) == (Role.VIEWER, ROLE_SCOPES[Role.VIEWER])
        await office.accounts.set_role("johndoe", Role.ADMIN, by=None)
        promoted = await office.logins.authenticate(login.access_token)
        # The token still allows only what was granted to it.
        assert (promoted.role, promoted.permissions) == (Role.ADMIN, ROLE_SCOPES[Role.STAFF])

    play(scene)


def test_a_disabled_person_is_out_at_once_and_back_only_through_a_new_login(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        await office.accounts.set_active("johndoe", False, by=None)
        refused = await refusal(office.logins.authenticate(login.access_token))
        assert isinstance(refused, AccountDisabled)
        await office.accounts.set_active("johndoe", True, by=None)
        refused = await refusal(office.logins.authenticate(login.access_token))
        assert isinstance(refused, TokenRevoked)

    play(scene)


def test_a_token_dies_with_its_grant_its_app_and_its_person(play: Play) -> None:
    async def scene(office: Office) -> None:
        now = office.clock.now()
        client, _ = await office.app()
        off, _ = await office.app()
        async with office.storage() as uow:
            await uow.clients.save(replace(off, is_active=False))
            base = Grant(
                id=GrantId(uuid4()),
                user_id=None,
                client_id=client.client_id,
                scopes=client.scopes,
                created_at=now,
            )
            dead = [
                replace(base, id=GrantId(uuid4()), revoked_at=now),
                replace(base, id=GrantId(uuid4()), client_id="gone"),
                replace(base, id=GrantId(uuid4()), client_id=off.client_id),
                replace(base, id=GrantId(uuid4()), user_id=UserId(uuid4())),
            ]
            for grant in (base, *dead):
                await uow.grants.add(grant)
            await uow.commit()
        lost = replace(base, id=GrantId(uuid4()))
        for grant in (*dead, lost):
            token = await office.tokens.sign_access(office.claims(grant, "someone"))
            assert isinstance(await refusal(office.logins.authenticate(token)), TokenRevoked)
        live = await office.tokens.sign_access(office.claims(base, "someone"))
        await office.logins.authenticate(live)

    play(scene)


def test_a_machine_has_no_role_only_its_scopes(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, erp, token = await office.machine(scopes=["orders:read", "orders:write"])
        assert erp == Caller(
            principal=f"client:{client.client_id}",
            permissions=frozenset({Scope.ORDERS_READ, Scope.ORDERS_WRITE}),
            client_id=client.client_id,
            account="none",
            grant_id=erp.grant_id,
        )
        assert isinstance(await refusal(office.accounts.profile(by=erp)), RoleForbidden)
        async with office.storage() as uow:
            await uow.clients.save(replace(client, scopes=frozenset({"orders:read"})))
            await uow.commit()
        narrowed = await office.logins.authenticate(token)
        assert narrowed.permissions == {Scope.ORDERS_READ}

    play(scene)


def test_token_info_says_what_the_token_allows_now(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work(scope="openid read write")
        begun = int(office.clock.now().timestamp())
        office.clock.advance(timedelta(seconds=100, milliseconds=500))
        await office.accounts.set_role("johndoe", Role.VIEWER, by=None)
        info = await office.logins.token_info(login.access_token)
        assert info.active
        assert (info.sub, info.username) == (str(login.user.id), "johndoe")
        assert (info.role, info.client_id) == (Role.VIEWER, john.client_id)
        assert info.client_name == "My Mobile App"
        assert info.scope == "openid customers:read orders:read analytics:read"
        assert (info.iat, info.exp, info.expires_in) == (begun, begun + 3600, 3499)

    play(scene)


def test_token_info_of_a_machine_names_no_person(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _, token = await office.machine(scopes=["orders:read"])
        info = await office.logins.token_info(token)
        assert (info.sub, info.username, info.role) == (client.client_id, None, None)
        assert (info.client_name, info.scope) == ("ERP", "orders:read")

    play(scene)


# --- logout ---------------------------------------------------------------------------------------


def test_logout_ends_this_login_alone(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john()
        mine, elsewhere = [await office.login(client, secret) for _ in range(2)]
        john = await office.logins.authenticate(mine.access_token)
        await office.logins.logout(by=john)
        refused = await refusal(office.logins.authenticate(mine.access_token))
        assert isinstance(refused, TokenRevoked)
        refused = await refusal(office.logins.token_info(mine.access_token))
        assert isinstance(refused, TokenRevoked)
        await office.logins.authenticate(elsewhere.access_token)
        assert (await office.actions("user", mine.user.id))[-1] == "user.logged_out"
        await office.logins.logout(by=john)

    play(scene)


def test_logout_takes_a_refresh_token_of_the_same_person_and_app_along(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        other_app, other_secret = await office.app()
        await office.john()
        await office.john(username="jane", email="jane@example.com")
        mine, second = [await office.login(client, secret) for _ in range(2)]
        other = await office.login(other_app, other_secret)
        hers = await office.login(client, secret, username="jane")
        john = await office.logins.authenticate(mine.access_token)
        shown = [second, other, hers]
        for token in (*(login.refresh_token for login in shown), "rt_unknown", "\ud800", ""):
            await office.logins.logout(by=john, refresh_token=token)
        ended = []
        for login in shown:
            try:
                await office.logins.authenticate(login.access_token)
            except TokenRevoked:
                ended.append(login)
        assert ended == [second]

    play(scene)


def test_a_machine_logs_out_too(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, erp, token = await office.machine()
        await office.logins.logout(by=erp)
        assert isinstance(await refusal(office.logins.authenticate(token)), TokenRevoked)
        assert (await office.actions("client", client.id))[-1] == "client.logged_out"

    play(scene)


def test_logging_out_of_a_login_that_is_gone_changes_nothing(play: Play) -> None:
    async def scene(office: Office) -> None:
        grant = Grant(
            id=GrantId(uuid4()),
            user_id=None,
            client_id="gone",
            scopes=frozenset(),
            created_at=office.clock.now(),
        )
        lost = replace(Caller.viewer("client:gone"), grant_id=grant.id)
        await office.logins.logout(by=lost)
        async with office.storage() as uow:
            await uow.grants.add(grant)
            await uow.commit()
        await office.logins.logout(by=lost)
        async with office.storage(reading=True) as uow:
            kept = await uow.grants.find(grant.id)
        assert kept is not None
        assert kept.revoked_at == office.clock.now()

    play(scene)
