"""Replace a convolution with binary inputs and weights by OpenVINO's BinaryConvolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from .openvino_binary_inputs import BinaryInputs
from .openvino_graph import BIASED, constant

BITS_PER_BYTE = 8  # bits: the plugin stores the channels of one position in whole bytes


def obstacle(node: Any, inputs: BinaryInputs) -> str | None:
    """Return why a convolution of binary inputs and weights cannot compute in single bits, or None."""
    shape = node.input_value(0).get_partial_shape()
    if node.get_type_name() == "GroupConvolution":
        return "it has groups, and BinaryConvolution has none"
    if len(shape) != 4:
        return "BinaryConvolution is two-dimensional"
    if shape[2].is_dynamic or shape[3].is_dynamic:
        return "its images have no fixed size"
    if inputs.low == 0 and not padding_fits(node, padding_is_zero=False):
        return "OpenVINO's kernels do not take its padding, and a place in {0, 1} cannot be padded before"
    return None


def padding_fits(node: Any, *, padding_is_zero: bool) -> bool:
    """Return whether OpenVINO's kernels for every x86 CPU compute the padding correctly.

    They compute 2 (SSE, AVX2) or 4 (AVX-512) neighbouring positions at once, and padding must not
    exceed that.
    """
    begin = node.get_pads_begin()
    end = node.get_pads_end()
    if not any(begin) and not any(end):
        return True
    (height, width), kernel = (
        [value.get_partial_shape()[i].get_length() for i in (2, 3)] for value in node.input_values()
    )
    stride = node.get_strides()
    dilation = node.get_dilations()
    width_out = node.output(0).get_partial_shape()[3].get_length()
    for positions in (2, 4):
        at_once = min(positions, width_out)
        last = (width_out - width_out % at_once - 1) * stride[1] + (kernel[1] - 1) * dilation[1]
        if begin[1] > at_once or last - (width + begin[1] - 1) > at_once:
            return False
    if kernel[1] > 7 and max(stride) > 1:
        return False
    return not padding_is_zero or (max(stride) <= 2 and height >= dilation[0])


def replace_convolution(node: Any, binary: BinaryInputs, weight: np.ndarray) -> None:
    """Replace `node` by a binary convolution followed by a multiplication by the scale."""
    import openvino as ov
    from openvino import opset8 as op

    scale = np.abs(weight).reshape(len(weight), -1)[:, 0].reshape(1, -1, 1, 1)
    sign = weight > 0
    begin = list(node.get_pads_begin())
    end = list(node.get_pads_end())
    if binary.low and (sign.shape[1] % 2 or not padding_fits(node, padding_is_zero=True)):
        binary, sign = double_channels(binary, sign, begin, end)
        scale = scale / 2
        begin = [0, 0]
        end = [0, 0]
    binary, sign = fill_whole_bytes(binary, sign)
    row = (1, -1, 1, 1)
    threshold = op.constant(binary.threshold.reshape(row))
    lows = binary.flipped.reshape(row).astype(np.float32)
    highs = op.constant(1 - lows)
    inputs = op.fake_quantize(binary.source, threshold, threshold, op.constant(lows), highs, 2)
    packed = np.packbits(sign.reshape(-1), bitorder="little")
    # with shared memory the constant would point into an array that NumPy frees
    weights = ov.op.Constant(
        ov.Tensor(packed, ov.Shape(sign.shape), ov.Type.u1), shared_memory=False
    )
    padded = binary.low and any(begin + end)
    y = op.binary_convolution(
        inputs,
        weights,
        node.get_strides(),
        begin,
        end,
        node.get_dilations(),
        "xnor-popcount",
        0.0 if padded else -1.0,
    )
    if not binary.low:
        total = (2 * sign.astype(np.float32) - 1).sum((1, 2, 3)).reshape(row)
        y = op.add(y, op.constant(total))
        scale = scale / 2
    y = op.multiply(y, op.constant(scale.astype(np.float32)))
    y.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(y.output(0))  # the tensor keeps its name
    if node.get_friendly_name().endswith(BIASED):
        fold_bias_reshape(y)


def double_channels(
    binary: BinaryInputs, sign: np.ndarray, begin: list[int], end: list[int]
) -> tuple[BinaryInputs, np.ndarray]:
    """Return padded inputs in {-1, 1} and their weights, with every channel twice.

    The two copies of a channel are padded with opposite signs, so padding cancels to 0.
    """
    from openvino import opset8 as op

    pads = [op.constant(np.array([0, 0, *side])) for side in (begin, end)]
    copies = [
        op.pad(binary.source, *pads, "constant", op.constant(np.float32(v)))
        for v in (np.inf, -np.inf)
    ]
    doubled = BinaryInputs(
        op.concat(copies, 1), np.tile(binary.threshold, 2), np.tile(binary.flipped, 2), binary.low
    )
    return doubled, np.concatenate([sign, sign], 1)


def fill_whole_bytes(binary: BinaryInputs, sign: np.ndarray) -> tuple[BinaryInputs, np.ndarray]:
    """Return inputs and weights with channels added until their bits fill whole bytes.

    The new inputs are zero bits. In {-1, 1} their number is even, and weights of alternating signs
    cancel.
    """
    from openvino import opset8 as op

    added_count = -sign.shape[1] % BITS_PER_BYTE
    if not added_count:
        return binary, sign
    source = op.pad(
        binary.source,
        op.constant(np.zeros(4, int)),
        op.constant(np.array([0, added_count, 0, 0])),
        "constant",
        op.constant(np.float32(0)),
    )
    alternating = (np.arange(added_count) % 2 == 0)[:, None, None]
    added_weights = np.broadcast_to(alternating, (len(sign), added_count, *sign.shape[2:]))
    threshold = np.append(binary.threshold, np.full(added_count, np.inf, np.float32))
    flipped = np.append(binary.flipped, np.zeros(added_count, bool))
    filled = BinaryInputs(source, threshold, flipped, binary.low)
    return filled, np.concatenate([sign, added_weights], 1)


def fold_bias_reshape(y: Any) -> None:
    """Make the bias added to `y` one constant, which the front end computes in nine operations."""
    from openvino import opset8 as op

    for reader in y.output(0).get_target_inputs():
        add = reader.get_node()
        if add.get_type_name() == "Add":
            bias = constant(add.input_value(1).get_node().input_value(0))
            if bias is not None:
                add.input(1).replace_source_output(op.constant(bias.reshape(1, -1, 1, 1)).output(0))
