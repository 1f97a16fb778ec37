"""Compare the Pareto fronts of accuracy, latency and bytes that each sampler finds in a given time.

    python benchmarks/search.py --budget 30min --seeds 3 [--model resnet20] [--size 16]
    [--data digits] [--space TEXT] [--by model,random,tpe,nsga2] [--store FOLDER]

Every sampler has its own store, which starts with the same trained network, so that none learns
from another's recipes. The hypervolume is the share of a box that the recipes dominate: from the
uncompressed network's costs to a twentieth of them, on logarithmic axes, and from 0.9 to 1.02 of
its metric. `all` is what all recipes of all samplers dominate together. Metrics are measured on
validation data.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np

import lissom
from lissom.bench.machine import machine
from lissom.cli.counts import seconds_of
from lissom.data.data import Data
from lissom.language.want import Want
from lissom.running.search.goal import Goal
from lissom.running.search.outcome import Outcome
from lissom.running.search.run_search import SearchResult
from lissom.tasks.task import Task

BEGIN = "train(20)"
SPACE = 'prune(0..0.8, of="macs", by={l1, fisher}) | distill("kd", {1, 3, 8}) | quantize({8, 4})'
SAMPLES = 100_000


def dominated(found: SearchResult) -> np.ndarray:
    """Return which of SAMPLES random points of the box the recipes dominate."""
    goal = Goal(tuple((name, 1 if place == 0 else -1) for place, name in enumerate(found.aims)), ())
    outcomes = [each for each in map(Outcome.of, found.outcomes) if each.finished]
    losses = np.array([goal.losses(each) for each in outcomes])
    reference = np.array(goal.losses(Outcome({}, "", "", found.reference, 0)))
    metric = -reference[0]
    low = np.array([-1.02 * metric, *(reference[1:] - np.log(20))])
    high = np.array([-0.9 * metric, *reference[1:]])
    points = low + (high - low) * np.random.default_rng(0).random((SAMPLES, 3))
    beaten = np.zeros(SAMPLES, bool)
    for each in losses:
        beaten |= (each <= points).all(1)
    return beaten


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--budget", default="30min")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--model", default="resnet20")
    options.add_argument("--data", default="digits")
    options.add_argument("--size", type=int, default=16)
    options.add_argument("--begin", default=BEGIN)
    options.add_argument("--space", default=SPACE)
    options.add_argument("--by", default="model,random,tpe,nsga2")
    options.add_argument("--to", default="onnxruntime")
    options.add_argument("--store", type=Path)
    given = options.parse_args()
    root = given.store or Path(tempfile.mkdtemp())
    print(f"{machine()['cpu']}, {given.model} on {given.data} at {given.size}, {given.budget} each")
    print(f"{given.begin} | {given.space}")
    volumes: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        data = Data.of(given.data, size=(given.size, given.size))
        task = Task.of(given.model, data)
        first = root / f"first-{seed}"
        together = np.zeros(SAMPLES, bool)
        lissom.run(given.begin, task, first, seeds=[seed])
        for by in given.by.split(","):
            store = root / f"{by}-{seed}"
            if not store.exists():
                shutil.copytree(first, store)
            found = lissom.search(
                f"{given.begin} | {given.space}",
                Want.of("front"),
                task,
                store,
                budget_s=seconds_of(given.budget),
                targets=given.to,
                seed=seed,
                by=by,
            )
            points = dominated(found)
            together |= points
            volume = float(points.mean())
            volumes.setdefault(by, []).append(volume)
            trained = sum(Outcome.of(each).finished for each in found.outcomes)
            print(f"seed {seed}  {by:7} {trained:3} recipes  hypervolume {volume:.4f}", flush=True)
        print(f"seed {seed}  all     hypervolume {together.mean():.4f}", flush=True)
    for by, each in volumes.items():
        mean = statistics.mean(each)
        beside = (
            f", {mean / statistics.mean(volumes['random']):.2f} of random"
            if "random" in volumes
            else ""
        )
        print(f"{by}: {mean:.4f}{beside}")


if __name__ == "__main__":
    main()
