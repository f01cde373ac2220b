"""Reads that share a trip: as fresh as one's own, and nobody waits for another's trouble."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.adapters.sql.gathered import GatheredReads

ASKER: ContextVar[str] = ContextVar("asker", default="nobody")
KEYS = [UUID(int=number) for number in range(1, 6)]


class Table:
    """Rows whose value is how often they were written; each trip ends when it is told to."""

    def __init__(self) -> None:
        self.written = dict.fromkeys(KEYS, 0)
        self.trips: list[tuple[Sequence[UUID], asyncio.Future[None]]] = []
        self.begun_for: list[str] = []
        self.reads = GatheredReads(self.read)

    async def read(self, keys: Sequence[UUID]) -> dict[UUID, int]:
        self.begun_for.append(ASKER.get())
        seen = {key: self.written[key] for key in keys if key in self.written}
        end = asyncio.get_running_loop().create_future()
        self.trips.append((keys, end))
        await end
        return seen

    async def ask(self, *keys: UUID) -> list[asyncio.Task[int | None]]:
        asked = [asyncio.create_task(self.reads.find(key)) for key in keys]
        await settled()
        return asked

    async def end(self, number: int = 0, *, error: Exception | None = None) -> None:
        _, trip = self.trips.pop(number)
        if error is None:
            trip.set_result(None)
        else:
            trip.set_exception(error)
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def tell(story: Callable[[Table], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(120):
            await story(Table())

    asyncio.run(within())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.sampled_from(KEYS)),
            st.tuples(st.just("write"), st.sampled_from(KEYS)),
            st.tuples(st.just("end"), st.integers(0, 1)),
            st.tuples(st.just("leave"), st.integers(0, 20)),
        ),
        max_size=40,
    )
)
def test_a_row_is_read_after_it_was_asked_for_and_everybody_is_answered(steps):
    async def story(table: Table) -> None:
        asked: list[tuple[UUID, int, asyncio.Task[int | None]]] = []
        for step, what in steps:
            match step:
                case "ask":
                    [task] = await table.ask(what)
                    asked.append((what, table.written[what], task))
                case "write":
                    table.written[what] += 1
                case "end" if what < len(table.trips):
                    await table.end(what)
                case "leave" if what < len(asked):
                    asked[what][2].cancel()
                    await settled()
                    # A trip that nobody waits for has been given up with it.
                    table.trips = [each for each in table.trips if not each[1].cancelled()]
            assert len(table.trips) <= 2
        while table.trips:
            await table.end()
        for key, then, task in asked:
            assert task.done()
            if not task.cancelled():
                found = task.result()
                assert found is not None
                assert then <= found <= table.written[key]

    tell(story)


def test_one_who_asks_alone_goes_at_once():
    async def story(table: Table) -> None:
        [jane] = await table.ask(KEYS[0])
        [keys] = [keys for keys, _ in table.trips]
        assert keys == [KEYS[0]]
        await table.end()
        assert await jane == 0

    tell(story)


def test_those_who_ask_meanwhile_share_the_next_trip():
    async def story(table: Table) -> None:
        await table.ask(*KEYS[:2])
        waiting = await table.ask(*KEYS, *KEYS)
        assert len(table.trips) == 2
        await table.end()
        assert [sorted(keys) for keys, _ in table.trips[1:]] == [KEYS]
        await table.end(1)
        assert [await each for each in waiting] == [0] * 10

    tell(story)


def test_a_shared_trip_is_told_as_that_of_the_first_who_waited():
    async def story(table: Table) -> None:
        for asker in ("anne", "ben", "carol", "dan"):
            ASKER.set(asker)
            await table.ask(KEYS[0])
        await table.end()
        assert table.begun_for == ["anne", "ben", "carol"]
        await table.end()
        await table.end()

    tell(story)


def test_a_key_without_a_row_has_none():
    async def story(table: Table) -> None:
        await table.ask(*KEYS[:2])
        [nobody, somebody] = await table.ask(UUID(int=99), KEYS[2])
        await table.end()
        await table.end(1)
        assert (await nobody, await somebody) == (None, 0)

    tell(story)


def test_a_trip_that_hangs_does_not_hold_up_the_others():
    async def story(table: Table) -> None:
        [stuck, _] = await table.ask(*KEYS[:2])
        for _ in range(3):
            [next_one] = await table.ask(KEYS[2])
            await table.end(1)
            await table.end(1)
            assert await next_one == 0
            await table.ask(KEYS[3])  # the second of the two again
        assert not stuck.done()

    tell(story)


def test_a_failure_is_for_those_of_that_trip_alone():
    async def story(table: Table) -> None:
        first = await table.ask(*KEYS[:2])
        waiting = await table.ask(*KEYS[2:4])
        await table.end(error=OSError("away"))
        with pytest.raises(OSError, match="away"):
            await first[0]
        await table.end(1, error=OSError("away again"))
        for each in waiting:
            with pytest.raises(OSError, match="away again"):
                await each
        await table.end()
        [later] = await table.ask(KEYS[4])
        await table.end()
        assert await later == 0

    tell(story)


def test_an_end_waits_for_no_trip_that_everybody_has_left():
    async def story(table: Table) -> None:
        first = await table.ask(*KEYS[:2])
        [leaver] = await table.ask(KEYS[2])
        [later] = await table.ask(KEYS[3])
        await table.end()  # what the two waited for is under way now
        for each in (*first, leaver, later):
            each.cancel()
        await settled()
        await table.reads.close()
        assert all(end.cancelled() for _, end in table.trips)

    tell(story)


def test_who_leaves_takes_nobody_along():
    async def story(table: Table) -> None:
        [leader, _] = await table.ask(*KEYS[:2])
        [leaver, stayer] = await table.ask(*KEYS[2:4])
        leaver.cancel()
        leader.cancel()
        await settled()
        table.trips = [each for each in table.trips if not each[1].cancelled()]
        while table.trips:
            await table.end()
        assert await stayer == 0
        assert leaver.cancelled()
        assert leader.cancelled()

    tell(story)
