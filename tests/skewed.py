"""Runs `savannah` as on a machine whose clock is wrong: by so many seconds as a file says now.

python tests/skewed.py FILE serve …
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from savannah.adapters import system
from savannah.entrypoints import cli

FILE = Path(sys.argv.pop(1))
LOOK_EVERY_S = 0.05
true_time, true_monotonic = time.time, time.monotonic
seen: tuple[float, float] = (-1.0, 0.0)


def wrong_by() -> float:
    global seen  # noqa: PLW0603  one process, one clock
    if (now := true_monotonic()) > seen[0] + LOOK_EVERY_S:
        seen = (now, float(FILE.read_text() or 0) if FILE.exists() else 0.0)
    return seen[1]


def wrong_now(_: object) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=wrong_by())


time.time = lambda: true_time() + wrong_by()
time.time_ns = lambda: int(time.time() * 1e9)
system.SystemClock.now = wrong_now  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(cli.main())
