"""The database of the Django service that Savannah replaces: which tables it has, and their rows.

Reads only. Rows are plain dictionaries under the names of `Layout`, as the driver gives them; what
they mean, and which of them can be used, is decided by whoever imports them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    column,
    create_engine,
    event,
    exc,
    func,
    inspect,
    make_url,
    select,
    table,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from savannah.domain.errors import Unavailable

T = TypeVar("T")
Values = Mapping[str, Any]


class LayoutUnknown(Exception):
    """A table or a column is not where it was looked for; the text names it and what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one kind of thing is kept: names that are tried in turn, the first one there counts.

    Attributes:
        tables: of the table.
        columns: of each column, by the name its values get; `id` is the primary key.
        optional: columns that may be missing; their values are None then.
    """

    tables: Sequence[str]
    columns: Mapping[str, Sequence[str]]
    optional: frozenset[str] = field(default_factory=frozenset)


class DjangoSource:
    """A Postgres or an SQLite file that Django's ORM has written.

    Args:
        url: `postgresql://…` or `sqlite:///path`.

    Raises:
        Unavailable: there is no such file.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._engine: Engine | AsyncEngine
        if parsed.get_backend_name() == "sqlite":
            if not Path(parsed.database or "").is_file():  # SQLite would make one
                raise Unavailable("The Django database cannot be read (there is no such file)")
            self._engine = create_engine(parsed, poolclass=NullPool, hide_parameters=True)
            event.listen(self._engine, "connect", _only_read)
        else:
            # libpq's words in it, such as `sslmode`, asyncpg reads itself.
            words = f"postgresql:///?{urlencode(parsed.query, doseq=True)}".rstrip("?")
            self._engine = create_async_engine(
                parsed.set(drivername="postgresql+asyncpg", query={}),
                poolclass=NullPool,
                hide_parameters=True,
                connect_args={
                    "dsn": words,
                    "server_settings": {"default_transaction_read_only": "on"},
                },
            )

    async def table_of(self, layout: Layout) -> str | None:
        """The table's name; None when none of them is there. Raises: Unavailable."""
        found = await self._run(lambda connection: set(inspect(connection).get_table_names()))
        return next((name for name in layout.tables if name in found), None)

    async def count(self, name: str) -> int:
        """How many rows a table has. Raises: Unavailable."""
        counted = select(func.count()).select_from(table(name))
        return int(await self._run(lambda connection: connection.scalar(counted) or 0))

    async def rows(self, name: str, layout: Layout, *, most: int) -> AsyncIterator[list[Values]]:
        """All rows of a table in batches of up to `most`, by primary key.

        Each batch is read by itself, so nothing is held open meanwhile.

        Raises:
            LayoutUnknown: a column is missing. Unavailable.
        """
        columns = await self._columns(name, layout)
        key: Any = column(columns["id"])
        wanted: list[Any] = [column(there).label(label) for label, there in columns.items()]
        every = select(*wanted).select_from(table(name)).order_by(key).limit(most)
        missing = dict.fromkeys(label for label in layout.columns if label not in columns)
        after: Any = None
        while True:
            batch = every if after is None else every.where(key > after)
            found = await self._run(partial(_mappings, batch))
            if not found:
                return
            yield [{**missing, **row} for row in found]
            after = found[-1]["id"]

    async def close(self) -> None:
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()

    async def _columns(self, name: str, layout: Layout) -> dict[str, str]:
        there = await self._run(
            lambda connection: {each["name"] for each in inspect(connection).get_columns(name)}
        )
        found: dict[str, str] = {}
        for label, names in layout.columns.items():
            chosen = next((each for each in names if each in there), None)
            if chosen is not None:
                found[label] = chosen
            elif label not in layout.optional:
                tried = ", ".join(names)
                raise LayoutUnknown(
                    f"the table {name} has no column for {label} (looked for: {tried}); "
                    "name it in a --mapping file"
                )
        return found

    async def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            if isinstance(self._engine, AsyncEngine):
                async with self._engine.connect() as connection:
                    return await connection.run_sync(work)
            return await asyncio.to_thread(self._run_here, self._engine, work)
        except (exc.SQLAlchemyError, OSError) as error:
            kind = type(error).__name__
            raise Unavailable(f"The Django database cannot be read ({kind})") from error

    @staticmethod
    def _run_here(engine: Engine, work: Callable[[Connection], T]) -> T:
        with engine.connect() as connection:
            return work(connection)


def _mappings(statement: Select[Any], connection: Connection) -> list[Values]:
    return [dict(row) for row in connection.execute(statement).mappings()]


def _only_read(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only=on")
