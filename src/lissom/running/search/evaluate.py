"""Run the recipe of a point, or only what of it does not learn, and measure what counts for the search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...bench.latency import latencies
from ...language.recipe import Recipe
from ...language.target import Target
from ..execute import Run
from ..launch.crew import made
from ..launch.workers import Here
from ..measure import exported, inputs_in
from ..plan import Node, ends
from .outcome import Outcome, Point


@dataclass
class Evaluation:
    """Runs recipes of one task and seed, and measures their files in `targets` on so many threads.

    Metrics are those on validation data: the test set is left for what is chosen. The ms of a file
    are those of the uncompressed network's file, times how much slower it was in turns with it: so
    a machine that is slower now and then favours none.
    """

    run: Run
    targets: Sequence[Target]
    seed: int
    threads: int
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.float_ms: dict[tuple[str, str], float] = {}

    def end(self, recipe: Recipe) -> Node:
        """Return the network that a recipe ends in."""
        (end,) = ends([recipe], [self.seed], self.run.task.root)
        return end

    def reference(self, recipe: Recipe) -> Outcome:
        """Return the values of the uncompressed network that a recipe begins with."""
        path = self.end(recipe).path
        node = next(node for node in path if node.key == path[-1].reference)
        return self._outcome({}, node, node.recipe, probe=False)

    def probed(self, recipe: Recipe) -> Recipe | None:
        """Return a recipe without what learns after its uncompressed network; None where nothing does."""
        end = self.end(recipe)
        first = next(node.depth for node in end.path if node.key == end.reference)
        steps = recipe.steps
        rest = tuple(step for step in steps[first:] if not step.learning)
        return Recipe(steps[:first] + rest) if first + len(rest) < len(steps) else None

    def outcome(self, point: Point, recipe: Recipe, *, probe: bool = False) -> Outcome:
        """Run the recipe of a point, or its probe; raise LissomError for what cannot be run."""
        shown = self.probed(recipe) if probe else recipe
        end = self.end(shown or recipe)
        self.run.rehearse(end)
        return self._outcome(point, end, recipe, probe=probe)

    def _outcome(self, point: Point, end: Node, recipe: Recipe, *, probe: bool) -> Outcome:
        begin = self.clock()
        run = self.run
        for _, error in made([end], Here(run.make), run, run.store, run.say):
            if error is not None:
                raise error
        record = run.store.record(end.key)
        values: dict[str, float] = {
            name: value for name, value in record["scores"]["valid"].items() if value is not None
        }
        values |= {"params": record["params"], "macs": record["macs"]}
        for target in self.targets:
            values |= self._costs(record, end, target)
        return Outcome(point, str(recipe), end.key, values, self.clock() - begin, probe)

    def _costs(self, record: dict[str, Any], end: Node, target: Target) -> dict[str, float]:
        """Return what a file costs in a runtime."""
        run = self.run
        fresh = run.task.fresh
        images = run.task.data.calibration
        path = exported(run.store, end.key, target, False, fresh, images)
        plain = target.plain()
        other = exported(run.store, end.reference, plain, False, fresh)
        own, uncompressed = latencies(
            [(str(target), path), (str(plain), other)],
            inputs_in(record, 1),
            threads=self.threads,
        )
        first = self.float_ms.setdefault((end.reference, str(target)), uncompressed.median)
        costs = {
            f"ms@{target}": own.median / uncompressed.median * first,
            f"bytes@{target}": float(path.stat().st_size),
        }
        if own.resident_mib is not None:
            costs[f"resident@{target}"] = own.resident_mib
        return costs
