"""Sort the nodes of a graph topologically: some converters write them in another order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from .nodes import read_in


def sort_nodes(graph: Any) -> None:
    """Move nodes after those whose results they read, in place; otherwise keep the file's order.

    If the graph has a cycle, nothing moves.
    """
    nodes = [*graph.node]
    makers: dict[str, int] = {}
    for place, node in enumerate(nodes):
        makers.update(dict.fromkeys(filter(None, node.output), place))
    waits = [{makers[name] for name in read_by(node) if name in makers} for node in nodes]
    if all(max(before, default=-1) < place for place, before in enumerate(waits)):
        return
    readers: list[list[int]] = [[] for _ in nodes]
    for place, before in enumerate(waits):
        for earlier in before:
            readers[earlier].append(place)
    left = [len(before) for before in waits]
    ready = [place for place, count in enumerate(left) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    if len(order) == len(nodes):
        del graph.node[:]
        graph.node.extend(nodes[place] for place in order)


def read_by(node: Any) -> Iterator[str]:
    """Yield the names of the values that a node and its subgraphs read."""
    yield from node.input
    for held in node.attribute:
        if held.HasField("g"):
            yield from read_in(held.g)
