"""Memory use of this process, as far as the system reports it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")  # Linux's


def resident_mib() -> float | None:
    """Return the resident memory of this process in MiB, None if unknown."""
    with suppress(psutil.Error, OSError):
        return float(psutil.Process().memory_info().rss) / 2**20
    return None


def peak_mib() -> float | None:
    """Return the peak resident memory of this process in MiB, None if unknown."""
    with suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    with suppress(psutil.Error, OSError, AttributeError):  # only Windows has peak_wset
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    # on other systems this number starts from the peak of the parent process
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None
