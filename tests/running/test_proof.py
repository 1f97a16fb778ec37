"""Exported files are opened in their runtime and compared: a file that fails or gives other outputs
is not kept.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from networks import Net, images, seasoned
from torch import Tensor, nn

import lissom
from lissom import LissomError, apply
from lissom.running.plan import one_target


class ConvLSTM(nn.Module):
    """A network whose convolution reads a concatenation of its input and its state, step by step."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width, self.gates, self.out = (
            width,
            nn.Conv2d(3 + width, 4 * width, 3, padding=1),
            nn.Conv2d(width, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], self.width, *x.shape[3:])
        for k in range(x.shape[1]):
            i, f, o, g = self.gates(torch.cat([x[:, k], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


def padded(pads: tuple[int, ...]) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.two(
            F.pad(net.one(F.pad(x, pads, mode="circular")).relu(), pads, mode="circular")
        )

    return Net(forward, one=nn.Conv2d(3, 8, 3), two=nn.Conv2d(8, 8, 3))


@pytest.mark.parametrize(
    ("pads", "recipe"), [((1, 1, 1, 1), "quantize(8)"), ((2, -1, 0, 3), "fold")]
)
def test_circular_padding_is_the_same_in_every_runtime(
    tmp_path: Path, pads: tuple[int, ...], recipe: str
) -> None:
    torch.manual_seed(0)
    seen = images(8, 8)
    net = apply(recipe, padded(pads), seen[:1], seen)
    wanted = net(seen).detach()
    for target in ("onnxruntime", "openvino"):
        path = lissom.export(net, target, tmp_path / "net.onnx", (3, 8, 8), seen)
        found = one_target(target).load(path, 1)(seen.numpy())
        assert np.abs(found - wanted.numpy()).max() < 0.01 * float(wanted.abs().max())
        if recipe != "fold":
            assert one_target(target).fused(path).done >= 1  # type: ignore[union-attr]
    assert "Pad" not in {node.op_type for node in onnx.load(str(path)).graph.node}


def test_what_is_rounded_behind_a_concatenation_runs_in_every_runtime(tmp_path: Path) -> None:
    torch.manual_seed(0)
    seen = torch.randn(8, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net = apply("quantize(8)", ConvLSTM().eval(), seen[:1], seen)
    for target in ("onnxruntime", "openvino"):
        path = lissom.export(net, target, tmp_path / "net.onnx", (2, 3, 8, 8), seen)
        found, wanted = one_target(target).load(path, 1)(seen.numpy()), net(seen).detach().numpy()
        assert np.square(found - wanted).mean() < 1e-4 * np.square(wanted).mean()


def spoiled(how: str) -> Any:
    """Return an exporter that writes what no runtime opens, what none can run, or the file of
    another network.
    """
    from lissom.exporting.onnx.export import export_onnx

    def export(
        model: nn.Module, path: Path, shape: tuple[int, ...], facts: dict[str, Any], **more: Any
    ) -> None:
        if how == "weights":
            with torch.no_grad():
                next(model.parameters()).add_(0.1)
        export_onnx(model, path, shape, facts, **more)
        if how == "text":
            path.write_bytes(b"no model")
        elif how == "operator":
            proto = onnx.load(str(path))
            proto.graph.node[0].op_type = "NoSuchThing"
            onnx.save(proto, str(path))

    return export


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", "cannot run the file that was made"),
        ("operator", "cannot run the file that was made"),
        ("weights", "the gate 'exported = PyTorch' failed"),
    ],
)
def test_a_file_that_does_not_run_or_answers_otherwise_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    export = spoiled(how)
    monkeypatch.setattr(
        "lissom.exporting.onnx.export.export_onnx",
        lambda model, *given, **more: export(copy.deepcopy(model), *given, **more),
    )
    (tmp_path / "net.onnx").write_text("what was there")
    with pytest.raises(LissomError) as caught:
        lissom.export(seasoned(), "onnxruntime", tmp_path / "net.onnx", (3, 16, 16))
    assert said in str(caught.value) and "nothing was written" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "net.onnx").read_text() == "what was there" and len(
        list(tmp_path.iterdir())
    ) == 1
