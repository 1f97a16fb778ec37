"""Run recipes, whole or without their learning steps, and measure the values for a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...bench.latency import latencies
from ...errors import LissomError
from ...language.recipe import Recipe
from ...language.target import Target
from ...learning.rung import Rung, Stopped, midway_in
from ..execute import Run
from ..launch.schedule import Schedule
from ..launch.workers import Workers
from ..measure import export_if_missing, inputs_in
from ..plan import Node, ends, tree
from .outcome import Outcome, Point


@dataclass(frozen=True)
class MakeResult:
    """The seconds until a network was made, or until the `error` that prevented it."""

    seconds: float
    error: LissomError | None


@dataclass
class Evaluation:
    """Run recipes of one task and seed, and measure their files in `targets` on `threads` threads.

    `workers` make the networks. Files are measured in this process while no worker is busy. Metrics
    are those on validation data: the test set is kept for the chosen networks. The latency of a
    file is its ratio to the uncompressed file, timed alternately, times the first latency of that
    file. So a machine that slows down for a while does not bias the search.
    """

    run: Run
    targets: Sequence[Target]
    seed: int
    threads: int
    workers: Workers
    check_time: Callable[[], None] = lambda: None  # called regularly while workers learn
    protect: Callable[[Iterable[str]], None] = lambda _: None  # keys from being pruned meanwhile
    clock: Callable[[], float] = time.monotonic
    needed: Collection[str] = ()  # the values that every outcome must have

    def __post_init__(self) -> None:
        self.float_ms: dict[tuple[str, str], float] = {}
        self.schedule = Schedule(self.workers, self.run, self.run.say, self.check_time)

    def at_once(self) -> int:
        """Return how many recipes can run in parallel."""
        return self.workers.room()

    def close(self) -> None:
        """End all workers."""
        self.workers.close()
        if self.workers.beside:
            self.run.store.sweep()  # their unfinished entries

    def end(self, recipe: Recipe) -> Node:
        """Return the node of the network at the end of a recipe."""
        (end,) = ends([recipe], [self.seed], self.run.task.root)
        return end

    def reference_key(self, recipe: Recipe) -> str:
        """Return the key of the uncompressed network that a recipe begins with."""
        return self.end(recipe).reference

    def measure_in(self, reference: Outcome) -> None:
        """Scale later latencies by those of an uncompressed network, as measured earlier."""
        for name, value in reference.values.items():
            quantity, _, target = name.partition("@")
            if quantity == "ms":
                self.float_ms[reference.key, target] = value

    def reference(self, recipe: Recipe) -> Outcome:
        """Return the outcome of the uncompressed network that a recipe begins with."""
        node = self._reference_node(recipe)
        return self._outcome_of({}, node, node.recipe, self._make_networks([node])[0], probe=False)

    def check_reference(self, recipe: Recipe) -> None:
        """Make the uncompressed network that a recipe begins with, unless the store has it.

        Raises LissomError if it does not reach the expected metrics.
        """
        (made,) = self._make_networks([self._reference_node(recipe)])
        if made.error is not None:
            raise made.error

    def _reference_node(self, recipe: Recipe) -> Node:
        path = self.end(recipe).path
        return next(node for node in path if node.key == path[-1].reference)

    def without_learning(self, recipe: Recipe) -> Recipe | None:
        """Return a recipe without the learning steps after its uncompressed network; None if it has
        none.
        """
        end = self.end(recipe)
        first = next(node.depth for node in end.path if node.key == end.reference)
        steps = recipe.steps
        rest = tuple(step for step in steps[first:] if not step.learning)
        return Recipe(steps[:first] + rest) if first + len(rest) < len(steps) else None

    def probe(self, point: Point, recipe: Recipe) -> Outcome:
        """Run a recipe without its learning steps; return its outcome, a probe if steps were left
        out.

        Raises LissomError if it cannot be run.
        """
        part = self.without_learning(recipe)
        end = self.end(part or recipe)
        self.run.rehearse(end)
        return self._outcome_of(
            point, end, recipe, self._make_networks([end])[0], probe=part is not None
        )

    def outcomes(
        self, proposals: Sequence[tuple[Point, Recipe]], rungs: Sequence[Rung | None]
    ) -> list[Outcome | LissomError]:
        """Run recipes in parallel, then measure them one by one; return outcomes or errors.

        The last learning step of each is judged at its rung. If it is stopped there, the outcome has
        no values.
        """
        ends = [self.end(recipe) for _, recipe in proposals]
        rehearsal_errors = [self._rehearsal_error(end) for end in ends]
        sound = [end for end, error in zip(ends, rehearsal_errors, strict=True) if error is None]
        self.schedule.rungs = rungs_of(ends, rungs)
        made = dict(zip([end.key for end in sound], self._make_networks(sound), strict=True))
        results: list[Outcome | LissomError] = []
        for (point, recipe), end, error in zip(proposals, ends, rehearsal_errors, strict=True):
            try:
                results.append(
                    error or self._outcome_of(point, end, recipe, made[end.key], probe=False)
                )
            except LissomError as failed:
                results.append(failed)
        return results

    def _rehearsal_error(self, end: Node) -> LissomError | None:
        try:
            self.run.rehearse(end)
        except LissomError as error:
            return error
        return None

    def _make_networks(self, ends: Sequence[Node]) -> list[MakeResult]:
        """Make networks; return for each how that ended."""
        begin = self.clock()
        seconds = dict[str, float]()
        self.protect(node.key for node in tree(ends))
        for end in ends:
            self.schedule.add(end)
        for node, _ in self.schedule:
            seconds[node.key] = self.clock() - begin
        return [MakeResult(seconds.get(end.key, 0.0), self.schedule.ended[end.key]) for end in ends]

    def _outcome_of(
        self, point: Point, end: Node, recipe: Recipe, made: MakeResult, *, probe: bool
    ) -> Outcome:
        """Return the outcome of a network. Raises the error with which its making ended, and
        LissomError if a value that is needed is no number.
        """
        if isinstance(made.error, Stopped):
            stopped = made.error
            return Outcome(
                point, str(recipe), end.key, {}, made.seconds, midway=stopped.midway, stopped=True
            )
        if made.error is not None:
            raise made.error
        begin = self.clock()
        run = self.run
        record = run.store.record(end.key)
        scores: dict[str, float | None] = record["scores"]["valid"]
        if probe:  # its metrics mean nothing, so they need not be numbers
            scores = {name: value or 0.0 for name, value in scores.items()}
        values = {name: value for name, value in scores.items() if value is not None}
        values |= {"params": record["params"], "macs": record["macs"]}
        for target in self.targets:
            values |= self._costs(record, end, target)
        if missing := [name for name in self.needed if name not in values]:
            raise LissomError(
                f"search: {recipe}: its {missing[0]} is no number, and --want needs one; it is left out"
            )
        seconds = made.seconds + self.clock() - begin
        judged = learns_last(end)
        midway = None if probe or judged is None else midway_in(run.store.log(judged.key))
        return Outcome(point, str(recipe), end.key, values, seconds, probe, midway)

    def _costs(self, record: dict[str, Any], end: Node, target: Target) -> dict[str, float]:
        """Return latency, size and memory of a network's file in a runtime."""
        run = self.run
        fresh = run.task.fresh
        images = run.task.data.calibration
        path = export_if_missing(run.store, end.key, target, False, fresh, images)
        plain = target.plain()
        other = export_if_missing(run.store, end.reference, plain, False, fresh)
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


def learns_last(end: Node) -> Node | None:
    """Return the node of the last learning step on the way to a network, if any."""
    return next((node for node in reversed(end.path) if node.step and node.step.learning), None)


def rungs_of(ends: Sequence[Node], rungs: Sequence[Rung | None]) -> dict[str, Rung]:
    """Return the rung of the last learning step of each network, by key; the lowest if networks share
    the step.
    """
    shared = dict[str, list[Rung]]()
    for end, rung in zip(ends, rungs, strict=True):
        node = learns_last(end)
        if node is not None and rung is not None:
            shared.setdefault(node.key, []).append(rung)
    return {key: min(each, key=Rung.height) for key, each in shared.items()}
