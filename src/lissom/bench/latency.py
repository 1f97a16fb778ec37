"""Latency of files, measured in turns so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import median
from typing import IO, Any

from ..errors import LissomError
from ..targets._child import surroundings

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


@dataclass
class Child:
    """A process that has loaded one file."""

    target: str
    process: subprocess.Popen[str]
    load_ms: float = 0.0
    peak_mib: float = 0.0
    resident_mib: float = 0.0
    medians: list[float] = field(default_factory=list)

    def ask(self, order: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send an order and return the answer; raise if the process died over it."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            if order is not None:
                stdin.write(json.dumps(order) + "\n")
                stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            errors: IO[str] | None = self.process.stderr
            said = (errors.read().strip().splitlines() if errors else []) or ["nothing"]
            raise LissomError(f"bench: {self.target} ended with status {self.process.returncode}; "
                              f"its last words: {said[-1]}")
        return dict(json.loads(line))

    def round(self, seconds: float = ROUND_S) -> float:
        """Run for a while and return the median of the calls, in ms."""
        answer = self.ask({"seconds": seconds})
        self.peak_mib = answer["peak_mib"]
        return median(answer["times_ms"])


def latencies(files: Sequence[tuple[str, Path]], shape: tuple[int, ...], *, threads: int = 1,
              pixels: bool = False, rounds: int = ROUNDS) -> list[Timing]:
    """Time (target, file) pairs on inputs of `shape` (n c h w), a fresh process each, in interleaved rounds.

    Each is warmed up until two rounds agree within 5 %. The interval is that of order statistics over rounds.
    """
    with ExitStack() as stack:
        children = [_start(stack, target, path, shape, threads, pixels) for target, path in files]
        for child in children:
            _warm(child)
        for _ in range(rounds):
            for child in children:
                child.medians.append(child.round())
        return [_timing(child) for child in children]


def _start(stack: ExitStack, target: str, path: Path, shape: tuple[int, ...], threads: int, pixels: bool) -> Child:
    settings = surroundings(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    process = subprocess.Popen([sys.executable, "-m", "lissom.bench.child"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings)
    for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
        stack.callback(_close, pipe)
    stack.callback(process.wait)
    stack.callback(process.kill)
    child = Child(target, process)
    answer = child.ask({"target": target, "path": str(path), "threads": threads, "shape": list(shape), "pixels": pixels})
    child.load_ms, child.resident_mib = answer["load_ms"], answer["resident_mib"]
    return child


def _close(pipe: IO[str]) -> None:
    with suppress(BrokenPipeError):
        pipe.close()


def _warm(child: Child, most: int = 12) -> None:
    before = child.round()
    for _ in range(most):
        now = child.round()
        if abs(now - before) <= 0.05 * before:
            return
        before = now


def _timing(child: Child) -> Timing:
    low, high = interval(child.medians)
    return Timing(median(child.medians), low, high, round(child.load_ms, 1), round(child.peak_mib, 1),
                  round(child.resident_mib, 1))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the median with about 95 % confidence, whatever the distribution.

    >>> interval([1, 2, 3, 4, 5, 6, 7, 8, 9])
    (2, 8)
    """
    found, n = sorted(values), len(values)
    down = max(0, int(n / 2 - 0.98 * sqrt(n)))
    return found[down], found[n - 1 - down]
