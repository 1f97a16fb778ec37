"""How much memory this process has, where the system tells."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")  # Linux's


def resident_mib() -> float | None:
    """Return the memory that this process has resident now; None where the system does not say."""
    with suppress(psutil.Error, OSError):
        return float(psutil.Process().memory_info().rss) / 2**20
    return None


def peak_mib() -> float | None:
    """Return the most memory that this process has had resident; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    with suppress(psutil.Error, OSError, AttributeError):  # the peak is Windows'
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    # elsewhere it begins with the peak of the process that this one came from
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None
