"""Predict how much a recipe will improve a Pareto front."""

from __future__ import annotations

import numpy as np

from .surrogate import below

BOX_POINTS = 2000  # random points in the box


def gain(
    losses: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    draw: np.random.Generator,
) -> np.ndarray:
    """Return for each candidate (c) the expected share of a box that it dominates but the front
    does not.

    The box reaches from `low` (aims) to `high` (aims). Losses dominate a point if they are no
    larger in any aim. The front is that of `losses` (n aims). The losses of candidates are
    independent and normally distributed with `mean` and `deviation` (c aims). The share is
    estimated by Monte Carlo sampling.

    Source: Emmerich et al. 2006, Single- and Multiobjective Evolutionary Optimization Assisted by
    Gaussian Random Field Metamodels (expected hypervolume improvement)
    """
    points = low + (high - low) * draw.random((BOX_POINTS, len(low)))
    is_open = ~(losses[:, None] <= points).all(2).any(0)
    chances = np.ones((len(mean), int(is_open.sum())))
    for aim in range(len(low)):
        chances *= below(points[is_open, aim], mean[:, aim, None], deviation[:, aim, None])
    return chances.sum(1) / BOX_POINTS
