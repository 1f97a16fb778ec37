"""What every range must do; and each of them against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.menu import menu
from lissom.surgery.calibrate import Seen

RANGES = list(menu("ranges"))


def seen(*batches: torch.Tensor) -> Seen:
    found = Seen()
    for batch in batches:
        found.add(batch)
    return found


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(count=st.integers(1, 300), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_bounds_lie_within_what_was_seen(name: str, count: int, scale: float, seed: int) -> None:
    values = scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    low, high = menu("ranges").make(name)(seen(values))
    assert isinstance(low, float) and isinstance(high, float)
    assert float(values.min()) <= low <= high <= float(values.max())


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [0.0, -3.5, 7.25])
def test_of_one_value_the_range_is_that_value(name: str, value: float) -> None:
    assert menu("ranges").make(name)(seen(torch.full((4, 3), value))) == (value, value)


@pytest.mark.parametrize("name", RANGES)
def test_the_order_of_values_and_batches_does_not_matter(name: str) -> None:
    values = torch.randn(4, 500)
    pick = menu("ranges").make(name)
    assert pick(seen(*values)) == pick(seen(*values.flip(0))) == pick(seen(values.flatten()[torch.randperm(2000)]))


@pytest.mark.parametrize("name", RANGES)
def test_the_range_scales_with_the_values(name: str) -> None:
    values, pick = torch.randn(1000), menu("ranges").make(name)
    low, high = pick(seen(values))
    assert pick(seen(4 * values)) == (4 * low, 4 * high)


def test_minmax_is_least_and_greatest_of_all_batches() -> None:
    batches = [torch.randn(3, 70_000) for _ in range(3)]
    every = torch.cat(batches)
    assert menu("ranges").make("minmax")(seen(*batches)) == (float(every.min()), float(every.max()))


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 0.9999, 1.0])
@pytest.mark.parametrize("count", [11, 1000, 20_001])
def test_percentile_is_the_quantile(p: float, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0))
    found = menu("ranges").make(f"percentile({p})")(seen(values))
    wanted = np.quantile(values.numpy(), [1 - p, p], method="nearest")
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_percentile_leaves_an_outlier_out() -> None:
    values = torch.rand(100_000)
    values[17] = 1e6
    low, high = menu("ranges").make("percentile(0.999)")(seen(values))
    assert 0 <= low < 0.01 and 0.99 < high <= 1
