"""Find which channels of which tensors must be cut together.

Every channel that a layer produces gets an integer label. The operations of a recorded forward pass are then
run on labels in place of numbers: an integer tensor of the activation's own shape, where an element holds the
label of the channel it came from. Moving data moves labels; adding two activations declares their labels
equal; a convolution or linear layer reads the labels of its inputs and makes new ones. Label 0 is what must
not be cut. An operation that is not known here makes everything that enters and leaves it uncuttable, with the
reason: an unknown is never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .trace import Op, Trace, traced

MOVES = {"view", "_unsafe_view", "reshape", "permute", "transpose", "t", "cat", "split", "split_with_sizes",
         "chunk", "slice", "select", "unsqueeze", "squeeze", "expand", "flatten", "clone", "alias", "detach",
         "stack", "unbind", "contiguous", "pixel_shuffle", "pixel_unshuffle", "_reshape_alias", "view_as",
         "unsafe_split", "unsafe_chunk", "narrow", "flip", "roll", "_to_copy", "lift_fresh"}
POINTWISE = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "hardtanh", "hardtanh_", "hardswish", "hardswish_",
             "hardsigmoid", "hardsigmoid_", "silu", "silu_", "gelu", "elu", "elu_", "leaky_relu", "leaky_relu_",
             "mish", "softplus", "clamp", "clamp_", "clamp_min", "clamp_min_", "neg", "abs", "square", "sqrt", "exp",
             "dropout", "native_dropout", "bernoulli", "pow", "add", "add_", "sub", "sub_", "rsub", "mul", "mul_",
             "div", "div_", "maximum", "minimum", "hardshrink", "log_sigmoid_forward", "fill", "where", "lerp"}
NORMS = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training")
SPATIAL = {"max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
           "adaptive_max_pool2d", "mean", "sum", "amax", "constant_pad_nd", "reflection_pad2d", "replication_pad2d",
           "upsample_nearest2d", "upsample_bilinear2d", "_upsample_nearest_exact2d", "upsample_bicubic2d",
           "_upsample_bilinear2d_aa"}


@dataclass(frozen=True)
class Use:
    """One axis of a parameter or buffer along which channels lie, with the label of each index.

    `role` is out (filters of a layer that makes channels), scale (batch-norm's), vector (biases, statistics
    and whatever else has one number for each channel) or in (what a layer reads).
    """

    tensor: str
    axis: int
    role: str
    labels: Tensor


class Labels:
    """Labels of a network's channels: the uses of each, which are equal and which must stay, and why."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.parent: list[int] = [0]
        self.frozen: dict[int, str] = {0: "the input of the network"}
        self.uses: list[Use] = []
        self.left: dict[str, str] = {}  # layer -> why it is left whole
        self._seen: dict[int, Tensor] = {}
        self._transposed: dict[int, str] = {}
        self.trace: Trace = traced(model, example)
        for tensor in self.trace.inputs:
            self._seen[id(tensor)] = self._same(tensor, 0)
        for op in self.trace.ops:
            self._run(op)
        for tensor in self.trace.outputs:
            if id(tensor) in self._seen:
                self._freeze(self._seen[id(tensor)], "an output of the network")

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label in an integer tensor."""
        parent = torch.tensor(self.parent)
        while True:
            above = parent[parent]
            if torch.equal(above, parent):
                break
            parent = above
        return parent[labels]

    # labels and tensors

    def _find(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def _fresh(self, count: int) -> Tensor:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def _equal(self, one: Tensor, two: Tensor) -> None:
        one, two = thin(*torch.broadcast_tensors(one, two))
        if torch.equal(one, two):
            return
        for pair in torch.stack([one.flatten(), two.flatten()]).unique(dim=1).t().tolist():
            a, b = sorted(map(self._find, pair))
            self.parent[b] = a
            if b in self.frozen:
                self.frozen.setdefault(a, self.frozen[b])

    def _freeze(self, labels: Tensor, reason: str) -> None:
        for label in thin(labels)[0].unique().tolist():
            self.frozen.setdefault(self._find(label), reason)

    @staticmethod
    def _same(like: Tensor, label: int) -> Tensor:
        return torch.tensor(label).expand(like.shape)

    def _of(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of an activation; a parameter with one axis of channels gets labels of its own."""
        if id(tensor) in self._seen:
            return self._seen[id(tensor)]
        name = self.trace.names.get(id(tensor))
        long = [k for k, n in enumerate(tensor.shape) if n > 1]
        if name is None or len(long) != 1:
            return None
        labels = self._fresh(tensor.shape[long[0]])
        self.uses.append(Use(name, long[0], "vector", labels))
        shape = [1] * tensor.ndim
        shape[long[0]] = -1
        self._seen[id(tensor)] = labels.view(shape)
        return self._seen[id(tensor)]

    # operations

    def _run(self, op: Op) -> None:
        if op.name == "t" and id(op.args[0]) in self.trace.names:
            self._transposed[id(op.outputs[0])] = self.trace.names[id(op.args[0])]
            return
        if not any(id(t) in self._seen for t in op.inputs()):
            return  # constants and views of parameters carry no labels
        rule: Callable[[Op], None] = self._rules.get(op.name, self._unknown)
        rule(op)

    @property
    def _rules(self) -> dict[str, Callable[[Op], None]]:
        rules: dict[str, Callable[[Op], None]] = {"convolution": self._convolution, "addmm": self._linear,
                                                  "linear": self._linear,
                                                  "mm": self._linear}
        rules.update(dict.fromkeys(NORMS, self._norm))
        rules.update(dict.fromkeys(MOVES, self._move))
        rules.update(dict.fromkeys(POINTWISE, self._pointwise))
        rules.update(dict.fromkeys(SPATIAL, self._spatial))
        return rules

    def _unknown(self, op: Op, reason: str = "") -> None:
        reason = reason or f"'{op.name}' is not followed"
        for tensor in op.inputs():
            if id(tensor) in self._seen:
                self._freeze(self._seen[id(tensor)], reason)
        for tensor in op.outputs:
            self._seen[id(tensor)] = self._same(tensor, 0)

    def _move(self, op: Op) -> None:
        """Move labels as the data moves: by the operation itself."""
        def swap(value: Any) -> Any:
            if isinstance(value, Tensor):
                labels = self._of(value)
                return self._same(value, 0) if labels is None else labels.expand(value.shape)
            if isinstance(value, (list, tuple)):
                return type(value)(swap(v) for v in value)
            return value
        if op.name == "_to_copy":
            moved: Any = swap(op.args[0])
        else:
            kwargs = {k: v for k, v in op.kwargs.items() if k != "memory_format"}
            if op.name in ("view", "_unsafe_view", "_reshape_alias"):  # labels are expanded: no view of them will do
                moved = swap(op.args[0]).reshape(op.outputs[0].shape)
            else:
                moved = op.func(*swap(op.args), **kwargs)
        for tensor, labels in zip(op.outputs, [moved] if isinstance(moved, Tensor) else moved, strict=True):
            self._seen[id(tensor)] = labels

    def _pointwise(self, op: Op) -> None:
        """Element by element: what meets must be the same channel, unless one number meets all channels."""
        found = []
        for tensor in op.inputs():
            labels = self._of(tensor)
            if labels is None and tensor.numel() > 1:
                return self._unknown(op, f"a tensor of the network itself enters '{op.name}'")
            if labels is not None:
                found.append(labels)
        shape = op.outputs[0].shape
        widest = max((f.expand(shape) for f in found), key=lambda f: thin(f)[0].numel())
        for labels in found:
            if gate(labels, widest):
                self._freeze(labels, "it gates every channel of another activation")
            else:
                self._equal(widest, labels.expand(shape))
        self._seen[id(op.outputs[0])] = widest
        return None

    def _spatial(self, op: Op) -> None:
        """Reduce or spread over positions: each channel must fill all the positions it is mixed over."""
        labels, out = self._seen[id(op.args[0])], op.outputs[0]
        rank = labels.ndim
        if op.name in ("mean", "sum", "amax") and len(op.args) > 1:
            dims = {d % rank for d in (op.args[1] if isinstance(op.args[1], (list, tuple)) else [op.args[1]])}
            keep = bool(op.args[2]) if len(op.args) > 2 else bool(op.kwargs.get("keepdim", False))
        elif op.name in ("mean", "sum", "amax") or rank < 3:
            return self._unknown(op)
        else:
            dims, keep = set(range(2, rank)), True
        one = labels
        for dim in dims:
            one = one.narrow(dim, 0, 1)
        if not uniform(labels, dims):
            return self._unknown(op, f"'{op.name}' mixes channels")
        if op.name == "constant_pad_nd" and len(op.args[1]) > 2 * (rank - 2):
            return self._unknown(op, "channels are padded")
        if not keep:
            for dim in sorted(dims, reverse=True):
                one = one.squeeze(dim)
        self._seen[id(out)] = one.expand(out.shape)
        for extra in op.outputs[1:]:
            self._seen[id(extra)] = self._same(extra, 0)
        return None

    def _convolution(self, op: Op) -> None:
        x, weight, bias, *_, transposed, _, groups = op.args[:9]
        labels, name = self._seen[id(x)], self.trace.names.get(id(weight))
        entering = labels[0].flatten(1)[:, 0]
        if name is None or (bias is not None and id(bias) not in self.trace.names):
            return self._unknown(op, "the weights of a convolution are computed")
        layer = name.rpartition(".")[0]
        reason = ("a transposed convolution" if transposed else
                  "its channels are mixed over positions" if not uniform(labels, [0, *range(2, labels.ndim)]) else
                  "a grouped convolution" if groups > 1 and not weight.shape[0] == groups == x.shape[1] else "")
        if reason:
            self.left[layer] = reason
            return self._unknown(op, f"{layer}: {reason}")
        leaving = entering if groups > 1 else self._fresh(weight.shape[0])
        self._layer(name, bias, entering, leaving, depthwise=groups > 1)
        self._seen[id(op.outputs[0])] = leaving.view(1, -1, *[1] * (labels.ndim - 2)).expand(op.outputs[0].shape)
        return None

    def _linear(self, op: Op) -> None:
        if op.name == "linear":
            x, weight, bias = (*op.args, None)[:3]
            name = self.trace.names.get(id(weight))
        else:
            bias, x, weight = op.args if op.name == "addmm" else (None, *op.args)
            name = self._transposed.get(id(weight))
        if name is None or id(x) not in self._seen or (bias is not None and id(bias) not in self.trace.names):
            return self._unknown(op, "the weights of a matrix product are computed")
        labels = self._seen[id(x)]
        if not uniform(labels, range(labels.ndim - 1)):
            return self._unknown(op, f"{name.rpartition('.')[0]}: its channels are mixed over positions")
        leaving = self._fresh(op.outputs[0].shape[-1])
        self._layer(name, bias, labels.flatten(0, -2)[0], leaving)
        self._seen[id(op.outputs[0])] = leaving.expand(op.outputs[0].shape)
        return None

    def _layer(self, name: str, bias: Tensor | None, entering: Tensor, leaving: Tensor, depthwise: bool = False) -> None:
        """Note what a layer reads and makes; one that is used twice reads and makes the same both times."""
        earlier = {(u.tensor, u.axis): u for u in self.uses}
        wanted = [Use(name, 0, "out", leaving)] + ([] if depthwise else [Use(name, 1, "in", entering)])
        if bias is not None and id(bias) in self.trace.names:
            wanted.append(Use(self.trace.names[id(bias)], 0, "vector", leaving))
        for use in wanted:
            if (use.tensor, use.axis) in earlier:
                self._equal(earlier[use.tensor, use.axis].labels, use.labels)
            else:
                self.uses.append(use)

    def _norm(self, op: Op) -> None:
        labels = self._seen[id(op.args[0])]
        if any(t is not None and id(t) not in self.trace.names for t in op.args[1:5]):
            return self._unknown(op, "the scales of a batch-norm are computed")
        channels = labels[0].reshape(labels.shape[1], -1)[:, 0]
        if not uniform(labels, [0, *range(2, labels.ndim)]):
            return self._unknown(op, "batch-norm over channels that are mixed over positions")
        known = {(u.tensor, u.axis): u for u in self.uses}
        for k, tensor in enumerate(op.args[1:5]):
            name = self.trace.names.get(id(tensor)) if tensor is not None else None
            if name is not None and (name, 0) in known:
                self._equal(known[name, 0].labels, channels)
            elif name is not None:
                self.uses.append(Use(name, 0, "vector" if k else "scale", channels))
        self._seen[id(op.outputs[0])] = labels
        return None


def uniform(labels: Tensor, dims: Any) -> bool:
    """Return whether labels stay the same along `dims`."""
    for dim in dims:
        if labels.stride(dim) and not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels)):
            return False
    return True


def gate(labels: Tensor, other: Tensor) -> bool:
    """Return whether `labels` has one element wherever those of `other` vary: one number for all channels."""
    varying = [d - other.ndim for d, n in enumerate(thin(other)[0].shape) if n > 1]
    return bool(varying) and all(-d > labels.ndim or labels.shape[d] == 1 for d in varying)


def thin(*labels: Tensor) -> tuple[Tensor, ...]:
    """Drop from label tensors of one shape the axes along which each merely repeats."""
    for dim in range(labels[0].ndim):
        if all(t.stride(dim) == 0 for t in labels):
            labels = tuple(t.narrow(dim, 0, 1) for t in labels)
    return labels
