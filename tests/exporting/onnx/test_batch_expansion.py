"""A constant tensor is concatenated to every sample, and the file gives the outputs of the
simulation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import Net, conv, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target


def classed(net: Any, x: Tensor) -> Tensor:
    y = net.patches(x).flatten(2).transpose(1, 2)
    y = torch.cat([net.token.expand(x.shape[0], -1, -1), y], 1)
    return net.line(y + net.places)[:, 0]


def widened(net: Any, x: Tensor) -> Tensor:
    token = net.token[0, 0].expand(x.shape[0], 8, 8).unsqueeze(1)
    return net.line(torch.cat([net.patches(x), token], 1).mean(2)).mean(1)


@pytest.mark.parametrize("forward", [classed, widened])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_token_for_each_sample_takes_no_bias_away(
    forward: Any, runtime: str, tmp_path: Path
) -> None:
    target: Any = one_target(runtime)
    torch.manual_seed(0)
    net = Net(
        forward,
        patches=nn.Conv2d(3, 8, 2, 2),
        token=nn.Parameter(torch.randn(1, 1, 8)),  # type: ignore[arg-type]
        places=nn.Parameter(torch.randn(1, 65, 8)),  # type: ignore[arg-type]
        line=nn.Linear(8, 4),
    )
    with torch.no_grad():
        net.patches.bias.copy_(torch.linspace(-2, 2, 8))  # type: ignore[union-attr]
    model = apply("quantize(8, reduce_range=True)", net.eval(), images(1), images(), notes=True)[0]
    path = tmp_path / "m.onnx"
    target.export(model, path, (3, 16, 16), {})
    run = target.load(path, 1)
    for count in (1, 3, 8):
        with torch.no_grad():
            wanted = model(images(count)).numpy()
        difference = np.abs(run(images(count).numpy()) - wanted).max()
        assert difference < 0.02 * np.abs(wanted).max()
    read = {name for node in onnx.load(str(path)).graph.node for name in node.input}
    assert {tensor.name for tensor in onnx.load(str(path)).graph.initializer} <= read


def test_a_float_file_asks_for_the_batch(tmp_path: Path) -> None:
    target: Any = one_target("openvino")
    net = Net(
        lambda net, x: torch.cat([net.token.expand(x.shape[0], -1, -1, -1), net.one(x)], 2),
        one=conv(3, 4),
        token=nn.Parameter(torch.randn(1, 4, 1, 16)),  # type: ignore[arg-type]
    )
    target.export(net.eval(), tmp_path / "m.onnx", (3, 16, 16), {})
    assert "Expand" in {node.op_type for node in onnx.load(str(tmp_path / "m.onnx")).graph.node}
