"""Bringing the schema up to date, and the cheap question whether it is.

Alembic does the first and is imported only for it; every start asks the second. The trigram
indexes belong to no migration: they are made whenever somebody migrates and the database can.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Dialect, exc, inspect, text

from savannah.adapters.sql.engines import open_lanes
from savannah.adapters.sql.tables import TRIGRAM_INDEXES
from savannah.adapters.sql.transaction import Transaction
from savannah.adapters.sql.unit_of_work import SqlStorage

log = logging.getLogger("savannah.sql")

HEAD: Final = "0007"
"""The newest migration; a test compares it with Alembic's. Their names sort by age."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = text("SELECT pg_try_advisory_lock(5938247610021)")  # any number of our own
_ASK_AGAIN_S: Final = 0.2
_FOR_A_LOCK: Final = timedelta(minutes=10)
_FOR_AN_INDEX: Final = timedelta(days=1)  # of a very big table

_EXTENSION: Final = text(
    "SELECT quote_ident(nspname) FROM pg_extension"
    " JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm'"
)
_AVAILABLE: Final = text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
_IS_VALID: Final = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


async def migrate(url: str) -> None:
    """Bring the schema up to date, from nothing too.

    Each migration is one transaction, save what Postgres can only do outside of one: indexes of
    big tables, which are made while others write. Whatever is interrupted is done again by the
    next call. Two at once are safe: the second one waits and finds nothing to do. So does an older
    version of this program than the one that migrated last.

    Raises:
        Unavailable: the database does not answer.
        ValueError: the URL is neither SQLite's nor Postgres's.
    """
    lanes = open_lanes(
        url,
        pool_size=2,
        wait=timedelta(seconds=60),
        statement_timeout=_FOR_AN_INDEX,
        lock_timeout=_FOR_A_LOCK,
        prepared_statements=True,
    )
    transaction = Transaction(lanes, set(), reading=False)
    lock = Transaction(lanes, set(), reading=False)
    try:
        if lanes.dialect == "postgresql":
            await _wait_for(lock)
            await transaction.administer(_upgrade_postgres)
        else:  # the transaction itself is the lock
            await transaction.administer(_upgrade)
        await transaction.commit()
    finally:
        await transaction.close()
        await lock.close()
        await lanes.close()


async def _wait_for(lock: Transaction) -> None:
    """Ask for the lock again and again.

    An index that is made concurrently waits for all who are inside the database, so whoever waited
    for the lock there would be waited for.
    """
    while not await lock.administer(_locked):  # noqa: ASYNC110 - another process has it
        await asyncio.sleep(_ASK_AGAIN_S)


def _locked(connection: Connection) -> bool:
    """Whether the lock is ours now; the connection keeps it, outside of any transaction."""
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    locked = bool(connection.scalar(_LOCK))
    connection.rollback()
    return locked


def _upgrade_postgres(connection: Connection) -> None:
    _upgrade(connection)
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    _make_trigram_indexes(connection)
    connection.commit()


def _upgrade(connection: Connection) -> None:
    from alembic.command import upgrade  # slow to load, and only needed here
    from alembic.config import Config

    if _is_current(connection):
        return
    if connection.dialect.name == "postgresql":
        connection.rollback()  # Alembic begins and ends the transactions itself
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    upgrade(config, "head")


def _make_trigram_indexes(connection: Connection) -> None:
    """Those that are missing, where the database has, or lets us have, the extension."""
    if connection.scalar(_EXTENSION) is None:
        try:
            if not connection.scalar(_AVAILABLE):
                log.info("this Postgres has no pg_trgm: searches will read whole tables")
                return
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
        except exc.DBAPIError:
            connection.rollback()
            log.info("pg_trgm may not be installed by this role: searches will read whole tables")
            return
    schema = connection.scalar(_EXTENSION)
    for name in TRIGRAM_INDEXES:
        make_index(connection, name, _trigram_index(name, schema, connection.dialect))


def make_index(connection: Connection, name: str, definition: str) -> None:
    """An index of a Postgres table, made while others write; outside of a transaction.

    What an interrupted attempt left behind is not valid, and is made again.

    Args:
        definition: what follows `CREATE INDEX name`.
    """
    valid = connection.scalar(_IS_VALID, {"name": name})
    if valid is False:
        connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    if not valid:
        connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} {definition}")


def _trigram_index(name: str, schema: str, dialect: Dialect) -> str:
    """What follows `CREATE INDEX name`; `schema` is where the extension is."""
    table, expression, where = TRIGRAM_INDEXES[name]

    def spelled(part: ColumnElement[Any]) -> str:
        options = {"literal_binds": True, "include_table": False}
        return str(part.compile(dialect=dialect, compile_kwargs=options))

    kept = "" if where is None else f" WHERE {spelled(where)}"
    # A short list of what is not sorted in yet: searches read it, and one writer sorts it in.
    return (
        f"ON {table.name} USING gin (({spelled(expression)}) {schema}.gin_trgm_ops)"
        f" WITH (gin_pending_list_limit = 512){kept}"
    )


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


async def searches_are_indexed(storage: SqlStorage) -> bool:
    """Whether the trigram indexes of Postgres are there; SQLite has none.

    Raises:
        Unavailable: the database does not answer.
    """
    return await storage.read(
        lambda connection: (
            connection.dialect.name == "postgresql"
            and all(connection.scalar(_IS_VALID, {"name": name}) for name in TRIGRAM_INDEXES)
        )
    )
