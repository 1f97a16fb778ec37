"""Decide from one forward pass where values are rounded, and which layers read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...trees import Tree, copied, run_network, tensors_in
from ..entering import entering
from .forward_record import ForwardRecord, weights_of
from .sites import Sites, kind_of, paths_of
from .tokens import around_norms

# kinds of calls that a ReLU after them is fused with
BEFORE_RELU = {"conv", "linear", "add", "mul", "norm", "cat", "pool"}


@dataclass
class DataFlow:
    """Which site's grid each site uses, and which site each layer reads.

    `readers` has for each site with its own grid the layers that read it; None stands for other
    calls.
    """

    sites: dict[str, str]
    # layer -> site; None if it differs between calls, and for embeddings, which read integers
    inputs: dict[str, str | None]
    # layer -> the sites with their own grid that it reads, or its `input_name_of`
    sources: dict[str, set[str]]
    calls: dict[str, int]  # kind of call -> number of calls; empty if that depends on the sample
    # sites that additions tie together: the operands, and the site where the sum is rounded
    sums: list[set[str]]
    readers: dict[str, set[str | None]]
    makers: dict[str, str]  # site -> the layer whose output it is
    # site of a concatenation -> the sites of its parts
    concatenations: dict[str, set[str]] = field(default_factory=dict)
    # sites that stay float, since float calls read them too; each layer rounds what it reads
    rounded_by_readers: set[str] = field(default_factory=set)
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
            concatenations={
                site: parts for site, parts in self.concatenations.items() if site not in gone
            },
            operands=self.operands - gone,
            probabilities=self.probabilities - gone,
        )

    @property
    def layers_without_site(self) -> set[str]:
        """Return the layers whose input comes from no site, because an unknown call made it."""
        return {layer for layer, sites in self.sources.items() if input_name_of(layer) in sites}


def input_name_of(layer: str) -> str:
    """Return the name of a layer's input, whatever made it; no two layers have the same."""
    return f"to_{layer.replace('.', '-')}"


def data_dependent_modules(network: nn.Module, runs: Sequence[Tree]) -> set[str] | None:
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
            run_network(network.eval(), copied(inputs))
        return calls

    orders = [order(inputs) for inputs in runs]
    if all(other == orders[0] for other in orders):
        return None
    calls: dict[str, set[frozenset[tuple[str, int]]]] = {}

    def leave(path: str, counts: Counter[str]) -> None:
        calls.setdefault(path, set()).add(frozenset(counts.items()))

    for inputs in runs:
        with torch.no_grad(), Sites(lambda _, __, out: out, paths=paths_of(network), leave=leave):
            run_network(network.eval(), copied(inputs))
    return {path for path, seen in calls.items() if len(seen) > 1}


def trace_dataflow(
    network: nn.Module, images: Tree, data_dependent: Container[str] | None = None
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
    If `data_dependent` modules are given, calls are named by module, and the calls of these modules
    stay float.
    """
    inputs = copied(images)
    record = ForwardRecord(network, entering(network, inputs), data_dependent or ())
    paths = None if data_dependent is None else paths_of(network)
    with torch.no_grad(), Sites(record.visit, record.visit_other, paths=paths) as numbered:
        record.func = lambda: numbered.func
        answers = run_network(network.eval(), inputs)
        outputs = {record.source.get(t) for t in tensors_in(answers)}
    float_tokens, rounded_by_readers = around_norms(record.graph())
    floats = record.sensitive_sites() | record.output_only_sites(outputs) | float_tokens
    sites = rounded_sites(record, outputs | floats)
    return DataFlow(
        sites=sites,
        inputs=single_inputs(record, sites),
        sources=sources_of_layers(record, sites),
        calls=dict(numbered.counts) if data_dependent is None else {},
        sums=merge_overlapping(sums_in(record, sites, float_tokens)),
        readers=layers_reading(record, sites),
        makers=record.layer_of,
        concatenations=concatenations_in(record, sites, float_tokens),
        rounded_by_readers=rounded_by_readers & sites.keys(),
        bypassed=record.bypassed,
        operands=record.operands,
        probabilities=record.operands & record.softmaxes,
        of_tokens=bool(record.norms),
    )


def rounded_sites(record: ForwardRecord, floats: Container[str | None]) -> dict[str, str]:
    """Return the sites that are rounded, each with the site whose grid it uses."""
    sites: dict[str, str] = {}
    for name in record.readers:
        if name in floats or (kind_of(name) in BEFORE_RELU and record.only_relu(name)):
            continue
        made_from = record.made_from[name]
        owner = made_from[0] if kind_of(name) == "maxpool" and made_from else name
        sites[name] = sites.get(owner, name)
    return sites


def layers_reading(record: ForwardRecord, sites: Mapping[str, str]) -> dict[str, set[str | None]]:
    """Return the layers that read each site with its own grid; None stands for other calls."""
    readers: dict[str, set[str | None]] = {owner: set() for owner in sites.values()}
    for name, owner in sites.items():
        readers[owner] |= {
            record.layer_of.get(by) for by in record.readers[name] if kind_of(by) != "maxpool"
        }
    return readers


def single_inputs(record: ForwardRecord, sites: Mapping[str, str]) -> dict[str, str | None]:
    """Return the site that each layer reads; None if it differs between calls, or is float."""
    return {
        layer: read[0] if len(set(read)) == 1 and read[0] in sites else None
        for layer, read in record.layers.items()
    }


def sources_of_layers(record: ForwardRecord, sites: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the sites with their own grid that each layer reads, or the name of its input."""
    return {
        layer: {sites.get(site or "", input_name_of(layer)) for site in read}
        for layer, read in record.layers.items()
    }


def sums_in(
    record: ForwardRecord, sites: Mapping[str, str], floats: Container[str]
) -> list[set[str]]:
    """Return the sites of operands and sum of each addition that is not in `floats`."""
    readers = record.readers
    return [
        {sites[s] for s in (*operands, name if name in sites else readers[name][0]) if s in sites}
        for name, operands in record.made_from.items()
        if kind_of(name) == "add" and (name in sites or readers[name]) and name not in floats
    ]


def concatenations_in(
    record: ForwardRecord, sites: Mapping[str, str], floats: Container[str]
) -> dict[str, set[str]]:
    """Return the sites of the parts of each concatenation that is not in `floats`, by its site."""
    concatenations: dict[str, set[str]] = {}
    for name, parts in record.made_from.items():
        if name in floats:
            continue
        # a value that only a ReLU reads is rounded after it
        rounded = name if name in sites else next(iter(record.readers[name]), "")
        if kind_of(name) == "cat" and rounded in sites:
            concatenations[sites[rounded]] = {sites[part] for part in parts if part in sites}
    return concatenations


def merge_overlapping(sums: list[set[str]]) -> list[set[str]]:
    """Return the sets, with those that overlap joined into one.

    >>> merge_overlapping([{"a", "b"}, {"c"}, {"b", "d"}]) == [{"c"}, {"a", "b", "d"}]
    True
    """
    out: list[set[str]] = []
    for tied in sums:
        for other in [group for group in out if group & tied]:
            out.remove(other)
            tied = tied | other
        out.append(tied)
    return out
