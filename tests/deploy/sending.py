"""A real worker as a child process, for checks of how a deployment starts and watches one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05


def start(
    folder: Path, arguments: Sequence[str], settings: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """`savannah worker …` with these settings and no others; it says what it says in `folder`."""
    with (folder / "output").open("w") as out, (folder / "log").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "savannah", *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "SAVANNAH_DATA_DIR": str(folder / "data"), **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


@contextmanager
def sending(
    folder: Path, arguments: Sequence[str], settings: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The same once it says that it sends, and ended afterwards."""
    process = start(folder, arguments, settings)
    try:
        until(lambda: "is sending" in (folder / "output").read_text() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def until(happened: Callable[[], bool]) -> None:
    """Look until it has happened."""
    ends_at = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < ends_at, "it did not happen in time"
        time.sleep(LOOK_EVERY_S)
