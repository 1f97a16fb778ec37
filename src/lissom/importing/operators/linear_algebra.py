"""Matrix products: linear layers if one matrix is constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from ..build import Op
from ..values import Constant, Value


def gemm(op: Op) -> Any:
    """Make a linear layer of alpha x w + beta b if w is constant, otherwise call matmul."""
    x = op[0]
    weight = op[1]
    bias = None if op.optional(2) is None else op[2]
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    if op.get("transA", 0):
        x = transpose(op, x)
    if isinstance(weight, Constant) and not isinstance(x, Constant):
        layer_weight = weight if op.get("transB", 0) else weight.permuted([1, 0])
        if alpha != 1:
            layer_weight = op.call(torch.mul, layer_weight, alpha)
        if fits_linear(bias, op.shape(layer_weight)[0]):
            return linear(op, x, layer_weight, scale_bias(op, bias, beta))
    weight = transpose(op, weight) if op.get("transB", 0) else weight
    out = op.call(torch.matmul, x, weight)
    out = out if alpha == 1 else op.call(torch.mul, out, alpha)
    return out if bias is None else op.call(torch.add, out, scale_bias(op, bias, beta))


def transpose(op: Op, x: Constant | fx.Node) -> Any:
    """Return the transpose of a matrix."""
    return x.permuted([1, 0]) if isinstance(x, Constant) else op.call(torch.transpose, x, 0, 1)


def scale_bias(op: Op, bias: Value | None, beta: float) -> Any:
    """Return a bias times a factor."""
    return bias if bias is None or beta == 1 else op.call(torch.mul, bias, beta)


def fits_linear(bias: Value | None, width: int) -> bool:
    """Return whether a linear layer can hold a bias: none, or a constant per output."""
    if bias is None:
        return True
    return isinstance(bias, Constant) and list(bias.tensor.shape) in ([width], [1, width])


def linear(op: Op, x: Value, weight: Constant, bias: Constant | None) -> Any:
    """Make a linear layer; `weight` is (out in)."""
    outputs, inputs = op.shape(weight)
    if bias is not None and bias.tensor.ndim > 1:
        bias = Constant(bias.tensor.reshape(-1), bias.source)
    return op.layer(
        lambda: nn.Linear(inputs, outputs, bias=bias is not None), x, weight=weight, bias=bias
    )


def matmul(op: Op) -> Any:
    """Make a linear layer if the second matrix is constant, otherwise call matmul.

    A third input is a bias from `merge_biases`.
    """
    x = op[0]
    weight = op[1]
    bias = None if op.optional(2) is None else op[2]
    if (
        isinstance(x, fx.Node)
        and isinstance(weight, Constant)
        and op.rank(weight) == 2
        and not isinstance(bias, fx.Node)
    ):
        return linear(op, x, weight.permuted([1, 0]), bias)
    out = op.call(torch.matmul, x, weight)
    return out if bias is None else op.call(torch.add, out, bias)


def einsum(op: Op) -> Any:
    """Call einsum."""
    equation = op.get("equation", "")
    if not equation or set(equation) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,->. "
    ):
        raise ValueError(f"equation {equation!r:.80} is not known")
    return op.call(torch.einsum, equation, *(op[index] for index in range(len(op))))


OPERATORS = {"Gemm": gemm, "MatMul": matmul, "Einsum": einsum}
