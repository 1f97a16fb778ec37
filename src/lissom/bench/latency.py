"""Latency of files, measured in turns so that what disturbs the machine disturbs all of them alike."""

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
from .energy import Meter
from .inputs import Input
from .process import Process, loaded

ROUNDS = 15
ROUND_S = 0.04  # seconds that one file runs in one round


@dataclass(frozen=True)
class Timing:
    """Latency of one batch in ms: median, the interval that holds it with 95 % confidence, and what
    99 % of calls took.

    `energy_mj` is what the processor used in one call, in mJ, whatever else ran counted in; None
    where it does not say.
    """

    median: float
    low: float
    high: float
    p99: float
    energy_mj: float | None
    load_ms: float
    peak_mib: float | None  # of both None where the system does not say
    resident_mib: float | None  # what loading and the first run added, over the runtime alone
    # ms of each by name; None where nobody asked or the runtime does not say
    layers: list[tuple[str, float]] | None = None

    def latency_ms(self) -> dict[str, float]:
        """Return the numbers of a record."""
        return {name: round(getattr(self, name), 4) for name in ("median", "low", "high", "p99")}

    def costs(self) -> dict[str, float | None]:
        """Return what one call uses, and what loading and the memory cost, by name."""
        return {
            name: getattr(self, name)
            for name in ("energy_mj", "load_ms", "peak_mib", "resident_mib")
        }

    def layers_ms(self) -> dict[str, float] | None:
        """Return the layers' part of a record."""
        return None if self.layers is None else {name: round(ms, 4) for name, ms in self.layers}


def latencies(
    files: Sequence[tuple[str, Path]],
    inputs: Sequence[Input],
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    profiled: int = 0,
) -> list[Timing]:
    """Time (target, file) pairs on noise for their `inputs`, a fresh process each, in interleaved
    rounds, all on the same cores.

    Each is warmed up until two rounds agree within 5 %. The interval is that of order statistics
    over rounds. The times of layers, if asked for, are medians of `profiled` further runs.
    """
    cpus = quiet_cores(threads)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(loaded(target, path, inputs, threads=threads, cpus=cpus))
            for target, path in files
        ]
        for process in processes:
            _warm(process)
        calls: list[list[list[float]]] = [[] for _ in processes]
        used: list[list[float | None]] = [[] for _ in processes]
        meter = Meter()
        for _ in range(rounds):
            for each, joules, process in zip(calls, used, processes, strict=True):
                meter.joules()
                each.append(process.times(ROUND_S))
                joules.append(meter.joules())
        timings = [
            timing(process, ms, joules)
            for process, ms, joules in zip(processes, calls, used, strict=True)
        ]
        for place, process in enumerate(processes if profiled else ()):
            # a profiler that dies takes nothing with it that was measured
            with suppress(LissomError):
                timings[place] = replace(timings[place], layers=process.layers(profiled))
        return timings


def timing(
    process: Process, calls: Sequence[Sequence[float]], joules: Sequence[float | None]
) -> Timing:
    """Return what rounds of calls, in ms, and what each round used say of a process."""
    medians = [median(call) for call in calls]
    every = sorted(chain.from_iterable(calls))
    known = [1000 * j / len(call) for call, j in zip(calls, joules, strict=True) if j is not None]
    peak, resident = (
        None if mib is None else round(mib, 1) for mib in (process.peak_mib, process.resident_mib)
    )
    return Timing(
        median(medians),
        *interval(medians),
        every[min(len(every) - 1, int(0.99 * len(every)))],
        round(median(known), 4) if known else None,
        round(process.load_ms, 1),
        peak,
        resident,
    )


def _warm(process: Process, most: int = 12) -> None:
    before = process.ms(ROUND_S)
    for _ in range(most):
        now = process.ms(ROUND_S)
        if abs(now - before) <= 0.05 * before:
            return
        before = now


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with about 95 % confidence, whatever the distribution.

    >>> interval([1, 2, 3, 4, 5, 6, 7, 8, 9])
    (2, 8)
    """
    ordered = sorted(values)
    n = len(values)
    down = max(0, int(n / 2 - 0.98 * sqrt(n)))
    return ordered[down], ordered[n - 1 - down]
