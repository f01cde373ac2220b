"""The machine's clock and randomness."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

from savannah.adapters.system import SystemClock, SystemRandomness

NOON = 1_795_000_000_000  # some millisecond


def milliseconds(id_: UUID) -> int:
    return id_.int >> 80


def test_the_clock_is_aware_and_in_utc() -> None:
    before = time.time()
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert before <= now.timestamp() <= time.time()


def test_an_id_is_a_version_7_uuid_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = SystemRandomness().uuid()
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= milliseconds(made) <= time.time_ns() // 1_000_000


def test_the_time_in_an_id_is_the_one_given() -> None:
    made = SystemRandomness(unix_ms=lambda: NOON).uuid()
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds(made))
    assert at == datetime.fromtimestamp(NOON // 1000, UTC)


def test_ids_of_one_millisecond_grow() -> None:
    randomness = SystemRandomness(unix_ms=lambda: NOON)
    made = [randomness.uuid() for _ in range(5_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {milliseconds(id_) for id_ in made} == {NOON}
    assert {(id_.version, id_.variant) for id_ in made} == {(7, RFC_4122)}


def test_ids_grow_when_the_clock_steps_back() -> None:
    times: Iterator[int] = iter([NOON, NOON - 3_600_000, NOON - 1, NOON + 1, NOON])
    randomness = SystemRandomness(unix_ms=lambda: next(times))
    made = [randomness.uuid() for _ in range(5)]
    assert made == sorted(set(made))
    assert [milliseconds(id_) - NOON for id_ in made] == [0, 0, 0, 1, 1]


def test_a_spent_counter_borrows_from_the_next_millisecond() -> None:
    randomness = SystemRandomness(unix_ms=lambda: NOON)
    first = randomness.uuid()
    randomness._counter = (1 << 42) - 1  # four million million ids later
    second = randomness.uuid()
    assert first < second
    assert milliseconds(second) == NOON + 1
    assert (second.version, second.variant) == (7, RFC_4122)
    assert second < randomness.uuid()


def test_threads_never_get_the_same_id() -> None:
    randomness = SystemRandomness(unix_ms=lambda: NOON)
    made: list[list[UUID]] = [[] for _ in range(4)]

    def work(mine: list[UUID]) -> None:
        mine.extend(randomness.uuid() for _ in range(2_000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    # Without the random tail: the counter alone must tell them apart.
    assert len({id_.int >> 32 for mine in made for id_ in mine}) == 8_000


def test_two_processes_would_not_repeat_each_other() -> None:
    one, other = (SystemRandomness(unix_ms=lambda: NOON) for _ in range(2))
    assert not {one.uuid() for _ in range(500)} & {other.uuid() for _ in range(500)}


def test_symbols_come_from_the_alphabet() -> None:
    made = SystemRandomness().symbols("AB7", 300)
    assert len(made) == 300
    assert set(made) == set("AB7")
    assert SystemRandomness().symbols("AB7", 0) == ""


def test_a_fraction_is_below_one_and_varies() -> None:
    made = [SystemRandomness().fraction() for _ in range(200)]
    assert all(0 <= fraction < 1 for fraction in made)
    assert min(made) < 0.5 < max(made)
