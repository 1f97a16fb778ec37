"""Rounding to equal steps and to signs, with gradients, in as few passes over memory as possible.

PyTorch's own fake_quantize and torch.where are not vectorised on a CPU: they take 14 ms and 20 ms
for what four passes in place do in 1 ms and 3 ms (benchmarks/quantize_cost.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...language.grid import by_filter, per_filter

ROW_LENGTH = 256  # the batch-norms below see a tensor as (n ROW_LENGTH)


def equal_steps(x: Tensor, step: Tensor, zero: int, top: int, slow: float = 1.0) -> Tensor:
    """Return (clamp(round(x / step) + zero, 0, top) - zero) * step for x (...) and step (1) or ().

    The gradient passes to x unchanged between the ends of the grid and is 0 outside. The gradient
    of the step is `slow` times the sum over x of round(x / step) - x / step between the ends, and
    of the end itself outside.
    Source: Esser et al. 2019, https://arxiv.org/abs/1902.08153.
    """
    found: Tensor = EqualSteps.apply(x, step, zero, top, slow)
    return found


class EqualSteps(torch.autograd.Function):
    """The forward and the backward pass of `equal_steps`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: int, top: int, slow: float) -> Tensor:
        size = step if x.is_cuda else float(step)  # float() would wait for the GPU
        y = on_steps(x, size, zero, top)
        ctx.ends = (-zero * size, (top - zero) * size)
        ctx.slow = slow
        ctx.save_for_backward(*([x, y, step] if ctx.needs_input_grad[1] else [x]))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, *learned = ctx.saved_tensors
        inside = within(grad, x, *ctx.ends)
        if not learned:
            return inside, None, None, None, None
        y, step = learned
        slope = product(grad, y) - product(inside, x)
        return inside, (slope / step * ctx.slow).reshape(step.shape), None, None, None


def on_steps(x: Tensor, step: Tensor | float, zero: int, top: int) -> Tensor:
    """Return the values of `equal_steps`, without a gradient."""
    if isinstance(step, float) and top < 128 and in_rows(x):
        return in_bfloat16(x, step, zero, top)
    wide = x.float()  # a copy of bfloat16, which does not hold all integers over 256
    return (
        (wide / step if wide is x else wide.div_(step))
        .round_()
        .clamp_(-zero, top - zero)
        .mul_(step)
        .to(x.dtype)
    )


def in_bfloat16(x: Tensor, step: float, zero: int, top: int) -> Tensor:
    """Return the values of `equal_steps` for x (...) in bfloat16 and fewer than 8 bits, without a
    copy in float32.

    Between 128 and 256 bfloat16 holds only integers, so storing a sum in that range rounds it.
    Batch-norm multiplies and adds in float32 and stores once; torch.add would round the factor as
    well.
    """
    none = torch.zeros(ROW_LENGTH)
    one = torch.ones(ROW_LENGTH)
    y = F.batch_norm(
        flat(x).view(-1, ROW_LENGTH), none, one, one / step, one * (128 + zero), eps=0.0
    )
    return (
        F.hardtanh_(y, 128.0, 128.0 + top)
        .sub_(128.0 + zero)
        .mul_(step)
        .as_strided(x.shape, x.stride())
    )


def clipped_steps(x: Tensor, bound: Tensor, top: int) -> Tensor:
    """Return clamp(x, 0, bound) rounded to multiples of bound / top, for x (...) and a bound (1).

    The gradient passes to x unchanged between 0 and the bound and is 0 elsewhere. The gradient of
    the bound is 1 where x >= bound, else 0.
    Source: Choi et al. 2018, https://arxiv.org/abs/1805.06085.
    """
    found: Tensor = ClippedSteps.apply(x, bound, top)
    return found


class ClippedSteps(torch.autograd.Function):
    """The forward and the backward pass of `clipped_steps`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x, bound)
        return on_steps(x, bound / top if x.is_cuda else float(bound) / top, 0, top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, bound = ctx.saved_tensors
        below = torch.nextafter(bound, torch.zeros_like(bound))
        high, least = (bound, below) if x.is_cuda else (float(bound), float(below))
        beyond = within(grad, x, least, float("inf")).sum(dtype=torch.float32)
        return within(grad, x, 0.0, high), beyond.reshape(bound.shape), None


def equal_filters(
    weight: Tensor, step: Tensor, low: int, high: int, slow: float = 1.0, zero: Tensor | None = None
) -> Tensor:
    """Return clamp(round(w / step), low, high) * step for a weight (out ...) and a step for each
    filter (out).

    Zero points of filters (out) are added before the clamp and subtracted after it.
    The gradients are those of `equal_steps`, except that values which round to an end count as
    inside.
    """
    found: Tensor = EqualFilters.apply(weight, step, low, high, slow, zero)
    return found


class EqualFilters(torch.autograd.Function):
    """The forward and the backward pass of `equal_filters`."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        step: Tensor,
        low: int,
        high: int,
        slow: float,
        zero: Tensor | None,
    ) -> Tensor:
        size = by_filter(step, weight)
        steps = weight / size
        codes = to_integers(steps, low, high, zero)
        if zero is not None:
            steps += by_filter(zero, weight)  # to compare them with the ends
        ctx.ends = (low - 0.5, high + 0.5)
        ctx.slow = slow
        ctx.save_for_backward(*([steps, codes] if ctx.needs_input_grad[1] else [steps]))
        return codes * size

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        steps, *codes = ctx.saved_tensors
        inside = within(grad, steps, *ctx.ends)
        slope = per_filter(grad * codes[0] - inside * steps).sum(1) * ctx.slow if codes else None
        return inside, slope, None, None, None, None


def to_integers(steps: Tensor, low: int, high: int, zero: Tensor | None = None) -> Tensor:
    """Return the integers nearest to a weight (out ...) in steps, clamped to low..high.

    Zero points (out) are added before the clamp and subtracted after it.
    """
    codes = steps.round()
    if zero is None:
        return codes.clamp_(low, high)
    shift = by_filter(zero, steps)
    return codes.add_(shift).clamp_(low, high).sub_(shift)


def clipped(x: Tensor, top: float) -> Tensor:
    """Return x (...) clamped to 0..`top`; the gradient outside is 0."""
    found: Tensor = Clipped.apply(x, top)
    return found


class Clipped(torch.autograd.Function):
    """The forward and the backward pass of `clipped`.

    PyTorch's own would return a gradient in another memory layout: see `within`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float) -> Tensor:
        ctx.top = top
        y = F.hardtanh(x, 0.0, top)
        ctx.save_for_backward(y)  # as ReLU does: the next layer keeps y anyway
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return within(grad, y, 0.0, ctx.top), None


def within(values: Tensor, x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Return `values` (...) where low < x < high, and 0 elsewhere, in the memory layout of x.

    The gradient of a mean over space has another layout, and PyTorch's hardtanh passes it on. The
    batch-norms of a whole stage then read two layouts at once, which costs a tenth of a training
    step.
    """
    if values.stride() != x.stride():
        values = torch.empty_like(x).copy_(values)
    if x.is_cuda:
        return values * ((x > low) & (x < high))
    found: Tensor = torch.ops.aten.hardtanh_backward(values, x, low, high)
    return found


def dense(x: Tensor) -> bool:
    """Return whether x (...) fills its memory without gaps, in default or channels-last order."""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def in_rows(x: Tensor) -> bool:
    """Return whether x (...) can be seen as rows for batch-norm: dense, bfloat16, on a CPU."""
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and dense(x)
        and x.numel() % ROW_LENGTH == 0
    )


def flat(x: Tensor) -> Tensor:
    """Return the values of a dense x (...) in memory order."""
    return x.as_strided((x.numel(),), (1,))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b (n ...) in float32.

    Dense tensors of the same layout usually need no temporary of their size.
    """
    if a.stride() == b.stride() and dense(a) and a.dtype == torch.float32:
        return torch.dot(flat(a), flat(b))
    if a.stride() != b.stride() or not in_rows(a):
        return (a.float() * b.float()).sum()
    # torch.dot of bfloat16 runs on one core and rounds its sum to bfloat16. The gradient of
    # batch-norm's weight is the same sums in float32.
    none = torch.zeros(ROW_LENGTH)
    one = torch.ones(ROW_LENGTH)
    a = flat(a).view(-1, ROW_LENGTH)
    b = flat(b).view(-1, ROW_LENGTH)
    sums = torch.ops.aten.native_batch_norm_backward(
        a, b, one, none, one, None, None, False, 0.0, [False, True, False]
    )
    assert isinstance(sums[1], Tensor)
    return sums[1].sum()


def signs(x: Tensor, near: float, low: int, gradient: str) -> Tensor:
    """Return 1 where x (...) is at least `near`, and `low` (0 or -1) elsewhere.

    With `gradient` "saturate", the gradient passes to x where |x| < 1 and is 0 elsewhere; with
    "soft", it is multiplied by max(0, 1 - |x|); otherwise it passes unchanged.
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
        (x,) = ctx.saved_tensors
        slope = within(grad, x, -1.0, 1.0)
        return slope if ctx.gradient == "saturate" else slope.mul_(1 - x.abs()), None, None, None
