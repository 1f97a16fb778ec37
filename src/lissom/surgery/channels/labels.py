"""Labels of channels: a record of which channels of which tensors must be cut together.

Every channel that a layer produces gets an integer label. Every tensor gets a label tensor of its
own shape, in which each element holds the label of its channel. Label 0 marks channels that must
not be cut. `follow.py` walks a recorded forward pass; `rules.py` maps each operation to its rule.

The pass is recorded on one sample (two in training), and label tensors keep that batch axis. So an
operation runs on labels with its recorded arguments, whatever axes they name. An axis along which
labels only repeat has stride 0 and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..by_tensor import ByTensor
from ..trace import Trace
from .axes import thin, varies

# for each axis of a reshaped parameter, the parameter's axis along it, None for length 1
Axes = tuple[int | None, ...]
Weight = tuple[str, Axes | None]  # name of a parameter or buffer, and its axes, None if unchanged


@dataclass(frozen=True)
class Use:
    """One axis of a parameter or buffer along which channels lie, with the label of each index.

    `role` is out (filters of a layer that makes channels), scale (of a normalisation), vector
    (biases, statistics and other tensors with one number per channel), in (input channels of a
    layer) or width (the channels of a norm without tensors). `labels` is (n), or (blocks n) if the
    blocks of the first axis, the groups of a convolution, each hold other channels.
    """

    tensor: str
    axis: int
    role: str
    labels: Tensor


class Labels:
    """Labels of a network's channels: their uses, which are equal, which must stay and why.

    If the output of a layer in `tied` is split into equal parts, each part loses the same channels.
    """

    def __init__(self, tied: Iterable[str] = ()) -> None:
        self.count = 1
        self.uses: list[Use] = []
        # (labels, blocks): each block must keep the same number of channels
        self.blocks: list[tuple[Tensor, int]] = []
        # instance norms without tensors, by the name of the layer
        self.widths: list[Use] = []
        self.left_whole: dict[str, str] = {}  # layer -> why it is left whole
        self.split_layers: set[str] = set()  # layers whose outputs are split into equal parts
        self._of = ByTensor[Tensor]()  # a tensor of the pass -> its labels
        # parameters, also cast, transposed or reshaped by axes of length 1
        self.weights = ByTensor[Weight]()
        self.at: dict[str, Tensor] = {}  # layer -> labels of its output
        self.traces: list[Trace] = []
        self.tied = set(tied)
        self._used: dict[tuple[str, int], Tensor] = {}
        self._makers: list[tuple[int, str]] = []  # first label of each layer
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._frozen: list[tuple[Tensor, str]] = [
            (torch.zeros(1, dtype=torch.long), "the input of the network")
        ]

    @property
    def trace(self) -> Trace:
        """The forward pass that was followed last, or is followed now."""
        return self.traces[-1]

    # for rules

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor, in its shape. Raises KeyError if it has none."""
        return self._of[tensor]

    def __setitem__(self, tensor: Tensor, labels: Tensor) -> None:
        self._of[tensor] = labels

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._of

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
        return {self._makers[k][1] for k in np.unique(places) if k >= 0} - {""}

    def equal(self, one: Tensor, two: Tensor) -> None:
        """Declare two label tensors equal element by element, after broadcasting."""
        one, two = thin(*torch.broadcast_tensors(one, two))
        if not torch.equal(one, two):
            self._pairs.append((one.reshape(-1), two.reshape(-1)))

    def tie(self, labels: Tensor, dims: Iterable[int]) -> Tensor:
        """Declare labels equal along `dims`, and return them expanded from the first along these."""
        dims = [dim for dim in dims if labels.stride(dim) and labels.shape[dim] > 1]
        if not dims:  # they repeat already
            return labels
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        self.equal(labels, first.expand_as(labels))
        return first.expand_as(labels)

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Declare labels equal along all axes but `dim`, and return the labels along it (n)."""
        tied = self.tie(labels, [d for d in range(labels.ndim) if d != dim])
        return tied.movedim(dim, -1).flatten(0, -2)[0]

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Declare that these channels must not be cut, with the reason."""
        self._frozen.append((thin(labels)[0].reshape(-1), reason))

    def frozen_label(self, reason: str) -> int:
        """Return a new label of channels that no layer makes and that must not be cut."""
        self._makers.append((self.count, ""))
        label = self.fresh(1)
        self.freeze(label, reason)
        return int(label)

    def use(self, tensor: str, axis: int, role: str, labels: Tensor) -> None:
        """Record that channels lie along an axis of a parameter. If it is already recorded, declare
        both labels equal.
        """
        if (tensor, axis) in self._used:
            self.equal(self._used[tensor, axis], labels)
        else:
            self._used[tensor, axis] = labels
            self.uses.append(Use(tensor, axis, role, labels))

    def find(self, tensor: Tensor, like: Tensor | None = None) -> Tensor | None:
        """Return the labels of a tensor, None if it has none.

        A parameter with one axis of channels gets new labels. `like` are the labels of the
        activation it meets: they show along which axis of a larger parameter its channels lie.
        """
        if tensor in self:
            return self[tensor]
        name = self.trace.names.get(tensor)
        if name is None:
            return None
        axes = [k for k, n in enumerate(tensor.shape) if n > 1]
        if like is not None and len(axes) > 1:
            axes = [k for k in axes if varies(like, k - tensor.ndim)]
        if len(axes) != 1 or tensor.shape[axes[0]] == 1:
            return None
        axis = axes[0]
        row = self.fresh(tensor.shape[axis])
        self.use(name, axis, "vector", row)
        shape = [1] * tensor.ndim
        shape[axis] = -1
        self[tensor] = row.view(shape).expand(tensor.shape)
        return self[tensor]

    # results

    def representatives(self) -> np.ndarray:
        """Return for each label the smallest label that is equal to it.

        Labels are joined once, at the end, by SciPy's connected components: 0.2 s for a ResNet-50.
        """
        # each pair as one number, which sorts faster
        pairs = [np.unique(a.numpy() * self.count + b.numpy()) for a, b in self._pairs]
        joined = np.divmod(np.concatenate(pairs) if pairs else np.zeros(0, int), self.count)
        graph = coo_array((np.ones(len(joined[0]), bool), joined), shape=(self.count, self.count))
        _, parts = connected_components(graph, directed=False)
        return np.unique(parts, return_index=True)[1][parts]

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label in an integer tensor."""
        return torch.from_numpy(self.representatives())[labels]

    def frozen(self, root: np.ndarray) -> dict[int, str]:
        """Return the labels that must stay, with the reason. `root` is from `representatives`."""
        reasons: dict[int, str] = {}
        for labels, reason in self._frozen:
            for label in np.unique(root[labels.numpy()]).tolist():
                reasons.setdefault(label, reason)
        return reasons
