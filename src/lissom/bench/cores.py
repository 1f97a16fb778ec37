"""Which processors a measurement runs on: moving between cores, or sharing one, would be measured
with the file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

SYSTEM = Path("/sys/devices/system/cpu")
LOAD = Path("/proc/loadavg")
SPAN_S = 0.1  # how long others are watched
LOOKS = 5  # at what else runs, within that time
IDLE = ("idle", "iowait", "guest", "guest_nice")  # guests are in the other numbers
BUSY = 0.5  # share of a core that others use, from which a slower core is the better one


def quiet_cores(count: int) -> list[int] | None:
    """Return a processor of each of `count` cores, fast ones first, of these the ones that others use least.

    None where there are not as many cores, or the system (macOS, for one) does not let a process
    choose.
    """
    allowed = allowed_cpus()
    if allowed is None:
        return None
    before = used_s()
    time.sleep(SPAN_S)
    after = used_s()
    share = {cpu: (after[cpu] - s) / SPAN_S for cpu, s in before.items() if cpu in after}
    cores = [[cpu for cpu in core if cpu in share] for core in cores_of(allowed)]
    return chosen(
        [core for core in cores if core], share, {cpu: top_khz(cpu) for cpu in share}, count
    )


def chosen(
    cores: list[list[int]], share: Mapping[int, float], khz: Mapping[int, int], count: int
) -> list[int] | None:
    """Choose among cores, given as their processors (two that share a core slow each other down).

    >>> busy, speed = {0: 0.9, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, {0: 4, 1: 4, 2: 3, 3: 3, 4: 4, 5: 4}
    >>> chosen([[0, 4], [1, 5], [2], [3]], busy, speed, 2)
    [5, 3]
    """

    def order(core: list[int]) -> tuple[bool, int, int, int]:
        busy = sum(share[cpu] for cpu in core)
        return busy > BUSY, -khz[core[0]], round(10 * busy), -core[0]

    best = sorted(cores, key=order)[:count]
    return (
        [min(reversed(core), key=lambda cpu: round(10 * share[cpu])) for core in best]
        if len(best) == count
        else None
    )


def others_run() -> bool:
    """Return whether anything but this process wants a processor, in each of a few looks; False
    where nobody says.

    Only Linux tells how many threads want to run now.
    """
    with suppress(OSError, ValueError, IndexError):
        for _ in range(LOOKS):
            # this process itself
            if int(LOAD.read_text(encoding="utf-8").split()[3].split("/")[0]) <= 1:
                return False
            time.sleep(SPAN_S / LOOKS)
        return True
    return False


def allowed_cpus() -> set[int] | None:
    """Return the processors that this process may run on; None where the system does not let it choose."""
    with suppress(psutil.Error, OSError, AttributeError):
        return set(psutil.Process().cpu_affinity())
    return None


def used_s() -> dict[int, float]:
    """Return how many seconds each processor has worked since the system began; empty where it does
    not say.
    """
    seconds = {}
    allowed = allowed_cpus() or set()
    with suppress(psutil.Error, OSError, RuntimeError, ValueError, IndexError):
        for cpu, times in enumerate(psutil.cpu_times(percpu=True)):
            seconds[cpu] = sum(value for name, value in times._asdict().items() if name not in IDLE)
    # some are switched off, and the others' numbers unknown
    return seconds if max(allowed, default=-1) < len(seconds) else {}


def cores_of(cpus: set[int]) -> list[list[int]]:
    """Return these processors core by core."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        siblings = str(cpu)
        with suppress(OSError):
            siblings = (
                (SYSTEM / f"cpu{cpu}/topology/thread_siblings_list")
                .read_text(encoding="utf-8")
                .strip()
            )
        cores.setdefault(siblings, []).append(cpu)
    return list(cores.values())


def top_khz(cpu: int) -> int:
    """Return the highest clock of a processor, 0 where the system does not say."""
    with suppress(OSError, ValueError):
        return int((SYSTEM / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text(encoding="utf-8"))
    return 0
