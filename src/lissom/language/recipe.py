"""A recipe is steps in order; a space is all recipes of a text with {sets} (see grammar.py)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain, product

from ..errors import LissomError
from .grammar import limit, parsed, parts_of, repeats, values_of, written
from .menu import menu
from .parse_methods import methods_in
from .step import Step


class Recipe:
    """Steps in order, read from text such as `train(30) | prune(0.5) | quantize(8)`.

    >>> str(Recipe("train(3)|prune(.5, by='l1')"))
    'train(3) | prune(0.5)'
    >>> str(Recipe("fold | 2 * (prune(.1) | train(1)) | prune(.1) | train(1)"))
    'fold | 3 * (prune(0.1) | train(1))'
    """

    def __init__(self, text: str | tuple[Step, ...]) -> None:
        if isinstance(text, str):
            recipes = list(Space(text))
            if len(recipes) != 1:
                raise LissomError(f"recipe: expected one recipe, got {len(recipes)} in {text!r}")
            text = recipes[0].steps
        self.steps: tuple[Step, ...] = text

    def __str__(self) -> str:
        return written(tuple(map(str, self.steps)))

    def __repr__(self) -> str:
        return f"Recipe({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def keys(self, root: str) -> list[str]:
        """Return the key of every prefix, given the key of the network before the first step."""
        keys = []
        for step in self.steps:
            root = step.key(root)
            keys.append(root)
        return keys

    def check(self) -> None:
        """Raise LissomError if a step cannot follow those before it."""
        for place, step in enumerate(self.steps):
            reason = step.refuses(self.steps[:place])
            if reason:
                raise LissomError(f"recipe: step {place + 1}, {step}: {reason}")


class Space:
    """All recipes that a text with `{sets}` stands for; each is checked when the space is made.

    >>> [str(r) for r in Space('prune({0.3, 0.5}) | quantize(8)')]
    ['prune(0.3) | quantize(8)', 'prune(0.5) | quantize(8)']
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if not text.strip():
            raise LissomError(
                "recipe: it is empty; an example: train(10) | prune(0.5) | quantize(8)"
            )
        try:
            sequences = _sequences(parsed(text, "recipe"))
        except RecursionError:
            raise LissomError("recipe: it is nested too deeply") from None
        self.recipes = tuple(Recipe(steps) for steps in sequences)
        for recipe in self.recipes:
            recipe.check()

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self.recipes)

    def __len__(self) -> int:
        return len(self.recipes)


def _sequences(node: ast.expr) -> list[tuple[Step, ...]]:
    """Return every different sequence of steps that a tree stands for."""
    sequences: dict[tuple[Step, ...], None]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        first, *rest = parts_of(node, ast.BitOr)
        sequences = dict.fromkeys(_sequences(first))
        for part in rest:
            after = _sequences(part)
            limit(len(sequences) * len(after), max(map(len, sequences)) + max(map(len, after)))
            sequences = dict.fromkeys(a + b for a, b in product(sequences, after))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        counts = [*map(repeats, values_of(node.left, "recipe"))]
        each = _sequences(node.right)
        limit(len(counts) * len(each), max(counts) * max(map(len, each)))
        sequences = dict.fromkeys(steps * count for count, steps in product(counts, each))
    elif isinstance(node, ast.Set):
        sequences = dict.fromkeys(chain.from_iterable(map(_sequences, node.elts)))
    else:
        sequences = dict.fromkeys(
            (step,) for step in methods_in(node, menu("steps"), "recipe") if isinstance(step, Step)
        )
    limit(len(sequences))
    return list(sequences)
