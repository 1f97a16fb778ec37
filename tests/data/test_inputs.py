"""Inputs drawn from a record lie in the range that it states."""

from __future__ import annotations

import pytest
import torch

from lissom.data.inputs import example_in, inputs_of


@pytest.mark.parametrize(("low", "high"), [(-5, 0), (0, 3), (-2, -1), (0, 0)])
def test_integers_are_drawn_from_the_whole_range(low: int, high: int) -> None:
    seen = torch.tensor([[low], [high]])
    facts = inputs_of(seen)
    drawn = example_in(facts, 0, 200)
    assert set(drawn.flatten().tolist()) == set(range(low, high + 1))
    unknown = example_in([{**facts[0], "low": None, "high": None}], 0, 20)
    assert set(unknown.flatten().tolist()) == {0}
