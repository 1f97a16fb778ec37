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


@pytest.mark.parametrize("name", [name for name in RANGES if name != "ema"])  # whose batches count less and less
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


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_ema_is_the_running_mean_of_batches(momentum: float) -> None:
    batches = [torch.randn(50) for _ in range(5)]
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches[1:]:
        low = (1 - momentum) * low + momentum * float(batch.min())
        high = (1 - momentum) * high + momentum * float(batch.max())
    assert menu("ranges").make(f"ema({momentum})")(seen(*batches)) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("top", [255, 15, 3])
def test_no_range_errs_less_than_that_of_mse(top: int) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu()

    def error(high: float) -> float:
        step = high / top
        return float((values - (values / step).round().clamp(0, top) * step).square().mean())
    _, high = menu("ranges").make("mse")(seen(values), top)
    tried = [error(float(h)) for h in np.linspace(0.05, 1, 400) * float(values.max())]
    assert error(high) <= 1.02 * min(tried)
    assert menu("ranges").make("mse")(seen(values), 3)[1] < 0.7 * float(values.max()), "two bits saturate"


def test_entropy_keeps_all_of_an_even_range_and_leaves_a_far_tail_out() -> None:
    even = torch.rand(100_000)
    assert menu("ranges").make("entropy")(seen(even))[1] == pytest.approx(float(even.max()), rel=0.02)
    tailed = torch.cat([torch.rand(100_000), torch.tensor([50.0, 80.0])])
    low, high = menu("ranges").make("entropy")(seen(tailed), 15)
    assert low >= 0 and 0.9 < high < 20


def test_entropy_agrees_with_a_loop_over_bins() -> None:
    from lissom.ranges.entropy import divergence
    counts = np.random.default_rng(0).integers(1, 50, 40)
    p = counts[:30].astype(float)
    q = np.zeros(30)
    for step in range(10):  # of 3 bins each
        q[3 * step:3 * step + 3] = p[3 * step:3 * step + 3].sum() / 3
    p[29] += counts[30:].sum()
    p, q = p / p.sum(), q / q.sum()
    assert divergence(counts, 30, 10) == pytest.approx(float((p * np.log(p / q)).sum()))


@pytest.mark.parametrize("top", [15, 255])
@pytest.mark.parametrize("kind", ["normal", "laplace", "relu"])
def test_entropys_bound_is_the_best_that_a_loop_finds(kind: str, top: int) -> None:
    draw = np.random.default_rng(1)
    values = {"normal": draw.normal, "laplace": draw.laplace, "relu": draw.normal}[kind](size=20_000).astype(np.float32)
    values = np.maximum(values, 0) if kind == "relu" else values
    sizes, bins = np.abs(values[values != 0]), 512
    steps, counts = (top if kind == "relu" else top // 2) + 1, np.histogram(sizes, bins, (0, sizes.max()))[0].astype(float)

    def loss(last: int) -> float:
        p, q = counts[:last].copy(), np.zeros(last)
        for group in np.array([i * steps // last for i in range(last)])[None] == np.arange(steps)[:, None]:
            held = group & (p > 0)
            q[held] = p[group].sum() / max(1, held.sum())
        p[-1] += counts[last:].sum()
        q[(p > 0) & (q == 0)] = 1e-4
        p, q = p / p.sum(), q / q.sum()
        return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a))

    losses = {last: loss(last) for last in range(steps, bins + 1, bins // 256)}
    low, high = menu("ranges").make(f"entropy({bins})")(seen(torch.from_numpy(values)), top)
    found = round(max(-low, high) / float(sizes.max()) * bins)
    assert losses[found] == min(losses.values())
