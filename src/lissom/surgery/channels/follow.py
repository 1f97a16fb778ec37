"""Follow channels through a network: run its operations on labels instead of numbers.

An operation that moves data moves labels. Adding two activations declares their labels equal. A
convolution or linear layer reads the labels of its inputs and makes new labels. An operation that
mixes channels declares their labels equal. The inputs and outputs of an unknown operation cannot be
cut, and the reason is recorded: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..by_tensor import ByTensor
from ..trace import Op, traced
from .axes import same
from .labels import Labels, Use
from .moves import MOVES, VIEWS
from .pointwise import POINTWISE
from .products import ALIASES, derived
from .refusals import unknown
from .rules import RULES

RECURRENT = "it shares channels with the state of a recurrent layer, which is not cut"


def labels_of(
    model: nn.Module, example: Tensor, tied: Iterable[str] = (), training: bool = False
) -> Labels:
    """Return the labels of a network's channels, traced in a forward pass on `example` (n ...).

    If the output of a layer in `tied` is split into equal parts, each part loses the same channels.
    With `training`, a second pass in training mode is followed too, for auxiliary heads and the
    like.
    """
    labels = Labels(tied)
    for mode in (True, False) if training else (False,):
        labels.traces.append(traced(model, example, mode))
        follow(labels)
    outputs = labels.trace.returned
    labels.at = {name: labels[tensor] for name, tensor in outputs.items() if tensor in labels}
    for name, layer in model.named_modules():
        if (
            isinstance(layer, nn.modules.instancenorm._InstanceNorm)
            and name in labels.at
            and layer.weight is None
            and layer.running_mean is None
            and labels.at[name].shape[1] == layer.num_features
        ):
            labels.widths.append(Use(name, 1, "width", labels.at[name][0].flatten(1)[:, 0]))
    return labels


def follow(labels: Labels) -> None:
    """Follow the last trace from the inputs to the outputs of the network."""
    labels.weights = ByTensor((tensor, (name, None)) for tensor, name in labels.trace.names.items())
    for tensor in labels.trace.inputs:
        labels[tensor] = same(tensor, 0)
    for op in labels.trace.live():
        run_on_labels(labels, op)
    for tensor in labels.trace.outputs:
        if tensor in labels:
            labels.freeze(labels[tensor], "an output of the network")


def run_on_labels(labels: Labels, op: Op) -> None:
    """Apply the rule of an operation to labels."""
    if is_parameter_view(labels, op):
        return
    label_constants(labels, op)
    single = op.name in MOVES or op.name in VIEWS or op.name in POINTWISE
    # constants have no labels
    if any(t in labels for t in op.inputs()) or (single and maps_vector(labels, op)):
        try:
            RULES.get(op.name, unknown)(labels, op)
        except (RuntimeError, LookupError, ValueError):
            # the rule does not cover this form of the operation
            unknown(labels, op)


def is_parameter_view(labels: Labels, op: Op) -> bool:
    """Record an output that is still a parameter, only cast, transposed or reshaped.

    Return whether that is all there is to do. Vectors are followed further, like activations.
    """
    place = derived(labels.weights, op)
    if place is None:
        return False
    x = op.args[0]
    out = op.outputs[0]
    labels.weights[out] = place
    names = labels.trace.names
    if op.name in ALIASES and x in names:
        names[out] = names[x]
        return True
    return x not in labels and sum(n > 1 for n in x.shape) > 1


def label_constants(labels: Labels, op: Op) -> None:
    """Label tensors that no layer makes: constants that a linear layer reads, and lookup tables."""
    if op.name in ("addmm", "mm", "linear"):
        x, weight = op.args[1:] if op.name == "addmm" else op.args[:2]
        if x not in labels and weight in labels.weights:
            name = labels.weights[weight][0].rpartition(".")[2]
            # the state before the first step: all later states are added to it
            is_state = name.startswith("weight_hh")
            labels[x] = same(x, labels.frozen_label(RECURRENT) if is_state else 0)
    elif op.name == "index" and op.args[0] in labels.trace.names and op.args[0].ndim == 2:
        table = op.args[0]
        looked_up = [axis for axis, index in enumerate(op.args[1]) if index is not None]
        if len(looked_up) == 1:
            along = torch.arange(table.shape[1 - looked_up[0]])
            labels.find(table, (along if looked_up == [0] else along[:, None]).expand(table.shape))


def maps_vector(labels: Labels, op: Op) -> bool:
    """Return whether an operation has vector parameters as inputs, and all of them have labels."""
    names = labels.trace.names
    vectors = [t for t in op.inputs() if t in names and sum(n > 1 for n in t.shape) == 1]
    return bool(vectors) and all(labels.find(t) is not None for t in vectors)
