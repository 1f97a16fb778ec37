"""Transposed convolutions with rounded weights: a scale per filter, whichever axis the filters are
on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Net, images
from torch import Tensor, nn

from lissom import apply, load, save
from lissom.language.context import SurgeryContext
from lissom.language.recipe import Recipe
from lissom.surgery.quantization.layers import QuantizedLayer
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.surgery.sizes import sizes

CONVS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class UNet(nn.Module):
    """Two levels: one transposed convolution has a batch-norm and an output padding, one has neither."""

    def __init__(self, groups: int = 1, axes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv, up, norm = CONVS[axes - 1], TRANSPOSED[axes - 1], NORMS[axes - 1]
        self.stem = conv(3, 8, 3, padding=1)
        self.down = conv(8, 16, 3, stride=2, padding=1)
        self.up = up(16, 8, 3, stride=2, padding=1, output_padding=1, groups=groups)
        self.norm = norm(8)
        self.join = conv(16, 8, 3, padding=1)
        self.last = up(8, 4, 2, stride=2, groups=groups)
        self.head = conv(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.norm(self.up(self.down(x).relu())).relu()
        y = self.join(torch.cat([x, y], 1)).relu()
        return self.head(self.last(y).relu())


def net(groups: int = 1, axes: int = 2) -> nn.Module:
    """Return a network whose batch-norm has factors of both signs and statistics of its own."""
    made = UNet(groups, axes).eval()
    with torch.no_grad():
        made.norm.weight.copy_(torch.randn(8))
        made.norm.bias.copy_(torch.randn(8))
        made.norm.running_mean.copy_(torch.randn(8))
        made.norm.running_var.copy_(torch.rand(8) + 0.5)
    return made


def shown(count: int = 16, axes: int = 2) -> Tensor:
    return torch.randn(count, 3, *[8] * axes, generator=torch.Generator().manual_seed(0))


def filters(weight: np.ndarray, groups: int) -> list[np.ndarray]:
    """Return the filters of a weight (in out/groups ...), by the definition of groups: filter k of
    group g has the inputs of that group and place k of the second axis.
    """
    each = len(weight) // groups
    return [
        weight[g * each : (g + 1) * each, k] for g in range(groups) for k in range(weight.shape[1])
    ]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_each_filter_of_each_group_has_a_scale(axes: int, groups: int) -> None:
    made = net(groups, axes)
    small: Any = apply("quantize(8, 32)", made, shown(1, axes), shown(axes=axes))
    layer = small.network.last
    assert isinstance(layer, QuantizedLayer) and isinstance(layer, TRANSPOSED[axes - 1])
    codes, scale = layer.weight_codes()
    held = layer.in_inference()[0].detach()
    assert held.shape == layer.weight.shape and scale.shape == (4,)
    parts = filters(layer.weight.detach().numpy(), groups)
    found = filters(held.numpy(), groups)
    for k, (part, on_grid) in enumerate(zip(parts, found, strict=True)):
        whole = on_grid / float(scale[k])
        np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
        np.testing.assert_allclose(whole, codes[k].numpy(), atol=1e-4)
        assert np.abs(on_grid - part).max() <= float(scale[k]) / 2 * 1.001
        assert np.abs(whole).max() >= 127 * 0.99  # a scale of its own is used to its end


@pytest.mark.parametrize("groups", [1, 2])
def test_the_outputs_are_those_of_weights_that_numpy_rounded(groups: int) -> None:
    made = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=groups, output_padding=1)).eval()
    x = torch.randn(4, 4, 5, 5)
    small = apply("quantize(8, 32, grid='uniform')", made, x[:1], x)
    weight = made[0].weight.detach().double().numpy().copy()
    for part in filters(weight, groups):
        step = np.abs(part).max() / 127
        part[...] = np.rint(part / step).clip(-127, 127) * step
    with torch.no_grad():
        made[0].weight.copy_(torch.from_numpy(weight))
        torch.testing.assert_close(small(x), made(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "grid", ["uniform", "uniform('tensor')", "uniform(asymmetric_weights=True)"]
)
def test_batch_norm_changes_no_integer_and_the_outputs_stay_near(groups: int, grid: str) -> None:
    made = net(groups)
    recipe = f'quantize(8, 32, grid="{grid}")'
    small: Any = apply(recipe, made, shown(1), shown())
    layer = small.network.up
    assert layer.norm is not None
    assert layer.rounding.grid.one_scale or torch.equal(
        layer.integers()[0].abs(), layer.weight_codes()[0].abs()
    )
    with torch.no_grad():
        wanted, found = made(shown()), small(shown())
        torch.testing.assert_close(small.train()(shown()).shape, found.shape)
    gap = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    assert gap < 0.02


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(8)",
        "quantize(2, 4)",
        'quantize("ternary")',
        'quantize("binary", 8)',
        'quantize(8, grid="uniform(asymmetric_weights=True)")',
        "prune(0.3, multiple=2) | quantize(8)",
        "mask(0.5) | quantize(8)",
        "cluster(16) | quantize(8)",
        'quantize(4, rounding="learned", steps=20, correct=True)',
        'quantize(4, rounding="blocks", steps=20)',
        'quantize("auto", size=0.15)',
        "quantize(8) | quantize(4)",
        "quantize(8, fold=False)",
        "quantize(8, reduce_range=True)",
    ],
)
def test_recipes_round_learn_and_come_back_from_disk(
    recipe: str, groups: int, tmp_path: Path
) -> None:
    small: Any = apply(recipe, net(groups), shown(1), shown())
    assert isinstance(small, QuantizedNetwork)
    assert [layer.rounding is not None for layer in small.layers()] == [True] * 6
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    small(shown()).square().mean().backward()
    for name in ("up", "last"):
        layer = small.network.get_submodule(name)
        learned = next(layer.cluster.parameters()) if "cluster" in recipe else layer.weight
        slope = learned.grad
        assert slope is not None and float(slope.abs().sum()) > 0
    optimizer.step()
    save(small.eval(), tmp_path)
    again: Any = load(tmp_path, net(groups))
    assert type(again.network.up) is type(small.network.up)
    with torch.no_grad():
        assert torch.equal(again(shown()), small(shown()))


@pytest.mark.parametrize("groups", [1, 2])
def test_in_eval_mode_the_gradient_is_that_of_training(groups: int) -> None:
    """Batch-norm with its own statistics is the same in both modes if it learns nothing from the batch."""
    small: Any = apply("quantize(8, 32)", net(groups), shown(1), shown())
    slopes = []
    for mode in (True, False):
        small.zero_grad()
        small.train(mode)
        small.network.up.norm.eval()
        small(shown()).square().mean().backward()
        slopes.append(small.network.up.weight.grad.clone())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)


def test_none_stays_float_and_none_is_named() -> None:
    ctx = SurgeryContext(shown(1), lambda count: [shown()])
    Recipe("quantize(8)").steps[0](net(), ctx)
    assert ctx.facts["quantized"] == 6 and not ctx.facts["left_float"]


@pytest.mark.parametrize("recipe", ["quantize(8)", "quantize(4, rounding='learned', steps=5)"])
def test_the_size_of_the_output_may_be_named_in_the_call(recipe: str) -> None:
    made = Net(
        lambda s, x: s.head(s.up(s.down(x).relu(), output_size=x.shape[2:]).relu()),
        down=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        up=nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1),
        head=nn.Conv2d(4, 2, 1),
    ).eval()
    small = apply(recipe, made, images(1), images())
    with torch.no_grad():
        assert small(images()).shape == made(images()).shape == (32, 2, 16, 16)


def test_scales_count_by_filter_not_by_input() -> None:
    made = nn.Sequential(nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)).eval()
    x = torch.randn(8, 4, 5, 5)
    small = apply("quantize(8, 32)", made, x[:1], x)
    assert sizes(small)["theory_bytes"] == 4 * 3 + 6 * 4


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_biases_are_corrected_by_channel(axes: int) -> None:
    """One number for each channel, whatever axes come after it."""
    made, x = net(axes=axes), shown(axes=axes)
    with torch.no_grad():
        wanted = made(x).mean([0, *range(2, 2 + axes)])
        gaps = [
            (apply(recipe, made, x[:1], x)(x).mean([0, *range(2, 2 + axes)]) - wanted).abs().max()
            for recipe in ("quantize(3, 32)", "quantize(3, 32, correct=True)")
        ]
    assert gaps[1] < 0.2 * gaps[0]
