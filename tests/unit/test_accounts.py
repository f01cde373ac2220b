"""People's accounts on the memory storage."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from office import HERE, PASSWORD, Office, Play, changed, field_codes, refusal
from savannah.application.identity import IdentitySettings
from savannah.application.ports import UserFilter
from savannah.domain.access import Caller, Role
from savannah.domain.errors import (
    InsufficientScope,
    Invalid,
    InvalidCredentials,
    LastAdmin,
    NotFound,
    RegistrationClosed,
    RoleForbidden,
    TokenRevoked,
    TooManyAttempts,
)
from savannah.domain.identity import UserId
from savannah.domain.paging import Ordering, PageRequest

# --- registration ---------------------------------------------------------------------------------


def test_whoever_registers_gets_an_account_in_the_role_of_the_settings(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john(
            first_name=" John ", last_name="Doe", confirm_password=PASSWORD, request_id="req-1"
        )
        assert (user.username, user.email, user.first_name) == (
            "johndoe",
            "john@example.com",
            "John",
        )
        assert (user.role, user.is_active, user.last_login) == (Role.STAFF, True, None)
        assert user.date_joined == office.clock.now()
        assert user.password_hash.startswith("$argon2id$")
        [event] = await office.events("user", user.id)
        assert (event.action, event.actor) == ("user.registered", f"user:{user.id}")
        assert (event.data, event.request_id) == ({"role": "staff"}, "req-1")

    play(scene)


def test_an_account_needs_no_e_mail_address(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.accounts.register(username="first", password=PASSWORD)
        second = await office.accounts.register(username="second", password=PASSWORD, email=None)
        assert second.email is None

    play(scene)


def test_closed_registration_is_closed_whatever_is_typed(play: Play) -> None:
    async def scene(office: Office) -> None:
        with pytest.raises(RegistrationClosed):
            await office.accounts.register(username="", password="")

    play(scene, IdentitySettings())


def test_all_problems_of_a_registration_come_together_taken_names_too(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        refused = await refusal(
            office.accounts.register(
                username="JohnDoe",
                email="JOHN@example.com",
                password="short",
                confirm_password="other",
                first_name="j" * 151,
            )
        )
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("username", "username_taken"),
            ("email", "email_taken"),
            ("password", "password_too_short"),
            ("password", "password_too_simple"),
            ("confirm_password", "password_mismatch"),
            ("first_name", "too_long"),
        }

    play(scene)


def test_nobody_takes_the_address_of_another_as_a_user_name_or_the_reverse(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        await office.accounts.register(username="jane@example.com", password=PASSWORD)
        squatter = await refusal(
            office.accounts.register(username="john@example.com", password=PASSWORD)
        )
        late = await refusal(
            office.accounts.register(username="jane2", email="jane@example.com", password=PASSWORD)
        )
        assert isinstance(squatter, Invalid)
        assert isinstance(late, Invalid)
        assert field_codes(squatter) == {("username", "username_taken")}
        assert field_codes(late) == {("email", "email_taken")}

    play(scene)


def test_one_name_can_be_ones_user_name_and_address(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john(username="john@example.com")
        assert user.username == user.email

    play(scene)


def test_of_two_registrations_at_once_under_one_name_one_succeeds(play: Play) -> None:
    async def scene(office: Office) -> None:
        results = await asyncio.gather(office.john(), office.john(), return_exceptions=True)
        assert sorted(isinstance(result, Invalid) for result in results) == [False, True]

    play(scene)


def test_the_operator_makes_administrators_even_where_registration_is_closed(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.accounts.create_superuser(
            username="boss", email="boss@example.com", password="Zawadi-2026"
        )
        assert boss.role is Role.ADMIN
        [event] = await office.events("user", boss.id)
        assert event.actor == "operator"
        refused = await refusal(
            office.accounts.create_superuser(username="boss", password="12345678")
        )
        assert isinstance(refused, Invalid)
        assert ("username", "username_taken") in field_codes(refused)
        assert ("password", "password_too_common") in field_codes(refused)

    play(scene, IdentitySettings())


# --- profile --------------------------------------------------------------------------------------


def test_people_see_and_change_their_own_profile(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        assert await office.accounts.profile(by=john) == login.user
        after = await office.accounts.update_profile(
            {"first_name": "Johnny", "email": "johnny@example.com"}, by=john
        )
        assert await office.accounts.profile(by=john) == after
        assert (after.first_name, after.email) == ("Johnny", "johnny@example.com")
        event = (await office.events("user", after.id))[-1]
        assert (event.action, event.data) == ("user.updated", {"fields": ["first_name", "email"]})

    play(scene)


def test_a_change_that_changes_nothing_leaves_no_trace(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        before = await office.events("user", login.user.id)
        same = await office.accounts.update_profile({"email": "john@example.com"}, by=john)
        assert same == login.user
        assert await office.events("user", login.user.id) == before

    play(scene)


def test_an_address_can_be_respelled_and_removed(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        respelled = await office.accounts.update_profile({"email": "John@Example.com"}, by=john)
        assert respelled.email == "John@Example.com"
        assert (await office.accounts.update_profile({"email": None}, by=john)).email is None

    play(scene)


def test_the_address_or_user_name_of_another_is_taken(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        await office.john(username="jane@example.com", email="jane.doe@example.com")
        for address in ("JANE.DOE@example.com", "jane@example.com"):
            refused = await refusal(office.accounts.update_profile({"email": address}, by=john))
            assert isinstance(refused, Invalid)
            assert field_codes(refused) == {("email", "email_taken")}

    play(scene)


def test_a_caller_without_an_account_has_no_profile_and_no_password(play: Play) -> None:
    async def scene(office: Office) -> None:
        till = Caller.staff("till-3")
        attempts = [
            office.accounts.profile(by=till),
            office.accounts.update_profile({}, by=till),
            office.accounts.change_password(
                old_password=PASSWORD,
                new_password="Jambo-2026",
                confirm_password="Jambo-2026",
                by=till,
                address=HERE,
            ),
            office.logins.logout(by=till),
        ]
        for attempt in attempts:
            assert isinstance(await refusal(attempt), RoleForbidden)

    play(scene)


# --- passwords ------------------------------------------------------------------------------------


def test_a_new_password_ends_every_login_of_the_person_and_no_other(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john()
        await office.john(username="jane", email="jane@example.com")
        mine, elsewhere = [await office.login(client, secret) for _ in range(2)]
        hers = await office.login(client, secret, username="jane")
        john = await office.logins.authenticate(mine.access_token)

        await changed(office, john)

        for login in (mine, elsewhere):
            refused = await refusal(office.logins.authenticate(login.access_token))
            assert isinstance(refused, TokenRevoked)
        await office.logins.authenticate(hers.access_token)
        assert isinstance(await refusal(office.login(client, secret)), InvalidCredentials)
        await office.login(client, secret, password="Jambo-2026")
        assert "user.password_changed" in await office.actions("user", mine.user.id)

    play(scene)


def test_the_operator_gives_a_new_password_to_whoever_has_none_that_works(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john()
        lost = await office.login(client, secret)
        user, password = await office.accounts.reset_password("JOHN@example.com")
        assert isinstance(
            await refusal(office.logins.authenticate(lost.access_token)), TokenRevoked
        )
        assert isinstance(await refusal(office.login(client, secret)), InvalidCredentials)
        await office.login(client, secret, password=password)
        [event] = [
            event
            for event in await office.events("user", user.id)
            if event.action == "user.password_reset"
        ]
        assert (event.actor, event.data) == ("operator", {})
        refused = await refusal(office.accounts.reset_password("nobody"))
        assert isinstance(refused, NotFound)

    play(scene)


def test_every_problem_of_a_password_change_comes_together(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        refused = await refusal(changed(office, john, old="wrong", new="johndoe", again="x"))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("old_password", "wrong_password"),
            ("new_password", "password_too_short"),
            ("new_password", "password_too_simple"),
            ("new_password", "password_too_similar"),
            ("confirm_password", "password_mismatch"),
        }
        assert "user.password_change_failed" in await office.actions("user", login.user.id)
        await office.logins.authenticate(login.access_token)

    play(scene)


def test_the_new_password_is_not_the_old_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        refused = await refusal(changed(office, john, new=PASSWORD))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("new_password", "password_too_similar")}

    play(scene)


def test_wrong_old_passwords_count_toward_the_login_lock(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        client, secret = await office.app()
        for _ in range(5):
            assert isinstance(await refusal(changed(office, john, old="wrong")), Invalid)
        hashed = len(office.hasher.verified)
        assert isinstance(await refusal(changed(office, john)), TooManyAttempts)
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)
        assert len(office.hasher.verified) == hashed
        await office.logins.authenticate(login.access_token)

    play(scene)


def test_a_password_changed_meanwhile_makes_the_old_one_wrong(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()

        async def faster() -> None:
            await changed(office, john, new="Faster-2026")

        office.hasher.meanwhile = faster
        refused = await refusal(changed(office, john))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("old_password", "wrong_password")}

    play(scene)


def test_passwords_are_compared_in_one_unicode_form_and_never_trimmed(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john(password=" Caf\u00e9 ol\u00e9 ")
        await office.login(client, secret, password=" Cafe\u0301 ole\u0301 ")
        refused = await refusal(office.login(client, secret, password="Caf\u00e9 ol\u00e9"))
        assert isinstance(refused, InvalidCredentials)

    play(scene)


# --- administration -------------------------------------------------------------------------------


def test_managers_and_the_operator_see_everybody(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        boss = await office.boss()
        for by in (boss, None):
            page = PageRequest(ordering=Ordering("username"))
            found = await office.accounts.list_users(UserFilter(), page, by=by)
            assert [user.username for user in found.items] == ["boss", "johndoe"]
            where = UserFilter(login=["JOHN@example.com"])
            found = await office.accounts.list_users(where, PageRequest(), by=by)
            assert found.items == (john,)
            assert await office.accounts.get_user(john.id, by=by) == john
        assert isinstance(
            await refusal(office.accounts.get_user(UserId(uuid4()), by=boss)), NotFound
        )

    play(scene)


def test_nobody_else_manages_accounts(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        staff = Caller.staff("user:x")
        attempts = [
            office.accounts.list_users(UserFilter(), PageRequest(), by=staff),
            office.accounts.get_user(john.id, by=staff),
            office.accounts.set_role("johndoe", Role.ADMIN, by=staff),
            office.accounts.set_active(john.id, False, by=staff),
            office.accounts.change_user(john.id, {"role": "admin"}, by=staff),
        ]
        for attempt in attempts:
            refused = await refusal(attempt)
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == "users:manage"

    play(scene)


def test_role_and_activity_change_together_with_an_entry_each(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        boss = await office.boss()
        changes = {"role": "viewer", "is_active": False}
        after = await office.accounts.change_user(john.id, changes, by=boss)
        assert (after.role, after.is_active) == (Role.VIEWER, False)
        assert await office.accounts.change_user("JOHN@example.com", changes, by=boss) == after
        await office.accounts.set_active("johndoe", True, by=None)
        events = await office.events("user", john.id)
        assert [(event.action, event.actor) for event in events[1:]] == [
            ("user.role_changed", boss.principal),
            ("user.disabled", boss.principal),
            ("user.enabled", "operator"),
        ]
        assert events[1].data == {"before": "staff", "after": "viewer"}
        assert events[1].request_id == "req-boss"

    play(scene)


def test_an_account_that_does_not_exist_cannot_be_changed(play: Play) -> None:
    async def scene(office: Office) -> None:
        for who in ("nobody", UserId(uuid4())):
            refused = await refusal(office.accounts.set_role(who, Role.ADMIN, by=None))
            assert isinstance(refused, NotFound)

    play(scene)


def test_the_last_active_administrator_stays_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.boss()
        gone = await office.accounts.create_superuser(username="gone", password="Zawadi-2026")
        await office.accounts.set_active(gone.id, False, by=boss)
        for attempt in (
            office.accounts.set_role("boss", Role.STAFF, by=boss),
            office.accounts.set_active("boss", False, by=None),
        ):
            assert isinstance(await refusal(attempt), LastAdmin)
        # Demoting one who is disabled anyway leaves the active one.
        await office.accounts.set_role("gone", Role.STAFF, by=None)

    play(scene)


def test_two_administrators_who_demote_each_other_at_once_leave_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.accounts.create_superuser(username="one", password="Zawadi-2026")
        await office.accounts.create_superuser(username="two", password="Zawadi-2026")
        results = await asyncio.gather(
            office.accounts.set_role("one", Role.STAFF, by=None),
            office.accounts.set_role("two", Role.STAFF, by=None),
            return_exceptions=True,
        )
        assert sorted(isinstance(result, LastAdmin) for result in results) == [False, True]

    play(scene)
