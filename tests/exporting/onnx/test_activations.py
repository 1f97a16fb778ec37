"""Activations other than ReLU are rounded as the runtime computes them fastest, and give the
outputs of the simulation.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import Net
from torch import nn

import lissom
from lissom import save
from lissom.exporting.onnx.activations import join_activations, round_sigmoids
from lissom.store.snapshot import rounded_activations
from lissom.targets.onnxruntime import Onnxruntime
from lissom.targets.openvino import Openvino

ACTS = {
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "gelu": nn.GELU(),
    "leaky": nn.LeakyReLU(0.1),
    "sigmoid": nn.Sigmoid(),
    "elu": nn.ELU(),
    "mish": nn.Mish(),
    "prelu": nn.PReLU(),
    "tanh": nn.Tanh(),
}
X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(act: nn.Module, recipe: str = "quantize(8)") -> nn.Module:
    """Return a network with two convolutions before the activation alone, and one whose output an
    addition reads, too.
    """
    torch.manual_seed(0)

    def forward(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.two(n.act(n.one(x)))
        z = n.act(y)
        w = n.three(y + z)
        return n.head((n.act(w) * w.mean((2, 3), keepdim=True)).mean((2, 3)))

    model = Net(
        forward,
        one=nn.Conv2d(3, 8, 3, 1, 1),
        two=nn.Conv2d(8, 8, 3, 1, 1),
        three=nn.Conv2d(8, 8, 3, 1, 1),
        act=act,
        head=nn.Linear(8, 5),
    ).eval()
    return lissom.apply(recipe, model, X[:1], X)


def kinds(path: Path) -> Counter[str]:
    """Count the operations of a file."""
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("name", ACTS)
def test_both_files_answer_as_simulated_and_run_in_integers(name: str, tmp_path: Path) -> None:
    model = quantized(ACTS[name])
    with torch.no_grad():
        wanted = model(X).numpy()
    for target in (Onnxruntime(), Openvino()):
        path = tmp_path / f"{target}.onnx"
        target.export(model, path, (3, 8, 8), {})
        gap = target.load(path, 1)(X.numpy()) - wanted
        assert np.sqrt(np.square(gap).mean() / np.square(wanted).mean()) < 0.03, str(target)
        fused = target.fused(path)
        assert fused is not None and not [layer for layer in fused.rest if "/Add" not in layer], (
            str(target)
        )
    ours, theirs = kinds(tmp_path / "onnxruntime.onnx"), kinds(tmp_path / "openvino.onnx")
    assert ours["Conv"] == theirs["Conv"] == 3
    rounds = ours["QuantizeLinear"] - theirs["QuantizeLinear"] - 3 * (name == "silu")
    assert rounds == 1, "one convolution is read by its activation alone"


def test_onnxruntime_computes_silu_in_integers(tmp_path: Path) -> None:
    model = quantized(nn.SiLU())
    Onnxruntime().export(model, tmp_path / "f.onnx", (3, 8, 8), {})
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 4
    ort.InferenceSession(str(tmp_path / "f.onnx"), options, providers=["CPUExecutionProvider"])
    found = kinds(tmp_path / "o.onnx")
    assert (
        found["QLinearSigmoid"] == 3
        and found["QLinearMul"] >= 3
        and not found["Sigmoid"]
        and not found["Mul"]
    )


def test_fewer_bits_stay_where_they_are(tmp_path: Path) -> None:
    Onnxruntime().export(
        quantized(nn.Hardswish(), "quantize(8, 6)"), tmp_path / "f.onnx", (3, 8, 8), {}
    )
    proto = onnx.load(str(tmp_path / "f.onnx"))
    clipped = sum(node.op_type == "Clip" for node in proto.graph.node)
    join_activations(proto)
    assert clipped > 0 and sum(node.op_type == "Clip" for node in proto.graph.node) == clipped


@pytest.mark.parametrize("adapt", [join_activations, round_sigmoids])
def test_a_network_of_relus_is_left_alone(adapt: object, tmp_path: Path) -> None:
    Onnxruntime().export(quantized(nn.ReLU()), tmp_path / "f.onnx", (3, 8, 8), {})
    proto = onnx.load(str(tmp_path / "f.onnx"))
    before = proto.SerializeToString()
    adapt(proto)  # type: ignore[operator]
    assert proto.SerializeToString() == before


def test_the_runtimes_share_a_file_unless_activations_are_rounded(tmp_path: Path) -> None:
    for name, act, differs in (("relu", nn.ReLU(), False), ("silu", nn.SiLU(), True)):
        save(quantized(act), tmp_path / name)
        assert rounded_activations(tmp_path / name) is differs
        assert (Onnxruntime().file(False, differs) != Openvino().file(False, differs)) is differs
    save(nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU()), tmp_path / "float")
    assert not rounded_activations(tmp_path / "float")


BEFORE = {
    "cat": lambda x, y: torch.cat([x, y], 1),
    "mul": lambda x, y: torch.cat([x, y], 1) * torch.cat([y, x], 1),
    "pool": lambda x, y: nn.functional.interpolate(torch.cat([x, y], 1), scale_factor=2.0),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_only_a_relu_reads_is_rounded_once(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(
        lambda n, x: n.head(n.three(BEFORE[name](n.one(x), n.two(x)).relu()).mean((2, 3))),
        one=nn.Conv2d(3, 8, 3, 1, 1),
        two=nn.Conv2d(3, 8, 1),
        three=nn.Conv2d(16, 8, 3),
        head=nn.Linear(8, 5),
    )
    model = lissom.apply("quantize(8)", model.eval(), X[:1], X)
    # export runs the file: OpenVINO dies of concatenations rounded twice
    for target in ("onnxruntime", "openvino"):
        lissom.export(model, target, tmp_path / f"{target}.onnx", (3, 8, 8), X)
    proto = onnx.load(str(tmp_path / "onnxruntime.onnx"))
    made = {output: node for node in proto.graph.node for output in node.output}
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    assert made[relu.input[0]].op_type != "DequantizeLinear"
