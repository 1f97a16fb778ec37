"""The few values that best represent many numbers: k-means in one dimension, solved exactly.

Clusters of sorted numbers are runs of neighbours, so the best k clusters of the first j numbers are
the best k - 1 clusters of the first i and one from i to j, for some i:

    error[k](j) = min over i < j of error[k - 1](i) + cost(i, j)
    cost(i, j)  = sum of w x^2 - (sum of w x)^2 / sum of w, over numbers i to j

The best i never falls as j grows, so it is searched between those of j's neighbours, which takes
O(k n log n) instead of O(k n^2).
Source: Wang and Song 2011, Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic
Programming, The R Journal; Gronlund, Larsen, Mathiasen and Nielsen 2017, Fast Exact k-Means,
k-Medians and Bregman Divergence Clustering in 1D, https://arxiv.org/abs/1701.07204.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

MAX_EXACT_NUMBERS = 1 << 14  # with more distinct numbers, clusters are not exact
MAX_LLOYD_UPDATES = 100  # if there are more numbers


def best_values(numbers: Floats, weights: Floats, count: int) -> Floats:
    """Return up to `count` rising values (count) with the least error for the numbers (n).

    The error is the sum of weight * (number - nearest value)^2. Above 16,384 distinct numbers it is
    the least that Lloyd's updates reach, starting from the best values for as many groups of
    neighbours. Weights (n) must be above 0.

    >>> best_values(np.array([0.0, 1.0, 10.0, 12.0]), np.ones(4), 2)
    array([ 0.5, 11. ])
    """
    distinct, place = np.unique(numbers, return_inverse=True)
    mass = np.bincount(place, weights=weights).astype(float)
    if len(distinct) <= count:
        return distinct
    if len(distinct) <= MAX_EXACT_NUMBERS:
        return means(distinct, mass, best_ends(distinct, mass, count))
    group = groups_of(distinct)
    heavy = np.bincount(group, weights=mass).astype(float)
    middle = np.bincount(group, weights=mass * distinct) / heavy
    return lloyd(distinct, mass, means(middle, heavy, best_ends(middle, heavy, count)))


def best_ends(numbers: Floats, weights: Floats, count: int) -> Ints:
    """Return where each of the best `count` clusters of rising numbers (n) ends: (count)."""
    sums = Sums(numbers, weights)
    n = len(numbers)
    error = sums.cost(np.zeros(n + 1, np.int64), np.arange(n + 1))
    begins = []
    for _ in range(1, count):
        error, begin = one_more(error, sums, n)
        begins.append(begin)
    ends = [n]
    for begin in reversed(begins):
        ends.append(int(begin[ends[-1]]))
    return np.array(ends[::-1])


class Sums:
    """Cumulative sums over the numbers, from which the cost of any cluster follows."""

    def __init__(self, numbers: Floats, weights: Floats) -> None:
        # centred numbers, so the sums lose no digits
        numbers = numbers - np.average(numbers, weights=weights)
        self.mass = np.concatenate([[0.0], np.cumsum(weights)])
        self.first = np.concatenate([[0.0], np.cumsum(weights * numbers)])
        self.second = np.concatenate([[0.0], np.cumsum(weights * numbers * numbers)])

    def cost(self, begin: Ints, end: Ints) -> Floats:
        """Return the error of the clusters of numbers from `begin` up to `end`; 0 if empty."""
        mass = self.mass[end] - self.mass[begin]
        first = self.first[end] - self.first[begin]
        second = self.second[end] - self.second[begin]
        spread: Floats = np.maximum(second - first * first / np.maximum(mass, 1e-300), 0.0)
        return spread


def one_more(error: Floats, sums: Sums, n: int) -> tuple[Floats, Ints]:
    """Return the least error of the first j numbers with one more cluster, and where it begins.

    Both are (n + 1).
    """
    best = np.zeros(n + 1)
    begin = np.zeros(n + 1, np.int64)
    low = np.zeros(n + 2, np.int64)  # bounds of where the cluster that ends at j may begin
    high = np.full(n + 2, n, np.int64)
    for ends, before, after in levels(n):
        from_ = low[before]
        to = np.minimum(high[after], ends)
        best[ends], begin[ends] = least(error, sums, ends, from_, np.maximum(from_, to))
        low[ends] = begin[ends]
        high[ends] = begin[ends]
    return best, begin


def levels(n: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Yield the numbers 1 to n, each once, in rounds, with their neighbours from earlier rounds.

    0 and n + 1 are the neighbours at the ends.
    """
    step = 1 << n.bit_length()
    while step > 1:
        half = step // 2
        places = np.arange(half, n + 1, step)
        if len(places):
            yield places, places - half, np.minimum(places + half, n + 1)
        step = half


def least(error: Floats, sums: Sums, ends: Ints, low: Ints, high: Ints) -> tuple[Floats, Ints]:
    """Return the least error for each end, and the begin between `low` and `high` that gives it."""
    counts = high - low + 1
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    begins = np.arange(counts.sum()) + np.repeat(low - starts, counts)
    errors = error[begins] + sums.cost(begins, np.repeat(ends, counts))
    smallest = np.minimum.reduceat(errors, starts)
    late = len(error)
    first = np.where(errors == np.repeat(smallest, counts), begins, late)
    return smallest, np.minimum.reduceat(first, starts)


def means(numbers: Floats, weights: Floats, ends: Ints) -> Floats:
    """Return the mean of each cluster, given where they end."""
    begins = np.concatenate([[0], ends[:-1]])
    full = begins < ends  # an empty cluster has no mean
    mass = np.add.reduceat(weights, begins[full])
    centres: Floats = np.add.reduceat(weights * numbers, begins[full]) / mass
    return centres


def groups_of(numbers: Floats) -> Ints:
    """Return the group of neighbours of each rising number (n).

    Groups are cut wherever groups of equal count, or of equal width, would be.
    """
    n = len(numbers)
    half = MAX_EXACT_NUMBERS // 2
    many = np.arange(n) * half // n
    wide = ((numbers - numbers[0]) / (numbers[-1] - numbers[0]) * half).astype(np.int64)
    new = np.concatenate([[0], (np.diff(many) > 0) | (np.diff(wide) > 0)])
    groups: Ints = np.cumsum(new)
    return groups


def lloyd(numbers: Floats, weights: Floats, values: Floats) -> Floats:
    """Return `values` moved to the mean of the numbers nearest to them until none moves.

    It stops after a limited number of updates.
    """
    for _ in range(MAX_LLOYD_UPDATES):
        ends = np.searchsorted(numbers, (values[1:] + values[:-1]) / 2)
        moved = means(numbers, weights, np.append(ends, len(numbers)))
        if np.array_equal(moved, values):
            break
        values = moved
    return values
