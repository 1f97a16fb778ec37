"""Resizing: with all attributes written, as PyTorch's exporters do, and of open sizes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import LissomError, from_onnx

from .graphs import PICTURES, node, written
from .test_open_sizes import IMAGES, compared

# what PyTorch's exporter writes although it is the default
WRITTEN: dict[str, Any] = {
    "antialias": 0,
    "exclude_outside": 0,
    "cubic_coeff_a": -0.75,
    "extrapolation_value": 0.0,
    "keep_aspect_ratio_policy": "stretch",
}
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "linear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "cubic": {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
}


@pytest.mark.parametrize("name", WAYS)
def test_attributes_that_are_defaults_may_be_written(name: str, tmp_path: Path) -> None:
    nodes = [node("Resize", ["x", "", "f"], ["y"], **WRITTEN | WAYS[name])]
    factors = np.array([1, 1, 2, 1.5], np.float32)
    from_onnx(written(tmp_path / "net.onnx", nodes, PICTURES, ["y"], 19, f=factors))


@pytest.mark.parametrize("option", ["antialias", "exclude_outside"])
def test_options_that_pytorch_lacks_are_named(option: str, tmp_path: Path) -> None:
    nodes = [node("Resize", ["x", "", "f"], ["y"], **WRITTEN | WAYS["cubic"] | {option: 1})]
    factors = np.array([1, 1, 0.5, 0.5], np.float32)
    path = written(tmp_path / "net.onnx", nodes, PICTURES, ["y"], 19, f=factors)
    with pytest.raises(LissomError, match=f"{option} is not known"):
        from_onnx(path)


class Larger(nn.Module):
    """A convolution and a larger image."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), **self.how)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 2.0, "mode": "nearest"},
        {"size": (20, 24), "mode": "nearest"},
        {"scale_factor": 2.0, "mode": "bilinear"},
    ],
)
def test_the_newer_exporter_of_pytorch_writes_what_is_read(
    how: dict[str, Any], opened: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Larger(**how).eval()
    free = torch.export.Dim.DYNAMIC
    axes = {0: free, 2: free, 3: free} if opened else {0: free}
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.randn(2, 3, 12, 14),),
            str(path),
            dynamo=True,
            dynamic_shapes=(axes,),
            verbose=False,
        )
    resizes = [n for n in onnx.load(str(path)).graph.node if n.op_type == "Resize"]
    assert "antialias" in {held.name for held in resizes[0].attribute}
    again = from_onnx(path)
    for shape in [(5, 3, 12, 14), *([(1, 3, 13, 21)] if opened else [])]:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(again(x), network(x), atol=1e-5, rtol=1e-4)


def sized(height: str, width: str) -> tuple[list[Any], dict[str, Any]]:
    """Return nodes that resize an image to two sizes, each the name of a row of one number."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "two"], ["first"]),
        node("Slice", ["s", "two", "three"], ["h"]),
        node("Slice", ["s", "three", "four"], ["w"]),
        node("Mul", ["h", "two"], ["h2"]),
        node("Mul", ["w", "two"], ["w2"]),
        node("Concat", ["first", height, width], ["sizes"], axis=0),
        node(
            "Resize",
            ["x", "", "", "sizes"],
            ["y"],
            mode="nearest",
            coordinate_transformation_mode="half_pixel",
            nearest_mode="round_prefer_floor",
        ),
    ]
    names = {"zero": 0, "two": 2, "three": 3, "four": 4, "k": 128}
    return nodes, {name: np.array([number]) for name, number in names.items()}


def test_a_whole_factor_of_open_sizes_is_nearest(tmp_path: Path) -> None:
    nodes, tensors = sized("h2", "w2")
    path = written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors)
    compared(path, [(2, 4, 64, 96), (1, 4, 37, 50)])


@pytest.mark.parametrize("sizes", [("h", "k"), ("h2", "k"), ("k", "k")])
def test_a_factor_that_is_whole_for_one_size_only_is_not_taken(
    sizes: tuple[str, str], tmp_path: Path
) -> None:
    nodes, tensors = sized(*sizes)
    path = written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors)
    with pytest.raises(LissomError, match="nearest_mode 'round_prefer_floor'"):
        from_onnx(path)


@pytest.mark.parametrize("sizes", [("k", "w"), ("k", "w2")])
def test_a_height_for_which_the_factor_is_whole_is_found(
    sizes: tuple[str, str], tmp_path: Path
) -> None:
    nodes, tensors = sized(*sizes)
    network = compared(
        written(tmp_path / "net.onnx", nodes, IMAGES, ["y"], **tensors), [(2, 4, 32, 37)]
    )
    assert network.notes == ("input 'x' is open in the file; here axis 2 is 32",)


def test_known_sizes_go_with_their_axes(tmp_path: Path) -> None:
    nodes, tensors = sized("h", "k")
    image = {"x": ("batch", 4, "height", 32)}
    compared(written(tmp_path / "net.onnx", nodes, image, ["y"], **tensors), [(2, 4, 37, 32)])
    image = {"x": ("batch", 4, 32, "width")}
    nodes, tensors = sized("k", "w2")
    compared(written(tmp_path / "net2.onnx", nodes, image, ["y"], **tensors), [(2, 4, 32, 37)])
