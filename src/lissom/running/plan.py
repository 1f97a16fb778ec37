"""What would run: the tree of steps of a space, and what the store already holds. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import LissomError, type_of
from ..language.method import methods_of
from ..language.recipe import Recipe
from ..store.store import Store

if TYPE_CHECKING:
    from ..language.target import Target


@dataclass(frozen=True)
class Node:
    """One step of a space at its place: `depth` steps before it, done or still to run."""

    key: str
    step: str
    depth: int
    done: bool
    last: bool  # a recipe ends here


def tree(recipes: Iterable[Recipe], root: str, store: Store) -> list[Node]:
    """Return every step that the recipes hold once, in the order in which they run."""
    found: dict[str, Node] = {}
    children: dict[str, dict[str, None]] = {}
    for recipe in recipes:
        keys = recipe.keys(root)
        for depth, (key, step) in enumerate(zip(keys, recipe.steps, strict=True)):
            if key not in found:
                found[key] = Node(key, str(step), depth, key in store, last=False)
            if depth + 1 == len(keys):
                found[key] = replace(found[key], last=True)
        for parent, child in pairwise([root, *keys]):
            children.setdefault(parent, {})[child] = None
    ordered = list[Node]()
    left = [root]
    while left:  # depth first; a recipe may have more steps than Python nests calls
        key = left.pop()
        if key in found:
            ordered.append(found[key])
        left += reversed(children.get(key, {}))
    return ordered


def targets_of(wanted: str | Iterable[str | Target]) -> list[Target]:
    """Return targets from text such as `onnxruntime,openvino(precision="bf16")`; raise if one
    cannot run here.
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
    """Return the one target that a text names."""
    found = targets_of(text)
    if len(found) != 1:
        raise LissomError(f"export: expected one target, got {text!r}")
    return found[0]
