"""Turn convolutions with binary inputs and weights into one-bit convolutions of OpenVINO.

None of OpenVINO's front ends makes such a convolution, so it is built here. The CPU plugin of
OpenVINO 2026.4 silently computes these cases wrongly, so they are avoided:
- a number of input channels that is not a multiple of 8: the bits of neighbouring positions
  overlap, and memory is overwritten
- padding that counts as 0 with a stride of 3: the taps inside the image are counted in unsigned
  numbers
- padding that counts as 0 where no row of the kernel meets the image: one row is added all the same
- a sum with another value that is binarised next: fused into one operation, which binarises the
  other value too

The plugin also refuses shapes that are not fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .openvino_binary_convolution import obstacle, replace_convolution
from .openvino_binary_inputs import find_binary_inputs
from .openvino_binary_sums import separate_sums
from .openvino_graph import BIASED, constant


def use_binary_convolutions(model: Any) -> tuple[Any, tuple[str, ...], dict[str, str]]:
    """Replace each convolution with binary inputs and weights by one that computes in single bits.

    inputs in {-1, 1}: y = scale * B with B = sum(w * (2 * bit - 1)), where padded places count 0
    inputs in {0, 1}:  y = scale / 2 * (B + sum(w)), where padded places are zero bits, so -1 in B

    `model` is the ov.Model read from ONNX, inputs (n c h w), weights (out in h w) in {-scale,
    scale}, scale: (out). A batch-norm, or a per-channel multiplication or addition of constants, is
    absorbed into the threshold if only comparisons read it. Returns a new model, the names of the
    replaced layers (the front end's, without "/WithoutBiases"), and for each other layer with
    binary inputs or binary weights the reason why it was not replaced.
    Source: Rastegari et al. 2016, XNOR-Net, https://arxiv.org/abs/1603.05279
    Source: OpenVINO, operation BinaryConvolution-1, https://docs.openvino.ai
    Differs: a negative input closer to 0 than 2**-126 may count as 0, so that the output does not
    depend on whether the processor flushes such numbers to zero.
    """
    model = model.clone()
    replaced = []
    reasons = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        weight = constant(node.input_value(1))
        inputs = find_binary_inputs(node.input_value(0))
        if weight is not None and not is_binary(weight):
            weight = None
        if inputs is None and weight is None:
            continue
        name = node.get_friendly_name().removesuffix(BIASED)
        if inputs is None:
            reasons[name] = "its inputs are not binary"
        elif weight is None:
            reasons[name] = "its weights are not binary"
        elif reason := obstacle(node, inputs):
            reasons[name] = reason
        else:
            replace_convolution(node, inputs, weight)
            replaced.append(name)
    separate_sums(model)
    model.validate_nodes_and_infer_types()
    return model, tuple(replaced), reasons


def is_binary(weight: np.ndarray) -> bool:
    """Return whether the weights of every output channel are one number and its negative."""
    magnitude = np.abs(weight.reshape(-1, *weight.shape[-3:]) if weight.ndim > 3 else weight)
    magnitude = magnitude.reshape(len(magnitude), -1)
    return bool((magnitude == magnitude[:, :1]).all())
