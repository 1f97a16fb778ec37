"""Weights that are indices into a codebook of few values.

    weight[i] = centroid[code[i]]

In training the centroids learn instead of the weights: the gradient of a centroid is the mean of
the gradients of its weights, as if each weight were updated and all that share a value were then
averaged. So a learning rate has the same effect as on other weights. A codebook is frozen if a weight
is that uses it.
Source: Han, Mao and Dally 2015, Deep Compression, https://arxiv.org/abs/1510.00149, section 3.
Differs: the paper takes the sum, which for plain gradient descent multiplies the learning rate by
the number of weights that share a value; for Adam the two are equal.
"""

from __future__ import annotations

from collections.abc import Collection
from math import log2
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ...errors import LissomError
from ..transform import Stored, WeightTransform

Of = Literal["layer", "filter", "network"]


class Cluster(WeightTransform):
    """Look up a weight in a codebook; with `zero`, code 0 stands for a weight that stays 0.

    `book` names the codebook, so that layers which share one still do when rebuilt. If codes follow
    the weight, the weight learns too, by its own gradient, and takes the nearest centroid in each
    forward pass.
    """

    place: ClassVar[int] = 1
    options: ClassVar = {
        "book": str,
        "values": range(1, 257),
        "of": ("layer", "filter", "network"),
        "zero": bool,
        "follows": bool,
    }
    # (books values): one book for each filter if `of` is filter, else one book
    centroids: nn.Parameter
    codes: Tensor  # uint8 (out in ...)

    def __init__(self, book: str, values: int, of: Of, zero: bool, follows: bool) -> None:
        super().__init__()
        self.book = book
        self.values = values
        self.of = of
        self.zero = zero
        self.follows = follows

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.options}

    @classmethod
    def rebuilt(
        cls, settings: dict[str, Any], weight: Tensor, others: Collection[WeightTransform]
    ) -> Self:
        cluster = cls(**settings)
        if cluster.values + cluster.zero > 256:
            raise LissomError(f"cluster: {cluster.values} values and a zero are more than 256")
        books = len(weight) if cluster.of == "filter" else 1
        centroids = nn.Parameter(weight.new_zeros(books, cluster.values))
        for other in others:
            if isinstance(other, Cluster) and other.book == cluster.book:
                centroids = other.centroids
        centroids.requires_grad_(centroids.requires_grad and weight.requires_grad)
        cluster.fill(centroids, torch.zeros(weight.shape, dtype=torch.uint8))
        return cluster

    def fill(self, centroids: nn.Parameter, codes: Tensor) -> None:
        """Set the centroids (books values) and the codes (out in ...)."""
        self.centroids = centroids
        self.register_buffer("codes", codes)

    def hold(self, weight: Tensor, learning: bool) -> None:
        """Update the codes if they follow the weight.

        Raises LissomError in inference if a code stands for no value, as in a damaged file.
        """
        if self.follows:
            self.follow(weight.detach())
        beyond = self.codes.numel() > 0 and int(self.codes.max()) >= self.values + self.zero
        if not learning and beyond:
            raise LissomError("cluster: a code stands for no value of its codebook")

    def follow(self, weight: Tensor) -> None:
        """Give each weight that is not held at 0 the code of the nearest centroid."""
        codes = nearest(weight, self.centroids.detach())
        if self.zero:
            codes = torch.where(self.codes == 0, 0, codes + 1)
        self.codes.copy_(codes)

    def table(self) -> Tensor:
        """Return the value of each code (books values), including the 0 that stays."""
        if not self.zero:
            return self.centroids
        return torch.cat([self.centroids.new_zeros(len(self.centroids), 1), self.centroids], 1)

    def transformed(self, weight: Tensor) -> Tensor:
        learning = self.follows and torch.is_grad_enabled() and weight.requires_grad
        if learning:
            self.follow(weight.detach())
        clustered: Tensor = LookUp.apply(self.table(), self.codes)
        # exactly `clustered`, which w + (clustered - w) need not be
        return clustered + (weight - weight.detach()) if learning else clustered

    def stored(self, before: Stored) -> Stored:
        count = self.values + self.zero
        # `pack` takes code 0, as int8, for a zero
        return Stored(
            self.codes.view(torch.int8), log2(count), log2(self.values), sparse=before.sparse
        )


class LookUp(torch.autograd.Function):
    """Look up codes (out ...) in a table (books values) of one book, or one for each `out`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, codes: Tensor) -> Tensor:
        places = places_of(table, codes)
        ctx.save_for_backward(places)
        ctx.shape = table.shape
        return table.reshape(-1)[places].view(codes.shape)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """Return for each value the mean of the gradients of the weights that have it."""
        (places,) = ctx.saved_tensors
        sums = slope.new_zeros(ctx.shape).view(-1).index_add_(0, places, slope.reshape(-1))
        counts = torch.bincount(places, minlength=len(sums)).clamp_min(1)
        return (sums / counts).view(ctx.shape), None


def places_of(table: Tensor, codes: Tensor) -> Tensor:
    """Return the index of each code (out ...) in the flattened table (books values), flattened."""
    places = codes.flatten(1).long() if codes.ndim > 1 else codes.long()[:, None]
    if len(table) > 1:
        places = places + torch.arange(len(table), device=places.device)[:, None] * table.shape[1]
    return places.reshape(-1)


def nearest(weight: Tensor, values: Tensor) -> Tensor:
    """Return for each weight (out ...) the index of the nearest of the values (books values).

    The result is uint8 (out ...). Of two values equally near, the first counts.
    """
    rows = weight.reshape(len(values), -1)
    order = values.argsort(dim=1, stable=True)
    rising = values.gather(1, order).contiguous()
    ends = ((rising[:, 1:] + rising[:, :-1]) / 2).contiguous()
    places = torch.searchsorted(ends, rows.contiguous())
    return order.gather(1, places).to(torch.uint8).view(weight.shape)
