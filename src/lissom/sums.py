"""A sum of methods as text: `kd`, `kd + gram`, `kd(temperature=4) + 0.5*attention`."""

from __future__ import annotations

import ast
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import LissomError

if TYPE_CHECKING:
    from .menu import Menu
    from .method import Method


@dataclass(frozen=True)
class Sum:
    """Methods of one menu in order, each with the number in front of it, None where there is none."""

    terms: tuple[tuple[float | None, Method], ...]

    def __str__(self) -> str:
        """Return the shortest text that reads back as the same sum."""
        return " + ".join(str(method) if weight is None else f"{weight!r}*{method}" for weight, method in self.terms)

    def identity(self) -> str:
        """Return what makes this sum this sum: every number and the identity of every method."""
        return json.dumps([[weight, method.identity()] for weight, method in self.terms])


def sum_from_text(text: str, folder: Menu, where: str) -> Sum:
    """Build the methods of a folder that a text adds up.

    >>> from lissom.menu import menu
    >>> str(sum_from_text("kd( ) + .5 * gram(clip=1)", menu("losses"), "here"))
    'kd + 0.5*gram(1.0)'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinions of "\d" and the like
            node: ast.expr = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Sum(((None, folder.make(text, where)),))  # raises, and says where it cannot be read
    parts = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # a sum leans to the left
        parts.append(node.right)
        node = node.left
    return Sum(tuple(_term(part, folder, where) for part in (node, *reversed(parts))))


def _term(node: ast.expr, folder: Menu, where: str) -> tuple[float | None, Method]:
    weight = None
    try:
        if isinstance(node, ast.BinOp):
            left = node.left
            if not (isinstance(node.op, ast.Mult) and isinstance(left, ast.Constant) and type(left.value) in (int, float)
                    and isinstance(left.value, (int, float)) and 0 < left.value < 1e308):
                raise LissomError(f"{where}: '{ast.unparse(node)}' was given; {folder.word}es are added, each maybe with a "
                                  "number above 0 in front, as in: kd + 0.5*gram")
            weight, node = float(left.value), node.right
        return weight, folder.make(ast.unparse(node), where)
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None
