"""A clip of integers in place of a clip of floats before they are rounded, in an ONNX file.

ONNX Runtime computes a convolution in integers if its output is rounded next. A ReLU6 between the two it takes out where
the grid ends at 6 or below. A grid that reaches farther, since an addition shares it or it has fewer than 8 bits, leaves
the ReLU6 there and the convolution in float. Rounding keeps the order of numbers, so that it may come first: with Q(x) =
QuantizeLinear(x), Q(min(max(x, low), high)) = min(max(Q(x), Q(low)), Q(high)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._activations import wires

if TYPE_CHECKING:
    import numpy as np

SUMS = {"Add", "Conv", "ConvTranspose", "Gemm", "MatMul"}  # what ONNX Runtime computes in integers
WHOLE = (0, 255)


def integers_clipped(proto: Any) -> None:
    """Let each Relu and Clip between a sum and its rounding clip the integers instead, in place, where that changes them."""
    from onnx import numpy_helper

    made, users = wires(proto.graph)
    ends = {value.name for value in proto.graph.output}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for clip in [node for node in proto.graph.node if node.op_type in ("Relu", "Clip")]:
        before, readers = made.get(clip.input[0]), users[clip.output[0]]
        if before is None or before.op_type not in SUMS or clip.output[0] in ends or before.output[0] in ends \
                or len(users[before.output[0]]) != 1 or [node.op_type for node in readers] != ["QuantizeLinear"]:
            continue
        (rounds,) = readers
        codes = bounds(clip, rounds, values)
        if codes in (None, WHOLE):
            continue
        rounds.input[0] = clip.input[0]
        clip_codes(proto.graph, rounds, clip, codes)


def bounds(clip: Any, rounds: Any, values: dict[str, np.ndarray]) -> tuple[int, int] | None:
    """Return the codes of a clip's ends on the grid of a QuantizeLinear; None where they are not known, or not one pair."""
    import numpy as np

    ends = ["", "", ""] if clip.op_type == "Relu" else [*clip.input, "", ""]
    names = [*rounds.input[1:], *(name for name in ends[1:3] if name)]
    if len(rounds.input) < 3 or any(name not in values or values[name].size != 1 for name in names):
        return None
    scale, zero = (values[name].reshape(()) for name in rounds.input[1:])
    if zero.dtype != np.uint8:
        return None
    low, high = (float(values[name].reshape(())) if name else default
                 for name, default in zip(ends[1:3], (0.0 if clip.op_type == "Relu" else -np.inf, np.inf), strict=True))
    with np.errstate(over="ignore"):
        codes = np.rint(np.array([low, high], np.float32) / scale) + np.float32(zero)
    first, last = (int(code) for code in np.clip(codes, *WHOLE))
    return first, last


def clip_codes(graph: Any, rounds: Any, clip: Any, codes: tuple[int, int]) -> None:
    """Let a clip of what `rounds` returns take the place of `clip`; whatever read that reads the clip."""
    import numpy as np
    from onnx import helper, numpy_helper

    name = f"{rounds.output[0]}/clipped"
    for node in graph.node:
        node.input[:] = [name if given == rounds.output[0] else given for given in node.input]
    ends = [f"{name}/{word}" for word in ("low", "high")]
    graph.initializer.extend(numpy_helper.from_array(np.array(code, np.uint8), end)
                             for code, end in zip(codes, ends, strict=True))
    clip_of_codes = helper.make_node("Clip", [rounds.output[0], *ends], [name], clip.name or name)
    graph.node.insert(list(graph.node).index(rounds) + 1, clip_of_codes)
    graph.node.remove(clip)
