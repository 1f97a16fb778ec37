"""A layer that reads several values in turn, such as a detector's head on every level of a pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Net, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target
from lissom.surgery.quantization.layers import QuantizedLayer


def pyramid(factor: float) -> nn.Module:
    """Return a network that runs one head on two levels, the second `factor` times as large."""

    def forward(net: Any, x: Tensor) -> Tensor:
        large = net.first(x).relu()
        small = (net.down(large) * factor).relu()
        heads = [net.last(net.head(level).relu()).mean((2, 3)) for level in (large, small)]
        return torch.stack(heads, 1)

    torch.manual_seed(0)
    return Net(
        forward,
        first=nn.Conv2d(3, 8, 3, 2, 1),
        down=nn.Conv2d(8, 8, 3, 2, 1),
        head=nn.Conv2d(8, 8, 3, padding=1),
        last=nn.Conv2d(8, 4, 1),
    ).eval()


def tokens(factor: float) -> nn.Module:
    """Return a network that runs one linear layer on two numbers of tokens."""

    def forward(net: Any, x: Tensor) -> Tensor:
        many = net.patch(x).flatten(2).transpose(1, 2)
        few = net.coarse(x).flatten(2).transpose(1, 2) * factor
        return torch.stack([net.fc(net.norm(t)).mean(1) for t in (many, few)], 1)

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            size = factor if x.shape[1] < 16 else 1.0
            return nn.functional.layer_norm(x, (8,)) * size

    torch.manual_seed(0)
    return Net(
        forward,
        patch=nn.Conv2d(3, 8, 4, 4),
        coarse=nn.Conv2d(3, 8, 8, 8),
        norm=Scaled(),
        fc=nn.Linear(8, 4),
    ).eval()


NETWORKS = {"a pyramid": pyramid, "tokens": tokens}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("made", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(("factor", "alike"), [(2.0, True), (50.0, False)])
def test_its_inputs_share_a_step_if_they_are_alike(
    made: Any, factor: float, alike: bool, runtime: str, tmp_path: Path
) -> None:
    net = made(factor)
    small: Any = apply("quantize(8)", net, images(1), images())
    head = small.network.get_submodule("head" if made is pyramid else "fc")
    assert isinstance(head, QuantizedLayer)
    assert (head.step() is not None) == alike
    target: Any = one_target(runtime)
    target.export(small, tmp_path / "net.onnx", (3, 16, 16), {})
    assert target.fused(tmp_path / "net.onnx").rest == ()
    with torch.no_grad():
        wanted = small(images(8)).numpy()
        exact = net(images(8)).numpy()
    found = target.load(tmp_path / "net.onnx", 1)(images(8).numpy())
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    for level in range(2):  # the smaller level keeps its precision too
        error = np.abs(wanted[:, level] - exact[:, level]).max() / np.abs(exact[:, level]).max()
        assert error < 0.05
