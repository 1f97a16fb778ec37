"""Sums and means over tokens in integers are right in every runtime, for batches too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.running.plan import one_target


class Tokens(nn.Module):
    """Patches of an image, each with a weight of its own, and what they have in common."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.layer = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer(self.patches(x).flatten(2).transpose(1, 2))
        tokens = tokens * torch.sigmoid(tokens.amax(2, keepdim=True))
        pooled = tokens.mean(1) if self.how == "mean" else tokens.sum(-2)
        out: Tensor = self.head(pooled)
        return out


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_pooled_tokens_are_those_of_the_simulation(how: str, runtime: str, tmp_path: Path) -> None:
    target = one_target(runtime)
    if (missing := target.missing()) is not None:
        pytest.skip(missing)
    torch.manual_seed(0)
    net, x = Tokens(how).eval(), torch.randn(40, 3, 16, 16)
    small = lissom.apply("quantize(8)", net, x, x)
    path = lissom.export(small, runtime, tmp_path / "m.onnx", (3, 16, 16), x)
    with torch.no_grad():
        wanted = small(x)
    found = torch.from_numpy(target.load(path, 1)(x.numpy()))
    assert float((found - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
