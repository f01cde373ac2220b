"""A short run of `benchmarks/chaos.py`; what must hold afterwards is written there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
# Redis is emptied, workers are killed, clocks are set wrong and connections cut, in this order: what
# the first two delay is under way again by the end.
SEED = "8305"


def test_nothing_is_lost_or_sent_twice_while_parts_are_killed_at_random(processes):
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--seconds", "12", "--seed", SEED],
        env=processes.environment({}),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout
