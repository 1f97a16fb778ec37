"""A search without networks: outcomes by formula, and a simulated clock."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lissom.errors import LissomError
from lissom.language.recipe import Recipe
from lissom.language.search_space import SearchSpace
from lissom.language.want import Want
from lissom.learning.rung import Rung
from lissom.running.search.goal import Goal
from lissom.running.search.outcome import Outcome, Point
from lissom.running.search.search import Budget, Search

SPACE = 'prune(0..0.8, by={l1, fisher}) | distill("kd", {2, 5, 10}) | quantize({8, 4})'
WITH_RATES = (
    'prune(0..0.8, by={l1, fisher}) | distill("kd", {3, 6, 12}, lr=log(0.001..0.5), '
    "decay=log(0.00001..0.1)) | quantize({8, 4})"
)
FLOAT = {"top1": 0.95, "params": 1e5, "macs": 1e7, "ms@onnxruntime": 1.0, "bytes@onnxruntime": 4e5}


class Landscape:
    """Stands for an evaluation: what pruning, training and bits usually do, by formula."""

    def __init__(self, root: Path, seed: int = 0, noise: float = 0.003) -> None:
        self.seconds = 0.0
        self.draw = np.random.default_rng(seed)
        self.curves = np.random.default_rng([seed, 1])
        self.noise = noise
        self.run = SimpleNamespace(
            task=SimpleNamespace(metric_names=("top1",)), store=SimpleNamespace(root=root)
        )
        self.targets = ["onnxruntime"]
        self.seed = seed
        self.threads = 1
        self.calls: list[str] = []
        self.stored: set[str] = set()  # what has learned is there for other recipes that begin so
        self.stopped: list[Outcome] = []  # what would have become of trainings that were stopped
        self.room = 1

    def clock(self) -> float:
        return self.seconds

    def reference_key(self, _: Recipe) -> str:
        return "float"

    def measure_in(self, reference: Outcome) -> None:
        assert reference.key == "float"

    def reference(self, _: Recipe) -> Outcome:
        return Outcome({}, "", "float", dict(FLOAT), 0.0)

    def without_learning(self, recipe: Recipe) -> Recipe | None:
        steps = tuple(step for step in recipe.steps if not step.learning)
        return Recipe(steps) if len(steps) < len(recipe.steps) else None

    def at_once(self) -> int:
        return self.room

    def probe(self, point: Point, recipe: Recipe) -> Outcome:
        self.seconds += 3.0
        return self.outcome(point, recipe, probe=self.without_learning(recipe) is not None)

    def outcomes(
        self, proposals: list[tuple[Point, Recipe]], rungs: list[Rung | None]
    ) -> list[Outcome | LissomError]:
        results: list[Outcome | LissomError] = []
        for (point, recipe), rung in zip(proposals, rungs, strict=True):
            try:
                results.append(self.judged(point, recipe, rung))
            except LissomError as error:
                results.append(error)
        self.seconds += max((o.seconds for o in results if isinstance(o, Outcome)), default=0)
        return results

    def judged(self, point: Point, recipe: Recipe, rung: Rung | None) -> Outcome:
        """The outcome of a recipe whose training may be stopped after a third of its epochs. What
        is far from the uncompressed network learns most in the rest.
        """
        learned, _, _ = str(recipe).rpartition(" | ")
        stored = learned in self.stored
        whole = self.outcome(point, recipe)
        epochs = int((re.search(r'"kd", (\d+)', learned) or [0, 0])[1])
        if rung is None or epochs < 3:
            return whole
        rise = 0.01 + 0.5 * (0.95 - whole.values["top1"]) + float(self.curves.normal(0, self.noise))
        midway = whole.values["top1"] - rise
        if stored or midway >= rung.height():
            return replace(whole, midway=midway)
        self.stored.discard(learned)
        self.stopped.append(whole)
        return replace(whole, values={}, midway=midway, stopped=True, seconds=5 + 4 * (epochs // 3))

    def outcome(self, point: Point, recipe: Recipe, *, probe: bool = False) -> Outcome:
        text = str(recipe)
        self.calls.append(text)
        amount = float((re.search(r"prune\(([0-9.]+)", text) or [0, 0])[1])
        epochs = int((re.search(r'"kd", (\d+)', text) or [0, 0])[1])
        bits = int((re.search(r"quantize\((\d)", text) or [0, 32])[1])
        loss = 0.4 * amount**3 * (0.7 if "fisher" in text else 1.0) / (0.5 + epochs / 5)
        accuracy = 0.95 - loss - (0.03 if bits == 4 else 0.002)
        values = {
            "top1": 0.1 if probe else accuracy + float(self.draw.normal(0, self.noise)),
            "params": 1e5 * (1 - amount),
            "macs": 1e7 * (1 - amount),
            "ms@onnxruntime": 0.05 + (1 - amount) * (0.4 if bits == 8 else 0.3),
            "bytes@onnxruntime": 4e5 * (1 - amount) * bits / 32 + 4000,
        }
        learned, _, _ = text.rpartition(" | ")
        spent = 3.0 if probe or learned in self.stored else 5.0 + 4.0 * epochs
        if not probe:
            self.stored.add(learned)
        return Outcome(point, text, "key", values, spent, probe)


class WithRates(Landscape):
    """A landscape in which most learning rates and many weight decays are bad: see WITH_RATES."""

    def outcome(self, point: Point, recipe: Recipe, *, probe: bool = False) -> Outcome:
        outcome = super().outcome(point, recipe, probe=probe)
        text = str(recipe)
        rate = float((re.search(r"lr=([0-9.e-]+)", text) or [0, 0.2])[1])
        decay = float((re.search(r"decay=([0-9.e-]+)", text) or [0, 5e-4])[1])
        worse = 0.02 * max(0, abs(np.log(rate / 0.03)) - 0.7) ** 2
        worse += 0.004 * max(0, abs(np.log(decay / 5e-4)) - 1) ** 2
        top1 = outcome.values["top1"] if probe else max(0.1, outcome.values["top1"] - worse)
        return replace(outcome, values=outcome.values | {"top1": top1})


def searched(
    root: Path,
    want: str,
    by: str,
    seed: int,
    budget_s: float,
    kind: type[Landscape] = Landscape,
    **settings: Any,
) -> tuple[Search, Landscape]:
    """A search on a landscape that is over."""
    land = kind(root, seed)
    land.room = settings.pop("room", 1)
    search = Search(
        SearchSpace(settings.pop("space", SPACE)),
        Want.of(want),
        land,  # type: ignore[arg-type]
        Budget(budget_s, settings.pop("trials", None)),
        "",
        by,
        clock=land.clock,
        **settings,
    )
    search.search()
    return search, land


def hypervolume(goal: Goal, outcomes: list[Outcome], samples: int = 20_000) -> float:
    """The share of a box that some outcome beats, by drawing points: top-1 0.7 to 0.95, costs to float's."""
    draw = np.random.default_rng(0)
    low = np.array([-0.95, np.log(0.1), np.log(1e4)])
    high = np.array([-0.7, np.log(0.5), np.log(1.2e5)])
    points = low + (high - low) * draw.random((samples, 3))
    losses = np.array([goal.losses(each) for each in outcomes if each.finished])
    return float((losses[:, None] <= points).all(2).any(0).mean())
