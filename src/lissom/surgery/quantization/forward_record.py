"""Record one forward pass: the sites that calls read, and the sites that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...trees import tensors_in
from ..by_tensor import ByTensor
from ..layers import torch_class
from .sites import LOOKUPS, NORMS, PASS_THROUGH, SOFTMAX, kind_of
from .tokens import ATTENTION_OPERANDS, Graph

# Functions whose result changes most when an operand is near 0: name -> place of that operand. That
# operand is not rounded, nor is a value that only makes such operands: a small number may be
# rounded to 0, and the quotient become infinite.
SENSITIVE_OPERAND = {
    "div": 1,
    "div_": 1,
    "true_divide": 1,
    "__truediv__": 1,
    "__itruediv__": 1,
    "__rtruediv__": 0,
    "__rdiv__": 0,
    "reciprocal": 0,
    "rsqrt": 0,
    "sqrt": 0,
    "log": 0,
    "log2": 0,
    "log10": 0,
}


def weights_of(network: nn.Module) -> ByTensor[str]:
    """Return the name of the layer of each weight.

    If an embedding and another layer share a weight, it is the other layer.
    """
    names = ByTensor[str]()
    for wanted in (True, False):  # embeddings first
        for name, layer in network.named_modules():
            kind = torch_class(layer)
            if kind is not None and (kind is nn.Embedding) == wanted:
                assert isinstance(layer.weight, Tensor)
                names[layer.weight] = name
    return names


class ForwardRecord:
    """The record of one forward pass: which call reads the values of which other calls."""

    def __init__(
        self, network: nn.Module, inputs: dict[str, Tensor], data_dependent: Container[str]
    ) -> None:
        self.func: Callable[[], Any] = lambda: None  # returns the function being called
        self.weights = weights_of(network)
        # layers of a prepared network whose weights code passes to F.linear, past their own forward
        self.bypassed: set[str] = set()
        self.tables = {
            name for name, layer in network.named_modules() if torch_class(layer) is nn.Embedding
        }
        self.data_dependent = data_dependent
        self.source = ByTensor[str]()  # tensor -> site
        self.made_from: dict[str, list[str]] = {}  # site -> the sites it was made from
        self.readers: dict[str, list[str]] = {}  # site -> the calls that read it
        self.runs = Counter[str]()  # site -> number of times it is reached
        self.layers: dict[str, list[str | None]] = {}
        self.layer_of: dict[str, str] = {}  # call -> layer
        # sites of divisors and of operands of roots: a small value rounded to 0 ruins the result
        self.sensitive: set[str] = set()
        self.norms: set[str] = set()  # normalizations over the features of each token
        # reciprocal roots, with which hand-written normalizations multiply
        self.roots = ByTensor[bool]()
        self.softmaxes: set[str] = set()
        self.operands: set[str] = set()  # sites that products of activations read
        for site, x in inputs.items():
            if x.is_floating_point():
                self.source[x] = site
                self.made_from[site] = []
                self.readers[site] = []
                self.runs[site] = 1

    def read(self, args: tuple[Any, ...], reader: str) -> list[str]:
        """Record that a call reads its arguments; return their sites."""
        sites = [self.source[a] for a in tensors_in(args) if a in self.source]
        for site in sites:
            self.readers[site].append(reader)
        return sites

    def graph(self) -> Graph:
        """Return which call reads which value, to decide what stays float."""
        return Graph(self.readers, self.made_from, self.layer_of, self.norms, self.softmaxes)

    def record_float_call(self, func: Any, name: str, args: tuple[Any, ...]) -> None:
        """Record calls that are float in every runtime: normalization of tokens, and softmax."""
        if func in NORMS or (kind_of(name) == "mul" and any(a in self.roots for a in args)):
            self.norms.add(name)
        elif func in SOFTMAX or kind_of(name) == "softmax":
            self.softmaxes.add(name)

    def visit(self, name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        weight = args[1] if kind_of(name) in ("conv", "linear") and len(args) > 1 else None
        layer = self.weights.get(weight)
        if layer is not None and self.func() is F.linear:
            self.bypassed.add(layer)
        if layer is not None:
            self.layer_of[name] = layer
            self.layers.setdefault(layer, []).append(self.source.get(args[0]))
        sources = self.read(args, name)
        if kind_of(name) in ATTENTION_OPERANDS:
            self.operands.add(name)
        elif kind_of(name) == "linear" and layer is None:
            self.operands.update(sources)
        # the order of this module's calls depends on the sample
        if name.rpartition(":")[0] in self.data_dependent and ":" in name:
            self.source.pop(out, None)
            return out
        self.made_from.setdefault(name, []).extend(sources)
        self.readers.setdefault(name, [])
        self.runs[name] += 1
        self.record_float_call(self.func(), name, args)
        if out in self.source:  # an in-place operation: its result gets a name of its own
            out = out.view_as(out)
        self.source[out] = name
        return out

    def visit_other(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        # only embeddings with a weight of their own: a shared weight belongs to the other layer
        if func in LOOKUPS and (table := self.weights.get(args[1])) in self.tables:
            self.layers.setdefault(str(table), [])
        outs = list(tensors_in(out))
        first = args[0] if args else None
        if func is Tensor.__setitem__:  # a tensor that was changed in part belongs to no site
            self.read(args, "__setitem__")
            self.source.pop(first, None)
        if not outs or not isinstance(first, Tensor):
            return
        if (operand := sensitive_operand(func, args)) is not None and operand in self.source:
            self.sensitive.add(self.source[operand])
        if func in PASS_THROUGH and first in self.source:
            for o in outs:
                self.source.setdefault(o, self.source[first])
        elif outs[0].is_floating_point():
            self.read(args, getattr(func, "__name__", "?"))
            if func in NORMS:
                self.norms.add("rms_norm")
            if getattr(func, "__name__", "") == "rsqrt":
                self.roots[outs[0]] = True
            if out is first:  # changed in place by an unknown call
                self.source.pop(out, None)

    def sensitive_sites(self) -> set[str]:
        """Return the sites that must not be rounded: those of `sensitive`, and those that only such
        sites read.
        """
        sensitive = set(self.sensitive)
        while (
            more := {
                site
                for site, readers in self.readers.items()
                if readers and sensitive.issuperset(readers)
            }
            - sensitive
        ):
            sensitive |= more
        return sensitive

    def output_only_sites(self, outputs: Container[str | None]) -> set[str]:
        """Return the sites that lead only to the network's `outputs`.

        No layer reads them, nor anything made from them. The outputs of layers themselves are
        excluded.
        """
        found = {name for name in self.readers if kind_of(name) not in ("conv", "linear", "input")}
        while others := {
            site
            for site in found
            if not found.issuperset(self.readers[site])
            or not (self.readers[site] or site in outputs)
        }:
            found -= others
        return found

    def only_relu(self, site: str) -> bool:
        """Return whether only a ReLU reads a site, each time it is reached."""
        return len(self.readers[site]) == self.runs[site] and {
            *map(kind_of, self.readers[site])
        } == {"relu"}


def sensitive_operand(func: Any, args: tuple[Any, ...]) -> Any:
    """Return the argument of a function that must not be rounded, or None."""
    name = getattr(func, "__name__", "")
    if name in ("pow", "__pow__"):
        sensitive = len(args) > 1 and not (isinstance(args[1], (int, float)) and args[1] >= 1)
        return args[0] if sensitive else None
    place = SENSITIVE_OPERAND.get(name)
    return args[place] if place is not None and len(args) > place else None
