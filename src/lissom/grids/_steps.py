"""Rounding of inputs to equal steps and to signs, with its gradient, in the fewest passes over memory.

PyTorch's own fake_quantize runs unvectorised on a CPU, where it takes 15 times as long as the four passes here
(benchmarks/quantize_cost.py); so does torch.where.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def equal_steps(x: Tensor, step: Tensor, zero: int, top: int, slow: float = 1.0) -> Tensor:
    """Return (clamp(round(x / step) + zero, 0, top) - zero) * step for x (...) and a step (1) or ().

    The gradient of x is that of x itself between the ends of the grid and 0 outside. That of the step is, times `slow`,
    round(x / step) - x / step between them and the end itself outside, summed over x.
    Source: Esser et al. 2019, https://arxiv.org/abs/1902.08153.
    """
    found: Tensor = EqualSteps.apply(x, step, zero, top, slow)
    return found


class EqualSteps(torch.autograd.Function):
    """The forward and the backward pass of `equal_steps`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: int, top: int, slow: float) -> Tensor:
        size = step if x.is_cuda else float(step)  # to ask a GPU for a number would wait for it
        wide = x.float()  # of bfloat16 a copy to write into: integers over 256 are none in bfloat16
        y = (wide / size if wide is x else wide.div_(size)).round_().clamp_(-zero, top - zero).mul_(size).to(x.dtype)
        ctx.ends, ctx.slow = (-zero * size, (top - zero) * size), slow
        ctx.save_for_backward(*([x, y, step] if ctx.needs_input_grad[1] else [x]))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, *learned = ctx.saved_tensors
        inside = within(grad, x, *ctx.ends)
        if not learned:
            return inside, None, None, None, None
        y, step = learned
        if x.dtype == torch.float32:
            slope = product(grad, y) - product(inside, x)
        else:  # a sum of 8 bits each, of which the difference would be mostly error
            slope = product(grad, within(x, x, *ctx.ends).neg_().add_(y)).float()
        return inside, (slope / step * ctx.slow).reshape(step.shape), None, None, None


def within(values: Tensor, x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Return `values` (...) where low < x < high, and 0 elsewhere."""
    if x.is_cuda:
        return values * ((x > low) & (x < high))
    found: Tensor = torch.ops.aten.hardtanh_backward(values, x, low, high)
    return found


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b, without a tensor of their size where both lie in memory alike."""
    if a.stride() == b.stride() and (a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last)):
        return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,)))
    return (a * b).sum()


def signs(x: Tensor, near: float, low: int, gradient: str) -> Tensor:
    """Return 1 where x (...) is at least `near`, and `low`, 0 or -1, elsewhere.

    The gradient is saturate, that of x itself where |x| < 1 and 0 elsewhere; soft, times max(0, 1 - |x|); else that of x.
    """
    found: Tensor = Signs.apply(x, near, low, gradient)
    return found


class Signs(torch.autograd.Function):
    """The forward and the backward pass of `signs`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, near: float, low: int, gradient: str) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(*([x] if gradient in ("saturate", "soft") else []))
        return (x - near).sign_().add_(0.5).sign_().clamp_(min=low)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if not ctx.saved_tensors:
            return grad, None, None, None
        x, = ctx.saved_tensors
        slope = torch.ops.aten.hardtanh_backward(grad, x, -1.0, 1.0)
        return slope if ctx.gradient == "saturate" else slope.mul_(1 - x.abs()), None, None, None
