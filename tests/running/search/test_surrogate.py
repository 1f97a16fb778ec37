"""Gaussian processes predict what is known of them in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from lissom.language.search_space import SearchSpace
from lissom.running.search.surrogate import Surrogate, numbers_of, slopes_of

SPACE = 'prune(0..0.8, by={l1, fisher}) | distill("kd", {2, 5}) | {fold, prune(0..0.5)}'


def test_a_line_that_rises_goes_on_where_nothing_is_known() -> None:
    places = np.array([[0.0, 1.0], [0.1, 0.0], [0.3, 0.5]])
    values = [1.0, 1.2, 1.6]  # 1 + 2 * the first number
    far = np.array([[1.0, 0.5]])
    mean, _ = Surrogate(places, values, [0])(far)
    assert mean == pytest.approx([3.0], abs=1e-6)
    mean, deviation = Surrogate(places, values)(far)  # without the line
    assert mean < 2 and deviation > 0.01


def test_two_values_give_the_line_and_their_mean() -> None:
    mean, _ = Surrogate(np.array([[0.0], [0.5]]), [1.0, 3.0], [0])(np.array([[1.0]]))
    assert mean == pytest.approx([5.0])
    mean, deviation = Surrogate(np.array([[0.0], [0.5]]), [1.0, 3.0])(np.array([[1.0]]))
    assert mean == pytest.approx([2.0]) and deviation == pytest.approx([1.0])


def test_no_slope_is_negative() -> None:
    assert slopes_of(np.array([[0.0], [1.0]]), np.array([3.0, 1.0])) == pytest.approx([0.0])
    assert slopes_of(np.zeros((2, 0)), np.array([3.0, 1.0])).shape == (0,)


def test_amounts_are_found_among_the_numbers_of_a_point() -> None:
    choices = SearchSpace(SPACE).choices
    assert [each.name for each in choices if each.amount] == ["prune.amount", "prune.amount #2"]
    # prune.amount, one each of l1 and fisher, distill.epochs, one each of fold and prune, the second
    assert numbers_of(choices, lambda choice: choice.amount) == [0, 6]
