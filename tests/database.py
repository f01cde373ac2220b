"""What tests do to a database from outside: look, hold locks, cut connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships none

_OURS: Final = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND application_name = 'savannah'"
)


def query(url: str, statement: str, *values: object) -> Any:
    """The first value of the answer."""

    async def ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(ask())


@contextmanager
def held(url: str, statement: str, *values: object) -> Iterator[None]:
    """What a statement locks stays locked."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            runner.run(connection.execute("BEGIN"))
            runner.run(connection.fetch(statement, *values))
            yield
            runner.run(connection.execute("ROLLBACK"))
        finally:
            runner.run(connection.close())


def waiting(url: str) -> int:
    """How many transactions of ours wait for a lock."""
    return int(query(url, f"SELECT count(*) {_OURS} AND wait_event_type = 'Lock'"))


def cut(url: str, *, which: str = "true") -> int:
    """End connections of ours as a broken network does; how many."""
    return int(query(url, f"SELECT count(pg_terminate_backend(pid, 5000)) {_OURS} AND {which}"))
