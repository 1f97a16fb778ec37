"""The image operations of a preprocessing as ONNX nodes, for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import LissomError
from ...language.preprocess import PictureOperation, Preprocess
from ...preprocess.bgr import Bgr
from ...preprocess.center_crop import CenterCrop
from ...preprocess.gray import Gray
from ...preprocess.letterbox import Letterbox
from ...preprocess.pad import Pad
from ...preprocess.resize import Resize

# attributes of Resize; nearest rounds as Pillow does
INTERPOLATIONS: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic"},
}
# exclude_outside: at the borders only pixels inside count, in proportion
PILLOW = {"antialias": 1, "cubic_coeff_a": -0.5, "exclude_outside": 1}
PYTORCH = {"antialias": 0, "cubic_coeff_a": -0.75}
LUMA_WEIGHTS = (19595, 38470, 7471)  # of 65536, as Pillow rounds 0.299, 0.587 and 0.114


class Nodes:
    """A list of ONNX nodes to add to. Strings name values; numbers and arrays become constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = f"picture/{kind}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant and return its name. Python integers become int64."""
        from onnx import numpy_helper

        name = f"picture/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


class Picture:
    """An 8-bit image (n c height width) after some operations, and the map of points onto it.

    `size`, `scale` and `offset` are (height, width). A point p of the original image is now at
    scale * p + offset.
    """

    def __init__(self, nodes: Nodes, given: str) -> None:
        self.nodes = nodes
        self.value = nodes("Transpose", given, perm=[0, 3, 1, 2])
        self.size = nodes("Slice", nodes("Shape", given), [1], [3])
        self.scale = nodes.constant(np.ones(2, np.float32))
        self.offset = nodes.constant(np.zeros(2, np.float32))

    def resize(self, size: str, interpolation: str, *, antialias: bool = True) -> None:
        """Resize the image. Raises LissomError for an interpolation that ONNX does not have."""
        if interpolation not in INTERPOLATIONS:
            raise LissomError(
                f"--pictures: ONNX has no {interpolation}; expected "
                f"{', '.join(INTERPOLATIONS)} in the preprocessing"
            )
        nodes = self.nodes
        as_pillow = antialias and interpolation != "nearest"
        settings = {**INTERPOLATIONS[interpolation], **(PILLOW if as_pillow else PYTORCH)}
        value = self.value if as_pillow else nodes("Cast", self.value, to=1)
        # all four sizes: ONNX Runtime 1.32 moves transpositions and fails if axes are left out
        others = nodes("Slice", nodes("Shape", self.value), [0], [2])
        value = nodes("Resize", value, "", "", nodes("Concat", others, size, axis=0), **settings)
        if not as_pillow:
            value = nodes("Clip", nodes("Round", value), np.float32(0), np.float32(255))
            value = nodes("Cast", value, to=2)
        self.value = value
        factor = nodes("Div", nodes("Cast", size, to=1), nodes("Cast", self.size, to=1))
        self.scale = nodes("Mul", self.scale, factor)
        self.offset = nodes("Mul", self.offset, factor)
        self.size = size

    def pad(self, before: str, after: str, fill: int) -> None:
        """Pad the image with `before` and `after` pixels of the value `fill`."""
        nodes = self.nodes
        pads = nodes("Concat", before, after, axis=0)
        self.value = nodes("Pad", self.value, pads, np.uint8(fill), [2, 3])
        self.offset = nodes("Add", self.offset, nodes("Cast", before, to=1))
        self.size = nodes("Add", self.size, nodes("Add", before, after))

    def crop(self, corner: str, size: Sequence[int]) -> None:
        """Crop the image to `size` from `corner` on."""
        nodes = self.nodes
        ends = nodes("Add", corner, size)
        self.value = nodes("Slice", self.value, corner, ends, [2, 3])
        self.offset = nodes("Sub", self.offset, nodes("Cast", corner, to=1))
        self.size = nodes.constant(size)


def write_resize(operation: Resize, picture: Picture) -> None:
    """Resize the image so that its shorter side, or both sides, have the wanted size."""
    nodes = picture.nodes
    if isinstance(operation.width, int):
        size = nodes.constant([operation.size, operation.width])
    else:
        short = nodes("ReduceMin", picture.size, keepdims=1)
        size = nodes("Div", nodes("Mul", picture.size, [operation.size]), short)
    picture.resize(size, operation.interpolation, antialias=operation.antialias)


def write_crop(operation: CenterCrop, picture: Picture) -> None:
    """Crop the middle of the image, padded first if it is smaller."""
    nodes = picture.nodes
    wanted = [operation.height, operation.width or operation.height]
    missing = nodes("Max", nodes("Sub", wanted, picture.size), [0, 0])
    before = nodes("Div", missing, [2])
    picture.pad(before, nodes("Sub", missing, before), operation.fill)
    # half of the excess, rounded half to even
    over = nodes("Sub", picture.size, wanted)
    is_odd = nodes("Mod", nodes("Div", over, [2]), [2])
    picture.crop(nodes("Div", nodes("Add", over, is_odd), [2]), wanted)


def write_letterbox(operation: Letterbox, picture: Picture) -> None:
    """Resize the image to fit and pad the rest."""
    nodes = picture.nodes
    wanted = [operation.height, operation.width or operation.height]
    sides = nodes("Cast", picture.size, to=11)  # doubles, as Python computes
    ratio = nodes("ReduceMin", nodes("Div", np.array(wanted, np.float64), sides), keepdims=1)
    inside = nodes("Cast", nodes("Round", nodes("Mul", ratio, sides)), to=7)
    picture.resize(nodes("Max", inside, [1, 1]), operation.interpolation)
    over = nodes("Sub", wanted, picture.size)
    before = nodes("Div", over, [2])
    picture.pad(before, nodes("Sub", over, before), operation.fill)


def write_pad(operation: Pad, picture: Picture) -> None:
    """Add a border."""
    border = picture.nodes.constant([operation.border] * 2)
    picture.pad(border, border, operation.fill)


def write_gray(_: Gray, picture: Picture) -> None:
    """Convert colour to grey."""
    nodes = picture.nodes
    # integers below 2**24, so floats are exact
    parts = nodes(
        "Mul",
        nodes("Cast", picture.value, to=1),
        np.array(LUMA_WEIGHTS, np.float32).reshape(3, 1, 1),
    )
    total = nodes("Add", nodes("ReduceSum", parts, [1], keepdims=1), np.float32(1 << 15))
    rounded = nodes("Floor", nodes("Div", total, np.float32(1 << 16)))
    picture.value = nodes("Cast", rounded, to=2)


def write_bgr(_: Bgr, picture: Picture) -> None:
    """Reorder RGB to BGR."""
    picture.value = picture.nodes("Gather", picture.value, [2, 1, 0], axis=1)


WRITERS: dict[type[PictureOperation], Callable[[Any, Picture], None]] = {
    Resize: write_resize,
    CenterCrop: write_crop,
    Letterbox: write_letterbox,
    Pad: write_pad,
    Gray: write_gray,
    Bgr: write_bgr,
}


def prepend_preprocessing(proto: Any, preprocess: Preprocess) -> None:
    """Make an ONNX model of pixels (n c h w) take 8-bit images (n height width c), in place.

    The boxes (n k 4) of a network that picks detections are then in pixels of the images.
    Raises LissomError for an operation that ONNX does not have.
    """
    from onnx import helper

    graph = proto.graph
    pixels = graph.input[0]
    batch, channels, *sides = pixels.type.tensor_type.shape.dim
    nodes = Nodes()
    picture = Picture(nodes, "picture")
    original_size = picture.size
    for operation in preprocess.pictures:
        writer = WRITERS.get(type(operation))
        if writer is None:
            raise LissomError(f"--pictures: {operation} has no nodes in ONNX; leave --pictures out")
        writer(operation, picture)
    shape = [-1, channels.dim_value, *(side.dim_value for side in sides)]
    pixel_values = nodes("Reshape", nodes("Cast", picture.value, to=1), shape)
    nodes.nodes.append(helper.make_node("Identity", [pixel_values], [pixels.name]))
    # a network of grey images takes colour if the preprocessing converts it
    picture_channels = (
        3 if channels.dim_value == 1 and preprocess.channels(3) == 1 else channels.dim_value
    )
    picture_input = helper.make_tensor_value_info(
        "picture", 2, [batch.dim_param or batch.dim_value, "height", "width", picture_channels]
    )
    preprocessing_nodes = [*nodes.nodes]
    nodes.nodes.clear()
    if [output.name for output in graph.output] == ["boxes", "scores", "classes"]:
        map_boxes_back(graph, nodes, picture, original_size)
    all_nodes = needed_nodes([*preprocessing_nodes, *graph.node, *nodes.nodes], graph)
    del graph.node[:], graph.input[:]
    graph.node.extend(all_nodes)
    graph.input.append(picture_input)
    names_read = set().union(*(node.input for node in all_nodes))
    graph.initializer.extend(tensor for tensor in nodes.constants if tensor.name in names_read)


def needed_nodes(nodes: Sequence[Any], graph: Any) -> list[Any]:
    """Return the nodes that the outputs of a graph depend on, in order."""
    needed_values = {output.name for output in graph.output}
    kept = list[Any]()
    for node in reversed(nodes):
        if needed_values.intersection(node.output):
            kept.append(node)
            needed_values.update(node.input)
    return kept[::-1]


def map_boxes_back(graph: Any, nodes: Nodes, picture: Picture, original_size: str) -> None:
    """Convert the output `boxes` (n k 4) to pixels of the original image, in place.

    `original_size` is the size (height, width) of that image. Boxes of class -1, no detection, stay
    zeros.
    """
    from onnx import helper

    boxes_of_pixels = "picture/boxes"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [boxes_of_pixels if name == "boxes" else name for name in names]
    corners = [1, 0, 1, 0]  # x, y, x, y of (height, width)
    offset, scale, ends = (
        nodes("Gather", each, corners)
        for each in (picture.offset, picture.scale, nodes("Cast", original_size, to=1))
    )
    boxes = nodes("Div", nodes("Sub", boxes_of_pixels, offset), scale)
    boxes = nodes("Min", nodes("Max", boxes, np.float32(0)), ends)
    is_found = nodes("Unsqueeze", nodes("Greater", "classes", np.int64(-1)), [2])
    nodes.nodes.append(
        helper.make_node("Where", [is_found, boxes, nodes.constant(np.float32(0))], ["boxes"])
    )
