"""Networks with 16-bit weights in files: half the bytes, the same outputs, the rounded values."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import residual
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import lissom
from lissom import apply
from lissom.exporting.onnx.weights import as_16_bits
from lissom.language.menu import menu
from lissom.running.plan import one_target

KINDS = ["bf16", "fp16"]
TYPES = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
HALF = {"onnxruntime", "openvino", "torch"}  # targets whose files hold 16 bits


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Words(nn.Module):
    """Linear layers, with and without bias, over three axes: files hold such weights transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.one = nn.Conv2d(3, 64, 8, 8), nn.Linear(64, 256, bias=False)
        self.two, self.head = nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cut(x).flatten(2).transpose(1, 2)
        return self.head((y + self.two(torch.relu(self.one(y)))).mean(1))


@cache
def network(name: str, recipe: str = "") -> Any:
    torch.manual_seed(0)
    net = Words() if name == "words" else residual(128)
    net.train()(images(32))
    return apply(recipe, net.eval(), images(1), images()) if recipe else net.eval()


@cache
def answers(name: str, recipe: str) -> np.ndarray:
    with torch.no_grad():
        return network(name, recipe)(images()).numpy()


@cache
def bytes_in_float(runtime: str, name: str) -> int:
    """Return the bytes of the file of a network that is folded and not cast."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"fold.{target(runtime).ending}")
        target(runtime).export(network(name, "fold"), path, (3, 32, 32), {})
        return path.stat().st_size


def target(name: str) -> Any:
    found = one_target(name)
    if found.missing():  # type: ignore[attr-defined]
        pytest.skip(found.missing())  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("runtime", list(menu("targets")))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["residual", "words"])
def test_the_file_answers_as_pytorch_does_and_is_half(
    runtime: str, kind: str, name: str, tmp_path: Path
) -> None:
    where, recipe = target(runtime), f"cast('{kind}')"
    if (runtime, name) == ("ncnn", "words"):
        pytest.skip(
            "ncnn drops the batch, and takes the mean of a float network's tokens along "
            "the wrong axis as well"
        )
    path = tmp_path / f"cast.{where.ending}"
    where.export(network(name, recipe), path, (3, 32, 32), {})
    sizes = {recipe: path.stat().st_size, "fold": bytes_in_float(runtime, name)}
    run = where.load(path, 1)
    wanted = answers(name, recipe)
    for count in (1, 6):
        np.testing.assert_allclose(
            run(images()[:count].numpy()), wanted[:count], atol=2e-5 * np.abs(wanted).max()
        )
    assert np.abs(wanted - answers(name, "fold")).max() > 1e-4 * np.abs(wanted).max(), (
        "the bound would not tell them apart"
    )
    share = sizes[recipe] / sizes["fold"]
    print(f"{runtime} {kind} {name}: {sizes[recipe]} of {sizes['fold']} bytes, {share:.3f}")
    if runtime not in HALF:
        assert 0.98 < share < 1.02
    elif runtime == "torch":  # whose file holds a graph of as many bytes as a small network
        weights = sum(
            m.weight.numel()
            for m in network(name).modules()
            if isinstance(m, (nn.Conv2d, nn.Linear))
        )
        assert sizes["fold"] - sizes[recipe] > 0.85 * 2 * weights
    else:
        assert 0.49 < share < 0.55


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_in_the_file_has_16_bits_and_every_bias_32(kind: str, tmp_path: Path) -> None:
    net = network("residual", f"cast('{kind}')")
    lissom.export(net, "onnxruntime", tmp_path / "m.onnx", (3, 32, 32))
    tensors = onnx.load(str(tmp_path / "m.onnx")).graph.initializer
    stored = [t for t in tensors if len(t.dims) > 1]
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(stored) == len(layers) == 5 and {t.data_type for t in stored} == {TYPES[kind]}
    assert {
        t.data_type for t in tensors if len(t.dims) == 1 and t.data_type != TensorProto.INT64
    } == {TensorProto.FLOAT}
    kept = {
        tuple(t.dims): numpy_helper.to_array(t).astype(np.float32) for t in stored if t.dims[0] == 4
    }
    assert np.array_equal(kept[4, 128], layers[-1].transformed().detach().numpy())


def test_a_layer_that_is_kept_is_float32_in_the_file(tmp_path: Path) -> None:
    lissom.export(
        network("words", "cast('bf16', keep='one')"),
        "onnxruntime",
        tmp_path / "m.onnx",
        (3, 32, 32),
    )
    found = {
        t.data_type: []
        for t in onnx.load(str(tmp_path / "m.onnx")).graph.initializer
        if len(t.dims) > 1
    }
    for tensor in onnx.load(str(tmp_path / "m.onnx")).graph.initializer:
        if len(tensor.dims) > 1:
            found[tensor.data_type].append(int(np.prod(tensor.dims)))
    assert found[TensorProto.FLOAT] == [64 * 256] and sorted(found[TensorProto.BFLOAT16]) == [
        640,
        64 * 192,
        64 * 256,
    ]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtime_computes_as_with_a_file_of_float32(runtime: str, tmp_path: Path) -> None:
    """The runtime's own graph has the layers of the float file and widens nothing while it runs."""
    where = target(runtime)
    counts = []
    for recipe in ("fold", "cast('bf16')", "cast('fp16')"):
        where.export(network("residual", recipe), tmp_path / "m.onnx", (3, 32, 32), {})
        found = where.fused(tmp_path / "m.onnx")
        counts.append((found.done, found.total))
    assert counts[0] == counts[1] == counts[2]


def test_equal_networks_are_equal_files_and_export_leaves_the_network_as_it_was(
    tmp_path: Path,
) -> None:
    net = network("words", "cast('bf16')")
    before = [(type(m), p.clone()) for m in net.modules() for p in m.parameters(recurse=False)]
    files = []
    for runtime in ("onnxruntime", "openvino", "torch", "onnxruntime"):
        path = tmp_path / f"m{len(files)}.{target(runtime).ending}"
        lissom.export(net, runtime, path, (3, 32, 32))
        files.append(path.read_bytes())
    after = [(type(m), p) for m in net.modules() for p in m.parameters(recurse=False)]
    assert files[0] == files[3] == files[1]
    assert all(a is b and torch.equal(p, q) for (a, p), (b, q) in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_and_cast_network_exports(kind: str, tmp_path: Path) -> None:
    net = apply(f"mask(0.5) | cast('{kind}')", network("words"), images(1), images())
    lissom.export(net, "onnxruntime", tmp_path / "m.onnx", (3, 32, 32))
    with torch.no_grad():
        wanted = net(images()).numpy()
    found = target("onnxruntime").load(tmp_path / "m.onnx", 1)(images().numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_bits_are_those_of_pytorch_and_nothing_is_lost_unseen() -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    for kind, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = values.to(dtype)
        bits = as_16_bits(half.float().numpy(), kind)
        assert bits is not None and np.array_equal(
            bits, half.view(torch.int16).numpy().view(np.uint16)
        )
        assert as_16_bits(values.numpy(), kind) is None
    assert (
        as_16_bits(np.array([70000.0], np.float32), "fp16") is None
        and as_16_bits(np.array([1e-8], np.float32), "fp16") is None
    )
    minus = as_16_bits(np.array([-0.0], np.float32), "fp16")
    assert minus is not None and int(minus[0]) == 0x8000
