"""Accounts, clients, grants with their refresh tokens, and signing keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import ClientFilter, Session, UserFilter
from savannah.domain.access import Role
from savannah.domain.clients import ClientType, GrantType
from savannah.domain.errors import Invalid, NotFound
from savannah.domain.identity import RefreshToken, SigningKey
from savannah.domain.paging import Ordering, PageRequest

MINUTE = timedelta(minutes=1)


async def refused(write):
    """The field and code of the one refusal."""
    with pytest.raises(Invalid) as caught:
        await write
    (problem,) = caught.value.problems
    return problem.field, problem.code


# --- users ---------------------------------------------------------------------------------------


async def test_an_account_is_kept_as_given_and_replaced_when_saved(storage, make, keep):
    john = make.user(
        "John.Doe+1",
        email="John@Example.com",
        first_name="Jöhn",
        last_name="Doe",
        role=Role.ADMIN,
        is_active=False,
    )
    await keep(john)
    async with storage() as uow:
        assert await uow.users.get(john.id) == john
        with pytest.raises(NotFound):
            await uow.users.get(make.id())
        after = replace(
            john, email=None, role=Role.VIEWER, password_hash="x", last_login=john.date_joined
        )
        await uow.users.save(after)
        await uow.commit()
    async with storage() as uow:
        assert await uow.users.get(john.id, lock="update") == after


async def test_a_login_is_a_user_name_or_else_an_address(storage, make, keep):
    john = make.user("john", email="j@example.com")
    # A user name may look like somebody else's address; the user name comes first.
    sly = make.user("J@example.com", email="sly@example.com")
    plain = make.user("plain")
    await keep(john, sly, plain)
    async with storage(reading=True) as uow:
        for login, user in [
            ("john", john),
            ("JOHN", john),
            ("j@EXAMPLE.com", sly),
            ("SLY@example.com", sly),
            ("Plain", plain),
            ("nobody", None),
            ("", None),
        ]:
            assert await uow.users.by_login(login) == user, login


async def test_user_names_and_addresses_are_unique_whatever_their_case(storage, make, keep):
    john, jane = make.user("john", email="j@example.com"), make.user("jane", email="x@example.com")
    await keep(john, jane, make.user("no-mail"), make.user("no-mail-2"))
    assert await refused(keep(make.user("JOHN"))) == ("username", "username_taken")
    assert await refused(keep(make.user("new", email="J@Example.com"))) == ("email", "email_taken")

    async def save(user):
        async with storage() as uow:
            await uow.users.save(user)
            await uow.commit()

    assert await refused(save(replace(jane, email="J@example.com"))) == ("email", "email_taken")
    await save(replace(jane, email="X@EXAMPLE.com", first_name="Jane"))
    await save(replace(jane, email=None))
    await keep(make.user("x", email="x@example.com"))


async def test_an_inactive_account_keeps_its_names(make, keep):
    await keep(make.user("john", email="j@example.com", is_active=False))
    assert await refused(keep(make.user("John"))) == ("username", "username_taken")
    assert await refused(keep(make.user("x", email="J@example.com"))) == ("email", "email_taken")


async def test_of_two_registrations_with_one_name_one_wins(make, keep):
    async def register() -> bool:
        try:
            await keep(make.user("john"))
        except Invalid:
            return False
        return True

    assert sum(await asyncio.gather(*(register() for _ in range(4)))) == 1


async def test_everybody_is_listed_by_user_name(storage, make, keep):
    users = [make.user(name) for name in ("zoe", "adam", "bob", "adam.2")]
    await keep(*users)
    async with storage(reading=True) as uow:
        assert [user.username for user in await uow.users.list()] == [
            "adam",
            "adam.2",
            "bob",
            "zoe",
        ]


async def test_accounts_come_in_pages_by_name_or_by_when_they_joined(storage, make, keep, walk):
    users = [make.user(name) for name in ("zoe", "Adam", "bob", "adam.2", "Carl")]
    await keep(*users)
    for ordering, key in (
        ("username", lambda user: (user.username.casefold(), user.id)),
        ("created_at", lambda user: (user.date_joined, user.id)),
    ):
        for descending in (False, True):

            async def page(wanted):
                async with storage(reading=True) as uow:
                    return await uow.users.page(UserFilter(), wanted)

            expected = sorted(users, key=key, reverse=descending)
            await walk(page, expected, ordering=Ordering(ordering, descending=descending))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (UserFilter(), {"boss", "john", "jane"}),
        (UserFilter(role=[Role.ADMIN, Role.VIEWER]), {"boss", "jane"}),
        (UserFilter(is_active=False), {"jane"}),
        (UserFilter(is_active=True, role=[Role.STAFF]), {"john"}),
        (UserFilter(login=["JOHN", "Jane@EXAMPLE.com", "nobody"]), {"john", "jane"}),
        (UserFilter(login=["j"]), set()),
        (UserFilter(login=[""]), set()),
    ],
)
async def test_accounts_are_found_by_what_they_are(storage, make, keep, where, names):
    await keep(
        make.user("boss", role=Role.ADMIN),
        make.user("john"),
        make.user("jane", role=Role.VIEWER, email="jane@example.com", is_active=False),
    )
    async with storage(reading=True) as uow:
        page = await uow.users.page(where, PageRequest())
    assert {user.username for user in page.items} == names
    assert page.count == len(names)


async def test_active_admins_are_counted(storage, make, keep):
    async with storage(reading=True) as uow:
        assert await uow.users.active_admins() == 0
    await keep(
        make.user("a", role=Role.ADMIN),
        make.user("b", role=Role.ADMIN),
        make.user("c", role=Role.ADMIN, is_active=False),
        make.user("d"),
    )
    async with storage(reading=True) as uow:
        assert await uow.users.active_admins() == 2


# --- clients -------------------------------------------------------------------------------------


async def test_a_client_is_kept_as_given_and_replaced_when_saved(storage, make, keep):
    owner = make.user("owner")
    till = make.client("till")
    app = make.client(
        "App",
        name="My Möbile App",
        client_type=ClientType.PUBLIC,
        secret_digests=(),
        redirect_uris=("https://b.example/", "com.example.app:/back", "https://a.example/"),
        grant_types=(GrantType.CLIENT_CREDENTIALS, GrantType.AUTHORIZATION_CODE),
        scopes=frozenset({"orders:write", "orders:read", "openid"}),
        first_party=False,
        is_active=False,
        owner_id=owner.id,
    )
    await keep(owner, till, app)
    async with storage() as uow:
        assert await uow.clients.find("till") == till
        assert await uow.clients.find("App") == app
        assert await uow.clients.find("app") is None
        rotated = replace(till, secret_digests=("1" * 64, "0" * 64), scopes=frozenset())
        await uow.clients.save(rotated)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.clients.find("till") == rotated


async def test_apps_come_in_pages_by_name_or_age(storage, make, keep, walk):
    clients = [make.client(f"c{n}", name=name) for n, name in enumerate(("b", "A", "b", "\u00e9"))]
    await keep(*clients)
    for ordering, key in (
        ("name", lambda client: (client.name, client.id)),
        ("created_at", lambda client: (client.created_at, client.id)),
    ):
        for descending in (False, True):

            async def page(wanted):
                async with storage(reading=True) as uow:
                    return await uow.clients.page(ClientFilter(), wanted)

            expected = sorted(clients, key=key, reverse=descending)
            await walk(page, expected, ordering=Ordering(ordering, descending=descending))


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (ClientFilter(), {"till", "phone", "old"}),
        (ClientFilter(client_type=[ClientType.PUBLIC]), {"phone"}),
        (ClientFilter(is_active=False), {"old"}),
        (ClientFilter(first_party=False, is_active=True), {"phone"}),
    ],
)
async def test_apps_are_found_by_what_they_are(storage, make, keep, where, ids):
    await keep(
        make.client("till"),
        make.client("phone", client_type=ClientType.PUBLIC, secret_digests=(), first_party=False),
        make.client("old", is_active=False),
    )
    async with storage(reading=True) as uow:
        page = await uow.clients.page(where, PageRequest())
    assert {client.client_id for client in page.items} == ids


async def test_two_that_rotate_a_secret_at_once_do_so_in_turn(storage, make, keep):
    await keep(make.client("till", secret_digests=()))

    async def rotate(number):
        async with storage() as uow:
            client = await uow.clients.find("till", lock="update")
            await asyncio.sleep(0)
            kept = (f"{number}" * 64, *client.secret_digests)
            await uow.clients.save(replace(client, secret_digests=kept))
            await uow.commit()

    await asyncio.gather(*map(rotate, range(4)))
    async with storage(reading=True) as uow:
        assert len((await uow.clients.find("till")).secret_digests) == 4


# --- grants --------------------------------------------------------------------------------------


async def test_a_grant_is_kept_as_given_and_revoked_once(storage, make, keep):
    john = make.user("john")
    grant = make.grant(user_id=john.id, scopes=frozenset({"openid", "orders:read"}))
    machine = make.grant(scopes=frozenset())
    await keep(john, grant, machine)
    at = machine.created_at + MINUTE
    async with storage() as uow:
        assert await uow.grants.find(grant.id) == grant
        assert await uow.grants.find(machine.id) == machine
        assert await uow.grants.find(make.id()) is None
        await uow.grants.revoke(grant.id, at=at)
        await uow.grants.revoke(make.id(), at=at)
        await uow.commit()
    async with storage() as uow:
        await uow.grants.revoke(grant.id, at=at + MINUTE)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.grants.find(grant.id) == replace(grant, revoked_at=at)
        assert await uow.grants.find(machine.id) == machine


async def test_all_grants_of_one_user_are_revoked_together(storage, make, keep):
    john, jane = make.user("john"), make.user("jane")
    first, second = make.grant(user_id=john.id), make.grant(user_id=john.id)
    gone = make.grant(user_id=john.id, revoked_at=first.created_at)
    others = make.grant(user_id=jane.id), make.grant()
    await keep(john, jane, first, second, gone, *others)
    at = others[1].created_at + MINUTE
    async with storage() as uow:
        await uow.grants.revoke_of_user(john.id, at=at)
        await uow.commit()
    async with storage(reading=True) as uow:
        for grant, revoked_at in [
            (first, at),
            (second, at),
            (gone, gone.revoked_at),
            (others[0], None),
            (others[1], None),
        ]:
            assert (await uow.grants.find(grant.id)).revoked_at == revoked_at


async def test_a_session_is_a_grant_with_whose_it_is(storage, make, keep):
    john, till = make.user("john"), make.client("till")
    of_john = make.grant(user_id=john.id, client_id="till", revoked_at=john.date_joined)
    of_machine = make.grant(client_id="till")
    of_nobody = make.grant(user_id=make.id(), client_id="gone")
    await keep(john, till, of_john, of_machine, of_nobody)
    async with storage(reading=True) as uow:
        session = uow.grants.session
        assert await session(of_john.id) == Session(grant=of_john, user=john, client=till)
        assert await session(of_machine.id) == Session(grant=of_machine, user=None, client=till)
        assert await session(of_nobody.id) == Session(grant=of_nobody, user=None, client=None)
        assert await session(make.id()) is None


async def test_of_many_who_ask_at_once_each_sees_what_was_revoked_before(storage, make, keep):
    till = make.client("till")
    grants = [make.grant(client_id="till") for _ in range(8)]
    await keep(till, *grants)

    async def session(grant_id):
        async with storage(reading="fresh") as uow:
            return await uow.grants.session(grant_id)

    for grant in grants:
        before = [asyncio.create_task(session(each.id)) for each in (*grants, *grants)]
        await asyncio.sleep(0)  # those are on their way now
        async with storage() as uow:
            await uow.grants.revoke(grant.id, at=grant.created_at)
            await uow.commit()
        after = await asyncio.gather(*(session(grant.id) for _ in range(8)), session(make.id()))
        assert after.pop() is None
        assert [each.grant.revoked_at for each in after] == [grant.created_at] * 8
        found = await asyncio.gather(*before)
        assert [each.grant.id for each in found] == [each.id for each in (*grants, *grants)]
        assert {each.client for each in found} == {till}


async def test_a_refresh_token_is_found_by_its_digest(storage, make, keep):
    grant = make.grant()
    await keep(grant)
    at = grant.created_at
    fresh = RefreshToken(
        digest="a" * 64, grant_id=grant.id, issued_at=at, expires_at=at + 30 * MINUTE
    )
    used = replace(fresh, digest="b" * 64, consumed_at=at + MINUTE, successor="d" * 64)
    bound = replace(fresh, digest="e" * 64, key_thumbprint="t" * 43)
    async with storage() as uow:
        await uow.grants.add_refresh(fresh)
        await uow.grants.add_refresh(used)
        await uow.grants.add_refresh(bound)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.grants.find_refresh(fresh.digest) == fresh
        assert await uow.grants.find_refresh(used.digest) == used
        assert await uow.grants.find_refresh(bound.digest) == bound
        assert await uow.grants.find_refresh("c" * 64) is None


# --- signing keys --------------------------------------------------------------------------------


async def test_signing_keys_are_listed_newest_first(storage, make):
    at = make.customer().created_at
    old, new, newest = (
        SigningKey(
            kid=kid,
            algorithm="ES256",
            sealed=bytes(range(256)),
            created_at=at + shift * MINUTE,
            retired_at=retired_at,
        )
        for kid, shift, retired_at in [("c", 0, at), ("a", 1, None), ("b", 2, None)]
    )
    async with storage() as uow:
        for key in (new, old, newest):
            await uow.signing_keys.add(key)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert list(await uow.signing_keys.list()) == [newest, new, old]
    after = replace(new, activated_at=at, retired_at=at + MINUTE, revoked_at=at + 2 * MINUTE)
    async with storage() as uow:
        await uow.signing_keys.save(after)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert list(await uow.signing_keys.list()) == [newest, after, old]
