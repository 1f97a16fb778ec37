"""Seconds of a grid of 12 recipes with one worker and with several, in turns; each computes with one
thread.

    python benchmarks/workers.py [--workers 2] [--rounds 2] [--epochs 8]

A busy machine gives two processes more of itself than one, so that the ratio says little there.
What else ran is printed: how busy the processors were beside this, and how long the grid had them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lissom.system.processes import surroundings


def space(epochs: int) -> str:
    """Return 12 recipes that begin with the same training."""
    return (
        f"train({epochs // 2}, batch=64) | prune({{0.2, 0.3, 0.4, 0.5, 0.6, 0.7}}, multiple=4) | "
        f"train({{{epochs}, {epochs + 1}}}, batch=64, lr=0.05)"
    )


def seconds(workers: int, epochs: int) -> tuple[float, float, float]:
    """Return the seconds of the clock, those of the processor, and how many processors others used."""
    with tempfile.TemporaryDirectory() as name:
        words = ["run", space(epochs), "--model", "resnet8", "--size", "8", "--json"]
        words += ["--store", str(Path(name) / "store")]
        words += ["--workers", str(workers), "--worker-threads", "1"]
        all_before, own_before = psutil.cpu_times(), os.times()
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "lissom.cli", *words],
            env=surroundings(),
            check=True,
            capture_output=True,
        )
        clock = time.perf_counter() - start
        all_after, own_after = psutil.cpu_times(), os.times()
    own = sum(own_after[2:4]) - sum(own_before[2:4])  # of children, user and system
    busy = sum(all_after) - sum(all_before)
    busy -= all_after.idle - all_before.idle + all_after.iowait - all_before.iowait
    busy -= all_after.guest - all_before.guest + all_after.guest_nice - all_before.guest_nice
    return clock, own, max(0.0, busy - own) / clock


def main() -> None:
    """Print a row for each run and the ratios of the least times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    words = parser.parse_args()
    clocks: dict[int, list[float]] = {1: [], words.workers: []}
    print("workers  clock s  processor s  processors that others used")
    for turn in range(words.rounds):
        for workers in (1, words.workers) if turn % 2 == 0 else (words.workers, 1):
            clock, own, others = seconds(workers, words.epochs)
            clocks[workers].append(clock)
            print(f"{workers:7}  {clock:7.1f}  {own:11.1f}  {others:4.2f}", flush=True)
    least = [min(times) for times in clocks.values()]
    print(f"{least[0] / least[1]:.2f}x by the least times, of {psutil.cpu_count()} processors")


if __name__ == "__main__":
    main()
