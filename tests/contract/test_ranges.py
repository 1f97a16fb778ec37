"""The contract of ranges, and each of them against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.surgery.quantization.calibrate import RangeStats

RANGES = list(menu("ranges"))


def seen(*batches: torch.Tensor) -> RangeStats:
    found = RangeStats()
    for batch in batches:
        found.add(batch, "a site")
    return found


@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(count=st.integers(1, 300), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_bounds_lie_within_what_was_seen(
    name: str, count: int, scale: float, seed: int
) -> None:
    values = scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))
    low, high = method_of("ranges", name)(seen(values))
    assert isinstance(low, float) and isinstance(high, float)
    assert float(values.min()) <= low <= high <= float(values.max())


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [0.0, -3.5, 7.25])
def test_of_one_value_the_range_is_that_value(name: str, value: float) -> None:
    assert method_of("ranges", name)(seen(torch.full((4, 3), value))) == (value, value)


# whose batches count less and less
@pytest.mark.parametrize("name", [name for name in RANGES if name != "ema"])
def test_the_order_of_values_and_batches_does_not_matter(name: str) -> None:
    values = torch.randn(4, 500)
    pick = method_of("ranges", name)
    assert (
        pick(seen(*values))
        == pick(seen(*values.flip(0)))
        == pick(seen(values.flatten()[torch.randperm(2000)]))
    )


@pytest.mark.parametrize("name", RANGES)
def test_the_range_scales_with_the_values(name: str) -> None:
    values, pick = torch.randn(1000), method_of("ranges", name)
    low, high = pick(seen(values))
    assert pick(seen(4 * values)) == (4 * low, 4 * high)


def test_minmax_is_least_and_greatest_of_all_batches() -> None:
    batches = [torch.randn(3, 70_000) for _ in range(3)]
    every = torch.cat(batches)
    assert method_of("ranges", "minmax")(seen(*batches)) == (float(every.min()), float(every.max()))


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 0.9999, 1.0])
@pytest.mark.parametrize("count", [11, 1000, 20_001])
def test_percentile_is_the_quantile(p: float, count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0))
    found = method_of("ranges", f"percentile({p})")(seen(values))
    wanted = np.quantile(values.numpy(), [1 - p, p], method="nearest")
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_percentile_leaves_an_outlier_out() -> None:
    values = torch.rand(100_000)
    values[17] = 1e6
    low, high = method_of("ranges", "percentile(0.999)")(seen(values))
    assert 0 <= low < 0.01 and 0.99 < high <= 1


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_ema_is_the_running_mean_of_batches(momentum: float) -> None:
    batches = [torch.randn(50) for _ in range(5)]
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches[1:]:
        low = (1 - momentum) * low + momentum * float(batch.min())
        high = (1 - momentum) * high + momentum * float(batch.max())
    assert method_of("ranges", f"ema({momentum})")(seen(*batches)) == (
        pytest.approx(low),
        pytest.approx(high),
    )


@pytest.mark.parametrize("top", [255, 15, 3])
def test_no_range_errs_less_than_that_of_mse(top: int) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu()

    def error(high: float) -> float:
        step = high / top
        return float((values - (values / step).round().clamp(0, top) * step).square().mean())

    _, high = method_of("ranges", "mse")(seen(values), top)
    tried = [error(float(h)) for h in np.linspace(0.05, 1, 400) * float(values.max())]
    assert error(high) <= 1.02 * min(tried)
    assert method_of("ranges", "mse")(seen(values), 3)[1] < 0.7 * float(values.max()), (
        "two bits saturate"
    )


def test_entropy_keeps_all_of_an_even_range_and_leaves_a_far_tail_out() -> None:
    even = torch.rand(100_000)
    assert method_of("ranges", "entropy")(seen(even))[1] == pytest.approx(
        float(even.max()), rel=0.02
    )
    tailed = torch.cat([torch.rand(100_000), torch.tensor([50.0, 80.0])])
    low, high = method_of("ranges", "entropy")(seen(tailed), 15)
    assert low >= 0 and 0.9 < high < 20


def test_entropy_agrees_with_a_loop_over_bins() -> None:
    from lissom.ranges.entropy import divergence

    counts = np.random.default_rng(0).integers(1, 50, 40)
    p = counts[:30].astype(float)
    q = np.zeros(30)
    for step in range(10):  # of 3 bins each
        q[3 * step : 3 * step + 3] = p[3 * step : 3 * step + 3].sum() / 3
    p[29] += counts[30:].sum()
    p, q = p / p.sum(), q / q.sum()
    assert divergence(counts, np.zeros(40), 30, 10) == pytest.approx(
        float((p * np.log(p / q)).sum())
    )


def test_a_spike_stays_in_its_bin_and_hides_nothing() -> None:
    from lissom.ranges.entropy import divergence

    smooth, spikes = np.full(40, 3.0), np.zeros(40)
    spikes[[7, 29]] = 500, 200
    assert divergence(smooth, spikes, 40, 10) == pytest.approx(0), (
        "nothing is cut, and what is merged is even"
    )
    # cut at the second spike, 30 of 820 lie beyond: they count in the smooth part of its bin, which
    # holds 3
    p, q = np.array([*[3.0] * 29, 33, 500, 200]) / 820, np.array([*[3.0] * 30, 500, 200]) / 790
    assert divergence(smooth, spikes, 30, 10) == pytest.approx(float((p * np.log(p / q)).sum()))


# leaning: of few steps on the side with the spike
KINDS = {
    "normal": lambda draw: draw.normal(size=20_000),
    "laplace": lambda draw: draw.laplace(size=20_000),
    "relu": lambda draw: np.maximum(draw.normal(size=20_000), 0),
    "leaning": lambda draw: draw.normal(size=20_000).clip(-1, None),
    "background": lambda draw: np.where(
        draw.random(20_000) < 0.5, -0.944, draw.uniform(-0.944, 2.147, 20_000)
    ),
    "relu6": lambda draw: (3 + 3 * draw.normal(size=20_000)).clip(0, 6),
    "digits": lambda draw: draw.choice(
        np.linspace(-0.944, 2.147, 17), 20_000, p=[0.5, *[1 / 32] * 16]
    ),
}


@pytest.mark.parametrize("top", [15, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_entropys_bound_is_the_best_that_a_loop_finds(kind: str, top: int) -> None:
    values = KINDS[kind](np.random.default_rng(1)).astype(np.float32)
    sizes, bins = np.abs(values[values != 0]).astype(np.float64), 512
    largest, ends = (
        float(sizes.max()),
        (min(0.0, float(values.min())), max(0.0, float(values.max()))),
    )
    counts = [0] * bins
    for size in sizes:
        counts[min(bins - 1, int(size / largest * bins))] += 1

    def smooth(at: int) -> float:
        around = [counts[abs(k) if k < bins else 2 * (bins - 1) - k] for k in range(at - 4, at + 5)]
        return float(min(counts[at], 2 * sorted(around)[4]))

    even = [smooth(at) for at in range(bins)]

    def loss(last: int) -> float:
        bound = largest * last / bins
        span = min(ends[1], bound) - max(ends[0], -bound)
        # between 0 and the bound, of those that the whole range has
        steps = min(last, int(top * bound / span) + 1)
        p, q, spikes = even[:last], [0.0] * last, [counts[at] - even[at] for at in range(last)]
        for group in range(steps):
            held = [at for at in range(last) if at * steps // last == group and p[at] > 0]
            for at in held:
                q[at] = sum(p[k] for k in held) / len(held)
        p[-1] += sum(counts[last:])
        q = (
            [max(b, 1e-4) if a else b for a, b in zip(p, q, strict=True)]
            if p[-1] and not q[-1]
            else q
        )
        whole, kept = sum(p) + sum(spikes), sum(q) + sum(spikes)
        pairs = [
            (a, b) for a, b in [*zip(p, q, strict=True), *zip(spikes, spikes, strict=True)] if a
        ]
        return float(sum(a / whole * np.log(a / whole * kept / b) for a, b in pairs))

    first = (top if kind in ("relu", "relu6") else top // 2) + 1
    losses = {last: loss(last) for last in [*range(first, bins + 1, bins // 256), bins]}
    low, high = method_of("ranges", f"entropy({bins})")(seen(torch.from_numpy(values)), top)
    found = min(bins, round(max(-low, high) / largest * bins))
    assert losses[found] == pytest.approx(min(losses.values()), abs=1e-12)
    if kind in ("background", "digits") and top == 255:
        assert high > 2.1, (
            "half of the values lie at the lower end, which would hide a fourth of them"
        )


@pytest.mark.parametrize("name", [name for name in RANGES if name != "ema"])
def test_a_background_does_not_cut_a_range(name: str) -> None:
    """Half of the pixels are black, -0.944, and others are as much as 2.147: a fault is to cut at 0.944."""
    draw = np.random.default_rng(0)
    values = KINDS["digits"](draw).astype(np.float32)
    low, high = method_of("ranges", name)(seen(torch.from_numpy(values)), 255)
    assert low == pytest.approx(-0.944) and high == pytest.approx(2.147)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_input_that_is_hardly_ever_another_value_than_0_keeps_that_value(sign: float) -> None:
    values = torch.zeros(8, 25_000)
    values[0, 3] = values[5, 7] = sign
    stats = seen(values)
    stats.parts = [torch.cat([values.flatten()[:50_000], torch.tensor([sign])])]
    low, high = method_of("ranges", "percentile")(stats)
    assert (high if sign > 0 else -low) == 1
    stats.parts = [torch.zeros(100)]  # the sample has missed it
    low, high = method_of("ranges", "percentile")(stats)
    assert (high if sign > 0 else -low) == 1
