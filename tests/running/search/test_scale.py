"""Losses order the values of a search as its goal does."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from landscape import FLOAT

from lissom.language.want import Want
from lissom.running.search.goal import Goal
from lissom.running.search.scale import Scale


@pytest.mark.parametrize("want", ["accurate", "fastest, top1 >= float - 0.6", "front"])
def test_more_than_the_uncompressed_network_has_counts(want: str) -> None:
    """Losses order metrics above the float network's, and on both sides of a limit far below it."""
    scale = Scale(Goal.of(Want.of(want), ["top1"], ["onnxruntime"], FLOAT), FLOAT)
    values = [1.4, 1.05, 0.99, 0.96, 0.95, 0.94, 0.8, 0.7]
    values += [0.4, 0.3] if "0.6" in want else []
    losses = [scale.loss("top1", value) for value in values]
    assert all(a < b for a, b in pairwise(losses))
    for value, lost in zip(values, losses, strict=True):
        assert scale.value("top1", lost) == pytest.approx(value)
