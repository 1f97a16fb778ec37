"""Gaussian processes that predict the results of recipes that were not run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...language.search_space import Choice
from .outcome import Point

LEAST_POINTS = 3  # fewer points are not fitted


def encoded(point: Point, choices: Sequence[Choice]) -> np.ndarray:
    """Return a point as numbers from 0 to 1: one for each range or set of numbers, and a one-hot
    code for each other set.

    Numbers of a set are ranked: {2, 5, 10} are 0, 0.5 and 1. A choice inside an option that was not
    taken is 0.5, or 0 if it is an amount, since without its step nothing is cut.
    """
    numbers = list[float]()
    for choice in choices:
        value = point.get(choice.name)
        if choice.options and not choice.numbers:
            numbers += [float(place == value) for place in range(len(choice.options))]
        elif value is None:
            numbers.append(0.0 if choice.amount else 0.5)
        elif choice.options:
            ranks = sorted(choice.numbers)
            numbers.append(ranks.index(choice.numbers[int(value)]) / max(len(ranks) - 1, 1))
        elif choice.log:
            numbers.append(math.log(value / choice.low) / math.log(choice.high / choice.low))
        else:
            numbers.append((value - choice.low) / (choice.high - choice.low))
    return np.array(numbers)


def numbers_of(choices: Sequence[Choice], wanted: Callable[[Choice], bool]) -> list[int]:
    """Return the places of choices among the numbers of an encoded point."""
    widths = [len(each.options) if each.options and not each.numbers else 1 for each in choices]
    starts = np.cumsum([0, *widths])
    return [int(start) for start, each in zip(starts, choices, strict=False) if wanted(each)]


class Surrogate:
    """A Gaussian process with fitted noise and a length scale for each number of a point.

    If values are known to rise with some numbers of a point, `rising`, it predicts what they differ
    from a line that does. Otherwise it expects the mean far from all points.
    """

    def __init__(
        self, points: np.ndarray, values: Sequence[float], rising: Sequence[int] = ()
    ) -> None:
        self.rising = list(rising)
        self.slopes = slopes_of(points[:, self.rising], np.asarray(values))
        rest = np.asarray(values) - points[:, self.rising] @ self.slopes
        self.center = float(np.mean(rest))
        self.spread = float(np.std(rest)) or 1e-9
        self.process: Any = None
        if len(values) >= LEAST_POINTS:
            scaled = (rest - self.center) / self.spread
            self.process = fitted(tuple(map(tuple, points.tolist())), tuple(scaled.tolist()))

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted mean and standard deviation (n) at each point (n numbers)."""
        line = self.center + points[:, self.rising] @ self.slopes
        if self.process is None:
            return line, np.full(len(points), self.spread)
        mean, deviation = self.process.predict(points, return_std=True)
        return mean * self.spread + line, np.maximum(deviation * self.spread, 1e-12)


def slopes_of(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the slopes (m), none of them negative, of the line that fits values (n) at places (n m)
    best.
    """
    from scipy.optimize import nnls

    if not places.shape[1]:
        return np.zeros(0)
    lines = np.column_stack([np.ones(len(values)), places])
    found, _ = nnls(lines, values - values.min())
    return np.asarray(found[1:])


# one round asks for the same fit several times: for a bound, for an aim, and to judge a training
@lru_cache(maxsize=32)
def fitted(points: tuple[tuple[float, ...], ...], values: tuple[float, ...]) -> Any:
    """Return a Gaussian process fitted to values of mean 0 and deviation 1, one for each point."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths = [0.5] * len(points[0])
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * Matern(lengths, (0.1, 10.0), nu=2.5)
    process: Any = GaussianProcessRegressor(kernel + WhiteKernel(1e-3, (1e-6, 0.1)), random_state=0)
    with warnings.catch_warnings():
        # a length scale at its bound only means that the choice matters little
        warnings.simplefilter("ignore")
        return process.fit(np.array(points), np.array(values))


def below(limit: float, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the probability that a normal variable is at most `limit`."""
    from scipy.stats import norm

    return np.asarray(norm.cdf((limit - mean) / deviation))


def improvement(best: float, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the expected improvement of a normal variable below `best`.

    EI = (best - mean) * cdf(z) + deviation * pdf(z),  z = (best - mean) / deviation

    Source: Jones et al. 1998, Efficient Global Optimization of Expensive Black-Box Functions
    """
    from scipy.stats import norm

    z = (best - mean) / deviation
    return np.asarray((best - mean) * norm.cdf(z) + deviation * norm.pdf(z))
