"""Reasons why an operation of a quantized file runs in float, read from the runtimes' graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .openvino_graph import BIASED, PRODUCTS, constant

FLOAT_WEIGHTS = "its weights are float"
FLOAT_INPUTS = "it reads floats"
FLOAT_OUTPUT = "its output is not rounded"
SEVERAL_GRIDS = "its output is rounded to several grids"
OTHER_READERS = "others read its output before it is rounded"
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


def with_reason(name: str, reason: str | None) -> str:
    """Return the name of an operation, with the reason if one is known.

    >>> with_reason("stem/Conv", "it reads floats"), with_reason("head/Gemm", None)
    ('stem/Conv (it reads floats)', 'head/Gemm')
    """
    return f"{name} ({reason})" if reason else name


def why_float_in_onnxruntime(
    node: Any, makers: Mapping[str, Any], users: Mapping[str, Sequence[Any]], constants: set[str]
) -> str | None:
    """Return why ONNX Runtime left a node of its optimised graph in float, None if unknown."""

    def source(name: str) -> Any:
        while (maker := makers.get(name)) is not None and maker.op_type in MOVES:
            name = maker.input[0]
        return maker

    def is_weight(name: str) -> bool:
        maker = makers.get(name)
        dequantized = (
            maker is not None
            and maker.op_type == "DequantizeLinear"
            and maker.input[0] in constants
        )
        return dequantized or name in constants

    if node.op_type in RECURRENT:
        return LEFT_FLOAT
    inputs = [name for name in node.input[:2] if not is_weight(name)]
    sources = [source(name) for name in inputs]
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
    if len(readers) == 1:
        return None
    return SEVERAL_GRIDS if len(rounders) == len(readers) else OTHER_READERS


def why_float_in_openvino(model: Any) -> dict[str, str | None]:
    """Return why OpenVINO would leave a convolution, matrix product or recurrent layer of a model in
    float, by name; None if no reason is known.

    Each operation has two names: its own, and that of its sum with the bias.
    """
    reasons = dict[str, str | None]()
    for node in model.get_ops():
        if node.get_type_name().removesuffix("Sequence").removesuffix("Cell") in RECURRENT:
            reasons[node.get_friendly_name()] = LEFT_FLOAT
        if node.get_type_name() in PRODUCTS:
            reason = why_transposed_is_float(node) if holds_integers(node) else FLOAT_WEIGHTS
            name = node.get_friendly_name()
            reasons[name] = reasons[name.removesuffix(BIASED)] = (
                reason if reads_integers(node.input_value(0)) else FLOAT_INPUTS
            )
    return reasons


def why_transposed_is_float(node: Any) -> str | None:
    """Return why OpenVINO computes a transposed convolution of integers in float; None for other
    operations, and if no reason is known.
    """
    kind = node.get_type_name()
    if kind == "GroupConvolutionBackpropData":
        return GROUPS
    value = node.input_value(0).get_node()
    while value.get_type_name() in MOVES | {"Multiply"}:
        value = value.input_value(0).get_node()
    has_zero_point = value.get_type_name() == "Subtract" and constant(value.input_value(1)) != 0
    return ZERO_POINT if kind == "ConvolutionBackpropData" and has_zero_point else None


def holds_integers(node: Any) -> bool:
    """Return whether the weights of an operation in an OpenVINO model come from integer constants."""
    pending = [node.input_value(1).get_node()]
    while pending:
        source = pending.pop()
        if (
            source.get_type_name() == "Constant"
            and source.get_element_type().get_type_name() in INTEGERS
        ):
            return True
        pending += [value.get_node() for value in source.input_values()]
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
