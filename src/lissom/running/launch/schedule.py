"""Schedule nodes: each begins when the node before it is finished and a worker is free."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from ...errors import LissomError
from ...learning.rung import Rung, Stopped
from ..plan import Node, steps_to
from .workers import Ended, Workers

MOST_LOST = 3  # a node fails after losing this many workers


class Maker(Protocol):
    """The interface through which the schedule makes networks and reports on them."""

    def is_there(self, node: Node) -> bool:
        """Return whether a network exists already."""
        ...

    def begin(self, node: Node) -> None:
        """Note that work on a network begins."""
        ...

    def make(self, node: Node, rung: Rung | None = None) -> None:
        """Make a network in this process. Raises Stopped if its learning fails the `rung`."""
        ...

    def finish(self, node: Node) -> None:
        """Note that a network is finished. Raises LissomError if no other may be made from it."""
        ...


class Schedule:
    """Nodes that are ready, running or ended. More may be added at any time.

    Iterating makes the nodes and yields each once: with None when it is finished, or with the error
    of itself or of a node before it. Nodes that were added first begin first. A node whose step
    measures latency is made in this process while nothing else runs. `look` is called regularly
    while workers are busy; an exception from it ends the iteration.
    """

    def __init__(
        self,
        workers: Workers,
        maker: Maker,
        say: Callable[[str], None],
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers = workers
        self.maker = maker
        self.say = say
        self.look = look
        self.places: dict[str, int] = {}  # position of each node in the order of addition
        self.before: dict[str, str] = {}  # key of the node that each node begins with
        self.waiting: dict[str, list[Node]] = {}  # by key of the node that they begin with
        self.entering = deque[Node]()  # nodes whose node before has ended
        self.ready: list[tuple[int, Node]] = []
        self.timing: list[tuple[int, Node]] = []  # ready, but nothing else may run meanwhile
        self.running: dict[str, Node] = {}
        self.ended: dict[str, LissomError | None] = {}
        self.losses = Counter[str]()
        self.numbers = count()  # of nodes, in the order they were added
        self.rungs: dict[str, Rung] = {}  # by key of the node whose learning is judged

    def add(self, end: Node) -> None:
        """Add a node and all nodes that it depends on. Those that were stopped begin again."""
        earlier = ""
        for node in steps_to(end):
            if isinstance(self.ended.get(node.key), Stopped):
                del self.ended[node.key], self.places[node.key]
            if node.key not in self.places:
                self.places[node.key] = next(self.numbers)
                self.before[node.key] = earlier
                if not earlier or earlier in self.ended:
                    self.entering.append(node)
                else:
                    self.waiting.setdefault(earlier, []).append(node)
            earlier = node.key

    def __iter__(self) -> Iterator[tuple[Node, LissomError | None]]:
        while self.entering or self.ready or self.timing or self.running:
            while self.entering:
                yield from self._enter(self.entering.popleft())
            while self.ready and self.workers.free():
                _, node = heappop(self.ready)
                self.maker.begin(node)
                self.running[node.key] = node
                self.workers.submit(node, self.rungs.get(node.key))
            if self.ready or self.running:
                for ended in self.workers.wait():
                    yield from self._end(ended)
                self.look()
            elif self.timing:
                yield from self._time(heappop(self.timing)[1])

    def _enter(self, node: Node) -> Iterator[tuple[Node, LissomError | None]]:
        if error := self.ended.get(self.before[node.key]):
            yield from self._close(node, error)
        elif self.maker.is_there(node):
            yield from self._close(node)
        else:
            timed = node.step is not None and node.step.times_latency
            heappush(self.timing if timed else self.ready, (self.places[node.key], node))

    def _time(self, node: Node) -> Iterator[tuple[Node, LissomError | None]]:
        self.maker.begin(node)
        try:
            self.maker.make(node, self.rungs.get(node.key))
        except LissomError as error:
            yield from self._close(node, error)
        else:
            yield from self._close(node)

    def _end(self, ended: Ended) -> Iterator[tuple[Node, LissomError | None]]:
        node = self.running.pop(ended.key)
        if not ended.lost:
            yield from self._close(node, error_of(ended))
            return
        self.losses[node.key] += 1
        if self.losses[node.key] < MOST_LOST:
            self.say(f"{node.key}  its worker {ended.lost}; it is made again")
            heappush(self.ready, (self.places[node.key], node))
            return
        yield from self._close(
            node,
            LissomError(
                f"{node.key}  {node.step or 'the network as given'}: {MOST_LOST} workers were lost "
                f"over it; the last one {ended.lost}. Is there memory for so many workers?"
            ),
        )

    def _close(
        self, node: Node, error: LissomError | None = None
    ) -> Iterator[tuple[Node, LissomError | None]]:
        if error is None:
            try:
                self.maker.finish(node)
            except LissomError as refused:
                error = refused
        self.ended[node.key] = error
        self.entering += self.waiting.pop(node.key, ())
        yield node, error


def error_of(ended: Ended) -> LissomError | None:
    """Return the error with which the making of a node ended; None if it went well."""
    if ended.midway is not None:
        return Stopped(ended.error, ended.midway)
    return LissomError(ended.error) if ended.error else None
