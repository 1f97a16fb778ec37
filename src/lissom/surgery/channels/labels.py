"""Which channels of which tensors must be cut together: a notebook that the rules of operations write in.

Every channel that a layer produces gets an integer label, and every tensor a tensor of labels of
its own shape: an element holds the label of the channel it came from. Label 0 is what must not be
cut. `follow.py` walks a recorded forward pass; `rules.py` lists what each operation does to labels.

The pass is recorded on one image (on two in training), and label tensors keep that batch axis: so
an operation runs on labels with its recorded arguments, whatever axes they name. An axis along
which labels only repeat has stride 0 and costs nothing.
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

# which axis of a parameter lies along each axis of what was made of it, None for length 1
Axes = tuple[int | None, ...]
Weight = tuple[str, Axes | None]  # a parameter or buffer and its axes, None where all are in place


@dataclass(frozen=True)
class Use:
    """One axis of a parameter or buffer along which channels lie, with the label of each index.

    `role` is out (filters of a layer that makes channels), scale (that of a normalisation), vector
    (biases, statistics and whatever else has one number for each channel) or in (what a layer
    reads). `labels` is (n), or (blocks n) where the blocks of the first axis, the groups of a
    convolution, hold different channels each.
    """

    tensor: str
    axis: int
    role: str
    labels: Tensor


class Labels:
    """Labels of a network's channels: the uses of each, which are equal and which must stay, and why.

    `tied` names layers whose outputs, where they are split into equal parts, lose the same of each
    part.
    """

    def __init__(self, tied: Iterable[str] = ()) -> None:
        self.count = 1
        self.uses: list[Use] = []
        # (labels, blocks): each block must keep the same number of channels
        self.blocks: list[tuple[Tensor, int]] = []
        # of instance norms that have no tensors, by the name of the layer
        self.widths: list[Use] = []
        self.left: dict[str, str] = {}  # layer -> why it is left whole
        self.split: set[str] = set()  # layers whose outputs are split into equal parts
        self._of = ByTensor[Tensor]()  # a tensor of the pass -> its labels
        # parameters as they are, turned, or with axes of length 1
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
        """The forward pass that is followed now, or was last."""
        return self.traces[-1]

    # what rules use

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor that has some, of its own shape."""
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
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        self.equal(labels, first.expand_as(labels))
        return first.expand_as(labels)

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Declare labels equal along all axes but one, and return those that lie along it (n)."""
        tied = self.tie(labels, [d for d in range(labels.ndim) if d != dim])
        return tied.movedim(dim, -1).flatten(0, -2)[0]

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Declare that channels must stay."""
        self._frozen.append((thin(labels)[0].reshape(-1), reason))

    def use(self, tensor: str, axis: int, role: str, labels: Tensor) -> None:
        """Note that channels lie along an axis of a parameter; one that is used twice holds the
        same both times.
        """
        if (tensor, axis) in self._used:
            self.equal(self._used[tensor, axis], labels)
        else:
            self._used[tensor, axis] = labels
            self.uses.append(Use(tensor, axis, role, labels))

    def find(self, tensor: Tensor, like: Tensor | None = None) -> Tensor | None:
        """Return the labels of a tensor, None if it has none.

        A parameter with one axis of channels gets labels of its own; `like` are the labels it
        meets, which say along which axis the channels of a larger parameter lie.
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

    # the outcome

    def representatives(self) -> np.ndarray:
        """Return for each label the least label that is equal to it.

        Labels are joined once, at the end, by SciPy's connected components: 0.2 s for a ResNet-50.
        """
        # one number each: sorted sooner
        pairs = [np.unique(a.numpy() * self.count + b.numpy()) for a, b in self._pairs]
        joined = np.divmod(np.concatenate(pairs) if pairs else np.zeros(0, int), self.count)
        graph = coo_array((np.ones(len(joined[0]), bool), joined), shape=(self.count, self.count))
        _, parts = connected_components(graph, directed=False)
        return np.unique(parts, return_index=True)[1][parts]

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label in an integer tensor."""
        return torch.from_numpy(self.representatives())[labels]

    def frozen(self, root: np.ndarray) -> dict[int, str]:
        """Return the representatives that must stay, with the reason; `root` is what
        `representatives` returned.
        """
        reasons: dict[int, str] = {}
        for labels, reason in self._frozen:
            for label in np.unique(root[labels.numpy()]).tolist():
                reasons.setdefault(label, reason)
        return reasons
