"""The schema: what migrations make, and how it is known to be current."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from savannah.adapters import sql
from savannah.adapters.sql import SqlStorage, migrate, schema_is_current
from savannah.adapters.sql.schema import HEAD
from savannah.adapters.sql.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "savannah.db"


def objects(path: Path) -> dict[str, list[str]]:
    """Tables and indexes by name, each as its sorted clauses."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
        ).fetchall()
    return {
        name: sorted(line.strip().rstrip(",").strip() for line in definition.splitlines())
        for name, definition in rows
    }


def test_migrations_from_nothing_make_exactly_the_tables_that_are_queried(path, tmp_path):
    asyncio.run(migrate(f"sqlite:///{path}"))
    declared = tmp_path / "declared.db"
    engine = create_engine(f"sqlite:///{declared}")
    metadata.create_all(engine)
    engine.dispose()
    made, wanted = objects(path), objects(declared)
    assert made.keys() == wanted.keys()
    assert made == wanted


def test_the_newest_migration_is_the_one_that_storage_expects():
    config = Config()
    config.set_main_option("script_location", str(Path(sql.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_schema_is_current_only_after_its_migration(path):
    async def story() -> None:
        url = f"sqlite:///{path}"
        storage = SqlStorage.open(url)
        assert not await schema_is_current(storage)
        await migrate(url)
        assert await schema_is_current(storage)
        assert await schema_is_current(url)
        await storage.close()
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE alembic_version SET version_num = '0000'")
            database.commit()
        assert not await schema_is_current(url)

    asyncio.run(story())


def test_asking_whether_a_schema_is_current_does_not_load_alembic(path):
    asyncio.run(migrate(f"sqlite:///{path}"))
    script = (
        "import asyncio, sys\n"
        "from savannah.adapters.sql import schema_is_current\n"
        f"print(asyncio.run(schema_is_current('sqlite:///{path}')), 'alembic' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["True", "False"]


def test_migrating_again_changes_nothing_and_keeps_what_is_stored(path):
    url = f"sqlite:///{path}"
    asyncio.run(migrate(url))
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO signing_keys VALUES ('k1', 'ES256', x'00', 0, NULL)")
        database.commit()
    before = objects(path)
    asyncio.run(migrate(url))
    assert objects(path) == before
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT kid FROM signing_keys").fetchall() == [("k1",)]


def test_two_processes_may_migrate_at_once(path):
    script = (
        "import asyncio\n"
        "from savannah.adapters.sql import migrate\n"
        f"asyncio.run(migrate('sqlite:///{path}'))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    failures = [process.communicate(timeout=60)[1] for process in running]
    assert failures == ["", ""]
    assert asyncio.run(schema_is_current(f"sqlite:///{path}"))


def test_a_migration_that_cannot_finish_leaves_nothing_behind(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE users (id INTEGER)")  # in the way of the real one
    with pytest.raises(Exception, match="users"):
        asyncio.run(migrate(f"sqlite:///{path}"))
    assert objects(path).keys() == {"users"}
