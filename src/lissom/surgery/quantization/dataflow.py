"""Trace one forward pass: where values are made, and which calls read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...trees import Tree, copied, handed, tensors_in
from ..by_tensor import ByTensor
from ..entering import entering
from ..layers import torch_class
from .sites import LOOKUPS, NORMS, PASSES, SOFTMAX, Sites, kind_of, paths_of
from .tokens import ENTERING, Graph, around_norms

# kinds of calls that a ReLU after them is fused with
BEFORE_RELU = {"conv", "linear", "add", "mul", "norm", "cat", "pool"}
# Functions whose result changes most when an operand is near 0: name -> place of that operand. That
# operand is not rounded, nor is a value that only makes such operands: a small number may be
# rounded to 0, and the quotient become infinite.
STEEP = {
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


@dataclass
class DataFlow:
    """Which site's grid each site uses, and which site each layer reads.

    `readers` has for each site with its own grid the layers that read it; None stands for other
    calls.
    """

    sites: dict[str, str]
    # layer -> site; None if it differs between calls, and for embeddings, which read integers
    inputs: dict[str, str | None]
    # layer -> the sites with their own grid that it reads, or its `entry`
    sources: dict[str, set[str]]
    calls: dict[str, int]  # kind of call -> number of calls; empty if that depends on the sample
    # sites that additions tie together: the operands, and the site where the sum is rounded
    sums: list[set[str]]
    readers: dict[str, set[str | None]]
    makers: dict[str, str]  # site -> the layer whose output it is
    # site of a concatenation -> the sites of its parts
    joined: dict[str, set[str]] = field(default_factory=dict)
    # sites that stay float, since float calls read them too; layers round them for themselves
    apart: set[str] = field(default_factory=set)
    # layers of a prepared network that run past their own forward, so hooks do not see them
    bypassed: set[str] = field(default_factory=set)
    operands: set[str] = field(default_factory=set)  # sites that products of activations read
    probabilities: set[str] = field(default_factory=set)  # the operands that a softmax makes
    of_tokens: bool = False  # whether features of tokens are normalized, as in a transformer

    def without(self, floats: Container[str]) -> DataFlow:
        """Return the data flow with some sites left float."""
        gone = {site for site in self.readers if site in floats}
        return replace(
            self,
            sites={name: owner for name, owner in self.sites.items() if owner not in floats},
            sums=[tied - gone for tied in self.sums],
            readers={site: by for site, by in self.readers.items() if site not in gone},
            joined={site: parts for site, parts in self.joined.items() if site not in gone},
            operands=self.operands - gone,
            probabilities=self.probabilities - gone,
        )

    @property
    def lost(self) -> set[str]:
        """Return the layers whose input comes from no site, because an unknown call made it."""
        return {layer for layer, sites in self.sources.items() if entry(layer) in sites}


def entry(layer: str) -> str:
    """Return the name of a layer's input, whatever made it; no two layers have the same."""
    return f"to_{layer.replace('.', '-')}"


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


def loose_modules(network: nn.Module, runs: Sequence[Tree]) -> set[str] | None:
    """Return the modules whose own calls differ between runs, by their names in sites.

    None if all runs make the same calls. The set is empty for a mixture of experts, though the
    calls differ: each expert makes its usual calls, or does not run.
    """
    weights = weights_of(network)

    def order(inputs: Tree) -> list[tuple[str, str | None]]:
        calls: list[tuple[str, str | None]] = []

        def visit(name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
            calls.append((name, weights.get(args[1]) if len(args) > 1 else None))
            return out

        with torch.no_grad(), Sites(visit):
            handed(network.eval(), copied(inputs))
        return calls

    orders = [order(inputs) for inputs in runs]
    if all(other == orders[0] for other in orders):
        return None
    calls: dict[str, set[frozenset[tuple[str, int]]]] = {}

    def left(path: str, counts: Counter[str]) -> None:
        calls.setdefault(path, set()).add(frozenset(counts.items()))

    for inputs in runs:
        with torch.no_grad(), Sites(lambda _, __, out: out, paths=paths_of(network), left=left):
            handed(network.eval(), copied(inputs))
    return {path for path, seen in calls.items() if len(seen) > 1}


class _Watch:
    """The record of one forward pass: which call reads the values of which other calls."""

    def __init__(
        self, network: nn.Module, inputs: dict[str, Tensor], loose: Container[str]
    ) -> None:
        self.func: Callable[[], Any] = lambda: None  # returns the function being called
        self.weights = weights_of(network)
        # layers of a prepared network whose weights code passes to F.linear, past their own forward
        self.bypassed: set[str] = set()
        self.tables = {
            name for name, layer in network.named_modules() if torch_class(layer) is nn.Embedding
        }
        self.loose = loose
        self.source = ByTensor[str]()  # tensor -> site
        self.reads: dict[str, list[str]] = {}  # site -> the sites it was made from
        self.readers: dict[str, list[str]] = {}  # site -> the calls that read it
        self.runs = Counter[str]()  # site -> number of times it is reached
        self.layers: dict[str, list[str | None]] = {}
        self.layer_of: dict[str, str] = {}  # call -> layer
        # sites of divisors and of operands of roots: a small value rounded to 0 ruins the result
        self.steep: set[str] = set()
        self.norms: set[str] = set()  # normalizations over the features of each token
        # reciprocal roots, with which hand-written normalizations multiply
        self.roots = ByTensor[bool]()
        self.softmaxes: set[str] = set()
        self.operands: set[str] = set()  # sites that products of activations read
        for site, x in inputs.items():
            if x.is_floating_point():
                self.source[x] = site
                self.reads[site] = []
                self.readers[site] = []
                self.runs[site] = 1

    def read(self, args: tuple[Any, ...], reader: str) -> list[str]:
        sites = [self.source[a] for a in tensors_in(args) if a in self.source]
        for site in sites:
            self.readers[site].append(reader)
        return sites

    def graph(self) -> Graph:
        """Return which call reads which value, to decide what stays float."""
        return Graph(self.readers, self.reads, self.layer_of, self.norms, self.softmaxes)

    def note(self, func: Any, name: str, args: tuple[Any, ...]) -> None:
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
        if kind_of(name) in ENTERING:
            self.operands.add(name)
        elif kind_of(name) == "linear" and layer is None:
            self.operands.update(sources)
        # the order of this module's calls depends on the sample
        if name.rpartition(":")[0] in self.loose and ":" in name:
            self.source.pop(out, None)
            return out
        self.reads.setdefault(name, []).extend(sources)
        self.readers.setdefault(name, [])
        self.runs[name] += 1
        self.note(self.func(), name, args)
        if out in self.source:  # an in-place operation: its result gets a name of its own
            out = out.view_as(out)
        self.source[out] = name
        return out

    def passed(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
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
        if (operand := steep_operand(func, args)) is not None and operand in self.source:
            self.steep.add(self.source[operand])
        if func in PASSES and first in self.source:
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

    def steep_sites(self) -> set[str]:
        """Return the sites that must not be rounded: those of `steep`, and those that only such
        sites read.
        """
        steep = set(self.steep)
        while (
            more := {
                site
                for site, readers in self.readers.items()
                if readers and steep.issuperset(readers)
            }
            - steep
        ):
            steep |= more
        return steep

    def tail(self, ends: Container[str | None]) -> set[str]:
        """Return the sites that lead only to the network's outputs, `ends`.

        No layer reads them, nor anything made from them. The outputs of layers themselves are
        excluded.
        """
        tail = {name for name in self.readers if kind_of(name) not in ("conv", "linear", "input")}
        while more := {
            site
            for site in tail
            if not tail.issuperset(self.readers[site]) or not (self.readers[site] or site in ends)
        }:
            tail -= more
        return tail

    def only_relu(self, site: str) -> bool:
        """Return whether only a ReLU reads a site, each time it is reached."""
        return len(self.readers[site]) == self.runs[site] and {
            *map(kind_of, self.readers[site])
        } == {"relu"}


def steep_operand(func: Any, args: tuple[Any, ...]) -> Any:
    """Return the argument of a function that must not be rounded, or None."""
    name = getattr(func, "__name__", "")
    if name in ("pow", "__pow__"):
        steep = len(args) > 1 and not (isinstance(args[1], (int, float)) and args[1] >= 1)
        return args[0] if steep else None
    place = STEEP.get(name)
    return args[place] if place is not None and len(args) > place else None


def trace_dataflow(
    network: nn.Module, images: Tree, loose: Container[str] | None = None
) -> DataFlow:
    """Decide which activations need a grid, from one forward pass.

    Every computed value is rounded, except values that only a ReLU reads, the network's outputs,
    values that lead only to these, divisors, operands of roots and logarithms, and the sites of
    `around_norms`.
    Rounding after the last layers gains nothing: boxes of a detector, in pixels, would be lost in
    it. A value that only a ReLU reads is rounded after it: the two are one operation in integers,
    rounding twice costs precision for nothing, and OpenVINO 2026.4 crashes on a concatenation that
    is rounded so. Max-pooling selects values, so it keeps the grid of its input. ONNX Runtime and
    OpenVINO fuse everything this way. Integer inputs are never rounded.
    If `loose` modules are given, calls are named by module, and the calls of these modules stay
    float.
    """
    inputs = copied(images)
    watch = _Watch(network, entering(network, inputs), loose or ())
    with (
        torch.no_grad(),
        Sites(
            watch.visit, watch.passed, paths=None if loose is None else paths_of(network)
        ) as numbered,
    ):
        watch.func = lambda: numbered.func
        ends = {watch.source.get(t) for t in tensors_in(handed(network.eval(), inputs))}
    reads = watch.reads
    readers = watch.readers
    layers = watch.layers
    sites: dict[str, str] = {}
    floats = watch.steep_sites() | watch.tail(ends)
    stream, apart = around_norms(watch.graph())
    floats |= stream
    for name in readers:
        if (
            name in ends
            or name in floats
            or (kind_of(name) in BEFORE_RELU and watch.only_relu(name))
        ):
            continue
        owner = name if kind_of(name) != "maxpool" or not reads[name] else reads[name][0]
        sites[name] = sites.get(owner, name)
    sums = merged(sums_in(watch, sites, stream))
    reading: dict[str, set[str | None]] = {owner: set() for owner in sites.values()}
    for name, owner in sites.items():
        reading[owner] |= {
            watch.layer_of.get(by) for by in readers[name] if kind_of(by) != "maxpool"
        }
    sources = {
        layer: {sites.get(s or "", entry(layer)) for s in read} for layer, read in layers.items()
    }
    only = {
        layer: read[0] if len(set(read)) == 1 and read[0] in sites else None
        for layer, read in layers.items()
    }
    calls = dict(numbered.counts) if loose is None else {}
    joined = joined_in(watch, sites, stream)
    apart &= sites.keys()
    return DataFlow(
        sites,
        only,
        sources,
        calls,
        sums,
        reading,
        watch.layer_of,
        joined,
        apart,
        watch.bypassed,
        watch.operands,
        watch.operands & watch.softmaxes,
        bool(watch.norms),
    )


def sums_in(watch: _Watch, sites: Mapping[str, str], stream: Container[str]) -> list[set[str]]:
    """Return the sites of operands and sum of each addition that is not in `stream`."""
    readers = watch.readers
    return [
        {sites[s] for s in (*reads, name if name in sites else readers[name][0]) if s in sites}
        for name, reads in watch.reads.items()
        if kind_of(name) == "add" and (name in sites or readers[name]) and name not in stream
    ]


def joined_in(
    watch: _Watch, sites: Mapping[str, str], stream: Container[str]
) -> dict[str, set[str]]:
    """Return the sites of the parts of each concatenation that is not in `stream`, by its site."""
    joined: dict[str, set[str]] = {}
    for name, parts in watch.reads.items():
        if name in stream:
            continue
        # a value that only a ReLU reads is rounded after it
        rounded = name if name in sites else next(iter(watch.readers[name]), "")
        if kind_of(name) == "cat" and rounded in sites:
            joined[sites[rounded]] = {sites[part] for part in parts if part in sites}
    return joined


def merged(sums: list[set[str]]) -> list[set[str]]:
    """Return the sets, with those that overlap joined into one.

    >>> merged([{"a", "b"}, {"c"}, {"b", "d"}]) == [{"c"}, {"a", "b", "d"}]
    True
    """
    out: list[set[str]] = []
    for tied in sums:
        for other in [group for group in out if group & tied]:
            out.remove(other)
            tied = tied | other
        out.append(tied)
    return out
