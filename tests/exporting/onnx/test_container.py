"""Packed ONNX files: the same bytes after unpacking, far fewer on disk, and damaged files are
refused.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError, apply
from lissom.bench.clock import LayerClock
from lissom.exporting.onnx import container
from lissom.importing.packed import is_packed, read
from lissom.models import factory
from lissom.running.plan import one_target
from lissom.surgery.quantization.layers import QuantizedLayer

ORDINARY: Any = one_target("onnxruntime")
PACKED: Any = one_target("onnxruntime(packed=True)")


def images(count: int = 16, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@cache
def network(name: str = "resnet8") -> Any:
    """Return a network with batch-norms of both signs, whose zeros would come out as -0.0."""
    torch.manual_seed(0)
    net = factory(name)(num_classes=10)
    net(images(64))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 0.7, 0.7)
            nn.init.normal_(m.bias, 0, 0.1)
    return net.eval()


@cache
def exported(recipe: str, name: str) -> tuple[nn.Module, bytes]:
    model = (
        apply(recipe, network(name), images(1), images(), notes=True)[0]
        if recipe
        else network(name)
    )
    with tempfile.TemporaryDirectory() as folder:
        ORDINARY.export(model, Path(folder) / "model.onnx", (3, 16, 16), {"baked": "false"})
        return model, (Path(folder) / "model.onnx").read_bytes()


def files(recipe: str, folder: Path, name: str = "resnet8") -> tuple[Path, Path, nn.Module]:
    """Return the ordinary file of a network, the packed one, and the network."""
    model, data = exported(recipe, name)
    plain, packed = folder / "model.onnx", folder / "model.onnxz"
    plain.write_bytes(data)
    container.write(plain, packed)
    return plain, packed, model


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "mask(pattern='2:4') | quantize(4)",
        "quantize(8)",
        "quantize('ternary', 32)",
        "quantize(3, grid='pow2')",
        "quantize('binary', 1)",
    ],
)
def test_the_packed_file_is_the_ordinary_one(recipe: str, tmp_path: Path) -> None:
    plain, packed, _ = files(recipe, tmp_path)
    assert read(packed) == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size
    x = images().numpy()
    assert np.array_equal(PACKED.load(packed, 1)(x), ORDINARY.load(plain, 1)(x))
    assert PACKED.fused(packed) == ORDINARY.fused(plain)
    assert np.array_equal(ORDINARY.load(packed, 1)(x), PACKED.load(plain, 1)(x)), (
        "either reads both"
    )


@pytest.mark.parametrize(
    "grid",
    ["quantize('binary')", "quantize('ternary')", "quantize(2)", "quantize(3)", "quantize(4)"],
)
def test_weights_take_the_bits_of_their_grid(grid: str, tmp_path: Path) -> None:
    _, packed, model = files(grid, tmp_path)
    bits = {"quantize('binary')": 1, "quantize('ternary')": 1.6}.get(grid) or int(grid[9])
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    count = [m.weight.numel() for m in layers]
    # which have 8 bits and stay where they are
    wanted, ends = sum(count[1:-1]) * bits / 8, count[0] + count[-1]
    with zipfile.ZipFile(packed) as archive:
        found = archive.getinfo("weights").file_size
    assert 0.98 * wanted < found < wanted + ends + 20 * len(layers), (
        "each layer has a list of its values"
    )
    assert packed.stat().st_size < wanted + ends + 15_000, "graph, scales and biases"


def test_zeros_of_floats_are_packed_too(tmp_path: Path) -> None:
    plain, packed, model = files("mask(0.8)", tmp_path, "resnet20")
    assert packed.stat().st_size < 0.3 * plain.stat().st_size
    assert any(bool((m.weight < 0).any()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    x = images().numpy()
    assert np.array_equal(PACKED.load(packed, 1)(x), ORDINARY.load(plain, 1)(x))
    with torch.no_grad():
        np.testing.assert_allclose(PACKED.load(packed, 1)(x), model(images()).numpy(), atol=1e-3)


def test_the_same_network_is_packed_to_the_same_bytes(tmp_path: Path) -> None:
    plain, packed, model = files("quantize('binary')", tmp_path)
    PACKED.export(model, tmp_path / "again", (3, 16, 16), {"baked": "false"})
    assert (tmp_path / "again").read_bytes() == packed.read_bytes()
    assert is_packed(tmp_path / "again") and not is_packed(plain)


def test_names_and_keys() -> None:
    assert str(PACKED) == "onnxruntime(packed=True)" and PACKED.plain() == ORDINARY
    assert PACKED.file(True, False) == "onnx-packed/model.onnxz" != ORDINARY.file(True, False)
    assert ORDINARY.identity() == '["onnxruntime", 1, {}]', "keys of pruned networks hold it"
    assert PACKED.identity() == ORDINARY.identity()


def parts(path: Path) -> tuple[dict[str, Any], bytes, bytes]:
    with zipfile.ZipFile(path) as archive:
        return (
            json.loads(archive.read("index.json")),
            archive.read("graph"),
            archive.read("weights"),
        )


def rewritten(path: Path, index: Any, graph: bytes, weights: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.json", json.dumps(index))
        archive.writestr("graph", graph)
        archive.writestr("weights", weights)


def refused(path: Path) -> None:
    with pytest.raises(LissomError) as found:
        PACKED.load(path, 1)
    assert str(path) in str(found.value) and "\n" not in str(found.value)


def test_truncated_damaged_and_wrong_files_are_refused_in_one_line(tmp_path: Path) -> None:
    _, packed, _ = files("quantize('ternary')", tmp_path)
    whole, wrong = packed.read_bytes(), tmp_path / "wrong.onnxz"
    draw = np.random.default_rng(0)
    for data in (
        b"",
        b"PK",
        whole[:100],
        whole[:-1],
        whole[: len(whole) // 2],
        draw.bytes(5000),
        b"PK\x03\x04" + bytes(99),
    ):
        wrong.write_bytes(data)
        refused(wrong)
    x, answers = images(2).numpy(), PACKED.load(packed, 1)(images(2).numpy())
    for place in draw.integers(0, len(whole), 60):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << draw.integers(8)
        wrong.write_bytes(harmed)
        try:
            found = PACKED.load(wrong, 1)(x)
        except LissomError:
            continue
        assert np.array_equal(found, answers), "a flipped bit made other answers"


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    _, packed, _ = files("quantize('ternary')", tmp_path)
    index, graph, weights = parts(packed)
    wrong, rows = tmp_path / "wrong.onnxz", index["tensors"]
    lies: list[Any] = [
        [],
        {},
        {"format": 2, "tensors": rows},
        {"format": 1},
        {"format": 1, "tensors": rows[1:]},
        {"format": 1, "tensors": [*rows, rows[-1]]},
        {"format": 1, "tensors": rows[::-1]},
    ]
    for column, value in (
        (0, "int32"),
        (1, rows[0][1] + 5),
        (1, -1),
        (1, 2**62),
        (1, 1.5),
        (2, "zip"),
        (3, 0),
        (3, 2**40),
        (3, True),
        (4, rows[0][4] + 10**7),
        (4, -4),
        (4, None),
    ):
        lies.append(
            {
                "format": 1,
                "tensors": [[*rows[0][:column], value, *rows[0][column + 1 :]], *rows[1:]],
            }
        )
    for lie in lies:
        rewritten(wrong, lie, graph, weights)
        refused(wrong)
    for some in (
        (graph, weights[:-1]),
        (graph, weights + b"0"),
        (graph[:300], weights),
        (b"", b""),
    ):
        rewritten(wrong, {"format": 1, "tensors": rows}, *some)
        refused(wrong)
    bomb = {"format": 1, "tensors": [["int8", 2**31 + 1, "dense", 2, 0]]}
    rewritten(wrong, bomb, b"", b"\x01\x00")
    refused(wrong)


def test_whatever_names_a_target_may_name_it_packed(tmp_path: Path) -> None:
    path = lissom.export(network(), "onnxruntime(packed=True)", tmp_path / "net.onnxz", (3, 16, 16))
    (row,) = lissom.latency([path], "onnxruntime", (1, 3, 16, 16))
    assert row["size_bytes"] == path.stat().st_size
    assert LayerClock("onnxruntime(packed=True)").latencies([network()], images(1))[0] > 0
