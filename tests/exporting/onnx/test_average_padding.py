"""Average pooling with padding gives the outputs of the simulation in both runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv, images
from torch import Tensor

from lissom import apply
from lissom.running.plan import one_target


def counted(net: Any, x: Tensor) -> Tensor:
    return net.b(F.avg_pool2d(net.a(x), 3, 1, 1))


def padded_on_one_side(net: Any, x: Tensor) -> Tensor:
    return net.b(F.avg_pool2d(F.pad(net.a(x), (0, 1, 0, 1)), 3, 2))


def not_counted(net: Any, x: Tensor) -> Tensor:
    return net.b(F.avg_pool2d(net.a(x), 3, 1, 1, count_include_pad=False))


@pytest.mark.parametrize("forward", [counted, padded_on_one_side, not_counted])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_lies_beyond_the_edge_is_zero(forward: Any, runtime: str, tmp_path: Path) -> None:
    target: Any = one_target(runtime)
    torch.manual_seed(0)
    net = Net(forward, a=conv(3, 8), b=conv(8, 4))
    with torch.no_grad():
        net.a.bias.copy_(torch.linspace(-2, 2, 8))  # type: ignore[union-attr]
    model = apply("quantize(8, reduce_range=True)", net.eval(), images(1), images(), notes=True)[0]
    path = tmp_path / "m.onnx"
    target.export(model, path, (3, 16, 16), {})
    with torch.no_grad():
        wanted = model(images(4)).numpy()
    difference = np.abs(target.load(path, 1)(images(4).numpy()) - wanted).max()
    assert difference < 0.03 * np.abs(wanted).max()
