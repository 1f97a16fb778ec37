"""Rewrite dynamically quantized products as float operators between Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .pairs import Pairs, reads_of


def product(pairs: Pairs, node: Any) -> bool:
    """Rewrite MatMulInteger or ConvInteger with the Cast and the Mul by both scales after it.

    Returns False, and writes nothing, if these do not follow.
    """
    a, b, a_zero, b_zero = reads_of(node, 4)
    cast = pairs.only_reader(node.output[0], "Cast")
    mul = None if cast is None else pairs.only_reader(cast.output[0], "Mul")
    if cast is None or mul is None:
        return False
    scales = pairs.makers.get(next((name for name in mul.input if name != cast.output[0]), ""))
    a_scale = scale_of(pairs, a)
    if scales is None or scales.op_type != "Mul" or not a_scale or a_scale not in scales.input:
        return False
    b_scale = next((name for name in scales.input if name != a_scale), "")
    if not b_scale or (b_scale not in pairs.constants and b_scale != scale_of(pairs, b)):
        return False
    convolves = node.op_type == "ConvInteger"
    makes = mul.output[0]
    bias = ""
    if convolves and (found := bias_behind(pairs, makes)):
        add, bias = found
        makes = add.output[0]
        pairs.done.add(makes)
    axis = 0 if convolves or b not in pairs.constants else max(0, pairs.rank(b) - 1)
    reads = [pairs.widen(a, a_scale, a_zero), pairs.widen(b, b_scale, b_zero, axis=axis)]
    pairs.write("Conv" if convolves else "MatMul", reads + [bias] * bool(bias), makes, like=node)
    pairs.done |= {cast.output[0], mul.output[0]}
    return True


def scale_of(pairs: Pairs, value: str) -> str:
    """Return the scale of dynamically quantized integers, "" for other values."""
    maker = pairs.makers.get(value)
    if maker is None or maker.op_type != "DynamicQuantizeLinear" or maker.output[0] != value:
        return ""
    return str(maker.output[1])


def bias_behind(pairs: Pairs, value: str) -> tuple[Any, str] | None:
    """Return the Add after a convolution and the bias per filter that it adds, or None."""
    add = pairs.only_reader(value, "Add")
    if add is None:
        return None
    shaped = pairs.makers.get(next((name for name in add.input if name != value), ""))
    if shaped is None or shaped.op_type != "Reshape" or not shaped.input:
        return None
    held = {tensor.name: tensor for tensor in pairs.graph.initializer}.get(shaped.input[0])
    if held is None or len(held.dims) != 1 or len(shaped.input) < 2:
        return None
    sizes = pairs.numbers(shaped.input[1])
    fits = len(sizes) > 2 and sizes[1] in (-1, held.dims[0]) and {sizes[0], *sizes[2:]} == {1}
    return (add, held.name) if fits else None


def scaled_product(pairs: Pairs, node: Any) -> bool:
    """Rewrite MatMulIntegerToFloat: a product of integers with scales and bias."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = reads_of(node, 7)
    multiply(pairs, node, pairs.widen(a, a_scale, a_zero), (b, b_scale, b_zero), bias)
    return True


def rounded_product(pairs: Pairs, node: Any) -> bool:
    """Rewrite DynamicQuantizeMatMul without the rounding of its input."""
    a, b, b_scale, b_zero, bias = reads_of(node, 5)
    multiply(pairs, node, a, (b, b_scale, b_zero), bias)
    return True


def multiply(pairs: Pairs, node: Any, a: str, b: tuple[str, str, str], bias: str) -> None:
    """Write the product of floats with a dequantized matrix, and add a bias if there is one."""
    reads = [a, pairs.widen(*b, axis=max(0, pairs.rank(b[0]) - 1))]
    if not bias:
        pairs.write("MatMul", reads, node.output[0], like=node)
        return
    pairs.write("Add", [pairs.write("MatMul", reads, like=node), bias], node.output[0])


def lstm(pairs: Pairs, node: Any) -> bool:
    """Rewrite DynamicQuantizeLSTM, whose weights are integers (ways in 4*width), without rounding."""
    x, w, r, bias, lengths, state, cell, peepholes, *scales = reads_of(node, 12)
    w_scale, w_zero, r_scale, r_zero = scales
    weights = [
        transposed_weight(pairs, w, w_scale, w_zero),
        transposed_weight(pairs, r, r_scale, r_zero),
    ]
    reads = [x, *weights, bias, lengths, state, cell, peepholes]
    while not reads[-1]:
        reads.pop()
    pairs.write("LSTM", reads, node.output[0], like=node)
    pairs.nodes[-1].output[:] = node.output
    return True


def transposed_weight(pairs: Pairs, weight: str, scale: str, zero: str) -> str:
    """Write a dequantized weight (ways in out) as (ways out in); scales are per way or per output."""
    floats = pairs.write("Cast", [weight], to=1)
    if zero:
        floats = pairs.write("Sub", [floats, by_way(pairs, pairs.write("Cast", [zero], to=1))])
    floats = pairs.write("Mul", [floats, by_way(pairs, scale)])
    return pairs.write("Transpose", [floats], perm=[0, 2, 1])


def by_way(pairs: Pairs, row: str) -> str:
    """Write numbers (ways) as (ways 1 1), or (ways out) as (ways 1 out)."""
    return pairs.write("Reshape", [row, pairs.shape([0, 1, -1])])


PRODUCTS: dict[str, Callable[[Pairs, Any], bool]] = {
    "ConvInteger": product,
    "DynamicQuantizeLSTM": lstm,
    "DynamicQuantizeMatMul": rounded_product,
    "MatMulInteger": product,
    "MatMulIntegerToFloat": scaled_product,
}
