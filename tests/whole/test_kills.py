"""A run that is killed at random ends with the same result; tools/kills.py repeats this two hundred
times.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lissom.system.processes import surroundings

TOOL = Path(__file__).parents[2] / "tools" / "kills.py"


def test_a_run_that_is_killed_at_random_ends_as_if_nothing_had_happened() -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--kills", "4", "--seed", "7"],
        env=surroundings(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        "^4 kills, [0-9]+ stores, all equal, nothing left", done.stdout, re.MULTILINE
    ), done.stdout
