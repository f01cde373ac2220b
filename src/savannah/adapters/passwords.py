"""Password hashing with argon2id, in threads of its own.

What a password may be is a rule of the domain; this only hashes what it is given.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher as Argon2
from argon2 import Type
from argon2.exceptions import Argon2Error, InvalidHashError, VerifyMismatchError

from savannah.application.ports import PasswordHasher

_HASH_BYTES = 32
_SALT_BYTES = 16


class Argon2Hasher(PasswordHasher):
    """Argon2id, by default with the least parameters that OWASP names: 19 MiB, about 20 ms.

    Source: OWASP Password Storage Cheat Sheet.

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
        try:
            self._argon2.verify(stored, password)
        except VerifyMismatchError:
            return False, None
        except (Argon2Error, InvalidHashError, UnicodeError):
            # What is stored is no hash of ours; the time it takes does not tell.
            return self._verify(password, None)
        outdated = self._argon2.check_needs_rehash(stored)
        return password_hash is not None, self._argon2.hash(password) if outdated else None


def _encoded(password: str) -> bytes:
    """Any text at all, lone surrogates too, which no stored password has."""
    return password.encode("utf-8", "surrogatepass")
