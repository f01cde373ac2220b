"""SQLAlchemy's statements as asyncpg takes them: compiled once, and text from then on.

Executing through SQLAlchemy costs several times what the driver costs. So a statement is still
written once, for both dialects, in SQLAlchemy Core; on Postgres its text, the order of its
parameters and the conversions of its types are kept, and the driver gets them as they are.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Delete, Dialect, Executable, Insert, Select, Update
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import TypeEngine

from savannah.adapters.sql.engines import Writes

Convert = Callable[[Any], Any]
Values = Mapping[str, Any]

_NUMBERED: Final = re.compile(r"\$(\d+)")
_JOINED_MOST: Final = 256
_LENGTHS_MOST: Final = 128


class DriverStatement:
    """The text of one statement, its parameters in their order, and its rows.

    Attributes:
        parameters: how many it has.
        table: what it writes to, where it may join others in one statement; else None.
        inserts: it is an insert.
    """

    def __init__(self, statement: Any, dialect: Dialect, values: Values) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(values))
        text, names = compiled.string, list(compiled.positiontup or ())
        fixed: dict[str, Any]
        self._spread: dict[str, list[str]] = {}
        source = {name: name for name in names}
        if compiled.post_compile_params:  # lists become one parameter for each of their values
            state = compiled.construct_expanded_state(values)
            text, names, fixed = state.statement, list(state.positiontup), dict(state.parameters)
            source = {name: name for name in names}
            for whole, parts in state.parameter_expansion.items():
                source |= dict.fromkeys(parts, whole)
                if whole in values:
                    self._spread[whole] = parts
        else:
            fixed = {name: compiled.binds[name].effective_value for name in names}
        for name in names:
            if source[name] not in values and compiled.binds[source[name]].required:
                raise ValueError(f"no value for {name}: {text}")
        spread = {part for parts in self._spread.values() for part in parts}
        self.text: Final[str] = text
        self._fixed = {
            name: fixed[name] for name in names if name not in values and name not in spread
        }
        self._converts = [_to_driver(compiled.binds[source[name]].type, dialect) for name in names]
        self._pick: Convert = _picking(names)
        self._results = [
            _from_driver(column.type, dialect)
            for column in getattr(statement, "exported_columns", ())
        ]
        self._row: Convert | None = None
        self.parameters: Final = len(names)
        self.table: Final = _written_by_itself(statement)
        self.inserts: Final = isinstance(statement, Insert)

    @property
    def spreads(self) -> Iterable[str]:
        """The names of lists, for whose lengths this text is."""
        return self._spread

    def arguments(self, values: Values) -> list[Any]:
        """The values in the driver's order and types."""
        if self._fixed:
            values = {**self._fixed, **values}
        if self._spread:
            values = dict(values)
            for whole, parts in self._spread.items():
                values.update(zip(parts, values[whole], strict=True))
        return [
            value if convert is None else convert(value)
            for convert, value in zip(self._converts, self._pick(values), strict=True)
        ]

    def rows(self, records: Sequence[Any]) -> list[Any]:
        """The driver's records as rows, with attributes."""
        if not records:
            return []
        make = self._row
        if make is None:
            make = self._row = self._making(tuple(records[0].keys()))
        return [make(record) for record in records]

    def _making(self, names: tuple[str, ...]) -> Convert:
        make: Convert = _row_of(names)._make
        converts = [(at, each) for at, each in enumerate(self._results) if each is not None]
        if not converts:
            return make

        def converted(record: Any) -> Any:
            values = list(record)
            for at, convert in converts:
                values[at] = convert(values[at])
            return make(values)

        return converted


class Statements:
    """Everything that was compiled for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # By identity, and for as long as somebody has the statement: those of the repositories
        # live for ever, those that are made for one call go with it.
        self._known: WeakKeyDictionary[Executable, dict[Any, DriverStatement]] = WeakKeyDictionary()
        self._joined: dict[tuple[DriverStatement, ...], str] = {}

    def of(self, statement: Executable, values: Values) -> DriverStatement:
        """The statement as it is for values of these names."""
        key: Any = tuple(values)
        try:
            known = self._known[statement]
        except KeyError:
            known = self._known[statement] = {}
        found = known.get(key)
        if found is not None and found.spreads:
            key = (key, *(len(values[name]) for name in found.spreads))
            found = known.get(key)
        if found is None:
            if len(known) >= _LENGTHS_MOST:  # how long lists are is for callers to say
                known.clear()
            found = DriverStatement(statement, self._dialect, values)
            known[key] = found
            if found.spreads:
                lengths = (len(values[name]) for name in found.spreads)
                known[(tuple(values), *lengths)] = found
        return found

    def of_writes(self, writes: Writes) -> list[tuple[str, list[list[Any]]]]:
        """Texts with the arguments of each time to execute them; as few as possible.

        Writes that cannot see each other go as one statement of several parts (`WITH`), which is
        one trip, and one transaction where there is no other.
        """
        steps: list[tuple[str, list[list[Any]]]] = []
        group: list[tuple[DriverStatement, Values]] = []
        touched: dict[Any, bool] = {}  # tables, and whether they were inserted into only

        def close_group() -> None:
            if group:
                steps.append((self._text_of([part for part, _ in group]), [_arguments(group)]))
                group.clear()
                touched.clear()

        for statement, rows in writes:
            part = self.of(statement, rows[0])
            if part.table is None or len(rows) > 1:
                close_group()
                steps.append((part.text, [part.arguments(row) for row in rows]))
                continue
            # What one part writes another one does not see; inserts do not need to.
            if not (part.inserts and touched.get(part.table, True)) and part.table in touched:
                close_group()
            touched[part.table] = part.inserts
            group.append((part, rows[0]))
        close_group()
        return steps

    def _text_of(self, parts: list[DriverStatement]) -> str:
        if len(parts) == 1:
            return parts[0].text
        key = tuple(parts)
        text = self._joined.get(key)
        if text is None:
            if len(self._joined) >= _JOINED_MOST:
                self._joined.clear()
            text = self._joined[key] = _joined(parts)
        return text


def _joined(parts: Iterable[DriverStatement]) -> str:
    """One statement of several that write, their parameters numbered on."""
    texts: list[str] = []
    before = 0
    for number, part in enumerate(parts):
        text = _NUMBERED.sub(lambda found: f"${int(found[1]) + before}", part.text)  # noqa: B023
        texts.append(f"w{number} AS ({text})")
        before += part.parameters
    return f"WITH {', '.join(texts)} SELECT 1"


def _arguments(group: Iterable[tuple[DriverStatement, Values]]) -> list[Any]:
    return [value for part, values in group for value in part.arguments(values)]


def _written_by_itself(statement: Any) -> Any:
    """The table of a write that looks at nothing but its own row; None of anything else."""
    if type(statement) is Insert:  # one with `ON CONFLICT` is of another class
        return None if statement.select is not None else statement.table
    if isinstance(statement, Update | Delete) and not any(
        isinstance(part, Select) for part in iterate(statement)
    ):
        return statement.table
    return None


def _to_driver(kind: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _from_driver(kind: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return kind.dialect_impl(dialect).result_processor(dialect, None)


def _picking(names: Sequence[str]) -> Convert:
    match names:
        case []:
            return lambda _: ()
        case [name]:
            return lambda values: (values[name],)
        case _:
            return itemgetter(*names)


@cache
def _row_of(names: tuple[str, ...]) -> Any:
    """The class of rows with these columns; they read like SQLAlchemy's."""
    return namedtuple("Row", names, rename=True)  # noqa: PYI024 - the names come with the query
