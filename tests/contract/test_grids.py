"""The contract of grids: few values, gradients as in the formula, integers that stand for the same
values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.exporting.floats import FloatRounding
from lissom.language.grid import Grid
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.surgery.quantization.kernels import clipped, equal_steps, product, signs
from lissom.surgery.quantization.rounding import Rounding

Made = Any
WEIGHTS = [(name, bits) for name in menu("grids") for bits in menu("grids")[name].of_weights]  # type: ignore[attr-defined]
INPUTS = [(name, bits) for name in menu("grids") for bits in menu("grids")[name].of_inputs]  # type: ignore[attr-defined]
VARIANTS = [
    *WEIGHTS,
    ("ternary(scale=False)", 2),
    ("ternary(gap=0.8)", 2),
    ("binary(scale=False)", 1),
    ("binary(centre=True)", 1),
    ("uniform(granularity='tensor')", 4),
    *(
        (f"uniform({more})", bits)
        for bits in (2, 4, 8)
        for more in (
            "asymmetric_weights=True",
            "granularity='tensor', asymmetric_weights=True",
            "weights_momentum=0.1",
        )
    ),
    *(
        (f"ternary({more})", 2)
        for more in (
            "centre=True",
            "centre=True, gap=0.8",
            "gradient='ste', through_scale=True",
            "gradient='saturate', centre=True",
            "gradient='soft', scale=False",
        )
    ),
    ("binary(gradient='ste', through_scale=True)", 1),
    ("binary(through_scale=True, centre=True)", 1),
    *(
        (f"dorefa(gradient='{kind}')", bits)
        for kind in ("ste", "saturate", "soft")
        for bits in (1, 4)
    ),
]
INPUT_VARIANTS = [
    *INPUTS,
    ("uniform(symmetric=True)", 4),
    ("binary(zero=True)", 1),
    *(
        (f"{name}(gradient='{kind}')", 2)
        for name in ("ternary", "dorefa")
        for kind in ("ste", "saturate", "soft")
    ),
]


def grid(text: str) -> Grid:
    found = method_of("grids", text)
    assert isinstance(found, Grid)
    return found


def of_weights(text: str, bits: int, weight: Tensor) -> Rounding:
    return Rounding(grid(text), bits, "weights", grid(text).hold_weights(weight, bits))


def of_inputs(text: str, bits: int, low: float, high: float) -> Rounding:
    return Rounding(grid(text), bits, "inputs", grid(text).hold_inputs(low, high, bits))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("text", "bits"), VARIANTS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    out=st.integers(1, 5),
    inputs=st.integers(1, 6),
    scale=st.floats(1e-3, 30),
    seed=st.integers(0, 99),
)
def test_a_filter_has_at_most_two_to_the_bits_values_and_they_are_its_integers(
    text: str, bits: int, out: int, inputs: int, scale: float, seed: int
) -> None:
    weight = scale * drawn(out, inputs, 3, 3, seed=seed)
    if "centre" in text and inputs == 1:
        with pytest.raises(LissomError, match="have one alone"):
            of_weights(text, bits, weight)
        return
    made = of_weights(text, bits, weight)
    with torch.no_grad():
        values = made(weight)
        codes, scales = made.codes(weight)
    assert codes.shape == weight.shape and scales.shape == (out,) and bool((scales > 0).all())
    stored = codes if made.zeros() is None else codes + made.zeros().view(-1, 1, 1, 1)  # type: ignore[union-attr]
    assert (
        torch.equal(codes, codes.round())
        and float(stored.min()) >= -128
        and float(stored.max()) <= 127
    )
    assert torch.equal(made.stored(codes).float(), stored), "files hold the same integers"
    torch.testing.assert_close(
        values, codes * scales.view(-1, 1, 1, 1), rtol=2e-5, atol=1e-6 * scale
    )
    for k in range(out):
        assert len(codes[k].unique()) <= (3 if text.startswith("ternary") else 2**bits)


@pytest.mark.parametrize(("text", "bits"), VARIANTS)
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 2, 3, 3), torch.full((3, 2, 3, 3), 0.25), 1e-20 * torch.ones(2, 2, 1, 1)],
    ids=["zeros", "one value", "tiny"],
)
def test_weights_of_one_value_stay_finite(text: str, bits: int, weight: Tensor) -> None:
    made = of_weights(text, bits, weight)
    learned = weight.clone().requires_grad_()
    values = made(learned)
    values.sum().backward()
    assert (
        torch.isfinite(values).all()
        and learned.grad is not None
        and torch.isfinite(learned.grad).all()
    )


@pytest.mark.parametrize(("text", "bits"), INPUT_VARIANTS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-2.5, 4.0), (0.0, 0.0)])
def test_inputs_have_at_most_two_to_the_bits_values_and_they_are_its_integers(
    text: str, bits: int, low: float, high: float
) -> None:
    made, x = of_inputs(text, bits, low, high), 4 * drawn(500)[None]
    with torch.no_grad():
        values = made(x)
    assert len(values.unique()) <= (3 if text.startswith("ternary") else 2**bits)
    # whose integers show at each call alone; tests/targets/test_dynamic.py has the formula
    if made.grid.at_run_time:
        assert not made.held
        return
    codes = made.input_codes()
    assert 0 <= codes.zero <= codes.top <= 255
    q = (
        np.where(x.numpy() >= 0, codes.top, 0)
        if codes.sign
        else np.clip(
            np.rint(x.numpy().astype(np.float32) / np.float32(codes.scale)) + codes.zero,
            0,
            codes.top,
        )
    )
    sure = np.abs(np.abs(x.numpy() / float(codes.scale)) % 1 - 0.5) > 1e-3  # ties fall either way
    sure |= codes.sign
    np.testing.assert_allclose(
        values.numpy()[sure], ((q - codes.zero) * float(codes.step))[sure], rtol=1e-5, atol=1e-7
    )
    made.__class__ = FloatRounding
    made.register_buffers()
    with torch.no_grad():
        # ties fall either way, and signs of what is nearly 0
        off = ~torch.isclose(made(x), values, rtol=1e-5, atol=1e-6)
    assert off.float().mean() < 0.01, "operations on floats round alike"


@pytest.mark.parametrize(("text", "bits"), INPUT_VARIANTS)
def test_half_precision_comes_out_as_it_went_in(text: str, bits: int) -> None:
    x = drawn(1, 9).bfloat16().requires_grad_()
    found = of_inputs(text, bits, 0.0, 2.0)(x)
    found.sum().backward()
    assert found.dtype == x.grad.dtype == torch.bfloat16


def test_bits_that_a_grid_has_not_are_an_error() -> None:
    for text in (
        "quantize(8, grid='pow2')",
        "quantize(1, grid='lsq')",
        "quantize(4, inputs_grid='pow2')",
        "quantize(9)",
        "quantize(16)",
        "quantize(0)",
        "quantize('quaternary')",
    ):
        with pytest.raises(LissomError):
            method_of("steps", text)


# each grid against its formula


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_weights_round_up_to_the_largest(bits: int) -> None:
    weight, n = drawn(4, 50), 2 ** (bits - 1) - 1
    for k, row in enumerate(weight.numpy()):
        s = np.abs(row).max() / n
        np.testing.assert_allclose(
            of_weights("uniform", bits, weight)(weight)[k].numpy(),
            np.clip(np.rint(row / s), -n, n) * s,
            rtol=1e-5,
            atol=1e-6,
        )
    whole = of_weights("uniform(granularity='tensor')", bits, weight).codes(weight)[1]
    assert whole.unique().numel() == 1 and float(whole[0]) == pytest.approx(
        float(weight.abs().max()) / n
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_asymmetric_weights_use_the_range_of_each_filter(bits: int, granularity: str) -> None:
    weight, n = drawn(4, 50) + torch.tensor([[0.0], [1.5], [-0.4], [5.0]]), 2**bits - 1
    weight.requires_grad_()
    made = of_weights(
        f"uniform(granularity='{granularity}', asymmetric_weights=True)", bits, weight.detach()
    )
    g = drawn(4, 50, seed=1)
    found = made(weight)
    (found * g).sum().backward()
    rows = weight.detach().double().numpy()
    for k, row in enumerate(rows):
        of = row if granularity == "channel" else rows
        low, high = min(of.min(), 0), max(of.max(), 0)
        s = (high - low) / n
        z = np.rint(-low / s)
        q = np.rint(row / s) + z
        np.testing.assert_allclose(
            found[k].detach().numpy(), (np.clip(q, 0, n) - z) * s, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(
            weight.grad[k].numpy(), np.where((q >= 0) & (q <= n), g[k].numpy(), 0)
        )
        assert int(made.zeros()[k]) == z - 2 ** (bits - 1)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_range_of_weights_moves_by_the_momentum_that_is_given(asymmetric: bool) -> None:
    first, n = drawn(3, 40), 7
    made = of_weights(f"uniform(weights_momentum=0.1, asymmetric_weights={asymmetric})", 4, first)
    low, high = first.amin(1), first.amax(1)
    for k in range(1, 4):
        weight = first * (1 + 0.5 * k)
        found = made(weight)
        low, high = 0.9 * low + 0.1 * weight.amin(1), 0.9 * high + 0.1 * weight.amax(1)
        s = ((high - low) / 15 if asymmetric else torch.maximum(-low, high) / n)[:, None]
        z = (-low[:, None] / s).round() if asymmetric else torch.full((3, 1), 8.0)
        q = (weight / s).round() + z
        torch.testing.assert_close(found, (q.clamp(0 if asymmetric else 1, 15) - z) * s)
        assert bool((q > 15).any()), "the weights grow faster than their range"
    made.refresh(10 * first)
    torch.testing.assert_close(made.codes(weight)[1], s[:, 0])
    made.eval()
    made(10 * first)
    torch.testing.assert_close(
        made.codes(weight)[1], s[:, 0], msg="a range moves in training alone"
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_the_step_of_lsq_starts_where_the_error_is_least(bits: int) -> None:
    weight = drawn(3, 400)
    steps = of_weights("lsq", bits, weight).codes(weight)[1]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for row, step in zip(weight.numpy(), steps.numpy(), strict=True):

        def error(s: float, row: Any = row) -> float:
            return float(np.square(np.clip(np.rint(row / s), low, high) * s - row).sum())

        assert error(step) <= 1.03 * min(
            error(float(s)) for s in np.linspace(0.05, 1, 500) * np.abs(row).max() / high
        )


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_gradients_of_lsq_are_those_of_the_paper(bits: int) -> None:
    weight = drawn(2, 30).requires_grad_()
    made = of_weights("lsq", bits, weight.detach())
    with torch.no_grad():
        made.step.mul_(0.5)  # so that some saturate
    g = drawn(2, 30, seed=1)
    (made(weight) * g).sum().backward()
    low, high = (-127, 127) if bits == 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    v = weight.detach() / made.step.detach()[:, None]
    inside = (v.round() >= low) & (v.round() <= high)
    torch.testing.assert_close(weight.grad, g * inside)
    by_step = (
        torch.where(inside, v.round() - v, v.clamp(low, high)) * g / (30 * (2**bits - 1) / 2) ** 0.5
    )
    torch.testing.assert_close(made.step.grad, by_step.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "every other"])
@pytest.mark.parametrize(("low", "zero"), [(0.0, 0), (-1.0, 1)])
def test_the_gradients_of_lsq_inputs_are_those_of_the_paper(
    low: float, zero: int, layout: str
) -> None:
    x = 3 * drawn(4, 2, 5, 6)
    x = {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "every other": x[:, :, :, ::2],
    }[layout]
    x = x.detach().requires_grad_()
    made = of_inputs("lsq", 2, low, low + 3.0)  # a step of 1
    g = drawn(*x.shape, seed=1)
    y = made(x)
    (y * g).sum().backward()
    v, ends = x.detach(), (-zero, 3 - zero)
    torch.testing.assert_close(y.detach(), v.round().clamp(*ends))
    inside = (v > ends[0]) & (v < ends[1])
    torch.testing.assert_close(x.grad, g * inside)
    wanted = (torch.where(inside, v.round() - v, v.clamp(*ends)) * g).sum() / (
        x[0].numel() * 1.5
    ) ** 0.5
    torch.testing.assert_close(made.step.grad[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_inputs_of_bfloat16_are_rounded_as_floats_are(bits: int) -> None:
    made, levels = of_inputs("lsq", bits, 0.0, 2.0**bits - 1), 2**bits - 1  # a step of 1
    x = (levels * torch.special.ndtr(drawn(32, 8, 8, 8)) + 0.01).bfloat16().requires_grad_()
    g = drawn(*x.shape, seed=1).bfloat16()
    y = made(x)
    (y * g).sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    v, slopes = x.detach().float(), g.float()
    torch.testing.assert_close(y.detach().float(), v.round().clamp(0, levels), rtol=0, atol=0)
    inside = (v > 0) & (v < levels)
    torch.testing.assert_close(x.grad.float(), slopes * inside, rtol=0, atol=0)
    parts = (
        torch.where(inside, v.round() - v, v.clamp(0, levels))
        * slopes
        / (x[0].numel() * levels / 2) ** 0.5
    )
    assert float(made.step.grad) == pytest.approx(float(parts.sum()), rel=0.01)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 8), part=st.floats(0, 1), step=st.floats(1e-3, 10), seed=st.integers(0, 99)
)
def test_steps_of_bfloat16_are_those_of_floats(
    bits: int, part: float, step: float, seed: int
) -> None:
    top = 2**bits - 1
    zero, x = round(part * top), (step * top * drawn(4, 8, 4, 4, seed=seed)).bfloat16()
    x = x.to(memory_format=torch.channels_last if seed % 2 else torch.contiguous_format)
    found = equal_steps(x, torch.tensor(step), zero, top)
    assert found.stride() == x.stride()
    values = x.double() / step
    sure = ((values % 1) - 0.5).abs() > 1e-4  # ties fall either way
    wanted = (values.round().clamp(-zero, top - zero) * step).float().bfloat16()
    torch.testing.assert_close(found[sure], wanted[sure], rtol=2**-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 16, 4, 4), (3, 5, 7, 2), (6, 10)])
@pytest.mark.parametrize("layouts", ["alike", "mixed"])
def test_a_sum_of_products_is_summed_in_floats(
    dtype: torch.dtype, shape: tuple[int, ...], layouts: str
) -> None:
    a, b = ((1 + drawn(*shape, seed=seed)).to(dtype) for seed in (1, 2))
    if len(shape) == 4:
        a = a.to(memory_format=torch.channels_last)
        b = b.to(memory_format=torch.channels_last) if layouts == "alike" else b
    found = product(a, b)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float((a.double() * b.double()).sum()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "run",
    [
        lambda x: equal_steps(x, torch.tensor(0.5), 0, 15),
        lambda x: clipped(x, 2.0),
        lambda x: signs(x, 0.0, -1, "saturate"),
    ],
    ids=["steps", "clipped", "signs"],
)
def test_gradients_lie_in_memory_as_values_do(run: Any, dtype: torch.dtype) -> None:
    """The gradient of a mean comes in another layout; kept, it makes all before it in the backward
    pass slow.
    """
    x = drawn(4, 8, 8, 8).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    held = x * 1
    held.register_hook(seen.append)
    run(held).mean((2, 3)).square().sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_what_is_clipped_is_a_relu_with_a_top() -> None:
    x, g = (2 * drawn(3, 40)).requires_grad_(), drawn(3, 40, seed=1)
    found = clipped(x, 1.5)
    (found * g).sum().backward()
    torch.testing.assert_close(found.detach(), x.detach().clamp(0, 1.5))
    torch.testing.assert_close(x.grad, g * ((x.detach() > 0) & (x.detach() < 1.5)))


@pytest.mark.parametrize("grid", ["uniform", "lsq"])
@pytest.mark.parametrize(("low", "high"), [(0, 5.0), (-2.0, 3.0), (-1.0, 0.0), (0.0, 0.0)])
def test_equal_steps_of_inputs_are_those_of_pytorch(grid: str, low: float, high: float) -> None:
    x, made = 3 * drawn(50, 40), of_inputs(grid, 8, low, high)
    codes = made.input_codes()
    wanted = torch.fake_quantize_per_tensor_affine(x, float(codes.scale), codes.zero, 0, codes.top)
    torch.testing.assert_close(made(x).detach(), wanted, rtol=1e-6, atol=float(codes.scale) * 1e-5)


def test_pact_learns_its_bound_from_what_lies_beyond() -> None:
    x = torch.tensor([[-1.0, 0.2, 1.4, 2.5, 7.0]], requires_grad=True)
    made = of_inputs("pact", 2, 0, 2.0)
    found = made(x)
    torch.testing.assert_close(found.detach(), torch.tensor([[0, 0, 4 / 3, 2, 2]]))
    found.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 0, 0]] and made.bound.grad.tolist() == [2.0]


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_dorefa_is_its_formula(bits: int) -> None:
    weight = drawn(3, 40).requires_grad_()
    n = 2**bits - 1
    squeezed = np.tanh(weight.detach().numpy())
    wanted = 2 * np.rint((squeezed / (2 * np.abs(squeezed).max()) + 0.5) * n) / n - 1
    made = of_weights("dorefa", bits, weight.detach())
    np.testing.assert_allclose(made(weight).detach().numpy(), wanted, atol=1e-6)
    made(weight)[0, 0].backward()
    # itself, and the largest of all
    assert weight.grad is not None and int((weight.grad != 0).sum()) == 2
    top = np.unravel_index(np.abs(squeezed).argmax(), squeezed.shape)
    if top != (0, 0):
        slope = (1 - squeezed[0, 0] ** 2) / np.abs(squeezed).max()
        assert float(weight.grad[0, 0]) == pytest.approx(slope, rel=1e-4)
    x = torch.tensor([[-3.0, 0.4, 5.0, 9.9, 30.0]])
    np.testing.assert_allclose(
        of_inputs("dorefa", bits, 0, 1)(x).numpy(),
        np.rint(np.clip(0.1 * x.numpy(), 0, 1) * n) / n,
        atol=1e-6,
    )
    assert of_inputs("dorefa(prescale=1)", bits, 0, 1)(x)[0, 2] == 1


def test_dorefa_of_one_bit_is_the_sign_times_the_mean_of_all() -> None:
    weight = drawn(3, 40)
    torch.testing.assert_close(
        of_weights("dorefa", 1, weight)(weight), weight.sign() * weight.abs().mean()
    )


@pytest.mark.parametrize("scale", [True, False])
def test_ternary_is_its_formula(scale: bool) -> None:
    weight = drawn(5, 60).requires_grad_()
    found = of_weights(f"ternary(scale={scale})", 2, weight.detach())(weight)
    for row, got in zip(weight.detach().numpy(), found.detach().numpy(), strict=True):
        bound = 0.7 * np.abs(row).mean()
        t = np.sign(np.sign(row + bound) + np.sign(row - bound))
        np.testing.assert_allclose(
            got, t * (np.abs(row)[np.abs(row) > bound].mean() if scale else 1), atol=1e-6
        )
    found.sum().backward()
    assert weight.grad is not None and bool((weight.grad == 1).all())


def test_the_gap_of_ternary_keeps_what_was_there_before() -> None:
    weight = drawn(1, 200)
    made = of_weights("ternary(gap=0.5, scale=False)", 2, weight)
    before = made(weight).clone()
    bound = 0.7 * weight.abs().mean()
    moved = weight * 0.8
    again = made(moved)
    near = 0.7 * moved.abs().mean()
    between = (moved.abs() > 0.5 * near) & (moved.abs() < near)
    assert between.any() and torch.equal(again[between], before[between])
    assert bool((again[moved.abs() <= 0.5 * near] == 0).all()) and bool(
        (again[moved >= near] == 1).all()
    )
    assert torch.equal(before, weight.sign() * (weight.abs() > bound))
    scaled = of_weights("ternary(gap=0.5)", 2, weight)
    assert torch.equal(scaled(weight).sign(), before)
    torch.testing.assert_close(scaled.codes(weight)[1], weight.abs()[before != 0].mean()[None])


def test_binary_is_sign_times_mean() -> None:
    weight = drawn(4, 2, 3, 3)
    weight[0, 0, 0, 0] = 0
    found = of_weights("binary", 1, weight)(weight)
    wanted = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, wanted)
    assert set(of_weights("binary(scale=False)", 1, weight)(weight).unique().tolist()) == {
        -1.0,
        1.0,
    }
    centred = (weight - weight.mean(1, keepdim=True)).clamp(-1, 1)
    found = of_weights("binary(centre=True)", 1, weight)(weight)
    torch.testing.assert_close(found.sign(), torch.where(centred >= 0, 1.0, -1.0))


@pytest.mark.parametrize(
    ("gradient", "slope"),
    [
        ("ste", torch.ones_like),
        ("saturate", lambda x: (x.abs() < 1) * 1.0),
        ("soft", lambda x: (1 - x.abs()).clamp_min(0)),
    ],
)
def test_the_gradient_of_a_binary_input_is_the_one_asked_for(gradient: str, slope: Any) -> None:
    x = (1.5 * drawn(1, 50)).requires_grad_()
    for zero in (False, True):
        x.grad = None
        found = of_inputs(f"binary(gradient='{gradient}', zero={zero})", 1, -1, 1)(x)
        assert set(found.unique().tolist()) == ({0.0, 1.0} if zero else {-1.0, 1.0})
        g = drawn(1, 50, seed=1)
        (found * g).sum().backward()
        torch.testing.assert_close(x.grad, g * slope(x.detach()))
    assert of_inputs("binary", 1, -1, 1)(torch.zeros(1, 1)).item() == 1


@pytest.mark.parametrize(
    ("gradient", "slope"),
    [
        ("ste", torch.ones_like),
        ("saturate", lambda w: (w.abs() < 1) * 1.0),
        ("soft", lambda w: (1 - w.abs()).clamp_min(0)),
    ],
)
def test_the_gradient_of_a_binary_weight_is_the_one_asked_for(gradient: str, slope: Any) -> None:
    weight, g = (1.2 * drawn(3, 2, 3, 3)).requires_grad_(), drawn(3, 2, 3, 3, seed=1)
    (of_weights(f"binary(gradient='{gradient}')", 1, weight.detach())(weight) * g).sum().backward()
    w = weight.detach()
    torch.testing.assert_close(weight.grad, w.abs().mean((1, 2, 3), keepdim=True) * slope(w) * g)


SLOPES: dict[str | None, Any] = {
    None: torch.ones_like,
    "ste": torch.ones_like,
    "saturate": lambda v: (v.abs() < 1) * 1.0,
    "soft": lambda v: (1 - v.abs()).clamp_min(0),
}  # of what is rounded, in units of half its range


@pytest.mark.parametrize("gradient", SLOPES)
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_the_gradient_of_a_ternary_weight_is_the_one_asked_for(
    gradient: str | None, scale: bool, centre: bool
) -> None:
    weight, g = (1.2 * drawn(3, 4, 3, 3)).requires_grad_(), drawn(3, 4, 3, 3, seed=1)
    made = of_weights(
        f"ternary(gradient={gradient!r}, scale={scale}, centre={centre})", 2, weight.detach()
    )
    found = made(weight)
    (found * g).sum().backward()
    w = weight.detach()
    c = w - w.mean(1, keepdim=True) if centre else w
    used = c.clamp(-1, 1) if centre else c
    bound = 0.7 * used.abs().mean((1, 2, 3), keepdim=True)
    t = used.sign() * (used.abs() > bound)
    a = (
        (used.abs() * t.abs()).sum((1, 2, 3), keepdim=True) / t.abs().sum((1, 2, 3), keepdim=True)
        if scale
        else 1.0
    )
    torch.testing.assert_close(found.detach(), a * t)
    wanted = g * SLOPES[gradient](used) * (1.0 if gradient is None else a)
    if centre:
        wanted = wanted * (c.abs() <= 1)
        wanted = wanted - wanted.mean(1, keepdim=True)
    torch.testing.assert_close(weight.grad, wanted)


@pytest.mark.parametrize("gradient", ["ste", "saturate", "soft"])
def test_the_gradient_through_the_scale_of_ternary(gradient: str) -> None:
    weight, g = (1.2 * drawn(3, 4, 3, 3)).requires_grad_(), drawn(3, 4, 3, 3, seed=1)
    (
        of_weights(f"ternary(gradient='{gradient}', through_scale=True)", 2, weight.detach())(
            weight
        )
        * g
    ).sum().backward()
    for w, slope, got in zip(weight.detach(), g, weight.grad, strict=True):
        t = w.sign() * (w.abs() > 0.7 * w.abs().mean())
        count = t.abs().sum()
        a = (w.abs() * t.abs()).sum() / count
        torch.testing.assert_close(
            got, a * slope * SLOPES[gradient](w) + w.sign() * t.abs() * (t * slope).sum() / count
        )


@pytest.mark.parametrize("gradient", ["ste", "saturate", "soft"])
def test_the_gradient_through_the_scale_of_binary(gradient: str) -> None:
    weight, g = (1.2 * drawn(3, 4, 3, 3)).requires_grad_(), drawn(3, 4, 3, 3, seed=1)
    (
        of_weights(f"binary(gradient='{gradient}', through_scale=True)", 1, weight.detach())(weight)
        * g
    ).sum().backward()
    w = weight.detach()
    a, sign = w.abs().mean((1, 2, 3), keepdim=True), w.sign()
    torch.testing.assert_close(
        weight.grad, a * g * SLOPES[gradient](w) + sign * (sign * g).mean((1, 2, 3), keepdim=True)
    )
    if gradient == "ste":  # PyTorch's own gradient of alpha times sign, the sign's being that of w
        again = w.clone().requires_grad_()
        alpha, through = (
            again.abs().mean((1, 2, 3), keepdim=True),
            again + (again.sign() - again).detach(),
        )
        (alpha * through * g).sum().backward()
        torch.testing.assert_close(weight.grad, again.grad)


@pytest.mark.parametrize(
    "text",
    [
        "binary(scale=False, through_scale=True)",
        "binary(gradient='xnor', through_scale=True)",
        "ternary(scale=False, gradient='ste', through_scale=True)",
        "ternary(through_scale=True)",
    ],
)
def test_a_gradient_through_a_scale_wants_a_scale(text: str) -> None:
    with pytest.raises(LissomError, match="through_scale=True"):
        grid(text)


@pytest.mark.parametrize("gradient", SLOPES)
@pytest.mark.parametrize(
    ("low", "high", "middle", "half"), [(0.0, 2.0, 1.0, 1.0), (-1.0, 3.0, 0.0, 3.0)]
)
def test_the_gradient_of_a_ternary_input_is_the_one_asked_for(
    gradient: str | None, low: float, high: float, middle: float, half: float
) -> None:
    x, g = (middle + 1.5 * half * drawn(1, 200)).requires_grad_(), drawn(1, 200, seed=1)
    made = of_inputs(f"ternary(gradient={gradient!r})", 2, low, high)
    found = made(x)
    assert torch.equal(found.detach(), of_inputs("ternary", 2, low, high)(x.detach()))
    (found * g).sum().backward()
    torch.testing.assert_close(
        x.grad, g * SLOPES[gradient or "saturate"]((x.detach() - middle) / half)
    )


@pytest.mark.parametrize("gradient", SLOPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_of_dorefa_is_the_one_asked_for(gradient: str | None, bits: int) -> None:
    x, g = (5 + 8 * drawn(1, 200)).requires_grad_(), drawn(1, 200, seed=1)
    found = of_inputs(f"dorefa(gradient={gradient!r})", bits, 0, 1)(x)
    assert torch.equal(found.detach(), of_inputs("dorefa", bits, 0, 1)(x.detach()))
    (found * g).sum().backward()
    torch.testing.assert_close(
        x.grad, 0.1 * g * SLOPES[gradient or "saturate"](0.2 * x.detach() - 1)
    )
    weight, g = drawn(3, 40).requires_grad_(), drawn(3, 40, seed=1)
    found = of_weights(f"dorefa(gradient={gradient!r})", bits, weight.detach())(weight)
    assert torch.equal(found.detach(), of_weights("dorefa", bits, weight.detach())(weight.detach()))
    (found * g).sum().backward()
    again = weight.detach().clone().requires_grad_()
    v = again.tanh() / again.tanh().abs().max()
    (v * g * SLOPES[gradient](v.detach())).sum().backward()
    wanted = again.grad
    torch.testing.assert_close(weight.grad, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", SLOPES)
def test_the_gradient_of_dorefa_of_one_bit_is_the_one_asked_for(gradient: str | None) -> None:
    weight, g = drawn(3, 40).requires_grad_(), drawn(3, 40, seed=1)
    (of_weights(f"dorefa(gradient={gradient!r})", 1, weight.detach())(weight) * g).sum().backward()
    w = weight.detach()
    torch.testing.assert_close(weight.grad, g * SLOPES[gradient](w / w.abs().mean()))


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(0.0, 2.0, [0.0, 1.0, 2.0]), (-1.0, 3.0, [-3.0, 0.0, 3.0])]
)
def test_ternary_inputs_use_three_values_of_their_range(
    low: float, high: float, wanted: list[float]
) -> None:
    x = torch.linspace(low, high, 101)[None]
    assert of_inputs("ternary", 2, low, high)(x).unique().tolist() == (
        wanted if low >= 0 else [0.0, 3.0]
    )
    assert of_inputs("ternary", 2, low, high)(torch.tensor([[-9.0, 0.0, 9.0]])).tolist()[0] == [
        min(wanted),
        0.0,
        max(wanted),
    ]


@pytest.mark.parametrize("settings", ["gradient='xnor'", "centre=True"])
def test_what_takes_means_over_inputs_refuses_filters_of_one(settings: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 3)
    )
    with pytest.raises(LissomError, match=r"2: binary.*have one alone.*keep="):
        apply(
            f'quantize("binary", 8, grid="binary({settings})")',
            net,
            torch.randn(1, 3, 9, 9),
            torch.randn(8, 3, 9, 9),
        )


def test_the_gradient_of_xnor_net() -> None:
    weight, g = (1.2 * drawn(2, 3, 2, 2)).requires_grad_(), drawn(2, 3, 2, 2, seed=1)
    (of_weights("binary(gradient='xnor')", 1, weight.detach())(weight) * g).sum().backward()
    w = weight.detach()
    alpha = w.abs().mean((1, 2, 3), keepdim=True)
    sign = torch.where(w >= 0, 1.0, -1.0)
    wanted = (
        (alpha * g * (w.abs() <= 1) + sign * (sign * g).mean((1, 2, 3), keepdim=True))
        * (1 - 1 / 3)
        * 12
    )
    torch.testing.assert_close(weight.grad, wanted)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_powers_of_two_are_powers_of_two(bits: int) -> None:
    weight = drawn(3, 300)
    found = of_weights("pow2", bits, weight)(weight)
    top = 2 ** (bits - 1) - 2
    for row, got in zip(weight, found, strict=True):
        part = (got / row.abs().max()).abs()
        held = part[part > 0].log2()
        torch.testing.assert_close(held, held.round(), atol=1e-5, rtol=0)
        assert held.min() >= -top - 1e-5 and float(part.max()) == 1
        near = row.abs() > row.abs().max() * 2.0**-top
        ratio = (got / row)[near]
        assert bool((ratio > 2**-0.5 - 1e-4).all()) and bool((ratio < 2**0.5 + 1e-4).all())
