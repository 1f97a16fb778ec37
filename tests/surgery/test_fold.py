"""Folding a batch-norm into the layer before it keeps the outputs, and what cannot be folded stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.models import factory
from lissom.surgery import fold, transformable
from lissom.surgery.compare import network_difference
from lissom.surgery.fold import fold_batchnorms, fold_pair, foldable


def lively(model: nn.Module) -> nn.Module:
    """Give batch-norms numbers that matter: scales of both signs, one of them zero; all in float64."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                for tensor, low, high in (
                    (layer.weight, -2, 2),
                    (layer.bias, -1, 1),
                    (layer.running_mean, -1, 1),
                    (layer.running_var, 0.5, 2),
                ):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
                if layer.weight is not None:
                    layer.weight[0] = 0
    return model.double().eval()


def images() -> Tensor:
    return torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def check_same(model: nn.Module, names: list[str], x: Tensor | None = None) -> nn.Module:
    """Fold; the layers named take one in, and the outputs stay."""
    x = images() if x is None else x
    lively(model)
    small = copy.deepcopy(model)
    assert sorted(fold_batchnorms(small, x)) == sorted(names)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-9, atol=1e-9)
    return small


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_takes_in_its_norm(bias: bool, affine: bool, groups: int) -> None:
    small = check_same(
        nn.Sequential(conv(bias=bias, groups=groups), nn.BatchNorm2d(4, affine=affine), nn.ReLU()),
        ["0"],
    )
    assert isinstance(small[1], nn.Identity) and small[0].bias is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_linear_layer_takes_in_its_norm(bias: bool, affine: bool) -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 5, bias=bias), nn.BatchNorm1d(5, affine=affine), nn.ReLU()
    )
    assert isinstance(check_same(model, ["1"])[2], nn.Identity)


def test_the_folded_numbers_are_those_of_the_formula() -> None:
    layer, norm = lively(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-2)))
    w, b, gamma, beta, mean, var = (
        t.detach().numpy().copy()
        for t in (
            layer.weight,
            layer.bias,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
        )
    )
    fold_pair(layer, norm)
    for u in range(4):
        scale = gamma[u] / np.sqrt(var[u] + 1e-2)
        np.testing.assert_allclose(layer.weight[u].detach().numpy(), w[u] * scale, rtol=1e-12)
        np.testing.assert_allclose(
            layer.bias[u].item(), beta[u] + (b[u] - mean[u]) * scale, rtol=1e-12
        )


@pytest.mark.parametrize(("name", "count"), [("resnet20", 21), ("vgg11", 8), ("preresnet11", 6)])
def test_built_in_networks_fold_where_a_norm_follows_a_layer(name: str, count: int) -> None:
    model, x = factory(name)(num_classes=4), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert len(foldable(model.double(), x)) == count
    check_same(model, [layer for layer, _ in foldable(model, x)], x)


def test_a_convolution_whose_output_is_read_twice_stays() -> None:
    check_same(Net(lambda s, x: s.n(y := s.c(x)) + y, c=conv(), n=nn.BatchNorm2d(4)), [])


def test_a_convolution_whose_output_is_returned_stays() -> None:
    def first(s: Any, x: Tensor) -> Any:
        y = s.c(x)
        return s.n(y), y

    model = Net(first, c=conv(), n=nn.BatchNorm2d(4))
    assert foldable(lively(model), images()) == []


@pytest.mark.parametrize(
    "between",
    [F.relu, F.relu_, lambda y: y.add_(1), lambda y: y.mul_(y), lambda y: y.clone()],
    ids=["relu", "relu_", "add_", "mul_", "clone"],
)
def test_what_comes_between_layer_and_norm_forbids_folding(
    between: Callable[[Tensor], Tensor],
) -> None:
    check_same(Net(lambda s, x: s.n(between(s.c(x))), c=conv(), n=nn.BatchNorm2d(4)), [])


def test_a_change_in_place_of_part_of_the_output_forbids_folding() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.c(x)
        y[:, 1] = 0.5
        return s.n(y)

    check_same(Net(forward, c=conv(), n=nn.BatchNorm2d(4)), [])


def test_a_norm_before_a_convolution_stays() -> None:
    check_same(nn.Sequential(nn.BatchNorm2d(4), conv()), [])


def test_a_layer_that_runs_twice_stays() -> None:
    check_same(Net(lambda s, x: s.c(F.relu(s.n(s.c(x)))), c=conv(), n=nn.BatchNorm2d(4)), [])


def test_a_norm_that_runs_twice_stays() -> None:
    check_same(
        Net(lambda s, x: s.n(s.d(F.relu(s.n(s.c(x))))), c=conv(), d=conv(), n=nn.BatchNorm2d(4)), []
    )


def test_layers_that_share_a_weight_stay() -> None:
    one, two = conv(), conv()
    two.weight = one.weight
    check_same(nn.Sequential(one, nn.BatchNorm2d(4), nn.ReLU(), two, nn.BatchNorm2d(4)), [])


def test_a_norm_without_running_statistics_stays() -> None:
    check_same(nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)), [])


def test_a_transposed_convolution_stays() -> None:
    check_same(nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)), [])


def test_a_convolution_with_computed_weights_stays() -> None:
    check_same(
        Net(
            lambda s, x: s.n(F.conv2d(x, s.c.weight / s.c.weight.norm())),
            c=conv(),
            n=nn.BatchNorm2d(4),
        ),
        [],
    )


class AlwaysOfTheBatch(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.0, self.eps
        )


class WithRelu(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2)


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)"])
@pytest.mark.parametrize("norm", [AlwaysOfTheBatch, WithRelu])
def test_a_norm_that_does_more_than_a_norm_keeps_doing_it(
    norm: type[nn.Module], recipe: str
) -> None:
    model = lively(nn.Sequential(conv(), norm(4), conv(), nn.ReLU())).float()
    x = images().float()
    check_near(apply(recipe, model, x[:1], x), model, x)


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)"])
def test_a_norm_known_under_two_names_is_gone_under_both(recipe: str) -> None:
    one, norm = conv(), nn.BatchNorm2d(4)
    model = lively(
        Net(lambda s, x: s.body(x), one=one, norm=norm, body=nn.Sequential(one, norm, nn.ReLU()))
    ).float()
    x = images().float()
    check_near(apply(recipe, model, x[:1], x), model, x)


def test_a_convolution_of_its_own_kind_still_folds_right() -> None:
    model = lively(nn.Sequential(Doubled(4, 4, 3), nn.BatchNorm2d(4))).float()
    x = images().float()
    check_near(apply("fold", model, x[:1], x), model, x)


def check_near(one: nn.Module, two: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        a, b = one(x), two(x)
    assert float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) < 0.05


def test_the_step_records_its_gate() -> None:
    from lissom.language.context import SurgeryContext
    from lissom.language.parse_methods import method_of

    model = lively(nn.Sequential(conv(), nn.BatchNorm2d(4))).float()
    x = images().float()
    ctx = SurgeryContext(x[:1], lambda count: [x[:count]])
    method_of("steps", "fold")(model, ctx)
    assert ctx.facts["folded"] == ["0"] and ctx.gates[0]["difference"] <= 1e-3


class Chaos(nn.Module):
    """Doubles every difference twenty times, the rounding of float32 among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).sigmoid()
        for _ in range(20):
            y = 4 * y * (1 - y)
        return y


@pytest.mark.parametrize("recipe", ["fold", "equalize", "cast('bf16')", "quantize(8)"])
def test_what_only_rounding_tells_apart_is_the_same(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = Chaos().eval(), torch.randn(8, 3, 8, 8)
    model.norm.running_mean.normal_(), model.norm.running_var.uniform_(0.5, 2)
    merged = copy.deepcopy(model)
    fold_batchnorms(merged, x)
    assert network_difference(model, merged, x) > 1e-3, "in float32"
    apply(recipe, model, x[:1], x, notes=True)

    def wrongly(layer: nn.Module, *given: Any) -> list[str]:
        done = fold_batchnorms(layer, *given)
        layer.get_submodule("conv").get_parameter("weight").data.mul_(1.01)
        return done

    for module in (fold, transformable):  # steps look it up in either
        monkeypatch.setattr(module, "fold_batchnorms", wrongly)
    if recipe != "quantize(8)":  # which folds in one go with much else
        with pytest.raises(LissomError, match=r"unfolded|unequalized"):
            apply(recipe, model, x[:1], x)
