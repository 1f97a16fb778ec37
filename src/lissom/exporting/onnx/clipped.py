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

from .activations import wires

SUMS = {"Add", "Conv", "ConvTranspose", "Gemm", "MatMul"}  # ONNX Runtime computes these in integers
WHOLE = (0, 255)


def clip_integers(proto: Any) -> None:
    """Move each Relu and Clip between a layer or sum and its rounding behind the rounding, in
    place. If it would not change any integer, it stays.
    """
    graph = proto.graph
    makers, users = wires(graph)
    ends = {value.name for value in graph.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for clip in [node for node in graph.node if node.op_type in ("Relu", "Clip")]:
        before = makers.get(clip.input[0])
        readers = users[clip.output[0]]
        alone = len(users[clip.input[0]]) == 1 and ends.isdisjoint([*clip.input, *clip.output])
        if (
            before is None
            or before.op_type not in SUMS
            or not alone
            or [node.op_type for node in readers] != ["QuantizeLinear"]
        ):
            continue
        (rounds,) = readers
        codes = bounds(clip, rounds, tensors)
        if codes in (None, WHOLE):
            continue
        rounds.input[0] = clip.input[0]
        clip_codes(graph, rounds, users[rounds.output[0]], codes)
        graph.node.remove(clip)


def bounds(clip: Any, rounds: Any, tensors: Mapping[str, Any]) -> tuple[int, int] | None:
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

    names = [*rounds.input[1:], *clip.input[1:]]
    if len(rounds.input) < 3 or any(
        name and (name not in tensors or prod(tensors[name].dims) != 1) for name in names
    ):
        return None
    scale, zero = (number(name, 0) for name in rounds.input[1:])
    if zero.dtype != np.uint8:
        return None
    low, high = [*clip.input[1:], "", ""][:2]
    least = 0.0 if clip.op_type == "Relu" else -np.inf
    values = np.array([number(low, least), number(high, np.inf)], np.float32)
    with np.errstate(over="ignore"):
        first, last = np.clip(np.rint(values / scale) + np.float32(zero), *WHOLE)
    return int(first), int(last)


def clip_codes(graph: Any, rounds: Any, readers: Sequence[Any], codes: tuple[int, int]) -> None:
    """Clip the output of a QuantizeLinear to two codes for all its readers, in place."""
    import numpy as np
    from onnx import helper, numpy_helper

    name = f"{rounds.output[0]}/clipped"
    ends = [f"{name}/low", f"{name}/high"]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(code, np.uint8), end)
        for code, end in zip(codes, ends, strict=True)
    )
    for node in readers:
        node.input[:] = [name if value == rounds.output[0] else value for value in node.input]
    place = list(graph.node).index(rounds) + 1
    graph.node.insert(place, helper.make_node("Clip", [rounds.output[0], *ends], [name], name))
