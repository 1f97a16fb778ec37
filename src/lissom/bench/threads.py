"""Wait until the threads of this process sleep.

ONNX Runtime's threads keep spinning for 45 ms after a run. With as many threads as cores, the next
file took up to twice as long beside them. Stopping the other processes would be quicker, but a
stopped process outlives a parent that is killed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

THREADS_FOLDER = Path("/proc/self/task")  # Linux's
MAX_WAIT_S = 1.0  # longest wait for spinning threads
CHECK_S = 0.002
QUIET_CHECKS = 3  # in a row, if only the process's CPU time can be checked


def wait_for_threads() -> None:
    """Wait until no other thread of this process runs, at most MAX_WAIT_S."""
    end = time.monotonic() + MAX_WAIT_S
    quiet = 0
    while quiet < QUIET_CHECKS and time.monotonic() < end:
        before = time.process_time()
        others = others_run()
        if others is False:
            return
        time.sleep(CHECK_S)
        busy = others or time.process_time() - before > CHECK_S / 4
        quiet = 0 if busy else quiet + 1


def others_run() -> bool | None:
    """Return whether another thread of this process runs or waits for a core, None if unknown."""
    here = str(threading.get_native_id())
    try:
        tasks = [task for task in THREADS_FOLDER.iterdir() if task.name != here]
    except OSError:
        return None
    for task in tasks:
        with suppress(OSError):  # the thread may have ended
            text = (task / "stat").read_text(encoding="utf-8", errors="replace")
            # the state comes after the name of the thread, in parentheses
            state = text.rpartition(")")[2].split()[0]
            if state == "R":
                return True
    return False
