"""Time a grid of 12 recipes with one worker and with several, in turns. Each worker has one thread.

    python benchmarks/workers.py [--workers 2] [--rounds 2] [--epochs 30] [--ray]

Wall-clock time says little on a busy machine, which may give two processes more than one, or
neither anything. So processor time is printed too: that of the run itself plus its busiest worker
is the time on idle processors that do not slow each other down. The last column is the number of
processors that other programs used meanwhile.

With --ray, the workers are those of a Ray cluster of as many processors, started before each run on
this machine; only the clock counts then. Needs lissom[ray].
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

from lissom.system.processes import surroundings

LOOK_S = 0.2


def space(epochs: int) -> str:
    """Return a space of 12 recipes that begin with the same training."""
    return (
        f"train({epochs // 2}, batch=64) | prune({{0.2, 0.3, 0.4, 0.5, 0.6, 0.7}}, multiple=4) | "
        f"train({{{epochs}, {epochs + 1}}}, batch=64, lr=0.05)"
    )


@contextmanager
def cluster(processors: int) -> Iterator[None]:
    """Run a Ray cluster on this machine."""
    ray = str(Path(sys.executable).with_name("ray"))
    start = ["start", "--head", "--num-cpus", str(processors), "--include-dashboard=false"]
    subprocess.run([ray, *start], check=True, env=surroundings(), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([ray, "stop", "--force"], check=True, stdout=subprocess.DEVNULL)


def measured(workers: str, epochs: int) -> dict[str, float]:
    """Return the seconds of a run: wall clock, its own processor time, and that of its workers.

    `workers` is what `lissom run --workers` takes. Those of a cluster are no children of the run.
    """
    with tempfile.TemporaryDirectory() as name:
        words = ["run", space(epochs), "--model", "resnet8", "--size", "8", "--json"]
        words += ["--store", str(Path(name) / "store")]
        words += ["--workers", workers, "--worker-threads", "1"]
        before = psutil.cpu_times()
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "lissom", *words],
            env=surroundings(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        run = psutil.Process(process.pid)
        used: dict[int, float] = {}
        while process.poll() is None:
            with suppress(psutil.Error):
                for each in (run, *run.children(recursive=True)):
                    times = each.cpu_times()
                    used[each.pid] = times.user + times.system
            time.sleep(LOOK_S)
        clock = time.perf_counter() - start
        if process.returncode:
            raise SystemExit("the run failed")
        busy = working(psutil.cpu_times()) - working(before)
    own = used.pop(process.pid)
    return {
        "clock": clock,
        "run": own,
        "workers": sum(used.values()),
        "busiest": max(used.values(), default=0.0),
        "others": max(0.0, busy - own - sum(used.values())) / clock,
    }


def working(times: Any) -> float:
    """Return the seconds that all processors have worked. The other numbers include guests."""
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def main() -> None:
    """Print a row for each run and the ratios of the shortest times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--ray", action="store_true", help="workers of a Ray cluster")
    words = parser.parse_args()
    os.environ |= {"RAY_ADDRESS": "auto"} if words.ray else {}
    found: dict[int, list[dict[str, float]]] = {1: [], words.workers: []}
    print("workers  clock s  processor s: run, workers, busiest worker  processors of others")
    for turn in range(words.rounds):
        for workers in (1, words.workers) if turn % 2 == 0 else (words.workers, 1):
            with cluster(workers) if words.ray else nullcontext():
                one = measured("ray" if words.ray else str(workers), words.epochs)
            found[workers].append(one)
            print(
                f"{workers:7}  {one['clock']:7.1f}  {one['run']:16.1f}  {one['workers']:7.1f}  "
                f"{one['busiest']:14.1f}  {one['others']:20.2f}",
                flush=True,
            )
    clock = [min(one["clock"] for one in runs) for runs in found.values()]
    idle = [min(one["run"] + one["busiest"] for one in runs) for runs in found.values()]
    ideal = "" if words.ray else f" {idle[0] / idle[1]:.2f}x by processor time,"
    print(
        f"{clock[0] / clock[1]:.2f}x by the clock,{ideal} least of each; "
        f"{psutil.cpu_count()} processors"
    )


if __name__ == "__main__":
    main()
