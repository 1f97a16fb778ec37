"""The second gate: compare a quantized or 16-bit file with its rewritten model.

ONNX Runtime runs both. Their outputs must agree up to rounding: 16-bit floats have 11 bits, and an
integer may round to its neighbour. The rewritten model still rounds activations; that is removed
only afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..trees import tensors_in
from .build import Build
from .gate import answers, random_inputs, session_of

HALF_LIMIT = 0.02  # relative to the largest output: 20 times the rounding error of 11 bits
INTEGER_LIMIT = 0.05  # likewise: 13 steps of 8 bits
MIN_SAMPLES = 3  # samples


def check_rewritten(original: Any, rewritten: Any, build: Build, *, integers: bool) -> str | None:
    """Compare ONNX Runtime's outputs for a file with those for the rewritten model.

    Returns None, or the reason why ONNX Runtime cannot run the file. Raises LissomError if the
    outputs differ, or if it cannot run a file of integers.
    """
    limit = INTEGER_LIMIT if integers else HALF_LIMIT
    if integers:
        original, rewritten = with_integers(original, rewritten)
    folder = build.file.folder
    try:
        first = session_of(original, folder)
    except LissomError as error:
        if integers:
            raise
        return str(error)  # it has few operators for bfloat16
    second = session_of(rewritten, folder)
    inputs = random_inputs(build, build.fixed_batch or MIN_SAMPLES)
    names = [value.name for value in build.file.inputs]
    given = answers(first, names, inputs)
    worst = largest_difference(answers(second, names, inputs), given)
    if not worst <= limit:
        what = "rounding to integers" if integers else "rounding to 16 bits"
        raise LissomError(
            f"in ONNX Runtime, the file and the same file converted to 32 bits differ by {worst:.2g} "
            f"of their largest output (limit {limit}), more than {what} explains"
        )
    return None


def with_integers(original: Any, rewritten: Any) -> tuple[Any, Any]:
    """Return both models with the integer values that they share as further outputs.

    The network's own outputs may hide errors inside, for example behind a softmax.
    """
    import onnx

    there = {value.name for value in original.graph.output}
    made = set()
    for node in original.graph.node:
        made.update(node.output)
    rounds = [node for node in rewritten.graph.node if node.op_type == "QuantizeLinear"]
    names = [node.output[0] for node in rounds if node.output[0] in made - there]
    both = []
    for model in (original, rewritten):
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        for name in dict.fromkeys(names):
            exposed.graph.output.add().name = name
        both.append(exposed)
    return both[0], both[1]


def difference_from(network: nn.Module, session: Any, inputs: Sequence[Tensor]) -> float:
    """Return the largest relative difference between a network's outputs and those of its file."""
    with torch.no_grad():
        outputs = list(tensors_in(network(*inputs)))
    names: Any = network.input_names
    return largest_difference(outputs, answers(session, names, inputs))


def largest_difference(outputs: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest difference of outputs, each relative to its largest finite number.

    Places where `wanted` is not finite are ignored: 16-bit floats end at 65504. It is inf if shapes
    differ.
    """
    worst = 0.0
    for out, given in zip(outputs, wanted, strict=True):
        if out.shape != given.shape:
            return float("inf")
        a, b = out.double(), given.double()
        finite = torch.isfinite(b)
        if bool(finite.any()):
            size = b[finite].abs().max().clamp(min=1e-6)
            worst = max(worst, float((a - b)[finite].abs().max() / size))
    return worst
