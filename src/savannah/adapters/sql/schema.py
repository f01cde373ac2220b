"""Bringing the schema up to date, and the cheap question whether it is.

Alembic does the first and is imported only for it; every start asks the second.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from savannah.adapters.sql.engines import open_lanes
from savannah.adapters.sql.transaction import Transaction
from savannah.adapters.sql.unit_of_work import SqlStorage

HEAD: Final = "0003"
"""The newest migration; a test compares it with Alembic's. Their names sort by age."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = text("SELECT pg_advisory_xact_lock(5938247610021)")  # any number of our own
_PATIENCE: Final = timedelta(minutes=10)


async def migrate(url: str) -> None:
    """Bring the schema up to date, from nothing too, in one transaction.

    Two at once are safe: the second one waits and finds nothing to do. So does an older version
    of this program than the one that migrated last.

    Raises:
        Unavailable: the database does not answer.
        ValueError: the URL is neither SQLite's nor Postgres's.
    """
    lanes = open_lanes(
        url,
        pool_size=1,
        wait=timedelta(seconds=60),
        statement_timeout=_PATIENCE,
        lock_timeout=_PATIENCE,
        prepared_statements=True,
    )
    transaction = Transaction(lanes, set(), reading=False)
    try:
        await transaction.run(_upgrade)
        await transaction.commit()
    finally:
        await transaction.close()
        await lanes.close()


def _upgrade(connection: Connection) -> None:
    from alembic.command import upgrade  # slow to load, and only needed here
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)  # on SQLite the transaction itself is the lock
    if _is_current(connection):
        return
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    upgrade(config, "head")


async def schema_is_current(storage: SqlStorage | str) -> bool:
    """Whether the newest migration that this version knows has been applied.

    A newer schema is, too: a migration leaves the version before it able to work, so that one can
    be replaced by the other without a pause.

    Raises:
        Unavailable: the database does not answer.
    """
    if isinstance(storage, SqlStorage):
        return await storage.read(_is_current)
    opened = SqlStorage.open(storage)
    try:
        return await opened.read(_is_current)
    finally:
        await opened.close()


def _is_current(connection: Connection) -> bool:
    if not inspect(connection).has_table("alembic_version"):
        return False
    applied: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return applied is not None and applied >= HEAD
