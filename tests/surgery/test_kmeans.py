"""The best few values for many numbers, against an exhaustive search and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lissom.surgery import kmeans
from lissom.surgery.kmeans import best_values


def error(numbers: np.ndarray, weights: np.ndarray, values: np.ndarray) -> float:
    return float((weights * ((numbers[:, None] - values) ** 2).min(1)).sum())


def least(numbers: np.ndarray, weights: np.ndarray, count: int) -> float:
    """Return the least error of `count` clusters of neighbours, of all that there are: O(k n^2)."""
    order = np.argsort(numbers)
    numbers, weights = numbers[order], weights[order]
    n = len(numbers)
    best = np.full((count + 1, n + 1), np.inf)
    best[0, 0] = 0
    for k in range(1, count + 1):
        for end in range(1, n + 1):
            for begin in range(end):
                x, w = numbers[begin:end], weights[begin:end]
                cost = (w * (x - np.average(x, weights=w)) ** 2).sum()
                best[k, end] = min(best[k, end], best[k - 1, begin] + cost)
    return float(best[1:, n].min())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    numbers=st.lists(st.integers(-20, 20) | st.floats(-3, 3, width=32), min_size=1, max_size=18),
    count=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_no_other_values_have_a_smaller_error(numbers: list[float], count: int, seed: int) -> None:
    x = np.array(numbers, float)
    weights = np.random.default_rng(seed).random(len(x)) + 0.01
    values = best_values(x, weights, count)
    assert len(values) <= count and (np.diff(values) > 0).all()
    wanted = least(x, weights, count)
    assert error(x, weights, values) == pytest.approx(wanted, rel=1e-9, abs=1e-10)


def test_weights_far_from_zero_lose_no_digits() -> None:
    x = 1e6 + np.arange(40) % 4
    assert best_values(x, np.ones(40), 4).tolist() == [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3]
    two = best_values(np.concatenate([x, x + 100]), np.ones(80), 2)
    assert two == pytest.approx([1e6 + 1.5, 1e6 + 101.5], abs=1e-6)


@pytest.mark.parametrize("count", [4, 16])
def test_it_is_no_worse_than_scikit_learn(count: int) -> None:
    x = np.random.default_rng(0).standard_t(3, 3000)
    ours = error(x, np.ones(len(x)), best_values(x, np.ones(len(x)), count))
    theirs = KMeans(count, n_init=3, random_state=0).fit(x[:, None]).inertia_
    assert ours <= theirs * (1 + 1e-9)


def test_many_numbers_come_within_a_hundred_thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal(20_000) ** 3
    ones = np.ones(len(x))
    found = error(x, ones, best_values(x, ones, 16))
    monkeypatch.setattr(kmeans, "MAX_EXACT_NUMBERS", 1 << 20)
    assert found <= error(x, ones, best_values(x, ones, 16)) * (1 + 1e-5)


def test_fewer_numbers_than_values_are_the_values() -> None:
    assert best_values(np.array([3.0, 1.0, 3.0]), np.ones(3), 8).tolist() == [1.0, 3.0]
