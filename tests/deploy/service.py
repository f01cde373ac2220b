"""The real service as a child process, for checks that need one to talk to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path, *arguments: str, **settings: str) -> Iterator[str]:
    """The address of `savannah serve` with these settings, on a free port of this machine."""
    output, log = folder / "output", folder / "log"
    with output.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "savannah", "serve", "--port", "0", *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "SAVANNAH_DATA_DIR": str(folder / "data"), **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        ends_at = time.monotonic() + 60
        while (found := re.search(r"ready on (\S+)", output.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)
