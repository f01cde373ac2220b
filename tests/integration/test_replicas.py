"""Reading from real replicas: which unit of work goes where, and what a replica's failure costs."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

import servers
from savannah import Caller, in_memory
from savannah.adapters.sql import SqlStorage, migrate, schema_is_current
from savannah.application.ports import Reading
from savannah.domain.customer import Customer
from savannah.domain.errors import Unavailable

MANAGER = Caller.admin("user:manager")
SHORT = timedelta(milliseconds=400)
# Before a server that hangs: a busy machine may stop us for a while, too.
PATIENCE = timedelta(seconds=1)
SOON_S = 60.0  # on a busy machine; what is waited for takes a fraction of it


@pytest.fixture(scope="module")
def primary() -> Iterator[servers.OwnPostgres]:
    with servers.own_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary: servers.OwnPostgres) -> Iterator[servers.OwnPostgres]:
    with primary.replica() as server:
        yield server


@pytest.fixture(scope="module")
def shared_url(primary: servers.OwnPostgres) -> str:
    url = primary.fresh_database()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def url(primary: servers.OwnPostgres, shared_url: str) -> str:
    primary.empty(shared_url, but="alembic_version")
    return shared_url


@pytest.fixture
def tell(
    primary: servers.OwnPostgres, replica: servers.OwnPostgres, url: str
) -> Callable[..., None]:
    """Tell a story of a storage whose replica has caught up; a lock-up fails."""

    def tell(story: Callable[[SqlStorage], Awaitable[None]], **options: object) -> None:
        async def within() -> None:
            if replica._process is None:  # a story before this one failed in between
                replica.start()
            await replayed(url, replica)
            there = [replica.at(url)]
            async with asyncio.timeout(180), opened(url, there, **options) as storage:
                await until(lambda: answers(storage, "replica"))
                await story(storage)

        asyncio.run(within())

    return tell


@asynccontextmanager
async def opened(url: str, replicas: list[str], **options: object):
    storage = SqlStorage.open(url, replicas=replicas, **options)
    try:
        yield storage
    finally:
        await storage.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await holds():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.005)


async def ask(url: str, question: str, *values: object):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question, *values)
    finally:
        await connection.close()


async def replayed(url: str, replica: servers.OwnPostgres) -> None:
    """Return when the replica has all that the primary has."""
    position = await ask(url, "SELECT pg_current_wal_flush_lsn()::text")

    async def done() -> bool:
        reached = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        return await ask(replica.url, reached, position)

    await until(done)


@asynccontextmanager
async def replay_paused(there: str):
    await ask(there, "SELECT pg_wal_replay_pause()")

    async def paused() -> bool:
        return await ask(there, "SELECT pg_get_wal_replay_pause_state()") == "paused"

    try:
        await until(paused)
        yield
    finally:
        await ask(there, "SELECT pg_wal_replay_resume()")


async def run_sql(uow, statement: str):
    return await uow._transaction.run(lambda connection: connection.execute(text(statement)).all())


async def server_of(uow) -> str:
    [[in_recovery]] = await run_sql(uow, "SELECT pg_is_in_recovery()")
    return "replica" if in_recovery else "primary"


@asynccontextmanager
async def at_replica(storage: SqlStorage):
    """A unit of work that the replica answers.

    A server writes now and then by itself; for a moment its replica is behind, and it answers.
    """
    async with asyncio.timeout(SOON_S):
        while True:
            async with storage(reading=True) as uow:
                if await server_of(uow) == "replica":
                    yield uow
                    return


async def answers(storage: SqlStorage, server: str) -> bool:
    async with storage(reading=True) as uow:
        return await server_of(uow) == server


async def jane_in(storage: SqlStorage) -> Customer:
    app = in_memory(storage=storage)
    return await app.customers.create(name="Jane", phone_number="0700 123 456", by=MANAGER)


async def rename(storage: SqlStorage, jane: Customer, name: str) -> None:
    async with storage() as uow:
        await uow.customers.save(replace(jane, name=name))
        await uow.commit()


async def name_in(storage: SqlStorage, jane: Customer, *, reading: Reading = True) -> str:
    async with storage(reading=reading) as uow:
        return (await uow.customers.get(jane.id)).name


# --- who goes where ------------------------------------------------------------------------------


def test_reading_goes_to_the_replica_writing_and_fresh_reading_to_the_primary(tell):
    async def story(storage: SqlStorage) -> None:
        for reading in (True, "each") * 5:

            async def read_there(reading=reading) -> bool:
                async with storage(reading=reading) as uow:
                    return await server_of(uow) == "replica"

            await until(read_there)
        for reading in (False, "fresh"):
            async with storage(reading=reading) as uow:
                assert await server_of(uow) == "primary"

    tell(story)


def test_a_unit_of_work_at_the_replica_sees_one_moment_and_writes_nothing(tell, url, replica):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        async with at_replica(storage) as uow:
            assert (await uow.customers.get(jane.id)).name == "Jane"
            await rename(storage, jane, "Jane Doe")
            await replayed(url, replica)
            assert (await uow.customers.get(jane.id)).name == "Jane"
            assert await run_sql(uow, "SHOW transaction_read_only") == [("on",)]

    tell(story)


def test_whether_the_database_is_usable_is_asked_of_the_primary(tell, url, replica):
    async def story(storage: SqlStorage) -> None:
        async with replay_paused(replica.at(url)):
            await ask(url, "ALTER TABLE alembic_version RENAME TO elsewhere")
            try:
                assert not await schema_is_current(storage)
            finally:
                await ask(url, "ALTER TABLE elsewhere RENAME TO alembic_version")

    tell(story)


# --- reading one's own writes --------------------------------------------------------------------


def test_every_write_is_read_at_once_however_far_the_replica_is(tell):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        for turn in range(30):
            await rename(storage, jane, f"Jane {turn}")
            assert await name_in(storage, jane) == f"Jane {turn}"
            if turn % 10 == 9:
                await until(lambda: answers(storage, "replica"))
                assert await name_in(storage, jane) == f"Jane {turn}"

    tell(story)


def test_a_write_is_read_at_once_also_where_commits_do_not_wait_for_the_disk(tell, url):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        for turn in range(5):
            await rename(storage, jane, f"Jane {turn}")
            for _ in range(10):
                assert await name_in(storage, jane) == f"Jane {turn}"
                await asyncio.sleep(0.005)

    asyncio.run(ask(url, "ALTER ROLE postgres SET synchronous_commit = off"))
    try:
        tell(story)
    finally:
        asyncio.run(ask(url, "ALTER ROLE postgres RESET synchronous_commit"))


def test_while_the_replica_stands_still_a_writer_reads_from_the_primary(tell, url, replica):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        await until(lambda: answers(storage, "replica"))
        async with replay_paused(replica.at(url)):
            await rename(storage, jane, "Jane Doe")
            for _ in range(20):
                assert await name_in(storage, jane) == "Jane Doe"
                assert await answers(storage, "primary")
                await asyncio.sleep(0.01)
        await until(lambda: answers(storage, "replica"))
        assert await name_in(storage, jane) == "Jane Doe"

    tell(story)


def test_what_any_process_has_committed_is_read_at_once_by_every_other(tell, url, replica):
    """Fails without the question how far the primary is: this process itself writes nothing."""

    async def story(storage: SqlStorage) -> None:
        async with opened(url, []) as other:
            jane = await jane_in(other)
            for turn in range(30):
                await rename(other, jane, f"Jane {turn}")
                assert await name_in(storage, jane) == f"Jane {turn}"
            await until(lambda: answers(storage, "replica"))
            async with replay_paused(replica.at(url)):
                await rename(other, jane, "Jane Doe")
                for reading in (True, "each") * 5:
                    assert await name_in(storage, jane, reading=reading) == "Jane Doe"
                assert await answers(storage, "primary")
            await until(lambda: answers(storage, "replica"))

    tell(story)


def test_readers_that_come_together_ask_the_primary_once_and_none_too_early(tell, url):
    async def story(storage: SqlStorage) -> None:
        async with opened(url, []) as other:
            jane = await jane_in(other)

            async def write_and_read(turn: int) -> None:
                customer = replace(jane, id=uuid4(), code=f"C-{turn}", name=f"Jane {turn}")
                async with other() as uow:
                    await uow.customers.add(customer)
                    await uow.commit()
                assert await name_in(storage, customer) == customer.name

            asked = count_questions(storage)
            await asyncio.gather(*(write_and_read(turn) for turn in range(60)))
            assert 0 < len(asked) < 40

    tell(story, wait=timedelta(seconds=20))


def count_questions(storage: SqlStorage) -> list[object]:
    """What the primary is asked by those who want to read from a replica."""
    asked: list[object] = []
    watch = storage._lanes._replicas._watch
    ask = watch.ask

    async def counted(question: object) -> object:
        asked.append(question)
        return await ask(question)

    watch.ask = counted
    return asked


def test_where_commits_wait_for_the_replica_other_processes_read_them_at_once(tell, url, primary):
    async def wanted(waits: bool) -> None:
        names, level = ("*", "remote_apply") if waits else ("", "on")
        await ask(url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await ask(url, f"ALTER SYSTEM SET synchronous_commit = '{level}'")
        await ask(url, "SELECT pg_reload_conf()")
        state = "sync" if waits else "async"
        await until(lambda: ask(url, "SELECT sync_state = $1 FROM pg_stat_replication", state))

    async def story(storage: SqlStorage) -> None:
        await wanted(waits=True)
        try:
            async with opened(url, []) as other:
                jane = await jane_in(other)
                where = []
                for turn in range(20):
                    await rename(other, jane, f"Jane {turn}")
                    async with storage(reading=True) as uow:
                        assert (await uow.customers.get(jane.id)).name == f"Jane {turn}"
                        where.append(await server_of(uow))
                # But for the moments in which the primary itself has written.
                assert where.count("replica") >= 15
        finally:
            await wanted(waits=False)

    tell(story)


# --- a replica that fails ------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "reading"), [("stop", True), ("kill", "each"), ("kill", True)])
def test_a_replica_that_goes_away_is_an_error_to_nobody_and_is_used_again(
    tell, replica, how, reading
):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        await until(lambda: answers(storage, "replica"))
        over = False
        reads = 0

        async def reader() -> None:
            nonlocal reads
            while not over:
                assert await name_in(storage, jane, reading=reading) == "Jane"
                reads += 1
                await asyncio.sleep(0.001)

        readers = [asyncio.create_task(reader()) for _ in range(4)]
        await until(lambda: answers(storage, "replica"))
        await asyncio.to_thread(getattr(replica, how))
        await until(lambda: answers(storage, "primary"))  # what a crash left lives a moment longer
        before = reads

        async def many_were_answered() -> bool:
            return reads > before + 40

        await until(many_were_answered)
        replica.start()
        await until(lambda: answers(storage, "replica"))
        over = True
        await asyncio.gather(*readers)

    tell(story, replica_retry=SHORT, pool_size=3)


def test_a_replica_that_failed_is_left_alone_for_a_while(tell, replica, caplog):
    async def story(storage: SqlStorage) -> None:
        await asyncio.to_thread(replica.stop)
        assert await answers(storage, "primary")
        assert [record.getMessage() for record in caplog.records] == ["a replica fails"]
        replica.start()
        for _ in range(20):
            assert await answers(storage, "primary")

    tell(story, replica_retry=timedelta(minutes=1))


def test_a_replica_that_fails_within_a_unit_of_work_leaves_the_rest_to_the_primary(tell, replica):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        async with at_replica(storage) as uow:
            [[pid]] = await run_sql(uow, "SELECT pg_backend_pid()")
            await ask(replica.url, "SELECT pg_terminate_backend($1, 5000)", pid)
            assert await uow.customers.get(jane.id) == jane
            assert await server_of(uow) == "primary"
            await uow.commit()

    tell(story)


@pytest.mark.parametrize("reading", [True, "each"])
def test_a_replica_that_hangs_is_given_up_in_time(tell, replica, reading):
    async def story(storage: SqlStorage) -> None:
        jane = await jane_in(storage)
        await until(lambda: answers(storage, "replica"))
        replica.freeze()
        try:
            began_at = time.monotonic()
            readers = (name_in(storage, jane, reading=reading) for _ in range(6))
            assert await asyncio.gather(*readers) == 6 * ["Jane"]
            assert time.monotonic() - began_at < SOON_S
        finally:
            replica.thaw()
        await until(lambda: answers(storage, "replica"))

    tell(story, replica_retry=SHORT, wait=PATIENCE, statement_timeout=PATIENCE)


def test_what_only_the_replica_refuses_is_asked_of_the_primary(tell):
    """As it refuses a query that is in the way of what it replays."""

    async def story(storage: SqlStorage) -> None:
        async with at_replica(storage) as uow:
            refused_there = "SELECT 1 / CASE WHEN pg_is_in_recovery() THEN 0 ELSE 1 END"
            assert await run_sql(uow, refused_there) == [(1,)]
        await until(lambda: answers(storage, "replica"))  # and it goes on being used

    tell(story, replica_retry=timedelta(hours=1))


def test_a_connection_is_given_back_once_when_replica_and_primary_both_refuse(tell):
    async def story(storage):
        replica = storage._lanes._pools[1]
        async with storage() as writing:
            await run_sql(writing, "SELECT 1")  # has the only connection to the primary
            with pytest.raises(Unavailable):
                async with storage(reading=True) as uow:
                    await run_sql(uow, "SELECT pg_current_wal_lsn()")  # not while it recovers
        await until(lambda: is_idle(replica))
        assert len(replica._free) == 1
        await asyncio.gather(*(name_of_server(storage) for _ in range(4)))

    async def is_idle(pool) -> bool:
        return pool.in_use == 0

    async def name_of_server(storage):
        async with storage(reading=True) as uow:
            await server_of(uow)

    tell(story, pool_size=1, wait=SHORT)


def test_what_takes_too_long_at_the_replica_is_not_done_again_at_the_primary(tell):
    async def story(storage: SqlStorage) -> None:
        async with at_replica(storage) as uow:
            slow_there = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_sleep(30)::text END"
            with pytest.raises(Unavailable):
                await run_sql(uow, slow_there)
        await until(lambda: answers(storage, "replica"))

    tell(story, statement_timeout=SHORT, replica_retry=timedelta(hours=1))


def test_replicas_that_were_never_there_are_passed_over_and_told_in_the_log(url, primary, caplog):
    nowhere = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/savannah"

    async def story() -> None:
        # One is no replica at all: what it answers must not be trusted either.
        async with opened(url, [nowhere, primary.url], replica_retry=SHORT) as storage:
            jane = await jane_in(storage)
            for _ in range(20):
                assert await name_in(storage, jane) == "Jane"
                assert await answers(storage, "primary")
                await asyncio.sleep(0.01)

    asyncio.run(story())
    said = {(record.getMessage(), record.replica) for record in caplog.records}
    assert said == {("a replica fails", 1), ("a replica fails", 2)}
    assert len(caplog.records) == 2


def test_of_two_replicas_the_one_that_works_answers_and_both_take_turns(
    tell, url, primary, replica
):
    async def story(storage: SqlStorage) -> None:
        with primary.replica() as second:
            await replayed(url, second)
            there = [replica.at(url), second.at(url)]
            async with opened(url, there, replica_retry=SHORT) as both:
                seen = set()

                async def port() -> int:
                    async with both(reading=True) as uow:
                        [[port]] = await run_sql(uow, "SELECT current_setting('port')::int")
                    seen.add(port)
                    return port

                async def has_used_both() -> bool:
                    await port()
                    return len(seen - {primary.port}) == 2

                await until(has_used_both)
                await asyncio.to_thread(second.stop)
                await port()  # may be the first to notice
                seen.clear()
                for _ in range(10):
                    await port()
                    await asyncio.sleep(0.01)
                assert second.port not in seen
                assert seen - {primary.port}

    tell(story)
