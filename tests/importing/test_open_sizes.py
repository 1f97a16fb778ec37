"""Files with open sizes: what depends on a size is computed from the size at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lissom
from lissom import LissomError, from_onnx
from lissom.importing import onnx_network
from lissom.importing.operators import windows
from lissom.importing.operators.table import OPERATORS

from .graphs import floats, node, written

IMAGES = {"x": ("batch", 4, "height", "width")}
TEXT = {"x": ("batch", "length", 8)}


def compared(path: Path, shapes: list[tuple[int, ...]]) -> nn.Module:
    """Return the network of a file, after comparing it with ONNX Runtime on inputs of these shapes."""
    network = from_onnx(path)
    session = ort.InferenceSession(str(path))
    for shape in shapes:
        x = floats(*shape)
        (wanted,) = session.run(None, {"x": x})
        with torch.no_grad():
            given = network(torch.from_numpy(x)).numpy()
        assert given.shape == wanted.shape
        assert np.abs(given - wanted).max() <= 1e-5 * np.abs(wanted).max()
    return network


def halving(how: str, count: int = 3) -> tuple[list[Any], dict[str, Any]]:
    """Return convolutions that each halve an image, with padding that depends on its size."""
    nodes = []
    for place in range(count):
        reads = [f"y{place}" if place else "x", f"w{place}"]
        nodes.append(node("Conv", reads, [f"y{place + 1}"], auto_pad=how, strides=[2, 2]))
    return nodes, {f"w{place}": floats(4, 4, 3, 3, seed=place) for place in range(count)}


SIZES = [(2, 4, 380, 380), (1, 4, 65, 64), (1, 4, 66, 67), (3, 4, 37, 95), (1, 4, 5, 8)]


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_of_an_open_image_is_that_of_its_size(how: str, tmp_path: Path) -> None:
    nodes, tensors = halving(how)
    network = compared(written(tmp_path / "net.onnx", nodes, IMAGES, ["y3"], **tensors), SIZES)
    images = torch.randn(4, 4, 37, 31)
    small, _ = lissom.apply("prune(0.5, multiple=1)", network, images[:2], images, notes=True)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    lissom.apply("quantize(8)", network, images[:2], images, notes=True)
    lissom.export(network, "onnxruntime", tmp_path / "out.onnx", shape=(4, 37, 31))


POOLS: dict[str, dict[str, Any]] = {
    "MaxPool": {},
    "AveragePool": {"count_include_pad": 0},
    "AveragePool of padding, too": {"count_include_pad": 1},
    "MaxPool with a stride of three": {"strides": [3, 1]},
    "MaxPool beside pads": {"pads": [0, 0, 0, 0]},
}


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("name", POOLS)
def test_pools_of_an_open_image_are_padded_for_its_size(
    name: str, how: str, tmp_path: Path
) -> None:
    settings = {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": how} | POOLS[name]
    op = name.split()[0]
    nodes = [node(op, ["x"], ["a"], **settings), node(op, ["a"], ["y"], **settings)]
    compared(written(tmp_path / "net.onnx", nodes, IMAGES, ["y"]), SIZES)


def test_uneven_padding_that_does_not_count_fits_any_open_image(tmp_path: Path) -> None:
    pads = {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}
    network = compared(
        written(tmp_path / "net.onnx", [node("AveragePool", ["x"], ["y"], **pads)], IMAGES, ["y"]),
        SIZES,
    )
    assert network.notes == ()


def test_channels_around_a_pool_of_an_open_image_are_cut(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node(
            "AveragePool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
        ),
        node("Conv", ["b", "v"], ["y"]),
    ]
    tensors = {"w": floats(8, 4, 3, 3), "v": floats(4, 8, 3, 3)}
    network = from_onnx(written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors))
    images = torch.randn(4, 4, 31, 36)
    small, _ = lissom.apply("prune(0.5, multiple=1)", network, images[:2], images, notes=True)
    convs = [layer for layer in small.modules() if isinstance(layer, nn.Conv2d)]
    assert convs[0].out_channels == convs[1].in_channels < 8


def test_padding_that_no_size_changes_stays_in_the_layer(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER"),
        node("Conv", ["a", "v"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2]),
    ]
    tensors = {"w": floats(4, 4, 3, 3), "v": floats(4, 4, 1, 1)}
    network = compared(written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors), SIZES)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.padding for layer in layers] == [(1, 1), (0, 0)]


def test_a_network_that_is_right_for_even_sizes_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_even_sizes(x: torch.Tensor, *_: Any, value: float = 0.0) -> torch.Tensor:
        return F.pad(x, (0, 1, 0, 1), value=value)

    monkeypatch.setattr(windows, "same_padded", for_even_sizes)
    nodes, tensors = halving("SAME_UPPER", 1)
    path = written(tmp_path / "net.onnx", nodes, IMAGES, ["y1"], **tensors)
    with pytest.raises(LissomError, match=r"differ .* for an input \(1, 4, 65, 65\)"):
        from_onnx(path)


def test_a_network_that_fails_on_odd_sizes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_blocks(op: Any) -> Any:
        blocks = op.call(F.pixel_unshuffle, op.call(F.relu, op[0]), 2)
        return op.call(F.pixel_shuffle, blocks, 2)

    monkeypatch.setattr(onnx_network, "OPERATORS", OPERATORS | {"Relu": in_blocks})
    path = written(tmp_path / "net.onnx", [node("Relu", ["x"], ["y"])], IMAGES, ["y"])
    with pytest.raises(LissomError, match=r"for an input \(1, 4, 65, 65\), and the network fails"):
        from_onnx(path)


def test_sizes_that_the_file_itself_does_not_take_are_not_compared(tmp_path: Path) -> None:
    nodes = [node("SpaceToDepth", ["x"], ["y"], blocksize=2)]
    compared(written(tmp_path / "net.onnx", nodes, IMAGES, ["y"]), [(1, 4, 6, 8)])


LAST = np.array([-1])
OPEN_PLACES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": LAST}),
    "Gather, one place": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array(-2)}),
    "Gather, a table of places": (
        [node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([[-1, 0], [2, -3]])},
    ),
    "GatherElements": (
        [
            node("Shape", ["x"], ["s"], end=1),
            node("Concat", ["s", "one"], ["c"], axis=0),
            node("Expand", ["i", "c"], ["e"]),
            node("GatherElements", ["x", "e"], ["y"], axis=1),
        ],
        {"i": np.array([[[-1] * 8, [1] * 8]]), "one": np.array([2, 8])},
    ),
    "ScatterElements": (
        [
            node("Shape", ["x"], ["s"], end=1),
            node("Concat", ["s", "one"], ["c"], axis=0),
            node("Expand", ["i", "c"], ["e"]),
            node("Expand", ["u", "c"], ["f"]),
            node("ScatterElements", ["x", "e", "f"], ["y"], axis=1),
        ],
        {
            "i": np.array([[[-1] * 8, [1] * 8]]),
            "u": floats(1, 2, 8),
            "one": np.array([2, 8]),
        },
    ),
    "GatherND": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("GatherND", ["t", "i"], ["g"]),
            node("Transpose", ["g"], ["y"], perm=[1, 0, 2]),
        ],
        {"i": np.array([[-1], [2]])},
    ),
}


@pytest.mark.parametrize("name", OPEN_PLACES)
def test_places_counted_from_the_end_are_those_of_the_size(name: str, tmp_path: Path) -> None:
    nodes, tensors = OPEN_PLACES[name]
    path = written(tmp_path / "net.onnx", nodes, TEXT, ["y"], **tensors)
    compared(path, [(2, 8, 8), (1, 12, 8), (3, 5, 8), (2, 31, 8)])


def test_places_from_the_beginning_stay_constants(tmp_path: Path) -> None:
    nodes = [node("Gather", ["x", "i"], ["y"], axis=1)]
    network = from_onnx(written(tmp_path / "net.onnx", nodes, TEXT, ["y"], i=np.array([2, 0])))
    assert "remainder" not in network.forward.__code__.co_names


@pytest.mark.parametrize("how", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_an_open_image_is_turned_into_the_output_shape(how: str, tmp_path: Path) -> None:
    settings = {"strides": [2, 2], "output_shape": [128, 129], "auto_pad": how}
    nodes = [node("ConvTranspose", ["x", "w", "b"], ["y"], **settings)]
    tensors = {"w": floats(4, 3, 3, 3), "b": floats(3)}
    path = written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors)
    network = compared(path, [(2, 4, 64, 65), (1, 4, 80, 71), (1, 4, 65, 90)])
    with pytest.raises(ValueError, match=r"expected output sizes \[128, 129\], the largest"):
        network(torch.zeros(1, 4, 20, 20))
