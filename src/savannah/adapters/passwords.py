"""Password hashing with argon2id, in threads of its own; hashes of Django are read once.

What a password may be is a rule of the domain; this only hashes what it is given.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import PasswordHasher as Argon2
from argon2 import Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError

from savannah.application.ports import PasswordHasher

_HASH_BYTES: Final = 32
_SALT_BYTES: Final = 16

# `algorithm$iterations$salt$hash`, as django.contrib.auth.hashers writes it (Django 1.4 to 6).
_PBKDF2: Final = re.compile(r"pbkdf2_(sha256|sha1)\$([0-9]{1,7})\$([^$]{1,128})\$([A-Za-z0-9+/=]+)")
_DJANGO_ARGON2: Final = "argon2$"
# What a stored hash may cost us: twice and more what Django ever asked for by default.
_MOST_ITERATIONS: Final = 3_000_000
_MOST_MEMORY_KIB: Final = 256 * 1024
_MOST_PASSES: Final = 10


class Argon2Hasher(PasswordHasher):
    """Argon2id, by default with the least parameters that OWASP names: 19 MiB, about 20 ms.

    Source: OWASP Password Storage Cheat Sheet.

    Hashes of Django (`pbkdf2_sha256$…`, `pbkdf2_sha1$…`, `argon2$argon2id$…`) are verified too and
    always count as outdated, so an imported account has a hash of ours after its first login.
    Until then a look at it takes as long as Django made it.

    Args:
        memory_kib: what one hash takes.
        time_cost: how many passes over that memory.
        threads: how many hashes run at once; by default one per core.
    """

    def __init__(
        self, *, memory_kib: int = 19456, time_cost: int = 2, threads: int | None = None
    ) -> None:
        self._argon2 = Argon2(
            time_cost=time_cost,
            memory_cost=memory_kib,
            parallelism=1,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )
        # Nobody's password: random bytes where the hash would be, with the same parameters.
        salt, output = (
            base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
            for size in (_SALT_BYTES, _HASH_BYTES)
        )
        self._nobody = f"$argon2id$v=19$m={memory_kib},t={time_cost},p=1${salt}${output}"
        self._threads = ThreadPoolExecutor(
            max_workers=threads or os.cpu_count() or 1,
            thread_name_prefix="savannah-argon2",
        )

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._argon2.hash, _encoded(password)
        )

    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._verify, _encoded(password), password_hash
        )

    def _verify(self, password: bytes, password_hash: str | None) -> tuple[bool, str | None]:
        stored = self._nobody if password_hash is None else password_hash
        if (foreign := _PBKDF2.fullmatch(stored)) is not None:
            return self._verify_pbkdf2(password, foreign)
        stored = stored.removeprefix(_DJANGO_ARGON2[:-1]) if _is_django_argon2(stored) else stored
        try:
            if password_hash is not None and not _is_affordable(stored):
                return self._verify(password, None)
            self._argon2.verify(stored, password)
        except VerifyMismatchError:
            return False, None
        except (Argon2Error, InvalidHashError, UnicodeError):
            # What is stored is no hash of ours; the time it takes does not tell.
            return self._verify(password, None)
        outdated = self._argon2.check_needs_rehash(stored)
        return password_hash is not None, self._argon2.hash(password) if outdated else None

    def _verify_pbkdf2(self, password: bytes, stored: re.Match[str]) -> tuple[bool, str | None]:
        kind, iterations, salt, kept = stored.groups()
        if not 0 < int(iterations) <= _MOST_ITERATIONS:
            return self._verify(password, None)
        made = hashlib.pbkdf2_hmac(kind, password, salt.encode(), int(iterations))
        if not hmac.compare_digest(base64.b64encode(made).decode(), kept):
            return False, None
        return True, self._argon2.hash(password)


def _is_django_argon2(stored: str) -> bool:
    return stored.startswith(f"{_DJANGO_ARGON2}argon2")


def _is_affordable(stored: str) -> bool:
    """Raises: InvalidHashError."""
    asked = extract_parameters(stored)
    return asked.memory_cost <= _MOST_MEMORY_KIB and asked.time_cost <= _MOST_PASSES


def _encoded(password: str) -> bytes:
    """Any text at all, lone surrogates too, which no stored password has."""
    return password.encode("utf-8", "surrogatepass")
