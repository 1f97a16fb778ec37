"""The 8-bit grids: their values, their gradients, where they are placed, and how they are exported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, chain, conv, seasoned
from networks import images as noise
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.exporting.floats import round_in_floats
from lissom.exporting.onnx.layers import round_in_integers
from lissom.grids.uniform import affine
from lissom.language.context import SurgeryContext
from lissom.language.grid import grid_of
from lissom.language.parse_methods import method_of
from lissom.language.recipe import Recipe, Space
from lissom.models import factory
from lissom.surgery.quantization.calibrate import RangeStats, observe_ranges
from lissom.surgery.quantization.dataflow import trace_dataflow
from lissom.surgery.quantization.layers import QuantizedConv2d, QuantizedLinear
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.surgery.quantization.rounding import Rounding


def images(count: int = 8, size: int = 8, seed: int = 1) -> Tensor:
    return noise(count, size, seed)


def grid_of_inputs(low: float, high: float, bits: int = 8) -> Any:
    uniform = grid_of("uniform")
    return Rounding(uniform, bits, "inputs", uniform.hold_inputs(low, high, bits))


def quantized_layer(layer: Any, step: float | None = None) -> Any:
    """Return a layer with 8-bit weights that reads integers of this step."""
    layer.__class__ = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    layer.prepare()
    uniform = grid_of("uniform")
    held = uniform.hold_weights(layer.weight.detach(), 8)
    layer.rounding = Rounding(uniform, 8, "weights", held)
    layer.set_input_roundings(None if step is None else grid_of_inputs(0, 255 * step))
    return layer.eval()


def naive(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """Round on the grid of activations, as the formula says, one value at a time."""
    q = np.clip(np.rint(x.astype(np.float64) / np.float64(scale)) + zero, 0, 255)
    return (q - zero) * scale


def untied(x: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Return which values are not halfway between two points of the grid, where float rounding decides."""
    part = np.abs(x.astype(np.float64) / scale) % 1
    return np.abs(part - 0.5) > 1e-3


# the grid of activations


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=st.floats(-100, 100), width=st.floats(1e-3, 200))
def test_the_grid_of_a_range_holds_zero_and_reaches_both_ends(low: float, width: float) -> None:
    high = low + width
    scale, zero = affine(low, high)
    assert isinstance(zero, int) and 0 <= zero <= 255
    assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255)
    assert (0 - zero) * scale <= min(low, 0) + 0.51 * scale and (255 - zero) * scale >= max(
        high, 0
    ) - 0.51 * scale


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [
        (0, 255, 1.0, 0),
        (-255, 0, 1.0, 255),
        (-1, 254, 1.0, 1),
        (5, 5, 5 / 255, 0),
        (-5, -5, 5 / 255, 255),
        (0, 0, 1e-8, 0),
    ],
)
def test_ranges_of_one_value_and_of_one_sign(
    low: float, high: float, scale: float, zero: int
) -> None:
    assert affine(low, high) == (pytest.approx(scale), zero)
    found = grid_of_inputs(low, high)(torch.tensor([low, high, 0.0]))
    assert torch.isfinite(found).all() and found[2] == 0
    assert found[0] == pytest.approx(low, rel=1e-5) and found[1] == pytest.approx(high, rel=1e-5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(low=st.floats(-10, 0), high=st.floats(0.1, 10), seed=st.integers(0, 9))
def test_activations_are_rounded_as_the_formula_says(low: float, high: float, seed: int) -> None:
    grid = grid_of_inputs(low, high)
    x = 8 * torch.randn(2000, generator=torch.Generator().manual_seed(seed))
    found, scale = grid(x).numpy(), float(grid.scale)
    sure = untied(x.numpy(), scale)
    np.testing.assert_allclose(
        found[sure], naive(x.numpy(), scale, int(grid.zero_point))[sure], rtol=1e-5, atol=1e-6
    )
    assert len(np.unique(found)) <= 256
    inside = (x.numpy() > low) & (x.numpy() < high)
    assert np.abs(found - x.numpy())[inside].max() <= 1.01 * scale


def test_rounding_twice_is_rounding_once() -> None:
    grid, x = grid_of_inputs(-1.3, 2.1), images()
    torch.testing.assert_close(grid(grid(x)), grid(x), rtol=0, atol=0)


def test_the_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    grid = grid_of_inputs(-1, 2)
    x = torch.tensor([-5.0, -1.1, -0.9, -0.3, 0.0, 0.7, 1.9, 2.1, 9.0], requires_grad=True)
    grid(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]


def test_half_precision_comes_out_as_it_went_in() -> None:
    assert grid_of_inputs(-1, 1)(torch.randn(5).bfloat16()).dtype == torch.bfloat16


# the grid of weights


def on_grid(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        return layer.in_inference()[0].flatten(1).numpy(), layer.weight.detach().flatten(1).numpy()


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_weights_are_rounded_as_the_formula_says(kind: str) -> None:
    torch.manual_seed(0)
    layer = quantized_layer(nn.Conv2d(5, 7, 3) if kind == "conv" else nn.Linear(400, 7))
    found, weights = on_grid(layer)
    for u in range(7):
        scale = np.abs(weights[u]).max() / 127
        wanted = np.clip(np.rint(weights[u].astype(np.float64) / scale), -127, 127) * scale
        sure = untied(weights[u], scale)
        np.testing.assert_allclose(found[u][sure], wanted[sure], rtol=1e-5)
        assert (
            len(np.unique(found[u])) <= 255 and np.abs(found[u] - weights[u]).max() <= 0.501 * scale
        )
        assert np.abs(found[u]).max() == pytest.approx(np.abs(weights[u]).max(), rel=1e-6)


def test_a_filter_of_zeros_stays_zero() -> None:
    layer: Any = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    quantized_layer(layer, 0.01)
    found, _ = on_grid(layer)
    assert np.isfinite(found).all() and (found[1] == 0).all() and (found[0] != 0).any()


def test_the_gradient_of_weights_passes_in_training() -> None:
    layer = quantized_layer(nn.Linear(9, 4)).train()
    x = torch.randn(5, 9)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(4, 9))


# where grids are put


def sites(net: nn.Module, x: Tensor | None = None) -> dict[str, str]:
    return trace_dataflow(net, images(2) if x is None else x).sites


def test_what_only_a_relu_reads_and_what_is_returned_get_no_grid() -> None:
    assert sites(nn.Sequential(conv(3, 4), nn.ReLU())) == {"input": "input"}
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4))
    found = trace_dataflow(net, images(2))
    assert set(found.sites) == {"input", "conv1", "relu1"}
    assert found.inputs == {"0": "input", "3": "relu1"}


def test_a_residual_add_reads_two_grids() -> None:
    net = Net(
        lambda s, x: s.head(
            F.adaptive_avg_pool2d(F.relu(s.two(y := F.relu(s.one(x))) + y), 1).flatten(1)
        ),
        one=conv(3, 4),
        two=conv(4, 4),
        head=nn.Linear(4, 2),
    )
    found = trace_dataflow(net, images(2))
    assert set(found.sites) == {"input", "relu1", "conv2", "relu2", "pool1"}
    assert found.inputs == {"one": "input", "two": "relu1", "head": "pool1"}


@pytest.mark.parametrize(
    "add",
    [lambda y, z: y.__iadd__(z), lambda y, z: y.add_(z), torch.add],
    ids=["iadd", "add_", "add"],
)
def test_an_add_that_a_layer_reads_gets_its_own_grid(
    add: Callable[[Tensor, Tensor], Tensor],
) -> None:
    net = Net(
        lambda s, x: s.three(add(s.two(y := F.relu(s.one(x))), y)),
        one=conv(3, 4),
        two=conv(4, 4),
        three=conv(4, 2),
    )
    found = trace_dataflow(net, images(2))
    assert (
        set(found.sites) == {"input", "relu1", "conv2", "add1"} and found.inputs["three"] == "add1"
    )


def test_max_pooling_keeps_the_grid_of_its_input() -> None:
    net = nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2), conv(4, 4), nn.ReLU()
    )
    found = trace_dataflow(net, images(2))
    assert found.sites == {
        "input": "input",
        "relu1": "relu1",
        "maxpool1": "relu1",
        "maxpool2": "relu1",
    }
    assert found.inputs["4"] == "maxpool2"


def test_what_hands_values_on_keeps_the_grid() -> None:
    net = Net(
        lambda s, x: s.head(F.dropout(F.relu(s.one(x)).flatten(1).view(2, -1), 0.5, s.training)),
        one=conv(3, 4),
        head=nn.Linear(256, 2),
    )
    assert trace_dataflow(net, images(2)).inputs == {"one": "input", "head": "relu1"}


def test_a_layer_that_reads_different_values_from_call_to_call_has_no_site() -> None:
    net = Net(
        lambda s, x: s.twice(F.relu(s.twice(F.relu(s.one(x))))), one=conv(3, 4), twice=conv(4, 4)
    )
    assert trace_dataflow(net, images(2)).inputs == {"one": "input", "twice": None}


@pytest.mark.parametrize(
    "wrap",
    [lambda y, z: (y, z), lambda y, z: {"one": y, "two": z}, lambda y, z: {"both": [y, z]}],
    ids=["tuple", "dict", "nested"],
)
def test_all_that_a_network_returns_stays_float(wrap: Callable[[Tensor, Tensor], Any]) -> None:
    net = Net(
        lambda s, x: wrap(s.two(y := F.relu(s.one(x))), s.three(y)),
        one=conv(3, 4),
        two=conv(4, 2),
        three=conv(4, 2),
    )
    assert set(sites(net)) == {"input", "relu1"}


def test_an_operation_in_place_whose_result_is_thrown_away_keeps_the_network_right() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x)
        F.relu(y, inplace=True)
        y.add_(s.two(x))
        return s.three(y)

    torch.manual_seed(0)
    net = Net(forward, one=conv(3, 8), two=conv(3, 8), three=conv(8, 4)).eval()
    check_near(apply("quantize(8)", net, images(1), images()), net)


def check_near(
    small: nn.Module, net: nn.Module, bound: float = 0.05, x: Tensor | None = None
) -> None:
    x = images() if x is None else x
    with torch.no_grad():
        a, b = small.eval()(x), net.eval()(x)
    assert float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) < bound


# the whole


@pytest.mark.parametrize("name", ["resnet8", "vgg11", "preresnet11"])
def test_a_quantized_network_stays_near_the_float_one(name: str) -> None:
    torch.manual_seed(0)
    net = factory(name)(num_classes=4).eval()
    x = images(16, 16)
    small = apply("quantize(8, range='minmax')", net, x[:1], x)
    check_near(small, net, 0.15, x)
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules())
    assert isinstance(small, QuantizedNetwork) and len(small.layers()) == layers


def integers(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    return np.clip(np.rint(x / scale) + zero, 0, 255)


def test_the_simulation_is_what_integer_arithmetic_gives() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    x = torch.randn(64, 12)
    small = apply("quantize(8, range='minmax')", net, x[:1], x)
    with torch.no_grad():
        found = small(x).numpy()
    frozen = copy.deepcopy(small)
    round_in_integers(frozen)
    value, grid = x.numpy().astype(np.float64), small.grids["input"]
    for k, after in ((0, "relu1"), (2, None)):
        layer, scale, zero = frozen.network[k], float(grid.scale), int(grid.zero_point)
        assert layer.weight_q.dtype == torch.int8 and layer.bias_q.dtype == torch.int32
        total = (integers(value, scale, zero) - zero) @ layer.weight_q.numpy().astype(
            np.int64
        ).T + layer.bias_q.numpy()
        value = total * scale * layer.weight_scale.numpy().astype(np.float64)
        if after:
            grid = small.grids[after]
            value = np.maximum(value, 0)
    np.testing.assert_allclose(found, value, atol=3 * np.abs(value).max() / 255)
    assert np.abs(found - value).mean() < 0.002 * np.abs(value).max()


def test_the_bias_of_a_dead_filter_fits_its_integers() -> None:
    net = chain()
    with torch.no_grad():
        net[2].weight[3], net[2].bias[3] = 0, 0.7
        net[0].weight[1] *= 1e-9
    check_biases(apply("quantize(8)", net, images(1), images()))


def test_the_bias_of_a_dead_filter_fits_its_integers_after_training_too() -> None:
    net = chain()
    with torch.no_grad():
        net[2].weight[3], net[2].bias[3] = 0, 0.7
    small = apply("quantize(8)", net, images(1), images())
    small.train()
    with torch.no_grad():
        small(images())
    check_biases(small.eval())


def check_biases(small: Any) -> None:
    frozen = copy.deepcopy(small)
    round_in_integers(frozen)
    for layer in frozen.layers():
        back = layer.bias_q.double() * layer.bias_scale.double()
        torch.testing.assert_close(
            back, layer.bias.detach().double(), rtol=1e-3, atol=float(layer.bias_scale.max())
        )


@pytest.mark.parametrize("how", ["minmax", "percentile"])
@pytest.mark.parametrize("spoil", [lambda y: y.sqrt(), lambda y: y / 0], ids=["nan", "infinity"])
def test_activations_that_are_no_numbers_are_an_error(
    how: str, spoil: Callable[[Tensor], Tensor]
) -> None:
    net = Net(
        lambda s, x: s.head(s.two(spoil(s.one(x))).flatten(1)),
        one=conv(3, 4),
        two=conv(4, 4),
        head=nn.Linear(256, 2),
    )
    with pytest.raises(LissomError):
        apply(f"quantize(8, range='{how}')", net, images(1), images())


def test_weights_that_are_no_numbers_are_an_error() -> None:
    net = chain()
    with torch.no_grad():
        net[0].weight[0] = float("nan")
    with pytest.raises(LissomError, match="NaN"):
        apply("quantize(8)", net, images(1), images())


def test_no_calibration_images_is_an_error() -> None:
    with pytest.raises(LissomError, match="no calibration images"):
        apply("quantize(8)", chain(), images(1), images(0))


def test_a_network_without_layers_is_an_error() -> None:
    with pytest.raises(LissomError, match="there is no convolution, linear layer or embedding"):
        apply("quantize(8)", nn.Sequential(nn.ReLU(), nn.Flatten()), images(1), images())


def test_quantizing_twice_is_quantizing_once_with_the_later_bits() -> None:
    net = chain().eval()
    once, twice = (
        apply(recipe, net, images(1), images())
        for recipe in ("quantize(4)", "quantize(8) | quantize(4)")
    )
    with torch.no_grad():
        torch.testing.assert_close(twice(images()), once(images()), rtol=0, atol=0)


def test_the_layers_left_float_are_named() -> None:
    from lissom.language.context import SurgeryContext

    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    net = nn.Sequential(
        Own(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2), nn.Flatten(), nn.Linear(196, 2)
    ).eval()
    ctx = SurgeryContext(images(1), lambda count: [images()])
    small = method_of("steps", "quantize(8)")(net, ctx)
    assert ctx.facts["quantized"] == 2 and set(ctx.facts["left_float"]) == {"0"}
    assert small(images()).shape == (8, 2)


# what is measured


def test_bounds_and_values_are_those_of_all_batches() -> None:
    net = chain().eval()
    batches = [images(4, seed=s) for s in range(3)]
    seen = observe_ranges(net, batches, sites(net))
    with torch.no_grad():
        relu = torch.cat([net[1](net[0](b)) for b in batches])
    assert (seen["relu1"].low, seen["relu1"].high) == (float(relu.min()), float(relu.max()))
    assert (seen["input"].low, seen["input"].high) == (
        float(torch.cat(batches).min()),
        float(torch.cat(batches).max()),
    )
    torch.testing.assert_close(seen["relu1"].values().sort().values, relu.flatten().sort().values)


@pytest.mark.parametrize("shape", [(128, 64, 32, 32), (128, 16, 28, 28), (100, 64, 16, 16)])
def test_the_sample_of_values_is_of_all_columns(shape: tuple[int, ...]) -> None:
    """Pixels at the border see padding: a sample of them alone would mislead every range."""
    columns = torch.arange(float(shape[3])).expand(shape)
    seen = RangeStats()
    seen.add(columns, "a site")
    counts = torch.stack([(seen.values() == k).float().mean() for k in range(shape[3])]) * shape[3]
    assert counts.min() > 0.8 and counts.max() < 1.2


def test_float_export_holds_the_rounded_weights() -> None:
    small = apply("quantize(8)", chain(), images(1), images())
    frozen = copy.deepcopy(small)
    round_in_floats(frozen, always=True)
    assert type(frozen.network[0]) is nn.Conv2d and type(frozen.network[6]) is nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(frozen(images()), small(images()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("text", "bits"),
    [("quantize(8)", 7), ("quantize(8, reduce_range=False)", 8), ("quantize(4)", 4)],
)
def test_weights_have_7_bits_where_sums_of_8_would_saturate(
    text: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.surgery.quantization.bits.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    ctx = SurgeryContext(images(1), lambda count: [images(count)])
    small: Any = Recipe(text).steps[0](chain(), ctx)
    assert small.layers()[1].rounding.bits == bits
    assert all(float(layer.integers()[0].abs().max()) <= 63 for layer in small.layers()) == (
        bits != 8
    )
    assert any("no VNNI" in note for note in ctx.notes) == (bits != 8)


@pytest.mark.parametrize("bits", [8, 4])
def test_first_and_last_layers_are_on_no_grid_that_images_or_logits_do_not_fit(bits: int) -> None:
    layers = apply(
        f"quantize({bits}, grid='dorefa', first=2, last=2)", seasoned(), images(1), images(32)
    ).layers()
    grids = [layer.rounding.grid.name() for layer in layers]
    assert grids[0] == grids[-1] == "uniform" and set(grids[1:-1]) == {"dorefa"}
    assert (
        layers[0].site_rounding.grid.name() == "uniform"
        and float(layers[0].site_rounding(images(1)).min()) < 0
    )


def test_thirty_two_bits_of_both_leave_the_network_as_it_was_and_say_so() -> None:
    assert len(Space("quantize({4, 8, 32}, {8, 32})")) == 6, "a space of bits can hold it"
    net, context = (
        chain(),
        SurgeryContext(images(1), lambda count: [images(count)], where="quantize(32, 32)"),
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step = method_of("steps", "quantize(32, 32)")
    assert step(net, context) is net and type(net) is nn.Sequential
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert context.notes == [
        "quantize(32, 32): weights and inputs of 32 bits are not rounded; "
        "the network is what it was"
    ]
    whole = apply("quantize(8)", net, images(1), images())
    assert step(whole, context) is whole, "nor is a quantized network another then"
    with pytest.raises(LissomError, match="inputs of 32 bits are not rounded"):
        method_of("steps", 'quantize(32, 32, range="mse")')


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_activation_that_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(LissomError, match=r"is NaN or infinite on .* sample: that of blocks-2"):
        RangeStats().add(torch.tensor([1.0, value]), "blocks-2")


def test_a_site_with_one_value_has_the_bounds_of_its_half() -> None:
    seen = RangeStats()
    seen.add(torch.tensor([3.0]), "a site")
    assert (seen.half().low, seen.half().high) == (3, 3)
