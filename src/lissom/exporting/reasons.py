"""Reasons why an operation of a quantized file runs in float, read from the runtimes' graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .openvino_graph import BIASED, PRODUCTS, constant

FLOAT_WEIGHTS = "its weights are float"
FLOAT_INPUTS = "it reads floats"
FLOAT_OUTPUT = "its output is not rounded"
SEVERAL_GRIDS = "its output is rounded to several grids"
OTHERS = "others read its output before it is rounded"
LEFT_FLOAT = "recurrent layers stay float"
NO_KERNEL = "ONNX Runtime has no transposed convolution in integers"
GROUPS = "OpenVINO computes transposed convolutions with groups in float"
ZERO_POINT = "OpenVINO computes transposed convolutions of inputs with a zero point in float"

RECURRENT = {"GRU", "LSTM", "RNN"}
MOVES = {
    "Flatten",
    "MaxPool",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
INTEGERS = {"i4", "i8", "u8"}


def named(name: str, reason: str | None) -> str:
    """Return the name of an operation, with the reason if one is known.

    >>> named("stem/Conv", "it reads floats"), named("head/Gemm", None)
    ('stem/Conv (it reads floats)', 'head/Gemm')
    """
    return f"{name} ({reason})" if reason else name


def in_onnx(
    node: Any, makers: Mapping[str, Any], users: Mapping[str, Sequence[Any]], constants: set[str]
) -> str | None:
    """Return why ONNX Runtime left a node of its optimised graph in float, None if unknown."""

    def source(name: str) -> Any:
        while (maker := makers.get(name)) is not None and maker.op_type in MOVES:
            name = maker.input[0]
        return maker

    def is_weight(name: str) -> bool:
        maker = makers.get(name)
        unpacked = (
            maker is not None
            and maker.op_type == "DequantizeLinear"
            and maker.input[0] in constants
        )
        return unpacked or name in constants

    if node.op_type in RECURRENT:
        return LEFT_FLOAT
    read = [name for name in node.input[:2] if not is_weight(name)]
    sources = [source(name) for name in read]
    if any(origin is None or origin.op_type != "DequantizeLinear" for origin in sources):
        return FLOAT_INPUTS
    if node.op_type != "Add" and any(name in constants for name in node.input[:2]):
        return FLOAT_WEIGHTS
    if node.op_type == "ConvTranspose":
        return NO_KERNEL
    readers = users[node.output[0]]
    while len(readers) == 1 and readers[0].op_type in MOVES | {"Clip", "Relu"}:
        readers = users[readers[0].output[0]]
    rounders = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
    if not rounders:
        return FLOAT_OUTPUT
    return None if len(readers) == 1 else SEVERAL_GRIDS if len(rounders) == len(readers) else OTHERS


def in_openvino(model: Any) -> dict[str, str | None]:
    """Return why OpenVINO would leave a convolution, matrix product or recurrent layer of a model in
    float, by name; None if no reason is known.

    Each operation has two names: its own, and that of its sum with the bias.
    """
    reasons = dict[str, str | None]()
    for node in model.get_ops():
        if node.get_type_name().removesuffix("Sequence").removesuffix("Cell") in RECURRENT:
            reasons[node.get_friendly_name()] = LEFT_FLOAT
        if node.get_type_name() in PRODUCTS:
            reason = why_transposed(node) if holds_integers(node) else FLOAT_WEIGHTS
            name = node.get_friendly_name()
            reasons[name] = reasons[name.removesuffix(BIASED)] = (
                reason if reads_integers(node.input_value(0)) else FLOAT_INPUTS
            )
    return reasons


def why_transposed(node: Any) -> str | None:
    """Return why OpenVINO computes a transposed convolution of integers in float; None for other
    operations, and if no reason is known.
    """
    kind = node.get_type_name()
    if kind == "GroupConvolutionBackpropData":
        return GROUPS
    value = node.input_value(0).get_node()
    while value.get_type_name() in MOVES | {"Multiply"}:
        value = value.input_value(0).get_node()
    shifted = value.get_type_name() == "Subtract" and constant(value.input_value(1)) != 0
    return ZERO_POINT if kind == "ConvolutionBackpropData" and shifted else None


def holds_integers(node: Any) -> bool:
    """Return whether the weights of an operation in an OpenVINO model come from integer constants."""
    ahead = [node.input_value(1).get_node()]
    while ahead:
        behind = ahead.pop()
        if (
            behind.get_type_name() == "Constant"
            and behind.get_element_type().get_type_name() in INTEGERS
        ):
            return True
        ahead += [value.get_node() for value in behind.input_values()]
    return False


def reads_integers(value: Any) -> bool:
    """Return whether a value of an OpenVINO model comes from a DequantizeLinear of an ONNX file:
    Convert, Subtract, Multiply.
    """
    node = value.get_node()
    while node.get_type_name() in MOVES | {"Subtract", "Multiply"}:
        node = node.input_value(0).get_node()
    return (
        node.get_type_name() == "Convert"
        and node.input_value(0).get_element_type().get_type_name() in INTEGERS
    )
