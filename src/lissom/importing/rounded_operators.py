"""Rewrite operators on integers, such as QLinearConv, as float operators between Q/DQ nodes.

Both forms compute the same integers up to one step of rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .pairs import Pairs, attribute_of, reads_of


def single(pairs: Pairs, node: Any, op: str) -> None:
    """Rewrite an operator of one input: x, x_scale, x_zero, y_scale, y_zero."""
    x, x_scale, x_zero, y_scale, y_zero = reads_of(node, 5)
    y = pairs.write(op, [pairs.widen(x, x_scale, x_zero)], like=node)
    pairs.round(y, node.output[0], y_scale, y_zero)


def double(pairs: Pairs, node: Any, op: str) -> None:
    """Rewrite an operator of two inputs, each with scale and zero point."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = reads_of(node, 8)
    reads = [pairs.widen(a, a_scale, a_zero), pairs.widen(b, b_scale, b_zero)]
    pairs.round(pairs.write(op, reads, like=node), node.output[0], y_scale, y_zero)


def softmax(pairs: Pairs, node: Any) -> None:
    """Rewrite a softmax. Raises ValueError if its own opset means another softmax than the file's."""
    opset = attribute_of(node, "opset", 13)
    if (opset >= 13) != (pairs.opset >= 13):
        raise ValueError(f"a softmax of opset {opset} in a file of {pairs.opset} is not known")
    single(pairs, node, "Softmax")


def conv(pairs: Pairs, node: Any) -> None:
    """Rewrite a convolution, whose weights may have a scale per filter."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = reads_of(node, 9)
    reads = [pairs.widen(x, x_scale, x_zero), pairs.widen(w, w_scale, w_zero, axis=0)]
    if bias:
        reads.append(pairs.widen(bias, pairs.write("Mul", [x_scale, w_scale]), axis=0))
    pairs.round(pairs.write("Conv", reads, like=node), node.output[0], y_scale, y_zero)


def gemm(pairs: Pairs, node: Any) -> None:
    """Rewrite a matrix product with a bias. It returns floats if it has no output scale."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = reads_of(node, 9)
    axis = 0 if attribute_of(node, "transB", 0) else 1
    reads = [pairs.widen(a, a_scale, a_zero), pairs.widen(b, b_scale, b_zero, axis=axis)]
    if any(held.name == "alpha" and held.f != 1 for held in node.attribute):
        raise ValueError("alpha other than 1 is not known")
    if c:
        scale = pairs.write("Mul", [a_scale, b_scale])
        reads.append(pairs.widen(c, scale, axis=pairs.rank(c) - 1))
    if not y_scale:
        pairs.write("Gemm", reads, node.output[0], like=node)
        return
    pairs.round(pairs.write("Gemm", reads, like=node), node.output[0], y_scale, y_zero)


def concat(pairs: Pairs, node: Any) -> None:
    """Rewrite a concatenation: y_scale, y_zero, then x, x_scale, x_zero for each part."""
    y_scale, y_zero, *parts = node.input
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    reads = [pairs.widen(*triple) for triple in triples]
    pairs.round(pairs.write("Concat", reads, like=node), node.output[0], y_scale, y_zero)


def where(pairs: Pairs, node: Any) -> None:
    """Rewrite a choice between two inputs."""
    condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = reads_of(node, 9)
    reads = [condition, pairs.widen(x, x_scale, x_zero), pairs.widen(y, y_scale, y_zero)]
    pairs.round(pairs.write("Where", reads, like=node), node.output[0], z_scale, z_zero)


def pad(pairs: Pairs, node: Any) -> None:
    """Rewrite padding of integers, whose padding value is an integer, too."""
    x, places, number, axes = reads_of(node, 4)
    scale, zero = pairs.scales[x]
    reads = [pairs.widen(x, scale, zero), places]
    if number:
        reads.append(pairs.widen(number, scale, zero))
    elif zero and not any(held.s not in (b"", b"constant") for held in node.attribute):
        raise ValueError("integers padded without saying with which are not known")
    if axes:
        reads += [axes] if number else ["", axes]
    pairs.round(pairs.write("Pad", reads, like=node), node.output[0], scale, zero)


ROUNDED: dict[str, Callable[[Pairs, Any], None]] = {
    "QGemm": gemm,
    "QLinearAdd": partial(double, op="Add"),
    "QLinearAveragePool": partial(single, op="AveragePool"),
    "QLinearConcat": concat,
    "QLinearConv": conv,
    "QLinearGlobalAveragePool": partial(single, op="GlobalAveragePool"),
    "QLinearLeakyRelu": partial(single, op="LeakyRelu"),
    "QLinearMatMul": partial(double, op="MatMul"),
    "QLinearMul": partial(double, op="Mul"),
    "QLinearSigmoid": partial(single, op="Sigmoid"),
    "QLinearSoftmax": softmax,
    "QLinearWhere": where,
}
