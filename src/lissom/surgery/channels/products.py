"""Rules of matrix products of an activation with a layer's weight, another activation or a
constant.
"""

from __future__ import annotations

from torch import Tensor

from ..by_tensor import ByTensor
from ..trace import Op
from .axes import same, varies
from .labels import Labels, Weight
from .refusals import computed

ALIASES = {"_to_copy", "detach", "alias"}
RESHAPED = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "unsqueeze",
    "squeeze",
    "expand",
    "clone",
    *ALIASES,
}
ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
}


def derived(weights: ByTensor[Weight], op: Op) -> Weight | None:
    """Return the parameter that an operation only transposes or reshapes, with its axes, or None."""
    x = op.args[0] if op.args else None
    if not isinstance(x, Tensor) or x not in weights or not op.outputs:
        return None
    name, axes = weights[x]
    axes = tuple(range(x.ndim)) if axes is None else axes
    if op.name in ("t", "transpose", "permute"):
        order = list(range(x.ndim))
        if op.name == "permute":
            order = [d % x.ndim for d in op.args[1]]
        elif x.ndim > 1:
            first, second = op.args[1:3] if op.name == "transpose" else (0, 1)
            order[first], order[second] = order[second], order[first]
        return name, tuple(axes[d] for d in order)
    out = op.outputs[0]
    if op.name not in RESHAPED or [n for n in x.shape if n > 1] != [n for n in out.shape if n > 1]:
        return None
    wide = iter([axis for axis, n in zip(axes, x.shape, strict=True) if n > 1])
    return name, tuple(next(wide) if n > 1 else None for n in out.shape)


def product(labels: Labels, op: Op) -> None:
    """Multiply two activations (b n d) (b d m) as heads, or an activation and a parameter.

    A product that only mixes positions leaves channels where they are.
    """
    left, right = list(op.inputs())[-2:]
    # axes of the weight; `x` has them the other way round
    for x, weight, reads, makes in ((left, right, -2, -1), (right, left, -1, -2)):
        if x in labels and weight not in labels and x.ndim == op.outputs[0].ndim == weight.ndim:
            channels = labels[x]
            place = labels.weights.get(weight)
            if not varies(channels, makes) and varies(channels, reads):
                labels[op.outputs[0]] = channels.narrow(makes, 0, 1).expand(op.outputs[0].shape)
                return None
            if (
                place is not None
                and place[0] not in labels.trace.buffers
                and weight.shape[:-2].numel() == 1
            ):
                return _layer(labels, op, x, _places(place, weight, reads, makes), makes)
    return heads(labels, op)


def _places(
    place: Weight, weight: Tensor, reads: int, makes: int
) -> tuple[str, int | None, int | None]:
    name, axes = place
    axes = tuple(range(weight.ndim)) if axes is None else axes
    return name, axes[reads], axes[makes]


def heads(labels: Labels, op: Op) -> None:
    """Multiply activations matrix by matrix. All channels of two multiplied matrices are one unit."""
    units = []
    for tensor in op.inputs():
        if tensor in labels:
            tied = labels.tie(labels[tensor], (-2, -1))
            units.append(tied[..., :1, :1])
    for other in units[1:]:
        labels.equal(units[0], other)
    for out in op.outputs:
        fits = out.ndim == units[0].ndim and out.shape[:-2] == units[0].shape[:-2]
        labels[out] = units[0].expand(out.shape) if fits else same(out, 0)


def _layer(
    labels: Labels, op: Op, x: Tensor, weight: tuple[str, int | None, int | None], axis: int
) -> None:
    """Read the labels of `x` along an axis (-1 or -2) and make new ones.

    `weight` is the name of a parameter, its input axis and its output axis.
    """
    name, reads, makes = weight
    out = op.outputs[0]
    dim = x.ndim + axis
    if reads is None or makes is None:
        return computed(labels, op, "the weights of a matrix product are computed")
    entering = labels.along(labels[x], dim)
    leaving = labels.fresh(out.shape[axis], name.rpartition(".")[0])
    labels.use(name, makes, "out", leaving)
    labels.use(name, reads, "in", entering)
    labels[out] = (leaving if axis == -1 else leaving[:, None]).expand(out.shape)
    return None


def linear(labels: Labels, op: Op) -> None:
    """Read the labels of channels at the last axis and make new labels."""
    bias: Tensor | None
    if op.name == "linear":
        x, weight, bias = (*op.args, None)[:3]
        inside = 1
        outside = 0
    else:
        bias, x, weight = op.args if op.name == "addmm" else (None, *op.args)
        inside = 0
        outside = 1
    place = labels.weights.get(weight)
    if bias is None and (place is None or x not in labels or place[0] in labels.trace.buffers):
        return product(labels, op)
    known = bias is None or bias in labels.trace.names or (bias in labels and bias.ndim == 1)
    if place is None or x not in labels or not known or weight.ndim != 2:
        return computed(labels, op, "the weights of a matrix product are computed")
    _layer(labels, op, x, _places(place, weight, inside, outside), -1)
    if bias is not None:
        leaving = labels[op.outputs[0]].flatten(0, -2)[0]
        if bias in labels:
            labels.equal(labels[bias], leaving)
        else:
            labels.use(labels.trace.names[bias], 0, "vector", leaving)
    return None
