"""Which values stay float in a network that normalizes tokens: a transformer.

Each block adds to a stream of tokens, normalizes the stream, and weighs it by attention. Every
runtime computes all of that in float; only layers read it as integers. One grid for all the sums,
from the small ones of the first block to the large ones of the last, costs most of the accuracy and
saves no time: DeiT-Tiny's outputs were 50 % off with it, and are 3 % off without.
Outputs of convolutions are rounded as usual, and so are their sums and products.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from .sites import kind_of

ELEMENTWISE = ("add", "mul", "cat")
ATTENTION_OPERANDS = ("query", "key", "value", "softmax")  # the operands of PyTorch's attention


@dataclass
class Graph:
    """The calls of a forward pass that make values, in order of execution."""

    readers: Mapping[str, Sequence[str]]  # call -> the calls that read its value, known or not
    made_from: Mapping[str, Sequence[str]]  # call -> the calls whose values it read
    layer_of: Mapping[str, str]  # call -> the layer that makes it
    norms: set[str]  # calls that normalize the features of each token
    softmaxes: set[str]

    def in_integers(self, reader: str, integers: Container[str]) -> bool:
        """Return whether a call reads its operands as integers.

        Layers and products do. Any other call does if it is in `integers`.
        """
        if reader in self.layer_of or kind_of(reader) == "conv":
            return True
        return kind_of(reader) == "linear" or reader in integers

    def of_convolutions(self) -> set[str]:
        """Return the outputs of convolutions, the network's inputs, and values made only of these.

        A matrix product, a softmax or a normalization of tokens ends that.
        """
        images = set[str]()
        for site, made_of in self.made_from.items():
            kind = kind_of(site)
            mixes = kind in ("linear", *ATTENTION_OPERANDS) or site in self.norms | self.softmaxes
            if kind in ("conv", "input") or (made_of and not mixes and images.issuperset(made_of)):
                images.add(site)
        return images


def around_norms(graph: Graph) -> tuple[set[str], set[str]]:
    """Return two sets of sites in a network that normalizes tokens: those that stay float, and
    those that each layer rounds for itself, because float calls read them too.

    Both sets are empty in other networks.
    """
    if not graph.norms:
        return set(), set()
    images = graph.of_convolutions()
    integers = set(images)
    while unread := {
        site
        for site in integers
        if not any(graph.in_integers(reader, integers) for reader in graph.readers[site])
    }:
        integers -= unread
    floats = set[str]()
    rounded_by_readers = set[str]()
    for site, readers in graph.readers.items():
        if kind_of(site) in ATTENTION_OPERANDS:
            continue
        taken = [reader for reader in readers if graph.in_integers(reader, integers)]
        if not taken and (site not in images or kind_of(site) in ELEMENTWISE):
            floats.add(site)
        elif site not in images and len(taken) < len(readers) and graph.layer_of.keys() >= {*taken}:
            rounded_by_readers.add(site)
    return floats, rounded_by_readers
