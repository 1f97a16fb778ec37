"""Rules of elementwise operations: elements that are combined belong to the same channel."""

from __future__ import annotations

from ..trace import Op
from .axes import thin, varies
from .labels import Labels
from .refusals import unknown

POINTWISE = set(
    """
    relu sigmoid tanh hardtanh hardswish hardsigmoid silu gelu elu leaky_relu mish softplus
    clamp clamp_min clamp_max neg abs square sqrt rsqrt reciprocal exp log erf sign round
    dropout native_dropout bernoulli pow add sub rsub mul div maximum minimum hardshrink
    log_sigmoid_forward fill where lerp sin cos _prelu_kernel masked_fill zeros_like ones_like
    full_like rand_like empty_like _to_copy gt ge lt le eq ne logical_not addcmul relu6 celu
    selu lift_fresh zero
    """.split()
)


def pointwise(labels: Labels, op: Op) -> None:
    """Declare the labels of all inputs equal. One number that gates all channels must stay instead."""
    shape = op.outputs[0].shape
    inputs = op.inputs()
    known = [labels[t] for t in inputs if t in labels]
    if len(inputs) == len(known) == 1:  # a single input: its labels pass through
        for tensor in op.outputs:
            labels[tensor] = known[0].expand(tensor.shape)
        return None
    widest = max((f.expand(shape) for f in known), key=lambda f: thin(f)[0].numel())
    varying = [d for d in range(-len(shape), 0) if varies(widest, d)]
    for tensor in inputs:
        channels = labels.find(tensor, widest)
        if (
            channels is None
            and tensor.numel() > 1
            and any(-d <= tensor.ndim and tensor.shape[d] > 1 and tensor.stride(d) for d in varying)
        ):
            return unknown(
                labels, op, f"a tensor that is no parameter of one axis enters '{op.name}'"
            )
        if channels is not None and channels.numel() >= 1:
            if varying and all(-d > channels.ndim or channels.shape[d] == 1 for d in varying):
                labels.freeze(channels, "it gates every channel of another activation")
            else:
                labels.equal(widest, channels.expand(shape))
    for tensor in op.outputs:
        labels[tensor] = widest.expand(tensor.shape)
    return None


def gated(labels: Labels, op: Op) -> None:
    """Gate the first half of an axis by the second. Both halves lose the same channels."""
    first, second = labels[op.args[0]].chunk(2, op.args[1] if len(op.args) > 1 else -1)
    labels.equal(first, second)
    labels[op.outputs[0]] = first


def write(labels: Labels, op: Op) -> None:
    """Write into an activation. The written channels are cut together with those they replace."""
    into, what = op.args[:2]
    if into not in labels:
        return unknown(labels, op, "it is written into a tensor that the code makes")
    channels = labels.find(what, labels[into])
    if channels is not None:
        labels.equal(labels[into], channels.expand(into.shape))
    elif what.numel() > 1:
        return unknown(labels, op, "a tensor that is no parameter of one axis is written into it")
    labels[op.outputs[0]] = labels[into]
    return None
