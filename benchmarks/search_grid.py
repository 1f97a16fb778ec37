"""Measure how close a search comes to the best of 81 recipes when it trains 12 of them.

    python benchmarks/search_grid.py [--seeds 5] [--trials 12] [--model resnet8] [--size 16]
    [--data digits] [--to openvino] [--table grid.json]

First all 81 recipes are run and measured, unless the table has them, so the best is known. Then
searches choose among them and get the values from the table: only their choices are tested. Metrics
are measured on validation data, and ms in turns with the uncompressed network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

from lissom.bench.machine import machine
from lissom.data.data import Data
from lissom.language.recipe import Recipe
from lissom.language.search_space import SearchSpace
from lissom.language.want import Want
from lissom.learning.rung import Rung
from lissom.running.execute import Run
from lissom.running.launch.workers import Here
from lissom.running.plan import targets_of
from lissom.running.search.evaluate import Evaluation
from lissom.running.search.outcome import Outcome, Point
from lissom.running.search.search import Budget, Search
from lissom.store.store import Store
from lissom.tasks.task import Task

SPACE = SearchSpace(
    'train(15) | prune({0.3, 0.5, 0.7}, of="macs", by={l1, fisher, random}) | '
    'distill("kd", {1, 3, 6}) | quantize({8, 6, 4})'
)
WANTS = (
    "fastest, top1 >= float - 0.02",
    "smallest, top1 >= float - 0.02",
    "accurate, bytes <= 20 kB",
)
WAYS = ("model", "tpe", "random")


class Table:
    """An evaluation that looks outcomes up instead of running recipes, with a simulated clock."""

    def __init__(self, outcomes: list[Outcome], root: Path, target: str, seed: int) -> None:
        self.known = {each.recipe: each for each in outcomes[1:]}
        self.uncompressed = outcomes[0]
        metrics = [name for name in outcomes[0].values if name == "top1"]
        self.run = SimpleNamespace(
            task=SimpleNamespace(metric_names=metrics), store=SimpleNamespace(root=root)
        )
        self.targets = [target]
        self.seed = seed
        self.threads = 1
        self.seconds = 0.0

    def clock(self) -> float:
        """Return the total seconds that the recipes so far took when they were run."""
        return self.seconds

    def at_once(self) -> int:
        """Return the number of recipes to run in parallel."""
        return 1

    def reference_key(self, _: Recipe) -> str:
        """Return the key of the uncompressed network."""
        return self.uncompressed.key

    def measure_in(self, _: Outcome) -> None:
        """Do nothing: the table has the measurements."""

    def reference(self, _: Recipe) -> Outcome:
        """Return the uncompressed network's outcome."""
        return self.uncompressed

    def without_learning(self, recipe: Recipe) -> Recipe:
        """Return the recipe: any can be probed."""
        return recipe

    def probe(self, point: Point, recipe: Recipe) -> Outcome:
        """Return the outcome of a recipe with the costs of the trained network and a dummy metric."""
        values = self.known[str(recipe)].values | {"top1": 0.1}
        return Outcome(point, str(recipe), "", values, 1.0, probe=True)

    def outcomes(
        self, proposals: list[tuple[Point, Recipe]], _: Sequence[Rung | None]
    ) -> list[Outcome]:
        """Return the outcomes of recipes, and advance the clock. None is stopped early."""
        found = [self.known[str(recipe)] for _, recipe in proposals]
        self.seconds += sum(each.seconds for each in found)
        return found


def measured(given: argparse.Namespace) -> list[Outcome]:
    """Run all recipes and return their outcomes, with the uncompressed network's first."""
    data = Data.of(given.data, size=(given.size, given.size))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Task.of(given.model, data), Store(folder))
        evaluation = Evaluation(run, targets_of(given.to), 0, 1, Here(run.make))
        outcomes = [evaluation.reference(SPACE.example)]
        names = [choice.name for choice in SPACE.choices]
        for places in product(*(range(len(choice.options)) for choice in SPACE.choices)):
            point = dict(zip(names, map(float, places), strict=True))
            recipe = SPACE.at(point)
            (outcome,) = evaluation.outcomes([(point, recipe)], [None])
            if not isinstance(outcome, Outcome):
                raise outcome
            outcomes.append(outcome)
            print(f"{len(outcomes) - 1}  {outcome.recipe}: {outcome.values}", flush=True)
    return outcomes


def found(
    outcomes: list[Outcome], want: str, by: str, seed: int, given: argparse.Namespace
) -> Search:
    """Run a search among known outcomes and return it."""
    with tempfile.TemporaryDirectory() as folder:
        table = Table(outcomes, Path(folder), given.to, seed)
        search = Search(
            SPACE,
            Want.of(want),
            table,  # type: ignore[arg-type]
            Budget(1e9, given.trials),
            "",
            by,
            clock=table.clock,
        )
        search.search()
    return search


def main() -> None:
    """Print a row for each goal and each sampler."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--trials", type=int, default=12)
    options.add_argument("--model", default="resnet8")
    options.add_argument("--data", default="digits")
    options.add_argument("--size", type=int, default=16)
    options.add_argument("--to", default="openvino")
    options.add_argument("--table", type=Path)
    given = options.parse_args()
    if given.table and given.table.is_file():
        outcomes = [Outcome.of(each) for each in json.loads(given.table.read_text())]
    else:
        outcomes = measured(given)
        if given.table:
            given.table.write_text(json.dumps([each.json() for each in outcomes], indent=1))
    print(f"{machine()['cpu']}, {given.model} on {given.data} at {given.size}, {given.to}: {SPACE}")
    print(f"{given.trials} of {len(outcomes) - 1} recipes trained; what was found over the best")
    for want in WANTS:
        for by in WAYS:
            ratios = list[float]()
            for seed in range(given.seeds):
                search = found(outcomes, want, by, seed, given)
                name, _ = search.goal.aims[0]
                best = search.goal.best(outcomes[1:])
                own = search.goal.best(search.trained)
                if best is None:
                    raise SystemExit(f"{want}: none of the grid meets it")
                ratios.append(own.values[name] / best.values[name] if own else float("nan"))
            print(
                f"{want:32} {by:7} mean {statistics.mean(ratios):.3f}  "
                f"{' '.join(f'{each:.3f}' for each in ratios)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
