"""What every command of the command line has in common: exit codes, output, settings and parts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from savannah.entrypoints.container import Container
    from savannah.entrypoints.settings import Settings

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2

Command = Callable[[argparse.Namespace], int]


def complain(text: str) -> None:
    """Say on standard error what is wrong."""
    print(f"savannah: {text}", file=sys.stderr)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns; the first is the heading."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def write_out(text: str, path: str | None) -> int:
    """Write the text to the file at `path`, or print it."""
    from pathlib import Path

    if path:
        Path(path).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return DONE


def port(typed: str) -> int:
    """A TCP port, 0 for a free one.

    Raises:
        ArgumentTypeError: it is none; argparse names the argument.
    """
    if not typed.isdecimal() or int(typed) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {typed!r}")
    return int(typed)


def count(typed: str) -> int:
    """How many, one at least.

    Raises:
        ArgumentTypeError: it is no such number; argparse names the argument.
    """
    if not typed.isdecimal() or int(typed) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {typed!r}")
    return int(typed)


def settings_and_logs() -> Settings:
    """The settings, with logging as they say."""
    from savannah.entrypoints import logs, settings

    found = settings.load()
    logs.configure(level=found.log_level, format_=found.log_format)
    return found


@asynccontextmanager
async def _opened() -> AsyncIterator[Container]:
    """The parts of a process that serves nobody and sends nothing."""
    from savannah.entrypoints.container import Place, opened

    settings = settings_and_logs().prepared()
    place = Place(public_url=settings.public_url or "http://127.0.0.1:8000")
    async with opened(settings, place) as container:
        yield container


def with_parts(work: Callable[[Container], Awaitable[int]]) -> int:
    """Do the work with the parts of a process; the exit code that it returned."""
    import asyncio

    async def run() -> int:
        async with _opened() as container:
            return await work(container)

    return asyncio.run(run())
