"""Clip integers after rounding instead of floats before rounding, in an ONNX file.

ONNX Runtime computes a convolution in integers if its output is rounded next. It removes a ReLU6
between the two if the grid ends at 6 or below. If the grid reaches farther, because an addition
shares it or because it has fewer than 8 bits, the ReLU6 stays and the convolution runs in float.
Rounding is monotone, so it may come first: with Q(x) = QuantizeLinear(x), Q(min(max(x, low), high))
= min(max(Q(x), Q(low)), Q(high)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from .graph import makers_and_users, output_names_of

INTEGER_KINDS = {
    "Add",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
}  # ONNX Runtime computes these in integers
CODE_RANGE = (0, 255)


def clip_integers(proto: Any) -> None:
    """Move each Relu and Clip between a layer or sum and its rounding behind the rounding, in
    place. If it would not change any integer, it stays.
    """
    graph = proto.graph
    makers, users = makers_and_users(graph)
    outputs = output_names_of(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for clip in [node for node in graph.node if node.op_type in ("Relu", "Clip")]:
        layer = makers.get(clip.input[0])
        readers = users[clip.output[0]]
        only_path = len(users[clip.input[0]]) == 1 and outputs.isdisjoint(
            [*clip.input, *clip.output]
        )
        if (
            layer is None
            or layer.op_type not in INTEGER_KINDS
            or not only_path
            or [node.op_type for node in readers] != ["QuantizeLinear"]
        ):
            continue
        (quantize,) = readers
        bounds = code_bounds(clip, quantize, tensors)
        if bounds in (None, CODE_RANGE):
            continue
        quantize.input[0] = clip.input[0]
        clip_codes(graph, quantize, users[quantize.output[0]], bounds)
        graph.node.remove(clip)


def code_bounds(clip: Any, quantize: Any, tensors: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the codes of a clip's bounds on the grid of a QuantizeLinear, None if they are not
    constant or not single numbers.
    """
    import numpy as np
    from onnx import numpy_helper

    def number(name: str, default: float) -> np.ndarray:
        return (
            numpy_helper.to_array(tensors[name]).reshape(())
            if name
            else np.array(default, np.float32)
        )

    names = [*quantize.input[1:], *clip.input[1:]]
    if len(quantize.input) < 3 or any(
        name and (name not in tensors or prod(tensors[name].dims) != 1) for name in names
    ):
        return None
    scale, zero = (number(name, 0) for name in quantize.input[1:])
    if zero.dtype != np.uint8:
        return None
    low, high = [*clip.input[1:], "", ""][:2]
    default_low = 0.0 if clip.op_type == "Relu" else -np.inf
    values = np.array([number(low, default_low), number(high, np.inf)], np.float32)
    with np.errstate(over="ignore"):
        first, last = np.clip(np.rint(values / scale) + np.float32(zero), *CODE_RANGE)
    return int(first), int(last)


def clip_codes(graph: Any, quantize: Any, readers: Sequence[Any], bounds: tuple[int, int]) -> None:
    """Clip the output of a QuantizeLinear to two codes for all its readers, in place."""
    import numpy as np
    from onnx import helper, numpy_helper

    name = f"{quantize.output[0]}/clipped"
    ends = [f"{name}/low", f"{name}/high"]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(code, np.uint8), end)
        for code, end in zip(bounds, ends, strict=True)
    )
    for node in readers:
        node.input[:] = [name if value == quantize.output[0] else value for value in node.input]
    position = list(graph.node).index(quantize) + 1
    graph.node.insert(position, helper.make_node("Clip", [quantize.output[0], *ends], [name], name))
