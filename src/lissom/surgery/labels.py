"""Find which channels of which tensors must be cut together.

Every channel that a layer produces gets an integer label. The operations of a recorded forward pass are then
run on labels in place of numbers: an integer tensor of the activation's own shape, where an element holds the
label of the channel it came from. Moving data moves labels; adding two activations declares their labels
equal; a convolution or linear layer reads the labels of its inputs and makes new ones; whatever mixes channels
declares those equal that it mixes. Label 0 is what must not be cut. An operation that is not known makes
everything that enters and leaves it uncuttable, with the reason: an unknown is never guessed.

What each operation does to labels is in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from .axes import same, thin, varies
from .products import ALIASES, Weight, derived
from .refusals import unknown
from .rules import MOVES, POINTWISE, RULES, VIEWS
from .trace import Op, Trace, traced


@dataclass(frozen=True)
class Use:
    """One axis of a parameter or buffer along which channels lie, with the label of each index.

    `role` is out (filters of a layer that makes channels), scale (that of a normalisation), vector (biases,
    statistics and whatever else has one number for each channel) or in (what a layer reads). `labels` is (n), or
    (blocks n) where the blocks of the first axis, the groups of a convolution, hold different channels each.
    """

    tensor: str
    axis: int
    role: str
    labels: Tensor


class Labels:
    """Labels of a network's channels: the uses of each, which are equal and which must stay, and why.

    `tied` names layers whose outputs, where they are split into equal parts, lose the same of each part. With
    `training`, what the network does in training counts as well, auxiliary heads for one.
    """

    def __init__(self, model: nn.Module, example: Tensor, tied: Iterable[str] = (), training: bool = False) -> None:
        self.count = 1
        self.uses: list[Use] = []
        self.blocks: list[tuple[Tensor, int]] = []  # labels of an axis, and in how many blocks equal counts must stay
        self.widths: list[Use] = []  # of instance norms that have no tensors, by the name of the layer
        self.left: dict[str, str] = {}  # layer -> why it is left whole
        self.split: set[str] = set()  # layers whose outputs are split into equal parts
        self.of: dict[int, Tensor] = {}  # tensor -> its labels
        self.weights: dict[int, Weight] = {}  # parameters as they are, turned, or with axes of length 1
        self.tied = set(tied)
        self._used: dict[tuple[str, int], Tensor] = {}
        self._makers: list[tuple[int, str]] = []  # first label of each layer
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._frozen: list[tuple[Tensor, str]] = [(torch.zeros(1, dtype=torch.long), "the input of the network")]
        self.traces = [traced(model, example, mode) for mode in ((True, False) if training else (False,))]
        for trace in self.traces:
            self.trace: Trace = trace
            self._follow()
        self.at = {name: self.of[id(t)] for name, t in self.trace.made.items() if id(t) in self.of}
        for name, layer in model.named_modules():
            if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and name in self.at and layer.weight is None \
                    and layer.running_mean is None and self.at[name].shape[1] == layer.num_features:
                self.widths.append(Use(name, 1, "width", self.at[name][0].flatten(1)[:, 0]))

    def _follow(self) -> None:
        self.weights = {key: (name, None) for key, name in self.trace.names.items()}
        for tensor in self.trace.inputs:
            self.of[id(tensor)] = same(tensor, 0)
        for op in self.trace.live():
            self._run(op)
        for tensor in self.trace.outputs:
            if id(tensor) in self.of:
                self.freeze(self.of[id(tensor)], "an output of the network")

    def _run(self, op: Op) -> None:
        if self._turned(op):
            return
        self._constants(op)
        single = op.name in MOVES or op.name in VIEWS or op.name in POINTWISE
        if any(id(t) in self.of for t in op.inputs()) or (single and self._vectors(op)):  # constants carry no labels
            try:
                RULES.get(op.name, unknown)(self, op)
            except (RuntimeError, LookupError, ValueError):  # an operation in a form that its rule does not foresee
                unknown(self, op)

    def _turned(self, op: Op) -> bool:
        """Note what is still a parameter, in another type or shape; vectors are followed as activations are."""
        place = derived(self.weights, op)
        if place is None:
            return False
        x, out = op.args[0], op.outputs[0]
        self.weights[id(out)] = place
        if op.name in ALIASES and id(x) in self.trace.names:
            self.trace.names[id(out)] = self.trace.names[id(x)]
            return True
        return id(x) not in self.of and sum(n > 1 for n in x.shape) > 1

    def _constants(self, op: Op) -> None:
        """Label what no layer makes: a constant that a linear layer reads, and a table of which rows are looked up."""
        if op.name in ("addmm", "mm", "linear"):
            x, weight = op.args[1:] if op.name == "addmm" else op.args[:2]
            if id(x) not in self.of and id(weight) in self.weights:
                self.of[id(x)] = same(x, 0)
        elif op.name == "index" and id(op.args[0]) in self.trace.names and op.args[0].ndim == 2:
            table, looked = op.args[0], [k for k, index in enumerate(op.args[1]) if index is not None]
            if len(looked) == 1:
                along = torch.arange(table.shape[1 - looked[0]])
                self.labels(table, (along if looked == [0] else along[:, None]).expand(table.shape))

    def _vectors(self, op: Op) -> bool:
        """Return whether an operation moves or maps a parameter with one number for each channel."""
        found = [t for t in op.inputs() if id(t) in self.trace.names and sum(n > 1 for n in t.shape) == 1]
        return bool(found) and all(self.labels(t) is not None for t in found)

    # what rules use

    def fresh(self, count: int, maker: str = "") -> Tensor:
        """Return `count` new labels, made by a layer."""
        if maker:
            self._makers.append((self.count, maker))
        self.count += count
        return torch.arange(self.count - count, self.count)

    def makers(self, labels: Tensor) -> set[str]:
        """Return the layers that made these labels."""
        starts = [start for start, _ in self._makers]
        places = np.searchsorted(starts, np.unique(thin(labels)[0].numpy()), side="right") - 1
        return {self._makers[k][1] for k in np.unique(places) if k >= 0}

    def equal(self, one: Tensor, two: Tensor) -> None:
        """Declare labels equal, element by element, broadcast against each other."""
        one, two = thin(*torch.broadcast_tensors(one, two))
        if not torch.equal(one, two):
            self._pairs.append((one.reshape(-1), two.reshape(-1)))

    def tie(self, labels: Tensor, dims: Iterable[int]) -> Tensor:
        """Declare labels equal along `dims` and return them repeated along these."""
        dims = [dim for dim in dims if labels.stride(dim) and labels.shape[dim] > 1]
        if not dims:  # they repeat already
            return labels
        one = labels
        for dim in dims:
            one = one.narrow(dim, 0, 1)
        self.equal(labels, one.expand_as(labels))
        return one.expand_as(labels)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Declare that channels must stay."""
        self._frozen.append((thin(labels)[0].reshape(-1), reason))

    def use(self, tensor: str, axis: int, role: str, labels: Tensor) -> None:
        """Note that channels lie along an axis of a parameter; one that is used twice holds the same both times."""
        if (tensor, axis) in self._used:
            self.equal(self._used[tensor, axis], labels)
        else:
            self._used[tensor, axis] = labels
            self.uses.append(Use(tensor, axis, role, labels))

    def labels(self, tensor: Tensor, like: Tensor | None = None) -> Tensor | None:
        """Return the labels of a tensor, None if it has none.

        A parameter with one axis of channels gets labels of its own; `like` are the labels it meets, which say
        along which axis the channels of a larger parameter lie.
        """
        if id(tensor) in self.of:
            return self.of[id(tensor)]
        name = self.trace.names.get(id(tensor))
        if name is None:
            return None
        axes = [k for k, n in enumerate(tensor.shape) if n > 1]
        if like is not None and len(axes) > 1:
            axes = [k for k in axes if varies(like, k - tensor.ndim)]
        if len(axes) != 1 or tensor.shape[axes[0]] == 1:
            return None
        shape = [1] * tensor.ndim
        shape[axes[0]] = -1
        labels = self.fresh(tensor.shape[axes[0]]).view(shape).expand(tensor.shape)
        self.use(name, axes[0], "vector", labels.movedim(axes[0], -1).reshape(-1, tensor.shape[axes[0]])[0])
        self.of[id(tensor)] = labels
        return labels

    # the outcome

    def representatives(self) -> np.ndarray:
        """Return for each label the least label that is equal to it."""
        pairs = [np.unique(a.numpy() * self.count + b.numpy()) for a, b in self._pairs]  # one number each: sorted sooner
        joined = np.divmod(np.concatenate(pairs) if pairs else np.zeros(0, int), self.count)
        graph = coo_array((np.ones(len(joined[0]), bool), joined), shape=(self.count, self.count))
        _, parts = connected_components(graph, directed=False)
        return np.unique(parts, return_index=True)[1][parts]

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label in an integer tensor."""
        return torch.from_numpy(self.representatives())[labels]

    def frozen(self, root: np.ndarray) -> dict[int, str]:
        """Return the representatives that must stay, with the reason; `root` is what `representatives` returned."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for label in np.unique(root[labels.numpy()]).tolist():
                found.setdefault(label, reason)
        return found
