"""The schema: what migrations make of nothing and of rows, and how it is known to be current."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg  # type: ignore[import-untyped]  # it ships none
import pytest
from alembic.command import upgrade
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import servers
from savannah.adapters import sql
from savannah.adapters.sql import SqlStorage, migrate, schema, schema_is_current
from savannah.adapters.sql.schema import HEAD, searches_are_indexed
from savannah.adapters.sql.tables import TRIGRAM_INDEXES, metadata

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(sql.__file__).parent / "migrations"))
REVISIONS = [each.revision for each in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]

Fresh = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Makes the URLs of empty databases."""
    made: list[str] = []

    def fresh() -> str:
        if request.param == "sqlite":
            made.append(f"sqlite:///{tmp_path}/{len(made)}.db")
        else:
            made.append(server.fresh_database())
        return made[-1]

    if request.param == "sqlite":
        yield fresh
        return
    server: servers.PostgresServer = request.getfixturevalue("postgres_server")
    yield fresh
    for url in made:
        server.drop(url)


@pytest.fixture
def url(fresh: Fresh) -> str:
    return fresh()


@pytest.fixture
def postgres_url(postgres_server: servers.PostgresServer) -> Iterator[str]:
    url = postgres_server.fresh_database()
    yield url
    postgres_server.drop(url)


async def on(url: str, work: Callable[[Connection], Any]) -> Any:
    """Do something in one transaction of its own."""

    def committed(connection: Connection) -> Any:
        answer = work(connection)
        connection.commit()
        return answer

    storage = SqlStorage.open(url)
    try:
        async with storage() as uow:
            return await uow._transaction.administer(committed)
    finally:
        await storage.close()


def ask(url: str, *statements: str) -> list[tuple]:
    """The rows that the last one gives."""

    def work(connection: Connection) -> list[tuple]:
        for statement in statements[:-1]:
            connection.execute(text(statement))
        answer = connection.execute(text(statements[-1]))
        return [tuple(row) for row in answer.all()] if answer.returns_rows else []

    return asyncio.run(on(url, work))


# --- what it looks like --------------------------------------------------------------------------

PARTS_OF_POSTGRES = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || ' '
       || coalesce(l.collname, '') || ' ' || a.attnotnull || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
"""


def lines_of(sql: str) -> list[str]:
    """Columns and constraints of a table in SQLite's words; an added column has no line there."""
    found = re.split(r"\n|, (?=[a-z_]+ [A-Z]+\b)", sql)
    lines = (line.strip(" ,\t") for line in found)
    closed = (line[:-1] if line.count(")") > line.count("(") else line for line in lines)
    return [line for line in closed if line]


def parts(url: str) -> set[tuple[object, ...]]:
    """Everything a schema consists of, without Alembic's own table."""
    if url.startswith("sqlite"):
        found = ask(url, "SELECT type, tbl_name, name, sql FROM sqlite_master WHERE sql <> ''")
        found = [(*row[:3], *sorted(lines_of(row[3]))) for row in found]
    else:
        found = ask(url, PARTS_OF_POSTGRES)
    return {row for row in found if row[1] != "alembic_version"}


def test_migrations_from_nothing_make_exactly_the_tables_that_are_queried(fresh):
    made, declared = fresh(), fresh()
    asyncio.run(migrate(made))
    asyncio.run(on(declared, metadata.create_all))
    # The trigram indexes need more than tables to be made.
    tables = {part for part in parts(made) if part[2] not in TRIGRAM_INDEXES}
    assert tables == parts(declared)
    assert {part[1] for part in tables} == set(metadata.tables)


def test_the_newest_migration_is_the_one_that_storage_expects():
    assert ScriptDirectory.from_config(CONFIG).get_current_head() == HEAD
    assert sorted(REVISIONS) == REVISIONS


# --- whether it is current -----------------------------------------------------------------------


def test_a_schema_is_current_only_after_its_migration(url):
    async def story() -> None:
        storage = SqlStorage.open(url)
        assert not await schema_is_current(storage)
        await migrate(url)
        assert await schema_is_current(storage)
        assert await schema_is_current(url)
        await storage.close()

    asyncio.run(story())
    for nothing in (
        "UPDATE alembic_version SET version_num = '0000'",
        "DELETE FROM alembic_version",
    ):
        ask(url, nothing)
        assert not asyncio.run(schema_is_current(url))


def test_a_schema_that_a_newer_version_has_migrated_is_current_and_left_alone(url):
    asyncio.run(migrate(url))
    newer = ("ALTER TABLE customers ADD COLUMN shoe_size INTEGER",)
    ask(url, *newer, "UPDATE alembic_version SET version_num = '9999'")
    before = parts(url)
    assert asyncio.run(schema_is_current(url))
    asyncio.run(migrate(url))
    assert parts(url) == before


def test_asking_whether_a_schema_is_current_does_not_load_alembic(tmp_path):
    url = f"sqlite:///{tmp_path}/savannah.db"
    asyncio.run(migrate(url))
    script = (
        "import asyncio, sys\n"
        "from savannah.adapters.sql import schema_is_current\n"
        f"print(asyncio.run(schema_is_current('{url}')), 'alembic' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["True", "False"]


# --- with rows in it -----------------------------------------------------------------------------

AT = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
JANE, LAPTOP, TEXT = (UUID(int=number) for number in (1, 2, 3))
# What a shop had stored by then, for each revision that lets it store more than the one before;
# `{…}` are spelled as the dialect wants them.
ROWS = {
    "0001": """
INSERT INTO customers (id, code, name, phone, locale, sms_opt_out, reachability, metadata,
    created_at, updated_at, version, name_folded, code_folded, phone_digits)
VALUES ({jane}, 'CUST-1', 'Jane Smith', '+254700123456', 'en', FALSE, 'unknown',
    '{{"till": "3"}}', {at}, {at}, 1, 'jane smith', 'cust-1', '254700123456 0700123456');
INSERT INTO orders (id, number, customer_id, item, price_minor, currency, quantity, total_minor,
    status, metadata, created_at, updated_at, status_changed_at, version, notification_id,
    number_compact, item_key, item_folded)
VALUES ({laptop}, 'ORD-7K3Q9D', {jane}, 'Laptop', 99999, 'KES', 1, 99999,
    'pending', '{{}}', {at}, {at}, {at}, 1, {text}, '7K3Q9D', 'laptop', 'laptop');
INSERT INTO notifications (id, order_id, customer_id, event, dedupe_key, to_phone, locale, text,
    encoding, segments, status, rules, attempts, due_at, free_at, created_at, updated_at)
VALUES ({text}, {laptop}, {jane}, 'order_created', 'k', '+254700123456', 'en', 'Hello',
    'gsm7', 1, 'queued', '[]', 0, {at}, {at}, {at}, {at})
""",
}
# Later revisions kept these columns; each adds its own rows when it has some worth a look.
SPELLINGS = {
    "sqlite": {
        "at": int(AT.timestamp()) * 1_000_000,
        **{
            name: f"x'{id_.hex}'"
            for name, id_ in (("jane", JANE), ("laptop", LAPTOP), ("text", TEXT))
        },
    },
    "postgresql": {
        "at": f"'{AT}'",
        **{name: f"'{id_}'" for name, id_ in (("jane", JANE), ("laptop", LAPTOP), ("text", TEXT))},
    },
}


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_was_stored_under_any_earlier_schema_is_kept_and_understood(url, revision):
    def at_revision(connection: Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", CONFIG.get_main_option("script_location"))
        if connection.dialect.name == "postgresql":
            connection.rollback()  # there Alembic begins and ends transactions itself
        upgrade(config, revision)
        stored = ";".join(rows for since, rows in ROWS.items() if since <= revision)
        for row in stored.split(";"):
            connection.exec_driver_sql(row.format(**SPELLINGS[connection.dialect.name]))

    async def story() -> None:
        await on(url, at_revision)
        await migrate(url)
        await migrate(url)  # again: there is nothing to do
        assert await schema_is_current(url)
        storage = SqlStorage.open(url)
        async with storage(reading=True) as uow:
            jane = await uow.customers.get(JANE)
            assert (jane.code, jane.name, jane.phone.e164) == (
                "CUST-1",
                "Jane Smith",
                "+254700123456",
            )
            assert (jane.metadata, jane.created_at) == ({"till": "3"}, AT)
            laptop = await uow.orders.get(LAPTOP)
            assert (laptop.number, laptop.total.minor, laptop.sms.status) == (
                "ORD-7K3Q9D",
                99_999,
                "queued",
            )
            assert (await uow.notifications.get(TEXT)).text == "Hello"
            assert await uow.notifications.next_due_at() == AT
        await storage.close()

    asyncio.run(story())


# --- several at once, and failures ---------------------------------------------------------------


def test_two_processes_may_migrate_at_once(url):
    script = (
        "import asyncio\n"
        "from savannah.adapters.sql import migrate\n"
        f"asyncio.run(migrate('{url}'))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    failures = [process.communicate(timeout=180)[1] for process in running]
    assert failures == ["", ""]
    assert asyncio.run(schema_is_current(url))


def test_on_postgres_the_second_one_waits_for_the_first(postgres_url):
    asking = """SELECT query_start FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock%'"""
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"

    async def story() -> None:
        first = await asyncpg.connect(postgres_url)
        try:
            assert await first.fetchval(str(schema._LOCK))
            second = asyncio.create_task(migrate(postgres_url))
            asked_at = set()
            async with asyncio.timeout(180):
                while len(asked_at) < 3:  # it asks, and asks again
                    assert not second.done()
                    asked_at.update(row[0] for row in await first.fetch(asking))
                    await asyncio.sleep(0.01)
            assert await first.fetchval(tables) == 0
        finally:
            await first.close()
        await second
        assert await schema_is_current(postgres_url)

    asyncio.run(story())


def test_an_index_is_made_while_others_write_and_again_after_an_interruption(postgres_url):
    indexes = "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
    ours = f"{indexes} WHERE relname ~ '^ix_(customers|orders)_' ORDER BY relname"

    def at_second(connection: Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", CONFIG.get_main_option("script_location"))
        connection.rollback()
        upgrade(config, "0002")

    asyncio.run(on(postgres_url, at_second))
    made = ask(postgres_url, ours)
    assert all(valid for _, valid in made)
    ask(
        postgres_url,
        "DROP INDEX ix_customers_locale",
        "UPDATE pg_index SET indisvalid = FALSE"
        " WHERE indexrelid = 'ix_customers_archived'::regclass",
        "UPDATE alembic_version SET version_num = '0001'",
    )

    add = (
        "INSERT INTO customers (id, code, locale, sms_opt_out, reachability, metadata, created_at,"
        " updated_at, version, code_folded) VALUES (gen_random_uuid(), '%s', 'en', FALSE,"
        " 'unknown', '{}', now(), now(), 1, 'x')"
    )
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'advisory'")

    async def story() -> None:
        storage = SqlStorage.open(postgres_url)
        # Somebody writes and does not commit yet: the index waits for them, and nobody for it.
        async with asyncio.timeout(180), storage() as first, storage() as second:
            await first._transaction.run(lambda connection: connection.execute(text(add % "A")))
            migrating = asyncio.create_task(migrate(postgres_url))
            while not await storage.read(lambda connection: connection.scalar(waiting)):
                assert not migrating.done()
            await second._transaction.run(lambda connection: connection.execute(text(add % "B")))
            await second.commit()
            await first.commit()
            await migrating
        await storage.close()

    asyncio.run(story())
    now = ask(postgres_url, ours)
    assert all(valid for _, valid in now)
    assert set(made) <= set(now)


def test_without_trigrams_the_schema_is_complete_and_they_are_made_when_they_can_be(
    postgres_server, postgres_url
):
    """The role may not install the extension; later somebody who may does."""
    ask(
        postgres_url,
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'plain') THEN"
        " CREATE ROLE plain LOGIN PASSWORD 'plain'; END IF; END $$",
        "GRANT ALL ON SCHEMA public TO plain",
        f"REVOKE CREATE ON DATABASE {postgres_url.rpartition('/')[2]} FROM PUBLIC",
    )
    plain = postgres_url.replace("postgres@", "plain:plain@")
    assert plain != postgres_url
    asyncio.run(migrate(plain))
    assert asyncio.run(schema_is_current(plain))
    assert not asyncio.run(indexed(plain))
    ask(postgres_url, "CREATE SCHEMA extras", "CREATE EXTENSION pg_trgm SCHEMA extras")
    ask(postgres_url, "GRANT USAGE ON SCHEMA extras TO plain")
    asyncio.run(migrate(plain))
    assert asyncio.run(indexed(plain))


async def indexed(url: str) -> bool:
    storage = SqlStorage.open(url)
    try:
        return await searches_are_indexed(storage)
    finally:
        await storage.close()


def test_a_migration_that_cannot_finish_leaves_nothing_behind(url):
    ask(url, "CREATE TABLE users (id INTEGER)")  # in the way of the real one
    with pytest.raises(Exception, match="users"):
        asyncio.run(migrate(url))
    assert {part[1] for part in parts(url)} == {"users"}
    ask(url, "DROP TABLE users")
    asyncio.run(migrate(url))
    assert asyncio.run(schema_is_current(url))
