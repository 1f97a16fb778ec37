"""Latency of files, measured in turns so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median

from .process import Process, loaded

ROUNDS = 15
ROUND_S = 0.04  # seconds that one file runs in one round


@dataclass(frozen=True)
class Timing:
    """Latency of one batch in ms: median, and the interval that holds the median with 95 % confidence."""

    median: float
    low: float
    high: float
    load_ms: float
    peak_mib: float
    resident_mib: float  # what loading and the first run added, over the runtime alone

    def latency_ms(self) -> dict[str, float]:
        """Return the three numbers of a record."""
        return {"median": round(self.median, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def latencies(files: Sequence[tuple[str, Path]], shape: tuple[int, ...], *, threads: int = 1,
              pixels: bool = False, rounds: int = ROUNDS) -> list[Timing]:
    """Time (target, file) pairs on inputs of `shape` (n c h w), a fresh process each, in interleaved rounds.

    Each is warmed up until two rounds agree within 5 %. The interval is that of order statistics over rounds.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(loaded(target, path, shape, threads=threads, pixels=pixels))
                     for target, path in files]
        for process in processes:
            _warm(process)
        medians: list[list[float]] = [[] for _ in processes]
        for _ in range(rounds):
            for found, process in zip(medians, processes, strict=True):
                found.append(process.ms(ROUND_S))
        return [Timing(median(found), *interval(found), round(process.load_ms, 1), round(process.peak_mib, 1),
                       round(process.resident_mib, 1)) for found, process in zip(medians, processes, strict=True)]


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
    found, n = sorted(values), len(values)
    down = max(0, int(n / 2 - 0.98 * sqrt(n)))
    return found[down], found[n - 1 - down]
