"""Guessing passwords and secrets: how often, and what imported ones turn into."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from office import HERE, OPEN, PASSWORD, Office, Play, refusal
from savannah.domain.clients import Client
from savannah.domain.errors import InvalidClient, InvalidCredentials, TooManyAttempts
from savannah.domain.identity import digest


def django(secret: str, *, iterations: int = 1000) -> str:
    """As Django and django-oauth-toolkit store it."""
    made = hashlib.pbkdf2_hmac("sha256", secret.encode(), b"NaCl", iterations)
    return f"pbkdf2_sha256${iterations}$NaCl${base64.b64encode(made).decode()}"


async def wait_of(awaited: Awaitable[object]) -> float:
    """Seconds that a try is told to wait; 0 for a wrong password that counted."""
    refused = await refusal(awaited)
    if isinstance(refused, TooManyAttempts):
        return refused.retry_after.total_seconds()
    assert isinstance(refused, InvalidCredentials)
    return 0


def wrong(office: Office, client: Client, secret: str) -> Callable[..., Awaitable[object]]:
    return lambda **more: office.login(client, secret, password="not it", **more)


# --- passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["johndoe", "nobody"])
def test_one_account_from_many_addresses_meets_a_delay_that_doubles(play: Play, name: str) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guess = wrong(office, client, secret)
        for number in range(20):
            assert await wait_of(guess(username=name, address=f"192.0.2.{number}")) == 0
        waits = []
        for number in range(14):
            address = f"198.51.100.{number}"
            assert await wait_of(guess(username=name, address=address)) == 0
            waits.append(await wait_of(guess(username=name, address="203.0.113.1")))
            office.clock.advance(timedelta(seconds=waits[-1]))
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]

    play(scene)


def test_strangers_keep_nobody_out_of_where_they_have_logged_in_before(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guess = wrong(office, client, secret)
        home, elsewhere = "203.0.113.1", "203.0.113.2"
        await office.login(client, secret, address=home)
        office.clock.advance(timedelta(days=29))
        for number in range(30):
            await refusal(guess(address=f"192.0.2.{number}"))
            office.clock.advance(timedelta(minutes=15))
        await refusal(guess(address="198.51.100.1"))
        assert await wait_of(guess(address=elsewhere)) > 0
        # Guesses from there have an end all the same.
        for _ in range(5):
            assert await wait_of(guess(address=home)) == 0
        assert await wait_of(guess(address=home)) > 0
        office.clock.advance(timedelta(minutes=15))
        for number in range(3):
            await refusal(guess(address=f"198.51.100.{number}"))
        await office.login(client, secret, address=home)

    play(scene)


def test_a_right_password_begins_anew_for_the_account(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guess = wrong(office, client, secret)
        for number in range(22):
            await refusal(guess(address=f"192.0.2.{number}"))
            office.clock.advance(timedelta(seconds=2))
        await office.login(client, secret, address="203.0.113.1")
        for number in range(20):
            assert await wait_of(guess(address=f"198.51.100.{number}")) == 0
        await office.login(client, secret, address="203.0.113.1")

    play(scene)


def test_one_address_with_many_accounts_meets_a_delay_that_a_right_password_does_not_end(
    play: Play,
) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guess = wrong(office, client, secret)
        for number in range(50):
            assert await wait_of(guess(username=f"user-{number}")) == 0
        assert await wait_of(guess(username="user-50")) == 0
        assert await wait_of(guess(username="user-51")) == 1
        refused = await refusal(office.login(client, secret))
        assert isinstance(refused, TooManyAttempts)
        await office.login(client, secret, address="203.0.113.1")  # others are not held up
        office.clock.advance(timedelta(seconds=1))
        await office.login(client, secret)
        assert await wait_of(guess(username="user-52")) == 0
        assert await wait_of(guess(username="user-53")) == 2
        office.clock.advance(timedelta(hours=1))
        for number in range(50):
            assert await wait_of(guess(username=f"later-{number}")) == 0

    play(scene)


def test_a_locked_try_costs_no_hash(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guess = wrong(office, client, secret)
        for number in range(21):
            await refusal(guess(address=f"192.0.2.{number}"))
        office.hasher.verified.clear()
        assert await wait_of(guess(address="203.0.113.1")) == 1
        assert office.hasher.verified == []

    play(scene)


def test_a_password_that_django_hashed_is_taken_once_and_then_ours(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        async with office.storage() as uow:
            await uow.users.save(replace(john, password_hash=django(PASSWORD)))
            await uow.commit()
        client, secret = await office.app()
        refused = await refusal(office.login(client, secret, password="not it"))
        assert isinstance(refused, InvalidCredentials)
        await office.login(client, secret)
        async with office.storage(reading=True) as uow:
            upgraded = (await uow.users.get(john.id)).password_hash
        assert upgraded.startswith("$argon2id$")
        await office.login(client, secret)

    play(scene)


# --- client secrets -------------------------------------------------------------------------------


async def import_app(office: Office, *digests: str) -> Client:
    client, _ = await office.app()
    imported = replace(client, secret_digests=digests)
    async with office.storage() as uow:
        await uow.clients.save(imported)
        await uow.commit()
    return imported


def test_a_client_secret_that_django_hashed_is_taken_once_and_then_a_digest(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client = await import_app(office, django("old secret"), digest("other"))
        assert isinstance(await refusal(office.login(client, "wrong")), InvalidClient)
        for secret in ("old secret", "other", "old secret"):
            await office.login(client, secret)
        found = await office.apps.get_client(client.client_id, by=None)
        assert found.secret_digests == (digest("old secret"), digest("other"))
        assert found.foreign_hashes == ()
        assert (await office.actions("client", client.id)).count("client.secret_upgraded") == 1

    play(scene)


def test_of_two_that_upgrade_a_secret_at_once_one_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client = await import_app(office, django("old secret"))

        async def faster() -> None:
            await office.login(client, "old secret")

        office.hasher.meanwhile = faster
        await office.login(client, "old secret")
        assert (await office.actions("client", client.id)).count("client.secret_upgraded") == 1

    play(scene)


@pytest.mark.parametrize("known", [True, False])
def test_guesses_at_a_secret_are_counted_for_one_app_and_address(play: Play, known: bool) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        tried = client if known else replace(client, client_id="nobody")
        for _ in range(5):
            assert isinstance(await refusal(office.login(tried, "wrong")), InvalidClient)
        refused = await refusal(office.login(tried, secret if known else "wrong"))
        assert isinstance(refused, TooManyAttempts)
        assert refused.retry_after == timedelta(minutes=15)
        await office.login(client, secret, address="203.0.113.1")
        office.clock.advance(timedelta(minutes=15))
        await office.login(client, secret, address=HERE)

    play(scene)


def test_a_missing_secret_is_no_guess(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(9):
            assert isinstance(await refusal(office.login(client, None)), InvalidClient)
        await office.login(client, secret)

    play(scene)


def test_guesses_are_not_counted_where_the_lock_is_off(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(9):
            assert isinstance(await refusal(office.login(client, "wrong")), InvalidClient)
        await office.login(client, secret)

    play(scene, replace(OPEN, login_lock=None))
