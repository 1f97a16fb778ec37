"""Text to steps and back. The grammar is a subset of Python's expressions, so Python's own parser reads it.

    space  = part ("|" part)*              steps in order
    part   = option | number "*" part      the same steps that many times; binds tighter than "|"
    option = step | "{" space, space "}" | "(" space ")"     one of several
    step   = name | name(value, ..., name=value, ...)
    value  = number | "text" | name | name(...) | True | False | None | "{" value, value "}"

A space without braces is a recipe; every choice of one item from each brace is one recipe of the space.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING
from functools import lru_cache
from itertools import product
from typing import Any

from .errors import LissomError, unknown
from .menu import Menu, menu
from .method import Method, ordered
from .step import Step

MOST = 10_000  # recipes in one space; more is a slip of the keyboard
LONGEST = 1_000  # steps in one recipe
TOTAL = 200_000  # steps in all recipes of a space
OPEN = ("|", "+", "*")  # what a text cannot end in


class Recipe:
    """Steps in order, read from text such as `train(30) | prune(0.5) | quantize(8)`.

    >>> str(Recipe("train(3)|prune(.5, by='l1')"))
    'train(3) | prune(0.5)'
    >>> str(Recipe("fold | 2 * (prune(.1) | train(1)) | prune(.1) | train(1)"))
    'fold | 3 * (prune(0.1) | train(1))'
    """

    def __init__(self, text: str | tuple[Step, ...]) -> None:
        if isinstance(text, str):
            found = list(Space(text))
            if len(found) != 1:
                raise LissomError(f"recipe: {text!r} holds {len(found)} recipes; one is wanted")
            text = found[0].steps
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
        """Raise if a step cannot follow those before it."""
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
            raise LissomError("recipe: it is empty; an example: train(10) | prune(0.5) | quantize(8)")
        try:
            found = _sequences(_parsed(text, "recipe"))
        except RecursionError:
            raise LissomError("recipe: it is nested too deeply") from None
        self.recipes = tuple(Recipe(steps) for steps in found)
        for recipe in self.recipes:
            recipe.check()

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self.recipes)

    def __len__(self) -> int:
        return len(self.recipes)


@lru_cache(4096)  # the steps of a space name the same few
def method_from_text(text: str, folder: Menu, where: str) -> Method:
    """Build one method of a folder from text such as `percentile(0.999)`; sets are not allowed in it."""
    if not text.strip():
        raise unknown(where, folder.word, text, folder)
    try:
        found = list(_methods(_parsed(text, where), folder, where))
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None
    if len(found) != 1:
        raise LissomError(f"{where}: one {folder.word} is wanted; {text!r} was given")
    return found[0]


def methods_from_text(text: str, folder: Menu, where: str) -> list[Method]:
    """Build the methods of a comma-separated list such as `onnxruntime,openvino`."""
    tree = _parsed(f"({text.strip()},)", where)
    try:
        return [m for item in getattr(tree, "elts", [tree]) for m in _methods(item, folder, where)]
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None


def _parsed(text: str, where: str) -> ast.expr:
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinions of "\d" and the like
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        column = len(text) if text[-1:] in OPEN else error.offset or 1
        near = " ".join(text[max(0, column - 12):column + 12].split())
        why = f": {error.msg}" if "never closed" in error.msg or "unmatched" in error.msg else ""
        why = f": nothing follows '{text[-1]}'" if text[-1:] in OPEN else why
        raise LissomError(f"{where}: cannot be read at column {column}, near '{near}'{why}") from None
    except (ValueError, RecursionError, MemoryError):
        raise LissomError(f"{where}: cannot be read; an example: train(10) | prune(0.5)") from None


def _sequences(node: ast.expr) -> list[tuple[Step, ...]]:
    """Return every different sequence of steps that a tree stands for."""
    found: dict[tuple[Step, ...], None]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):  # it leans to the left, however long it is
            parts.append(node.right)
            node = node.left
        found = dict.fromkeys(_sequences(node))
        for part in reversed(parts):
            after = _sequences(part)
            _few(len(found) * len(after), max(map(len, found)) + max(map(len, after)))
            found = dict.fromkeys(a + b for a in found for b in after)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        counts, each = [*map(_times, _values(node.left, "recipe"))], _sequences(node.right)
        _few(len(counts) * len(each), max(counts) * max(map(len, each)))
        found = dict.fromkeys(steps * count for count in counts for steps in each)
    elif isinstance(node, ast.Set):
        found = dict.fromkeys(steps for option in node.elts for steps in _sequences(option))
    else:
        found = dict.fromkeys((step,) for step in _methods(node, menu("steps"), "recipe") if isinstance(step, Step))
    _few(len(found))
    return list(found)


def _few(count: int, longest: int = 1) -> None:
    """Raise before a space is built that holds more recipes, or longer ones, than anybody means."""
    if count > MOST:
        raise LissomError(f"recipe: the space holds more than {MOST} recipes")
    if longest > LONGEST:
        raise LissomError(f"recipe: it has more than {LONGEST} steps")
    if count * longest > TOTAL:
        raise LissomError(f"recipe: its space holds more than {TOTAL} steps in all")


def _times(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LissomError(f"recipe: {value!r} was given before *; a whole number of at least 1 fits, as in 4 * prune(0.1)")
    return value


def written(words: Sequence[str]) -> str:
    """Write steps in order, what is repeated once with the number of times before it.

    At each place the repeat that leaves out most letters is taken, which need not be the shortest text of all.

    >>> written(["train", "prune", "fold", "prune", "fold", "mask", "mask"])
    'train | 2 * (prune | fold) | 2 * mask'
    """
    parts, at = [], 0
    while at < len(words):
        best, saved = (1, 1), 0  # how many steps are repeated, how often
        for size in range(1, (len(words) - at) // 2 + 1):
            once, count = words[at:at + size], 1
            while words[at + count * size:at + (count + 1) * size] == once:
                count += 1
            spared = (count - 1) * len(" | ".join([*once, ""]))
            if spared > saved:
                best, saved = (size, count), spared
        size, count = best
        text = words[at] if size == 1 else f"({written(words[at:at + size])})"
        parts.append(text if count == 1 else f"{count} * {text}")
        at += size * count
    return " | ".join(parts)


def _methods(node: ast.expr, folder: Menu, where: str) -> Iterator[Method]:
    if isinstance(node, ast.Name):
        name, call = node.id, None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, call = node.func.id, node
    else:
        raise LissomError(f"{where}: a {folder.word} is wanted, as in {next(iter(folder))}(...); "
                          f"'{ast.unparse(node)}' was given")
    if name not in folder.imported and name not in list(folder):
        raise unknown(where, folder.word, name, folder)
    method = folder[name]
    for values in _settings(call, method):
        yield _made(method, tuple((setting, type(value), value) for setting, value in values.items()))  # type: ignore[arg-type]


@lru_cache(20_000)
def _made(method: Callable[..., Method], settings: tuple[tuple[str, type, Any], ...]) -> Method:
    """Build a method, once for all recipes that hold it; types stand beside values, since 1, 1.0 and True are equal."""
    return method(**{name: value for name, _, value in settings})


def _settings(call: ast.Call | None, method: type[Method]) -> Iterator[dict[str, Any]]:
    names = [f.name for f in ordered(method)]
    placed = [f.name for f in ordered(method) if not f.kw_only]
    given: dict[str, list[Any]] = {}
    if call is not None:
        if len(call.args) > len(placed):
            raise LissomError(f"{method.name()}: {len(call.args)} settings were given without a name; it takes "
                              f"{len(placed)}: {', '.join(placed) or 'none'}")
        pairs = [*zip(placed, call.args, strict=False), *((k.arg or "**", k.value) for k in call.keywords)]
        for name, node in pairs:
            if name not in names:
                raise unknown(method.name(), "setting", name, names)
            if name in given:
                raise LissomError(f"{method.name()}: '{name}' is given twice")
            given[name] = list(_values(node, f"{method.name()}({name}=...)"))
    for f in ordered(method):
        if f.default is MISSING and f.name not in given:
            raise LissomError(f"{method.name()}: '{f.name}' is missing: {f.metadata.get('help')}; "
                              f"'lissom list {method.name()}' shows what fits")
    _few(math.prod(map(len, given.values())))
    for choice in product(*given.values()):
        yield dict(zip(given, choice, strict=True))


def _values(node: ast.expr, where: str) -> Iterator[Any]:
    if isinstance(node, ast.Set):
        for item in node.elts:
            yield from _values(item, where)
    elif isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str, bool))):
        yield node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        for value in _values(node.operand, where):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise LissomError(f"{where}: '{ast.unparse(node)}' is not a value")
            yield -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.Name) or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        yield ast.unparse(node)  # by=bn is by="bn"; the setting's menu or type judges it
    else:
        raise LissomError(f"{where}: '{ast.unparse(node)}' is not a value; a number, a text in quotes "
                          "or a {set} of them fits")
