"""Deleting what has been kept long enough: the oldest rows, and only so many at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Executable,
    Select,
    TextClause,
    bindparam,
    delete,
    select,
    tuple_,
)

from savannah.adapters.sql.transaction import Transaction

# Up to when rows go.
MOMENT: Final[BindParameter[datetime]] = bindparam("moment")


def oldest(of: Column[datetime], *also: ColumnElement[bool] | TextClause) -> Executable:
    """Deletes up to `most` rows of a table whose `of` is no later than `moment`, oldest first."""
    keys = of.table.primary_key.columns
    return only(select(*keys).where(of <= MOMENT, *also).order_by(of, *keys))


def only(rows: Select[Any]) -> Executable:
    """Deletes the first `most` of some rows, selected by the primary key of their table.

    Those that another transaction has locked are passed over: it deletes them, or uses them.
    """
    keys: Sequence[Column[Any]] = [each["expr"] for each in rows.column_descriptions]
    table = keys[0].table
    doomed = (
        rows.limit(bindparam("most"))
        .with_for_update(of=table, skip_locked=True)
        .cte("doomed")  # by itself, so that it is asked once, whatever the plan
    )
    # SQLite counts no rows of what begins with a common table expression.
    return delete(table).where(tuple_(*keys).in_(select(*doomed.c))).returning(*keys)


async def forget(
    transaction: Transaction, statements: Sequence[Executable], *, moment: datetime, most: int
) -> int:
    """Execute such statements; how many rows went."""
    values = {"moment": moment, "most": most}
    return sum([len(await transaction.all(each, values)) for each in statements])
