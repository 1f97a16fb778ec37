"""Choose the processors that a measurement runs on. Moving between cores, or sharing one, would
disturb it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

CPU_FOLDER = Path("/sys/devices/system/cpu")
LOAD_FILE = Path("/proc/loadavg")
LOAD_WATCH_S = 0.1  # how long the load of the processors is watched
THREAD_CHECKS = 5  # for other running threads within that time
IDLE_TIMES = ("idle", "iowait", "guest", "guest_nice")  # the other numbers include guests
BUSY_SHARE = 0.5  # if others use more than this share of a core, a slower core is better


def quiet_cores(count: int) -> list[int] | None:
    """Return one processor of each of `count` cores: fast cores first, then those that others use
    least.

    Returns None if there are fewer cores, or if the system does not let a process choose (macOS,
    for example).
    """
    allowed = allowed_cpus()
    if allowed is None:
        return None
    before = used_s()
    time.sleep(LOAD_WATCH_S)
    after = used_s()
    share = {cpu: (after[cpu] - s) / LOAD_WATCH_S for cpu, s in before.items() if cpu in after}
    cores = [[cpu for cpu in core if cpu in share] for core in cores_of(allowed)]
    return choose_processors(
        [core for core in cores if core], share, {cpu: top_khz(cpu) for cpu in share}, count
    )


def choose_processors(
    cores: list[list[int]], share: Mapping[int, float], khz: Mapping[int, int], count: int
) -> list[int] | None:
    """Return one processor of each of the `count` best cores. A core is the list of its processors,
    which slow each other down.

    >>> busy, speed = {0: 0.9, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0}, {0: 4, 1: 4, 2: 3, 3: 3, 4: 4, 5: 4}
    >>> choose_processors([[0, 4], [1, 5], [2], [3]], busy, speed, 2)
    [5, 3]
    """

    def order(core: list[int]) -> tuple[bool, int, int, int]:
        busy = sum(share[cpu] for cpu in core)
        return busy > BUSY_SHARE, -khz[core[0]], round(10 * busy), -core[0]

    best = sorted(cores, key=order)[:count]
    if len(best) < count:
        return None
    return [min(reversed(core), key=lambda cpu: round(10 * share[cpu])) for core in best]


def others_run() -> bool:
    """Return whether other threads on the machine want to run, in each of THREAD_CHECKS checks.

    Only Linux reports the number of runnable threads; elsewhere returns False.
    """
    with suppress(OSError, ValueError, IndexError):
        for _ in range(THREAD_CHECKS):
            # 1 is this process itself
            if int(LOAD_FILE.read_text(encoding="utf-8").split()[3].split("/")[0]) <= 1:
                return False
            time.sleep(LOAD_WATCH_S / THREAD_CHECKS)
        return True
    return False


def allowed_cpus() -> set[int] | None:
    """Return the processors that this process may run on, None if the system does not let it
    choose.
    """
    with suppress(psutil.Error, OSError, AttributeError):
        return set(psutil.Process().cpu_affinity())
    return None


def used_s() -> dict[int, float]:
    """Return the seconds that each processor has worked since the system started, {} if unknown."""
    seconds = {}
    allowed = allowed_cpus() or set()
    with suppress(psutil.Error, OSError, RuntimeError, ValueError, IndexError):
        for cpu, times in enumerate(psutil.cpu_times(percpu=True)):
            seconds[cpu] = sum(
                value for name, value in times._asdict().items() if name not in IDLE_TIMES
            )
    # if some are switched off, the numbers of the others are unknown
    return seconds if max(allowed, default=-1) < len(seconds) else {}


def cores_of(cpus: set[int]) -> list[list[int]]:
    """Return processors grouped by the core that they share."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        siblings = str(cpu)
        with suppress(OSError):
            siblings = (
                (CPU_FOLDER / f"cpu{cpu}/topology/thread_siblings_list")
                .read_text(encoding="utf-8")
                .strip()
            )
        cores.setdefault(siblings, []).append(cpu)
    return list(cores.values())


def top_khz(cpu: int) -> int:
    """Return the highest clock rate of a processor in kHz, 0 if unknown."""
    with suppress(OSError, ValueError):
        return int((CPU_FOLDER / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text(encoding="utf-8"))
    return 0
