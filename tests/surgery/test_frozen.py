"""What a user froze stays frozen through every step that changes weights."""

from __future__ import annotations

import pytest
import torch
from networks import images
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import lissom


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(16, 16, 3)),
        nn.ReLU(),
        Attending(),
        nn.Flatten(),
        nn.Linear(16 * 16, 4),
    ).eval()


@pytest.mark.filterwarnings("ignore::lissom.LissomWarning")
@pytest.mark.parametrize(
    "recipe",
    ["fold", "quantize(8)", 'cast("bf16")', "mask(0.3)", "prune(0.3)", "quantize(8, correct=True)"],
)
def test_no_parameter_learns_again(recipe: str) -> None:
    model = network().requires_grad_(False)
    changed = lissom.apply(recipe, model, images(2, 8), images(40, 8))
    learning = [name for name, each in changed.named_parameters() if each.requires_grad]
    assert not learning
