"""Predict the time that a recipe takes when the store has the networks of earlier recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ...language.recipe import Recipe
from ...language.search_space import Choice
from .outcome import Outcome
from .surrogate import Surrogate, encoded, numbers_of

LEAST_S = 0.1  # shorter times count as this


def learned(recipe: Recipe) -> str:
    """Return a recipe up to its last step that trains, as text; '' if no step trains.

    >>> learned(Recipe("train(3) | prune(0.5) | distill('kd', 2) | quantize(8)"))
    'train(3) | prune(0.5) | distill("kd", 2)'
    >>> learned(Recipe("prune(0.5) | quantize(8)"))
    ''
    """
    last = max((k for k, step in enumerate(recipe.steps) if step.learning), default=-1)
    return str(Recipe(recipe.steps[: last + 1])) if last >= 0 else ""


def is_epochs(choice: Choice) -> bool:
    """Return whether a choice is that of the epochs of a step."""
    return choice.name.partition(" #")[0].endswith(".epochs")


@dataclass(frozen=True)
class RemainingBudget:
    """What is left of a search's budget: seconds, and recipes."""

    seconds: float
    recipes: float = math.inf


def expected_count(outcomes: Sequence[Outcome], remaining: RemainingBudget, at_once: int) -> float:
    """Return how many recipes a search is expected to run in all, if `at_once` run side by side;
    infinity before the time of one that trains is known.
    """
    begun = [each for each in outcomes if not each.probe]
    taken = [each.seconds for each in begun if learned(Recipe(each.recipe))]
    if not taken:
        return math.inf
    more = min(at_once * remaining.seconds / max(median(taken), LEAST_S), remaining.recipes)
    return len(begun) + more


class Effort:
    """Predict the seconds that recipes take from those of earlier recipes, run to their end.

    If an earlier recipe had the same steps up to the last one that trains, its network is in the
    store. Then the prediction is the median time of earlier recipes that did not have to train.
    More epochs are expected to take longer.
    """

    def __init__(self, outcomes: Sequence[Outcome], choices: Sequence[Choice]) -> None:
        self.stored = {""}
        whole = list[Outcome]()
        rest = list[Outcome]()
        for each in outcomes:
            if each.stopped:
                continue
            part = "" if each.probe else learned(Recipe(each.recipe))
            (rest if part in self.stored else whole).append(each)
            self.stored.add(part)
        self.rest_s = median([each.seconds for each in rest or whole]) if rest or whole else 0.0
        self.whole = None
        if whole:
            points = np.stack([encoded(each.point, choices) for each in whole])
            logarithms = [np.log(max(each.seconds, LEAST_S)) for each in whole]
            self.whole = Surrogate(points, logarithms, numbers_of(choices, is_epochs))

    def __call__(self, points: np.ndarray, recipes: Sequence[Recipe]) -> np.ndarray:
        """Return the predicted seconds (n) of recipes with their encoded points (n numbers)."""
        is_left = np.array([learned(recipe) not in self.stored for recipe in recipes])
        if self.whole is None:
            return np.full(len(recipes), self.rest_s)
        return np.where(is_left, np.exp(self.whole(points)[0]), self.rest_s)
