"""Compute codebooks for the weights of layers, and make the layers use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .kmeans import best_values
from .layers import CompressedLayer, compress
from .weights.cluster import Cluster, Of, nearest

Layers = Mapping[str, list[nn.Module]]  # layers that share a weight have one name


@dataclass
class Codebooks:
    """Settings of codebooks of up to `count` values, for each layer, each filter or the network."""

    count: int
    of: Of
    follows: bool

    def cluster(self, layers: Layers, sensitivity: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Make layers look up their weights in codebooks, in place. Return a row for each layer.

        `sensitivity` (out in ...) weights the error of each weight. It is 1 for layers without one.
        """
        if self.of == "network":
            return self._together(layers, sensitivity)
        each = [self._together({name: owners}, sensitivity) for name, owners in layers.items()]
        return list(chain.from_iterable(each))

    def _together(self, layers: Layers, sensitivity: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        weights = {name: weight_of(owners) for name, owners in layers.items()}
        zero = any(holds_zeros(owners) for owners in layers.values())
        numbers = np.concatenate([rows(w, self.of) for w in weights.values()], 1)
        counts = np.concatenate([self._counts(n, w, sensitivity) for n, w in weights.items()], 1)
        books = [
            best_values(x[x != 0], c[x != 0], self.count - 1)
            if zero
            else best_values(x, c, self.count)
            for x, c in zip(numbers, counts, strict=True)
        ]
        table = nn.Parameter(
            padded(books).to(next(iter(weights.values()))),
            requires_grad=all(map(learns, layers.values())),
        )
        book = next(iter(layers))
        return [
            self._use(
                name, owners, Cluster(book, table.shape[1], self.of, zero, self.follows), table
            )
            for name, owners in layers.items()
        ]

    def _counts(self, name: str, weight: Tensor, sensitivity: Mapping[str, Tensor]) -> Any:
        counts = sensitivity.get(name)
        return rows(torch.ones_like(weight) if counts is None else counts, self.of)

    def _use(
        self, name: str, owners: list[nn.Module], cluster: Cluster, table: nn.Parameter
    ) -> dict[str, Any]:
        weight = weight_of(owners)
        codes = nearest(weight, table.detach())
        if cluster.zero:
            codes = torch.where(weight == 0, 0, codes + 1).to(torch.uint8)
        cluster.fill(table, codes)
        before = weight.clone()
        for layer in map(compress, owners):
            layer.add_transform(cluster)
        with torch.no_grad():
            clustered = cluster.transformed(weight)
            if not self.follows:
                weight.copy_(clustered)
        lost = float((clustered - before).double().square().sum())
        size = float(before.double().square().sum())
        distinct = max(len(row.unique()) for row in clustered.reshape(len(table), -1))
        return {
            "name": name,
            "weights": weight.numel(),
            "values": distinct,
            "error": round((lost / size) ** 0.5, 6) if size else 0.0,
        }


def weight_of(owners: list[nn.Module]) -> Tensor:
    """Return the weight (out in ...) that the layers share."""
    weight = owners[0].weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def learns(owners: list[nn.Module]) -> bool:
    """Return whether the weight that the layers share is trained, not frozen."""
    weight = owners[0].weight
    assert isinstance(weight, Tensor)
    return weight.requires_grad


def holds_zeros(owners: list[nn.Module]) -> bool:
    """Return whether the weight that the layers share has a mask that keeps zeros."""
    layer = owners[0]
    return isinstance(layer, CompressedLayer) and "mask" in layer.transforms


def rows(weight: Tensor, of: Of) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a weight (out ...) as rows, each with its own codebook: one per filter, or one row."""
    values: np.ndarray[Any, np.dtype[np.float64]] = weight.double().cpu().numpy()
    return values.reshape(len(weight) if of == "filter" else 1, -1)


def padded(books: list[np.ndarray[Any, np.dtype[np.float64]]]) -> Tensor:
    """Return codebooks of different lengths as a table (books values), padded with the last value."""
    width = max(1, *map(len, books))
    table = np.zeros((len(books), width))
    for row, book in zip(table, books, strict=True):
        row[: len(book)] = book
        row[len(book) :] = book[-1] if len(book) else 0.0
    return torch.from_numpy(table)
