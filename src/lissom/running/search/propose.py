"""Propose the recipe to try next: the one with the best expected gain for its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...errors import LissomError
from ...language.recipe import Recipe
from ...language.search_space import Choice, SearchSpace
from .effort import Effort, RemainingBudget, expected_count, learned
from .front import gain
from .goal import Goal
from .outcome import Outcome, Point
from .scale import SHORTFALL_MARGIN, Scale
from .surrogate import LEAST_POINTS, Surrogate, below, encoded, improvement, numbers_of

RANDOM_CANDIDATES = 400  # in each round
NEAR_CANDIDATES = 100  # near the best points
FIRST_RECIPES = 5  # chosen far apart, not by prediction, unless there will be FEW_RECIPES
FEW_RECIPES = 12  # in all
ASSUMED_OUTCOMES = 4  # of recipes that cut nothing
ENOUGH_METRICS = 6  # known, from which on nothing is assumed
EXPLORE_EVERY = 5  # with a single aim, every fifth recipe is chosen far from all others
MIN_DISTANCE = 0.02  # smallest distance of a point from points that were tried
MIN_RUNNABLE = 0.05  # a recipe that can be run with less probability is not tried
TIME_EXPONENT = 0.5  # of the time that divides a score: 1 would never try long learning


class Proposer:
    """Choose points of a space with Gaussian processes for each bound, each aim, and the time.

    The score of a point is the expected improvement, times the probability that all bounds are
    met, divided by the square root of the expected time. While no outcome meets the bounds, the
    improvement is left out. For a Pareto front, it is the gain in the share of a box that is
    dominated.

    With a single aim and time for few recipes only, none is spent on learning that what cuts less
    loses less: recipes whose amounts are all 0 are assumed to have the metrics of the uncompressed
    network, and the first recipe lies in the middle of the space.

    Source: Jones et al. 1998, Efficient Global Optimization; Gardner et al. 2014, Bayesian
    Optimization with Inequality Constraints
    """

    def __init__(
        self,
        space: SearchSpace,
        goal: Goal,
        reference: Mapping[str, float],
        draw: np.random.Generator,
    ) -> None:
        self.space = space
        self.goal = goal
        self.reference = reference  # values of the uncompressed network
        self.draw = draw
        self.scale = Scale(goal, reference)
        self.uncompressed = Outcome({}, "", "", dict(reference), 0.0)
        self.refused: dict[str, Point] = {}  # by the text of a recipe that cannot be run
        self.assumed = self.uncut() if len(goal.aims) == 1 else []

    def uncut(self) -> list[Outcome]:
        """Return predictions for random recipes whose amounts are all 0: the uncompressed metrics."""
        nothing = {choice.name: choice.low for choice in self.space.choices if choice.amount}
        drawn = [self.random_point() for _ in range(ASSUMED_OUTCOMES if nothing else 0)]
        if not any(learned(recipe) for _, recipe in drawn):  # many can be tried
            return []
        return [
            Outcome(point | nothing, "", "", dict(self.reference), 0.0, stopped=True)
            for point, _ in drawn
            if nothing.keys() <= point.keys()
        ]

    def random_point(self) -> tuple[Point, Recipe]:
        """Return a random point of the space and its recipe. Raises LissomError if 100 draws are all
        invalid.
        """
        for _ in range(100):
            point: Point = {}
            try:
                return point, self.space.recipe(noting(point, self._drawn))
            except LissomError as error:
                refused = error
        raise refused

    def _drawn(self, choice: Choice) -> float:
        if choice.options:
            return int(self.draw.integers(len(choice.options)))
        if choice.log:
            low, high = np.log([choice.low, choice.high])
            return choice.number(float(np.exp(self.draw.uniform(low, high))))
        return choice.number(float(self.draw.uniform(choice.low, choice.high)))

    def near(self, point: Point) -> tuple[Point, Recipe]:
        """Return a point near another and its recipe: all numbers move a little, and at most one
        option is redrawn.

        Raises LissomError if its steps cannot be combined.
        """
        anew = self.draw.choice([choice.name for choice in self.space.choices])
        moved: Point = {}

        def choose(choice: Choice) -> float:
            value = point.get(choice.name)
            if value is None or (choice.options and choice.name == anew):
                return self._drawn(choice)
            if choice.options:
                return value
            moved_by = float(self.draw.normal(0, 0.1))  # of the range
            if choice.log:
                return choice.number(value * (choice.high / choice.low) ** moved_by)
            return choice.number(value + moved_by * (choice.high - choice.low))

        return moved, self.space.recipe(noting(moved, choose))

    def siblings(self, outcome: Outcome) -> list[tuple[Point, Recipe]]:
        """Return points that differ in one choice from an outcome and share its steps that train,
        with their recipes.
        """
        own = learned(Recipe(outcome.recipe))
        found = list[tuple[Point, Recipe]]()
        for choice in self.space.choices:
            if choice.name not in outcome.point:
                continue
            numbers = [] if choice.options else [self._drawn(choice)]
            for point, recipe in self.space.varied(outcome.point, choice, numbers):
                if learned(recipe) == own:
                    found.append((point, recipe))
        return found

    def candidates(
        self, outcomes: Sequence[Outcome], tried: set[str]
    ) -> list[tuple[Point, Recipe]]:
        """Return candidate points with their recipes, none of them tried or refused before."""
        points = [self.random_point() for _ in range(RANDOM_CANDIDATES)]
        best = self.goal.best(outcomes)
        tops = [best] if best else self.goal.front(outcomes)
        for _ in range(NEAR_CANDIDATES if tops and self.space.choices else 0):
            top = tops[int(self.draw.integers(len(tops)))]
            try:
                points.append(self.near(top.point))
            except LissomError:
                continue
        if len(self.goal.aims) > 1:  # with one aim, a sibling is rarely better
            for top in tops:
                points += self.siblings(top)
        fresh = {str(recipe): (point, recipe) for point, recipe in points}
        known = tried | self.refused.keys()
        return [each for text, each in fresh.items() if text not in known]

    def propose(
        self, outcomes: Sequence[Outcome], tried: set[str], left_s: float, *, few: bool
    ) -> Point | None:
        """Return the best point whose recipe is predicted to take at most `left_s`, or None."""
        candidates = self.candidates(outcomes, tried)
        if not candidates:
            return None
        points = np.stack([encoded(point, self.space.choices) for point, _ in candidates])
        begun = [each for each in outcomes if not each.probe]
        first = self._first(points, outcomes, begun)
        if first is not None:
            return candidates[first][0]
        effort = Effort(outcomes, self.space.choices)
        seconds = effort(points, [recipe for _, recipe in candidates])
        score = self._rated(points, outcomes, begun, seconds, few=few)
        if self.refused:
            runnable = self.runnable(points, outcomes)
            score = np.where(runnable < MIN_RUNNABLE, -1.0, score * runnable)
        score[seconds > left_s] = -1.0
        if score.max() < 0:
            return None
        return candidates[int(score.argmax())][0]

    def _first(
        self, points: np.ndarray, outcomes: Sequence[Outcome], begun: Sequence[Outcome]
    ) -> int | None:
        """Return the place of the recipe to train first, while only costs are known; None later."""
        has_learned = any(learned(Recipe(each.recipe)) for each in begun)
        if self.assumed and not has_learned:
            middle = 1 + np.abs(points - 0.5).sum(1)
        elif not begun:
            middle = np.ones(len(points))
        else:
            return None
        return int((self.costs_kept(points, outcomes) / middle).argmax())

    def _rated(
        self,
        points: np.ndarray,
        outcomes: Sequence[Outcome],
        begun: Sequence[Outcome],
        seconds: np.ndarray,
        *,
        few: bool,
    ) -> np.ndarray:
        """Return how promising each point is, given the predicted seconds of its recipe."""
        fitting = [each for each in outcomes if each.finished and self.goal.meets(each)]
        distance = self._distance(points, [each.point for each in begun])
        if few:
            assumed = self.assumed if len(begun) < ENOUGH_METRICS else []
            score = self._score(points, [*outcomes, *assumed], fitting or [self.uncompressed])
            # until something fits, other options than those that failed
            return score * ((distance >= MIN_DISTANCE) if fitting else distance)
        # a model of recipes in one corner knows nothing of the others
        if len(begun) < FIRST_RECIPES:
            return self.costs_kept(points, outcomes) * distance
        if len(self.goal.aims) == 1 and len(begun) % EXPLORE_EVERY == 0:
            # a model that is sure that the best is found may be wrong where it was never checked
            return self.hope(points, outcomes) * distance
        score = self._score(points, outcomes, fitting) / seconds**TIME_EXPONENT
        return score * (distance >= MIN_DISTANCE)

    def _distance(self, points: np.ndarray, others: Sequence[Point]) -> np.ndarray:
        """Return the distance (n) of encoded points (n numbers) from the nearest of other points."""
        places = np.stack([encoded(point, self.space.choices) for point in others])
        nearest: np.ndarray = np.abs(points[:, None] - places[None]).sum(2).min(1)
        return nearest

    def propose_several(
        self, count: int, outcomes: Sequence[Outcome], tried: set[str], remaining: RemainingBudget
    ) -> list[Point]:
        """Return up to `count` points to try in parallel. Each is chosen as if the points before it
        had their predicted outcomes.

        Source: Ginsbourger et al. 2010, Kriging Is Well-Suited to Parallelize Optimization
        (the kriging believer)
        """
        points = list[Point]()
        known_or_predicted = list(outcomes)
        few = bool(self.assumed) and expected_count(outcomes, remaining, count) < FEW_RECIPES
        for _ in range(count):
            point = self.propose(known_or_predicted, tried, remaining.seconds, few=few)
            if point is None:
                break
            points.append(point)
            if len(points) < count:
                known_or_predicted.append(self.predicted_outcome(point, known_or_predicted))
                tried = tried | {known_or_predicted[-1].recipe}
        return points

    def predicted_outcome(self, point: Point, outcomes: Sequence[Outcome]) -> Outcome:
        """Return the predicted outcome of a point."""
        recipe = self.space.at(point)
        place = encoded(point, self.space.choices)[None]
        values = dict(self.reference)
        for name in {*(name for name, _ in self.goal.aims), *(b.name for b in self.goal.bounds)}:
            if self.known(name, outcomes):
                mean, _ = self.expected(name, outcomes)(place)
                values[name] = self.scale.value(name, float(mean[0]))
        seconds = Effort(outcomes, self.space.choices)(place, [recipe])
        return Outcome(point, str(recipe), "", values, float(seconds[0]))

    def known(self, name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes in which a value is meaningful: probes have costs but no metrics, and
        stopped trainings have no costs.
        """
        metric = self.scale.is_metric(name)
        return [each for each in outcomes if not (each.probe if metric else each.stopped)]

    def costs_kept(self, points: np.ndarray, outcomes: Sequence[Outcome]) -> np.ndarray:
        """Return the probability that all bounds on costs are met, with noise to break ties."""
        score = 1 + 0.01 * self.draw.random(len(points))
        for bound in self.goal.bounds:
            if not bound.metric and len(outcomes) >= LEAST_POINTS:
                limit = self.scale.loss(bound.name, bound.number)
                score *= below(limit, *self.expected(bound.name, outcomes)(points))
        return score

    def runnable(self, points: np.ndarray, outcomes: Sequence[Outcome]) -> np.ndarray:
        """Return the probability that recipes can be run, by those that could and could not."""
        known = [*(each.point for each in outcomes), *self.refused.values()]
        places = np.stack([encoded(point, self.space.choices) for point in known])
        values = [1.0] * len(outcomes) + [0.0] * len(self.refused)
        return 1 - below(0.5, *Surrogate(places, values)(points))

    def hope(self, points: np.ndarray, outcomes: Sequence[Outcome]) -> np.ndarray:
        """Return `costs_kept`, but 0 for points that are not predicted to beat the best outcome in
        the cost to minimise. Bounds on metrics are ignored.
        """
        score = self.costs_kept(points, outcomes)
        best = self.goal.best(outcomes)
        (name, sign), *others = self.goal.aims
        if best is not None and sign < 0 and not others:
            mean, _ = self.expected(name, outcomes)(points)
            score *= mean < self.scale.loss(name, best.values[name])
        return score

    def expected(self, name: str, outcomes: Sequence[Outcome]) -> Surrogate:
        """Return the Gaussian process that predicts the loss of a value."""
        known = self.known(name, outcomes)
        points = np.stack([encoded(each.point, self.space.choices) for each in known])
        values = [self.scale.loss(name, each.values[name]) for each in known]
        assumes = any(each in self.assumed for each in known)
        amounts = numbers_of(self.space.choices, lambda choice: choice.amount)
        return Surrogate(points, values, amounts if assumes else ())

    def _score(
        self, points: np.ndarray, outcomes: Sequence[Outcome], fitting: Sequence[Outcome]
    ) -> np.ndarray:
        """Return the score of each point, before it is divided by the time. `fitting` are the
        outcomes to improve on.
        """
        probable = np.ones(len(points))
        for bound in self.goal.bounds:
            limit = self.scale.loss(bound.name, bound.number)
            probable *= below(limit, *self.expected(bound.name, outcomes)(points))
        if not fitting:
            return probable
        names = [name for name, _ in self.goal.aims]
        losses = np.array(
            [[self.scale.loss(name, each.values[name]) for name in names] for each in fitting]
        )
        expected = [self.expected(name, outcomes)(points) for name in names]
        mean = np.stack([each for each, _ in expected], 1)
        deviation = np.stack([each for _, each in expected], 1)
        if len(self.goal.aims) == 1:
            return improvement(losses.min(), mean[:, 0], deviation[:, 0]) * probable
        return gain(losses, *self.box(outcomes), mean, deviation, self.draw) * probable

    def box(self, outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper corner (aims) of the box of losses that counts for a front:
        from the least known losses, probes included, to the uncompressed network's cost, or to a
        metric with a shortfall of `far`.
        """
        names = [name for name, _ in self.goal.aims]
        low = [
            min(self.scale.loss(name, each.values[name]) for each in self.known(name, outcomes))
            for name in names
        ]
        high = [
            float(np.log(self.scale.far(name) + SHORTFALL_MARGIN))
            if self.scale.is_metric(name)
            else self.scale.loss(name, self.reference[name])
            for name in names
        ]
        return np.array(low), np.maximum(high, np.array(low) + 1e-9)


def noting(point: Point, choose: Callable[[Choice], float]) -> Callable[[Choice], float]:
    """Return a function that calls `choose` and writes each choice into `point`."""

    def note(choice: Choice) -> float:
        point[choice.name] = choose(choice)
        return point[choice.name]

    return note
