"""Code that passes the weight of a layer to a function itself: nothing is rounded without effect."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom


class Called(nn.Module):
    """Three layers, which `use` calls, or whose weights it reads."""

    def __init__(self, use: Callable[[Called, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 8, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, F.relu(self.a(x))).mean((2, 3))


def quantized(model: nn.Module, recipe: str) -> tuple[nn.Module, str]:
    torch.manual_seed(1)
    images = torch.randn(16, 3, 8, 8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        changed = lissom.apply(recipe, model.eval(), images[:2], images)
    return changed, " ".join(str(each.message) for each in told)


@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(2, 32, first=2, last=2)",
        "quantize(8, correct=True)",
        'quantize(4, rounding="learned", steps=2)',
    ],
)
def test_a_convolution_whose_weight_code_reads_stays_float_and_is_named(recipe: str) -> None:
    model = Called(lambda m, x: m.c(F.relu(F.conv2d(x, m.b.weight, m.b.bias))))
    changed, said = quantized(model, recipe)
    assert "it is not called as a layer (b)" in said
    assert torch.equal(changed.get_parameter("network.b.weight"), model.b.weight)


def test_of_two_convolutions_that_share_a_weight_the_other_is_named() -> None:
    model = Called(lambda m, x: m.c(m.b(x)))
    model.c.weight = model.b.weight
    _, said = quantized(model, "quantize(8)")
    assert "its weight is that of c as well (b)" in said


def test_a_norm_after_a_weight_that_code_reads_is_not_folded() -> None:
    """The call passes no bias, so the shift of a folded norm would be lost."""
    torch.manual_seed(0)

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.head = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.norm(F.conv2d(x, self.a.weight))))

    model = Normed()
    nn.init.normal_(model.norm.bias)
    model.eval()
    x = torch.randn(64, 3, 8, 8)
    for recipe in ("fold", "quantize(8)", 'cast("bf16")', "cluster(8)"):
        changed, _ = quantized(model, recipe)
        error = (changed(x) - model(x)).square().mean() / model(x).square().mean()
        assert error < 0.02, recipe


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_layer_without_weights_stays() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, 0))
    for recipe in ("quantize(8)", "quantize(8, grid=\"uniform('tensor')\")", "quantize(4, 4)"):
        changed, said = quantized(model, recipe)
        assert changed(torch.randn(2, 3, 8, 8)).shape == (2, 0)
        assert "it has no weights (3)" in said


def test_a_layer_whose_forward_is_called_directly_is_rounded() -> None:
    model = Called(lambda m, x: m.c(F.relu(m.b.forward(x))))
    changed, said = quantized(model, "quantize(2, 32, first=2, last=2)")
    assert not said
    assert "forward" not in vars(model.b) and "forward" not in vars(
        changed.get_submodule("network.b")
    )
    assert changed.get_submodule("network.b").rounding is not None


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.norm(m.b(F.relu(m.b(x)))),
        lambda m, x: m.norm(m.b(x)) + F.conv2d(x, m.b.weight, padding=1),
    ],
)
def test_a_norm_after_one_of_two_uses_of_a_layer_stays(
    use: Callable[[Called, Tensor], Tensor],
) -> None:
    model = Called(use)
    model.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    model.norm = nn.BatchNorm2d(8)
    nn.init.uniform_(model.norm.weight, 0.5, 2)
    model.eval()
    x = torch.randn(4, 3, 8, 8)
    changed, _ = quantized(model, "fold")
    assert (changed(x) - model(x)).abs().max() < 1e-5


def test_attention_that_no_sample_reaches_stays_float() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3)
            self.norm = nn.LayerNorm(16)
            self.at = nn.Linear(16, 16)
            self.out = nn.Linear(16, 4)
            self.register_buffer("least", torch.tensor(1e3))

        def forward(self, x: Tensor) -> Tensor:
            rows = F.relu(self.stem(x)).flatten(2).transpose(1, 2)
            found = rows[rows.mean((1, 2)) > self.least]
            tokens = self.at(self.norm(found))
            return self.out(F.scaled_dot_product_attention(tokens, tokens, found)).mean(1)

    torch.manual_seed(0)
    model = Rare().eval()
    for recipe in ("quantize(8)", "quantize(8, smooth=False)", "equalize"):
        changed, _ = quantized(model, recipe)
        assert changed(torch.randn(4, 3, 8, 8)).shape == (0, 4)
