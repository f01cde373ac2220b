"""The clock and the randomness of the machine we run on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Final
from uuid import UUID

from savannah.application.ports import Clock, Randomness

_COUNTER_BITS: Final = 42
_TAIL_BITS: Final = 32
_LOW_COUNTER_BITS: Final = 30
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


class SystemClock(Clock):
    """What time it is."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SystemRandomness(Randomness):
    """Ids and secrets from the operating system's generator.

    Ids of one process grow strictly, within one millisecond and when the clock steps back too.

    Args:
        unix_ms: milliseconds since 1970, for people who bring their own time.
    """

    def __init__(self, *, unix_ms: Callable[[], int] = _unix_ms) -> None:
        self._unix_ms = unix_ms
        self._lock = Lock()
        self._last_ms = -1
        self._counter = 0
        self._random = secrets.SystemRandom()

    def uuid(self) -> UUID:
        # Source: RFC 9562, 5.7 and 6.2 method 1: a counter of 42 bits behind the time, then 32
        # random bits. The counter begins in its lower half, which leaves room to count.
        with self._lock:
            now = self._unix_ms()
            if now > self._last_ms:
                self._last_ms = now
                self._counter = secrets.randbits(_COUNTER_BITS - 1)
            else:
                self._counter += 1
                if self._counter >> _COUNTER_BITS:
                    self._last_ms += 1
                    self._counter = secrets.randbits(_COUNTER_BITS - 1)
            ms, counter = self._last_ms, self._counter
        high, low = divmod(counter, 1 << _LOW_COUNTER_BITS)
        tail = secrets.randbits(_TAIL_BITS)
        return UUID(int=ms << 80 | _VERSION | high << 64 | _VARIANT | low << _TAIL_BITS | tail)

    def symbols(self, alphabet: str, length: int) -> str:
        # One draw for all of them: each costs a call of the system.
        rest, symbols = secrets.randbelow(len(alphabet) ** length), ""
        for _ in range(length):
            rest, at = divmod(rest, len(alphabet))
            symbols += alphabet[at]
        return symbols

    def fraction(self) -> float:
        return self._random.random()
