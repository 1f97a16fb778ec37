"""Waiting until the threads of this process sleep.

ONNX Runtime's threads spin on for 45 ms after a run. On as many threads as there are cores, the
next file took up to twice its time beside them. To stop the other processes would be quicker, but a
process that is stopped outlives a parent that is killed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")  # Linux's
SETTLE_S = 1.0  # longest wait for threads that spin
LOOK_S = 0.002
QUIET = 3  # looks in a row, where only the time that the process has used can be looked at


def settle() -> None:
    """Wait until no other thread of this process runs: ONNX Runtime's spin on for 45 ms, on a core
    the next file wants.
    """
    end = time.monotonic() + SETTLE_S
    quiet = 0
    while quiet < QUIET and time.monotonic() < end:
        before = time.process_time()
        others = others_run()
        if others is False:
            return
        time.sleep(LOOK_S)
        busy = others or time.process_time() - before > LOOK_S / 4
        quiet = 0 if busy else quiet + 1


def others_run() -> bool | None:
    """Return whether a thread beside this one runs, or would if a core were free; None where the
    system does not say.
    """
    here = str(threading.get_native_id())
    try:
        tasks = [task for task in TASKS.iterdir() if task.name != here]
    except OSError:
        return None
    for task in tasks:
        with suppress(OSError):  # one that has ended since
            if (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[
                2
            ].split()[0] == "R":
                return True
    return False
