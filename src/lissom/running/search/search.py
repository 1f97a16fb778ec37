"""The loop of a search: propose a recipe, run it, learn from its outcome, until the time is up."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...bench.machine import machine
from ...errors import LissomError, counted, silent, unknown
from ...language.amounts import amount_text
from ...language.recipe import Recipe
from ...language.search_space import SearchSpace
from ...language.want import Want
from ..eta import spoken
from .early import EarlyStopping
from .effort import RemainingBudget
from .evaluate import Evaluation
from .goal import Bound, Goal, measured_names
from .outcome import Outcome, Point
from .propose import Proposer
from .study import SAMPLERS, Storage, Study, study_name

PROBES = 8  # at the beginning
PROBING_SHARE = 0.15  # share of the budget for probes; two are made in any case
NEAR_BOUND = 0.1  # a bound may lie below the least cost so far by this share of that cost
MAX_IN_ROW = 50  # the search ends after this many known or refused recipes in a row
SMALL_TRAINING_SET = 4_000  # samples; batches of 128 would be too few updates an epoch
MAX_SEED = 2**31 - 1
MAX_FIRST_FAILURES = 5  # the search fails after this many in a row if nothing was trained


@dataclass(frozen=True)
class Budget:
    """The limits of a search: seconds, and the number of trained recipes."""

    seconds: float
    trials: int | None = None


@dataclass
class Search:
    """A search of a space for networks that meet `want`; `outcomes` are in order, oldest first."""

    space: SearchSpace
    want: Want
    evaluation: Evaluation
    budget: Budget
    storage: str
    by: str = "model"
    say: Callable[[str], None] = silent
    clock: Callable[[], float] = time.monotonic
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        run = self.evaluation.run
        targets = [str(target) for target in self.evaluation.targets]
        seed = self.evaluation.seed
        check_seed(seed)
        self.begun = self.clock()
        self.failures_in_row = 0  # recipes that could not be run
        self.repeats_in_row = 0  # recipes that were tried before
        # unknown names are refused before anything is run
        if self.by not in SAMPLERS:
            raise unknown("--by", "way to search", self.by, SAMPLERS)
        if self.want.at is not None:
            measured_names("ms", self.want.at, run.task.metric_names, targets)
        for limit in self.want.limits:
            measured_names(limit.quantity, limit.at, run.task.metric_names, targets)
        name = study_name(
            str(self.space),
            # the last key changes with the version of a step
            self.space.example.keys(self.evaluation.reference_key(self.space.example))[-1:],
            targets,
            seed,
            self.evaluation.threads,
            machine()["cpu"],  # latencies of different machines cannot be compared
        )
        storage = Storage(self.place(name), name)
        known = storage.reference()
        self.reference = known or self.evaluation.reference(self.space.example)
        self.evaluation.measure_in(self.reference)
        self.goal = Goal.of(self.want, run.task.metric_names, targets, self.reference.values)
        metric = run.task.metric_names[0]
        self.evaluation.needed = {metric, *self.goal.names()}
        # searches that share a database need different random numbers
        own = secrets.randbits(31) if self.shared else seed
        self.study = Study(
            self.space, self.goal, storage, str(self.want), self.reference, self.by, own
        )
        self.name = self.study.name
        self.outcomes = self.study.outcomes()
        draw = np.random.default_rng([own, len(self.outcomes)])
        self.proposer = Proposer(self.space, self.goal, self.reference.values, draw)
        self.early_stopping = EarlyStopping(self.goal, self.proposer, metric)
        if self.outcomes:
            self.say(f"goes on with {counted(len(self.outcomes), 'outcome')} of earlier searches")

    @property
    def shared(self) -> bool:
        """Whether other searches may add outcomes at the same time."""
        return "://" in self.storage

    def place(self, name: str) -> str:
        """Return the file or URL that holds the outcomes: a file in the store if none is named."""
        if self.shared:
            return self.storage
        return self.storage or str(self.evaluation.run.store.root / ".searches" / f"{name}.journal")

    def left_s(self) -> float:
        """Return the seconds left in the budget."""
        return self.budget.seconds - (self.clock() - self.begun)

    @property
    def trained(self) -> list[Outcome]:
        """The outcomes of whole recipes."""
        return [each for each in self.outcomes if each.finished]

    def done(self) -> bool:
        """Return whether time or trials are used up, by all searches that share the study."""
        trials = self.budget.trials
        return self.left_s() <= 0 or (trials is not None and self.study.trained() >= trials)

    def search(self) -> None:
        """Try recipes until the budget or the space is exhausted."""
        if self.by == "model":
            if not self.trained:
                self.probe()
            self.check_reachable()
        while not self.done() and max(self.repeats_in_row, self.failures_in_row) < MAX_IN_ROW:
            if self.shared:
                self.outcomes = self.study.outcomes()
            proposals = self.next_proposals()
            if not proposals and self.by == "model":
                self.say("no recipe that was not tried is expected to end in the time that is left")
                return
            self.run([(trial, point, self.space.at(point)) for trial, point in proposals])
        if self.repeats_in_row >= MAX_IN_ROW:
            self.say(f"the last {MAX_IN_ROW} recipes had all been tried before; the search ends")
        if self.failures_in_row >= MAX_IN_ROW:
            self.say(f"none of the last {MAX_IN_ROW} recipes can be run; the search ends")

    def next_proposals(self) -> list[tuple[Any, Point]]:
        """Return the points to try next in parallel, each with the sampler's trial, or None."""
        room = self.evaluation.at_once()
        remaining = RemainingBudget(self.left_s())
        if self.budget.trials is not None:
            remaining = replace(remaining, recipes=self.budget.trials - self.study.trained())
            room = int(min(room, remaining.recipes))
        if self.by != "model":
            return [each for each in (self.ask() for _ in range(room)) if each is not None]
        tried = {each.recipe for each in self.outcomes if not each.probe}
        points = self.proposer.propose_several(room, self.outcomes, tried, remaining)
        return [(None, point) for point in points]

    def ask(self) -> tuple[Any, Point] | None:
        """Return the sampler's next trial and point; None if its steps cannot be combined."""
        try:
            return self.study.ask()
        except LissomError as error:
            self.note_failure(error)
            return None

    def run(self, proposals: list[tuple[Any, Point, Recipe]]) -> None:
        """Run recipes and keep their outcomes. Known recipes are not run again."""
        known = {each.recipe: each for each in self.trained}
        fresh = {str(recipe): (point, recipe) for _, point, recipe in proposals}
        fresh = {text: each for text, each in fresh.items() if text not in known}
        results = dict(zip(fresh, self.evaluate([*fresh.values()]), strict=True))
        for trial, point, recipe in proposals:
            text = str(recipe)
            if text in known:
                self.repeats_in_row += 1
                self.study.add(known[text], trial, taken=True)
                continue
            self.repeats_in_row = 0
            outcome = results[text]
            if isinstance(outcome, Outcome):
                self.failures_in_row = 0
                self.record_outcome(outcome, trial)
                known[text] = outcome
                continue
            if trial is not None:
                self.study.fail(trial)
            self.proposer.refused[text] = point
            self.note_failure(outcome)

    def evaluate(self, proposals: list[tuple[Point, Recipe]]) -> list[Outcome | LissomError]:
        """Return the outcomes of recipes, or their errors. Only a model stops trainings early: other
        ways to choose have no use for a prediction.
        """
        judged = self.by == "model"
        rungs = [
            self.early_stopping.rung(point, self.outcomes) if judged else None
            for point, _ in proposals
        ]
        return [
            self.early_stopping.with_predictions(each, self.outcomes)
            if isinstance(each, Outcome) and each.stopped
            else each
            for each in self.evaluation.outcomes(proposals, rungs)
        ]

    def note_failure(self, error: LissomError) -> None:
        """Report a recipe that cannot be run. Raises its error if it is the last of
        MAX_FIRST_FAILURES in a row and nothing was trained.
        """
        self.failures_in_row += 1
        self.say(f"note: {error}")
        if self.failures_in_row >= MAX_FIRST_FAILURES and not self.trained:
            raise error

    def record_outcome(self, outcome: Outcome, trial: Any = None) -> None:
        """Add an outcome, and report the progress of the search."""
        best = self.goal.best(self.trained)
        self.study.add(outcome, trial)
        self.outcomes.append(outcome)
        misses = self.goal.misses(outcome)
        now = self.goal.best(self.trained)
        verdict = "; ".join(misses) if misses else ("the best so far" if now != best else "fits")
        aims = ", ".join(
            f"{name} {amount_text(name, outcome.values[name])}" for name, _ in self.goal.aims
        )
        word = "probe" if outcome.probe else f"{len(self.trained)}"
        said = f"{aims}; {verdict}"
        if outcome.stopped:  # its values are predictions
            word = "stopped"
            said = (
                f"{self.early_stopping.metric} {outcome.midway:.4g} after a third of the epochs is "
                "too low"
            )
        self.say(f"[{word}, {spoken(max(self.left_s(), 0))} left]  {outcome.recipe}: {said}")

    def probe(self) -> None:
        """Measure recipes without their learning steps, so that costs are known before anything is
        trained. A recipe without learning steps is then complete.
        """
        tried = set[str]()
        begun = self.clock()
        for place in range(PROBES):
            if len(tried) >= 2 and self.clock() - begun > PROBING_SHARE * self.budget.seconds:
                break
            point = self.cheapest(place) if place < len(self.space.choices) else None
            point = point or self.proposer.random_point()[0]
            recipe = self.space.at(point)
            if str(recipe) in tried or self.done():
                continue
            tried.add(str(recipe))
            self.probe_one(point, recipe)

    def probe_one(self, point: Point, recipe: Recipe) -> None:
        """Measure one recipe without its learning steps, and keep the outcome; note why it cannot run."""
        try:
            self.record_outcome(self.evaluation.probe(point, recipe))
        except LissomError as error:
            self.proposer.refused[str(recipe)] = point
            self.say(f"note: {error}")

    def check_reachable(self) -> None:
        """Raise LissomError if no recipe so far comes near a bound on a cost."""
        for bound in self.goal.bounds:
            if bound.metric or bound.least or not self.outcomes:
                continue
            least = self.descended(bound)
            value = least.values[bound.name]
            # a little further than a few recipes reach, another may come
            if bound.excess(value) > NEAR_BOUND * value:
                raise LissomError(
                    f"--want: {bound.name} {bound.wanted()}: no recipe of the space comes so far; the "
                    f"least is {amount_text(bound.name, value)}, of {least.recipe}"
                )

    def descended(self, bound: Bound) -> Outcome:
        """Return the outcome with the least cost, after recipes that differ from it in one choice were
        probed, unless it comes near the bound.
        """

        def least() -> Outcome:
            return min(self.outcomes, key=lambda each: (each.values[bound.name], each.recipe))

        best = least()
        for choice in self.space.choices:
            if bound.excess(best.values[bound.name]) <= NEAR_BOUND * best.values[bound.name]:
                break
            tried = {each.recipe for each in self.outcomes}
            for point, recipe in self.space.varied(best.point, choice, (choice.low, choice.high)):
                if str(recipe) not in tried and not self.done():
                    self.probe_one(point, recipe)
            best = least()
        return best

    def cheapest(self, place: int) -> Point | None:
        """Return a point that probably costs little: the upper end of every range, except in one
        range if `place` > 0. None if its steps cannot be combined.
        """
        point: Point = {}
        skipped = self.space.choices[place - 1].name if place else ""

        def choose(choice: Any) -> float:
            low, high = choice.low, choice.high
            if choice.options:
                point[choice.name] = float(place % len(choice.options))
            else:
                point[choice.name] = choice.number(low if choice.name == skipped else high)
            return point[choice.name]

        try:
            self.space.recipe(choose)
        except LissomError:
            return None
        return point

    def chosen(self) -> list[Outcome]:
        """Return the best outcome, or for several aims the Pareto front."""
        if len(self.goal.aims) > 1:
            return self.goal.front(self.trained)
        best = self.goal.best(self.trained)
        return [best] if best else []

    def nearest(self) -> Outcome | None:
        """Return the outcome with the smallest total violation of its bounds, relative to them."""

        def missing(outcome: Outcome) -> float:
            return sum(
                max(0.0, bound.excess(outcome.values[bound.name])) / max(abs(bound.number), 1e-9)
                for bound in self.goal.bounds
            )

        return min(self.trained, key=missing, default=None)


def check_seed(seed: int) -> None:
    """Raise LissomError unless generators of random numbers take a seed."""
    if not 0 <= seed <= MAX_SEED:
        raise LissomError(f"search: expected a seed from 0 to {MAX_SEED}, got {seed!s:.40}")


def default_space(
    *, learns: bool, labelled: bool, few_bits: bool, samples: int, residual: bool = False
) -> SearchSpace:
    """Return the space for a trained network: with distillation if there are training data, in
    smaller batches if these are few, with 4-bit weights if `few_bits`, and without some of its
    blocks if it is `residual`.
    """
    rounded = '{quantize(8), quantize(4, rounding="learned")}' if few_bits else "quantize(8)"
    if not learns:
        return SearchSpace(f'{{{rounded}, prune(0..0.3, of="macs") | {rounded}}}')
    batch = ", batch=32" if samples < SMALL_TRAINING_SET else ""
    alpha = "" if labelled else ", alpha=1"
    cut = 'prune(0..0.85, of="macs", by={l1, taylor})'
    if residual:
        cut = f"{{drop(0..0.7), {cut}}}"
    return SearchSpace(
        f'{{{rounded}, {cut} | distill("kd", {{2, 6}}, lr=0.01{batch}{alpha}) | {rounded}}}'
    )


def reason_not_chosen(outcome: Outcome, best: Sequence[Outcome], goal: Goal) -> str:
    """Return as text why an outcome was not chosen."""
    if misses := goal.misses(outcome):
        return "; ".join(misses)
    if len(goal.aims) > 1 or not best:
        return "another is better in everything"
    if goal.losses(outcome) == goal.losses(best[0]):
        return "as good, and costs more"
    name, _ = goal.aims[0]
    own, least = (amount_text(name, each.values[name]) for each in (outcome, best[0]))
    return f"{name} {own}, the best has {least}"
