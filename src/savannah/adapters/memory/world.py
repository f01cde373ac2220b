"""Time, chance, limits, a cache and counters in memory: settable and repeatable."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final, TypeVar
from uuid import UUID

from savannah.application.ports import Cache, Clock, LimitState, Metrics, Randomness, RateLimiter
from savannah.domain.notification import SmsStatus
from savannah.domain.notification_policy import Rate
from savannah.domain.sms_text import SmsEvent

T = TypeVar("T")

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock(Clock):
    """Stands still until it is moved; with a `tick` it moves that far after every look."""

    def __init__(self, now: datetime = _START, *, tick: timedelta = timedelta(0)) -> None:
        self._now = now.astimezone(UTC)
        self._tick = tick

    def now(self) -> datetime:
        seen = self._now
        self._now += self._tick
        return seen

    def advance(self, by: timedelta) -> None:
        self._now += by

    def set(self, moment: datetime) -> None:
        self._now = moment.astimezone(UTC)


class MemoryCache(Cache):
    """Keeps what was used last, in this process.

    Args:
        most: so many values, and no more.
    """

    def __init__(self, clock: Clock, *, most: int = 256) -> None:
        self._clock = clock
        self._most = most
        self._kept: OrderedDict[str, tuple[datetime, object]] = OrderedDict()

    async def get(self, key: str, kind: type[T]) -> T | None:
        ends_at, value = self._kept.get(key, (_START, None))
        if not isinstance(value, kind) or self._clock.now() >= ends_at:
            return None
        self._kept.move_to_end(key)
        return value

    async def put(self, key: str, value: object, *, keep: timedelta) -> None:
        self._kept[key] = self._clock.now() + keep, value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


class SeededRandomness(Randomness):
    """The same ids and symbols every time; not for secrets."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)  # noqa: S311 - being predictable is its purpose
        self._milliseconds = int(_START.timestamp() * 1000)

    def uuid(self) -> UUID:
        # RFC 9562 section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 62.
        self._milliseconds += 1
        return UUID(
            int=self._milliseconds << 80
            | 0x7 << 76
            | self._random.getrandbits(12) << 64
            | 0b10 << 62
            | self._random.getrandbits(62)
        )

    def symbols(self, alphabet: str, length: int) -> str:
        return "".join(self._random.choices(alphabet, k=length))

    def fraction(self) -> float:
        return self._random.random()


class MemoryRateLimiter(RateLimiter):
    """Counts in this process alone; `peek` is allowed when one more hit would be.

    It remembers `most_keys` windows at once; beyond that the ended ones go first, then those
    that began first.
    """

    def __init__(self, clock: Clock, *, most_keys: int = 100_000) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._windows: dict[str, tuple[datetime, int]] = {}

    async def hit(self, key: str, rate: Rate) -> LimitState:
        now = self._clock.now()
        ends_at, count = self._window(key, rate, now)
        if count == 0:
            self._make_room(now)
        self._windows[key] = (ends_at, count + 1)
        return _state(rate, count + 1, allowed=count < rate.count, reset_after=ends_at - now)

    async def peek(self, key: str, rate: Rate) -> LimitState:
        now = self._clock.now()
        ends_at, count = self._window(key, rate, now)
        return _state(rate, count, allowed=count < rate.count, reset_after=ends_at - now)

    async def forget(self, key: str) -> None:
        self._windows.pop(key, None)

    def _window(self, key: str, rate: Rate, now: datetime) -> tuple[datetime, int]:
        window = self._windows.get(key)
        if window is not None:
            if window[0] > now:
                return window
            del self._windows[key]  # so that the next one counts as the youngest
        return now + rate.window, 0

    def _make_room(self, now: datetime) -> None:
        if len(self._windows) < self._most_keys:
            return
        self._windows = {key: window for key, window in self._windows.items() if window[0] > now}
        while len(self._windows) >= self._most_keys:
            del self._windows[next(iter(self._windows))]


def _state(rate: Rate, count: int, *, allowed: bool, reset_after: timedelta) -> LimitState:
    return LimitState(
        allowed=allowed,
        limit=rate.count,
        remaining=max(0, rate.count - count),
        reset_after=reset_after,
    )


class NullMetrics(Metrics):
    """Counts nothing."""

    def order_created(self) -> None:
        return

    def sms(self, event: SmsEvent, status: SmsStatus) -> None:
        del event, status

    def sms_cost(self, currency: str, units: int) -> None:
        del currency, units
