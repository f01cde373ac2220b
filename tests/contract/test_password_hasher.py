"""What every password hasher does: hash slowly, compare, and never fail on what is stored."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import argon2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savannah.adapters.passwords import Argon2Hasher
from savannah.application.ports import PasswordHasher

T = TypeVar("T")


def run(awaited: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(awaited)


@pytest.fixture(scope="module")
def hasher() -> PasswordHasher:
    return Argon2Hasher(memory_kib=8, time_cost=1, threads=2)


@settings(max_examples=40, deadline=None)
@given(password=st.text(max_size=200), other=st.text(max_size=200))
def test_a_password_fits_its_own_hash_alone(
    hasher: PasswordHasher, password: str, other: str
) -> None:
    async def scene() -> None:
        stored = await hasher.hash(password)
        assert await hasher.verify(password, stored) == (True, None)
        assert await hasher.verify(other, stored) == (other == password, None)
        assert await hasher.verify(password + "\x00", stored) == (False, None)

    run(scene())


def test_one_password_never_has_the_same_hash_twice(hasher: PasswordHasher) -> None:
    async def scene() -> tuple[str, str]:
        return await hasher.hash("securepassword123"), await hasher.hash("securepassword123")

    first, second = run(scene())
    assert first != second
    assert "securepassword123" not in first


def test_no_password_fits_where_there_is_no_hash(hasher: PasswordHasher) -> None:
    for password in ("", "securepassword123", "\ud800"):
        assert run(hasher.verify(password, None)) == (False, None)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "!",
        "plain text",
        "$argon2id$",
        "$argon2id$v=19$m=8,t=1,p=1$caf\u00e9$x",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$a",
        "$argon2id$v=19$m=999999999,t=1,p=1$c29tZXNhbHRzYWx0$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
        "pbkdf2_sha256$1000$salt$hash",
        "pbkdf2_sha256$0$salt$aGFzaA==",
        "pbkdf2_sha256$3000001$salt$aGFzaA==",
        "pbkdf2_sha256$99999999999999$salt$aGFzaA==",
        "pbkdf2_md5$1000$salt$aGFzaA==",
        "argon2$",
        "argon2$argon2id$v=19$m=999999,t=1,p=1$c29tZXNhbHRzYWx0$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
        "argon2$argon2id$v=19$m=8,t=11,p=1$c29tZXNhbHRzYWx0$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ",
        "\ud800",
        "\x00",
    ],
)
def test_what_is_no_hash_of_ours_fits_nothing_and_raises_nothing(
    hasher: PasswordHasher, stored: str
) -> None:
    assert run(hasher.verify("securepassword123", stored)) == (False, None)


def test_an_outdated_hash_comes_back_renewed_when_the_password_fits() -> None:
    async def scene() -> None:
        old, new = Argon2Hasher(memory_kib=8, time_cost=1), Argon2Hasher(memory_kib=16, time_cost=2)
        stored = await old.hash("securepassword123")
        assert await new.verify("wrong", stored) == (False, None)
        fits, renewed = await new.verify("securepassword123", stored)
        assert fits
        assert renewed is not None
        assert await new.verify("securepassword123", renewed) == (True, None)

    run(scene())


def test_the_default_is_argon2id_with_the_least_owasp_parameters() -> None:
    stored = run(Argon2Hasher().hash("securepassword123"))
    parameters = argon2.extract_parameters(stored)
    assert parameters.type is argon2.Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (19456, 2, 1)


def test_nobody_costs_the_parameters_of_somebody() -> None:
    hasher = Argon2Hasher(memory_kib=64, time_cost=3)
    somebody = argon2.extract_parameters(run(hasher.hash("securepassword123")))
    assert argon2.extract_parameters(hasher._nobody) == somebody


def test_the_event_loop_goes_on_and_no_more_hashes_run_than_threads() -> None:
    hasher = Argon2Hasher(memory_kib=8192, time_cost=2, threads=2)

    async def scene() -> int:
        work = asyncio.gather(*(hasher.hash(str(number)) for number in range(6)))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        await work
        return turns

    assert run(scene()) > 1
    names = [thread.name for thread in threading.enumerate() if "argon2" in thread.name]
    assert len([name for name in names if name.startswith("savannah-argon2")]) >= 2
    assert len(hasher._threads._threads) == 2


# --- what Django has left -------------------------------------------------------------------------

# What django.contrib.auth.hashers of Django 5.2 made of "securepassword123".
DJANGO = {
    "pbkdf2_sha256": "pbkdf2_sha256$1000000$SodiumChloride$ZB0eduaSvL/OXROtEQGurToEOYrEQEQyYPvDe75sqRU=",
    "pbkdf2_sha1": "pbkdf2_sha1$1000$SodiumChloride$tU+hqN16fimh6YqouMtioCeHTp8=",
    "argon2": "argon2$argon2id$v=19$m=102400,t=2,p=8$TXFCTVZONVNqWUhncTY1akh4YzhmOQ$SNBhTymVASRlbACMOp8RC3O6FjiFsJvpKfW9d4De8tM",
}


@pytest.mark.parametrize("kind", DJANGO)
def test_a_hash_of_django_fits_and_comes_back_as_one_of_ours(
    hasher: PasswordHasher, kind: str
) -> None:
    async def scene() -> None:
        assert await hasher.verify("wrong", DJANGO[kind]) == (False, None)
        fits, renewed = await hasher.verify("securepassword123", DJANGO[kind])
        assert fits
        assert renewed is not None
        assert renewed.startswith("$argon2id$v=19$m=8,t=1,p=1$")
        assert await hasher.verify("securepassword123", renewed) == (True, None)

    run(scene())


def test_nobody_costs_as_much_time_as_a_wrong_password() -> None:
    hasher = Argon2Hasher(memory_kib=4096, time_cost=2, threads=1)

    async def scene() -> float:
        stored = await hasher.hash("securepassword123")
        known: list[float] = []
        unknown: list[float] = []
        for _ in range(41):  # in turn, so that what else the machine does meets both
            for times, kept in ((known, stored), (unknown, None)):
                began = time.process_time()  # what else the machine does is no work of ours
                await hasher.verify("wrong", kept)
                times.append(time.process_time() - began)
        return sorted(known)[20] / sorted(unknown)[20]

    ratio = run(scene())
    assert 0.7 < ratio < 1.4, f"a known user takes {ratio:.2f} times as long"
