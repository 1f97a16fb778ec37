"""A small image replaces a large one only if the network's code cannot distinguish them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import lissom
from lissom.errors import LissomError
from lissom.surgery.channels.trial_cut import cuttable

LARGE = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
READ: dict[str, Callable[[Tensor], int]] = {
    "shape": lambda x: x.shape[3],
    "size": lambda x: x.size(-1),
    "len": lambda x: len(x[0, 0]),
    "numel": lambda x: x[0, 0, 0].numel(),
    "torch.numel": lambda x: torch.numel(x[0, 0, 0]),
    "iteration": lambda x: sum(1 for _ in x[0, 0]),
    "unbind": lambda x: len(x.unbind(2)),
    "split": lambda x: len(x.split(1, dim=2)),
    "stride": lambda x: x.contiguous().stride(2),
    "values": lambda x: int(torch.ones_like(x)[0, 0, 0].sum()),
    "numpy": lambda x: x.numpy().shape[3],
    "list": lambda x: len(x[0, 0, 0].tolist()),
}


class Branch(nn.Module):
    """Rolls channels, which no cut goes with, but only those of large images."""

    def __init__(self, side: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.side, self.one, self.two = side, nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu()
        return self.two(y.roll(1, 1) if self.side(x) > 100 else y).mean((2, 3))


@pytest.mark.parametrize("name", READ)
def test_code_that_knows_the_size_is_held_to_it(name: str) -> None:
    model = Branch(READ[name]).eval()
    assert cuttable(model, LARGE).depends_on_size
    with pytest.raises(LissomError, match="sliced = masked"):
        lissom.apply("prune(0.5)", model, LARGE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_code_is_held_to_the_size() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), torch.jit.script(nn.Hardswish()), nn.Conv2d(32, 4, 3)
    ).eval()
    assert cuttable(model, LARGE).depends_on_size


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "densenet121"])
def test_code_that_knows_no_size_is_shown_small_images(name: str) -> None:
    assert not cuttable(
        torchvision.models.get_model(name, weights=None).eval(), LARGE
    ).depends_on_size


def test_what_takes_no_small_image_is_held_to_the_large_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64 * 64, 4)
    ).eval()
    assert cuttable(model, LARGE).depends_on_size
