"""The plan of a run: a tree of networks, each made by one step from the network before it. Does not
import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import LissomError, type_of
from ..language.parse_methods import methods_of
from ..language.recipe import Recipe
from ..language.step import Step

if TYPE_CHECKING:
    from ..language.target import Target


@dataclass(frozen=True, eq=False)
class Node:
    """The network that `step` makes from `before`; both are None for the given network."""

    key: str
    before: Node | None = field(repr=False)
    step: Step | None
    seed: int
    # Key of the uncompressed network that this one is compared with and taught by: the last one
    # that only `train` steps made. A `sparsify` step does not count: it already compresses.
    reference: str
    depth: int  # number of steps that lead to it

    def after(self, step: Step) -> Node:
        """Return the node of the network that a step makes from this one."""
        key = step.key(self.key)
        compressed = step.compresses or self.key != self.reference
        reference = self.reference if compressed else key
        return Node(key, self, step, self.seed, reference, self.depth + 1)

    @property
    def path(self) -> list[Node]:
        """The networks from the given one to this one."""
        nodes = [self]
        while (before := nodes[-1].before) is not None:
            nodes.append(before)
        return nodes[::-1]

    @property
    def recipe(self) -> Recipe:
        """The steps that lead to this network."""
        return Recipe(tuple(node.step for node in self.path if node.step is not None))


def ends(recipes: Sequence[Recipe], seeds: Iterable[int], root: Callable[[int], str]) -> list[Node]:
    """Return the network at the end of each recipe for each seed, in the order in which they run.

    `root` returns the key of the given network for a seed. Recipes share nodes of common prefixes.

    >>> space = [Recipe("train(1) | fold"), Recipe("train(1) | prune(0.5)")]
    >>> [(str(node.step), node.depth) for node in ends(space, [0], lambda seed: "given")]
    [('fold', 2), ('prune(0.5)', 2)]
    """
    nodes: dict[str, Node] = {}
    found = list[Node]()
    for seed in seeds:
        key = root(seed)
        given = Node(key, before=None, step=None, seed=seed, reference=key, depth=0)
        for recipe in recipes:
            node = given
            for step in recipe.steps:
                after = node.after(step)
                node = nodes.setdefault(after.key, after)
            found.append(node)
    return found


def node_at(recipe: str, seed: int, root: Callable[[int], str]) -> Node:
    """Return the network that a recipe makes for a seed; '' is the given network.

    >>> node_at("train(1) | fold", 0, lambda seed: "given").depth
    2
    """
    if recipe:
        return ends([Recipe(recipe)], [seed], root)[0]
    key = root(seed)
    return Node(key, before=None, step=None, seed=seed, reference=key, depth=0)


def steps_to(end: Node) -> list[Node]:
    """Return the networks that must be made to reach one, itself included.

    The given network is among them only if it is the reference of this one.
    """
    given, *nodes = end.path
    return end.path if given.key == end.reference else nodes


def tree(ends: Iterable[Node]) -> list[Node]:
    """Return every network on the paths to these, each once, depth first.

    >>> space = [Recipe("train(1) | fold"), Recipe("train(1) | prune(0.5)")]
    >>> [str(node.step) for node in tree(ends(space, [0], lambda seed: "given"))]
    ['None', 'train(1)', 'fold', 'prune(0.5)']
    """
    children: dict[Node | None, dict[Node, None]] = {}
    for end in ends:
        for node in end.path:
            children.setdefault(node.before, {})[node] = None
    ordered = list[Node]()
    left = [*reversed(children.get(None, {}))]
    while left:  # no recursion: a recipe may have more steps than Python's recursion limit
        ordered.append(left.pop())
        left += reversed(children.get(ordered[-1], {}))
    return ordered


def targets_of(wanted: str | Iterable[str | Target]) -> list[Target]:
    """Return targets from text such as `onnxruntime,openvino(precision="bf16")`. Raises LissomError
    if one cannot run here.
    """
    from ..language.target import Target

    named = list[object]()
    for each in [wanted] if isinstance(wanted, str) else wanted:
        if not isinstance(each, str):
            named.append(each)
        elif each.strip():
            named += methods_of("targets", each)
    found = list[Target]()
    for target in named:
        if not isinstance(target, Target):
            raise LissomError(f'target: expected text such as "onnxruntime", got {type_of(target)}')
        if reason := target.missing():
            raise LissomError(f"target {target}: {reason}")
        found.append(target)
    return list(dict.fromkeys(found))


def one_target(text: str) -> Target:
    """Return the only target that a text names. Raises LissomError if it names none or several."""
    found = targets_of(text)
    if len(found) != 1:
        raise LissomError(f"export: expected one target, got {text!r}")
    return found[0]
