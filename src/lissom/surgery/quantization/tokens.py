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
ENTERING = ("query", "key", "value", "softmax")  # the operands of PyTorch's attention


@dataclass
class Graph:
    """The calls of a forward pass that make values, in order of execution."""

    readers: Mapping[str, Sequence[str]]  # call -> the calls that read its value, known or not
    reads: Mapping[str, Sequence[str]]
    layer_of: Mapping[str, str]  # call -> the layer that makes it
    norms: Container[str]  # calls that normalize the features of each token
    softmaxes: set[str]

    def in_integers(self, reader: str, whole: Container[str]) -> bool:
        """Return whether a call reads its operands as integers.

        Layers and products do. Any other call does if it is in `whole`.
        """
        if reader in self.layer_of or kind_of(reader) == "conv":
            return True
        return kind_of(reader) == "linear" or reader in whole

    def of_convolutions(self) -> set[str]:
        """Return the outputs of convolutions, the network's inputs, and values made only of these.

        A matrix product, a softmax or a normalization of tokens ends that.
        """
        pictures = set[str]()
        for site, made_of in self.reads.items():
            kind = kind_of(site)
            mixes = kind in ("linear", *ENTERING) or site in self.norms or site in self.softmaxes
            if kind in ("conv", "input") or (
                made_of and not mixes and pictures.issuperset(made_of)
            ):
                pictures.add(site)
        return pictures


def around_norms(graph: Graph) -> tuple[set[str], set[str]]:
    """Return two sets of sites in a network that normalizes tokens: those that stay float, and
    those that each layer rounds for itself, because float calls read them too.

    Both sets are empty in other networks.
    """
    if not graph.norms:
        return set(), set()
    pictures = graph.of_convolutions()
    whole = set(pictures)
    while idle := {
        site
        for site in whole
        if not any(graph.in_integers(reader, whole) for reader in graph.readers[site])
    }:
        whole -= idle
    floats = set[str]()
    apart = set[str]()
    for site, readers in graph.readers.items():
        if kind_of(site) in ENTERING:
            continue
        taken = [reader for reader in readers if graph.in_integers(reader, whole)]
        if not taken and (site not in pictures or kind_of(site) in ELEMENTWISE):
            floats.add(site)
        elif site not in pictures and len(taken) < len(readers):
            apart |= {site} if graph.layer_of.keys() >= {*taken} else set()
    return floats, apart
