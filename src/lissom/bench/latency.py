"""Latency of files, measured in turns so that a disturbance of the machine affects all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain
from math import sqrt
from pathlib import Path
from statistics import median

from ..errors import LissomError
from .cores import quiet_cores
from .inputs import Input
from .process import Process, file_process

ROUNDS = 15
WARM_UP_ROUNDS = 12  # at most
ROUND_S = 0.04  # seconds that one file runs in one round


@dataclass(frozen=True)
class Timing:
    """Latency of one batch in ms: median, its 95 % confidence interval, and 99th percentile of
    calls.

    `energy_mj` is the energy of the processor for one call in mJ, including other processes; None
    if unknown.
    """

    median: float
    low: float
    high: float
    p99: float
    energy_mj: float | None
    load_ms: float
    peak_mib: float | None  # this and the next are None if unknown
    resident_mib: float | None  # added by loading and the first run to the runtime alone
    # name and ms of each layer; None if not asked for, or if the runtime cannot profile
    layers: list[tuple[str, float]] | None = None

    def latency_ms(self) -> dict[str, float]:
        """Return the latencies in ms as a record holds them."""
        return {name: round(getattr(self, name), 4) for name in ("median", "low", "high", "p99")}

    def costs(self) -> dict[str, float | None]:
        """Return energy, load time and memory by name."""
        return {
            name: getattr(self, name)
            for name in ("energy_mj", "load_ms", "peak_mib", "resident_mib")
        }

    def layers_ms(self) -> dict[str, float] | None:
        """Return the ms of each layer as a record holds them."""
        return None if self.layers is None else {name: round(ms, 4) for name, ms in self.layers}


def latencies(
    files: Sequence[tuple[str, Path]],
    inputs: Sequence[Input],
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    profiled: int = 0,
) -> list[Timing]:
    """Time (target, file) pairs on noise for their `inputs`, each in a fresh process, in
    interleaved rounds, all on the same cores.

    Each file is warmed up until two rounds agree within 5 %. The confidence interval comes from
    order statistics over rounds. The times of layers are medians of `profiled` further runs; none
    if 0.
    """
    cpus = quiet_cores(threads)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(file_process(target, path, inputs, threads=threads, cpus=cpus))
            for target, path in files
        ]
        for process in processes:
            warm_up(process)
        calls: list[list[list[float]]] = [[] for _ in processes]
        energy: list[list[float | None]] = [[] for _ in processes]
        for _ in range(rounds):
            for process_calls, joules, process in zip(calls, energy, processes, strict=True):
                process_calls.append(process.times(ROUND_S))
                joules.append(process.joules)
        timings = [
            timing(process, ms, joules)
            for process, ms, joules in zip(processes, calls, energy, strict=True)
        ]
        for index, process in enumerate(processes if profiled else ()):
            # if the profiler crashes, the measurements so far are kept
            with suppress(LissomError):
                timings[index] = replace(timings[index], layers=process.layers(profiled))
        return timings


def timing(
    process: Process, calls: Sequence[Sequence[float]], joules: Sequence[float | None]
) -> Timing:
    """Return the timing of a process from its rounds of calls in ms and the joules of each round."""
    medians = [median(call) for call in calls]
    sorted_calls = sorted(chain.from_iterable(calls))
    millijoules = [
        1000 * j / len(call) for call, j in zip(calls, joules, strict=True) if j is not None
    ]
    peak, resident = (
        None if mib is None else round(mib, 1) for mib in (process.peak_mib, process.resident_mib)
    )
    return Timing(
        median(medians),
        *interval(medians),
        sorted_calls[min(len(sorted_calls) - 1, int(0.99 * len(sorted_calls)))],
        round(median(millijoules), 4) if millijoules else None,
        round(process.load_ms, 1),
        peak,
        resident,
    )


def warm_up(process: Process) -> None:
    """Run a file until two rounds agree."""
    previous = process.ms(ROUND_S)
    for _ in range(WARM_UP_ROUNDS):
        now = process.ms(ROUND_S)
        if abs(now - previous) <= 0.05 * previous:
            return
        previous = now


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return order statistics that bound the median with about 95 % confidence, distribution-free.

    >>> interval([1, 2, 3, 4, 5, 6, 7, 8, 9])
    (2, 8)
    """
    ordered = sorted(values)
    n = len(values)
    low_index = max(0, int(n / 2 - 0.98 * sqrt(n)))
    return ordered[low_index], ordered[n - 1 - low_index]
