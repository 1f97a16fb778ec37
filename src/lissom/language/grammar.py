"""The syntax of recipes: from text to trees, values and counts. Nothing here knows a method.

    space  = part ("|" part)*              steps in order
    part   = option | number "*" part      the same steps that many times; binds tighter than "|"
    option = step | "{" space, space "}" | "(" space ")"     one of several
    step   = name | name(value, ..., name=value, ...)
    value  = number | "text" | name | name(...) | True | False | None | "(" number, number ")"
           | "{" value, value "}" | range
    range  = number ".." number [".." step] | "log(" number ".." number ")"     for `lissom search`

The syntax is a subset of Python expressions, so Python's own parser reads it: `ast` provides
precedence, quoting and the columns of errors.
A space without braces is a recipe; every choice of one item from each brace is one recipe of the
space.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import LissomError

MAX_RECIPES = 10_000  # in one space; more is probably a typing error
MAX_STEPS = 1_000  # in one recipe
MAX_STEPS_OF_SPACE = 200_000  # in all recipes of a space
OPERATORS = ("|", "+", "*")  # a text cannot end in these
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+"
# a quoted text, which does not change, or a range
RANGE = re.compile(
    rf"""(?P<quoted>"[^"]*"|'[^']*')|(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?:\.\.(?P<step>{NUMBER}))?"""
)
# the call that stands for a range in a tree: span(low, high) or span(low, high, step)
SPAN = "span"


def parsed(text: str, where: str) -> ast.expr:
    """Return the tree of a text. Raises LissomError with the column at which it cannot be read."""
    text = RANGE.sub(spanned, text.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as those on "\d"
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        ends_open = text[-1:] in OPERATORS
        column = len(text) if ends_open else error.offset or 1
        near = " ".join(text[max(0, column - 12) : column + 12].split())
        why = f": {error.msg}" if "never closed" in error.msg or "unmatched" in error.msg else ""
        if ends_open:
            why = f": nothing follows '{text[-1]}'"
        raise LissomError(
            f"{where}: cannot be read at column {column}, near '{near}'{why}"
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise LissomError(f"{where}: cannot be read; an example: train(10) | prune(0.5)") from None


def spanned(found: re.Match[str]) -> str:
    """Return a range as a call that Python's parser reads; a quoted text does not change."""
    if found["quoted"] is not None:
        return found[0]
    numbers = [found["low"], found["high"], found["step"]]
    return f"{SPAN}({', '.join(number for number in numbers if number is not None)})"


def span_in(node: ast.expr) -> list[int | float] | None:
    """Return the numbers of a range, None for any other tree.

    >>> span_in(parsed("0..0.8..0.1", "recipe"))
    [0, 0.8, 0.1]
    """
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.func.id != SPAN:
        return None
    return [next(values_of(each, "recipe")) for each in node.args]


def written_range(text: str) -> str:
    """Return the text of a tree from Python with its ranges written as a user writes them.

    >>> written_range("prune(span(0, 0.8), of='macs')")
    "prune(0..0.8, of='macs')"
    """
    return re.sub(rf"{SPAN}\(([^()]*)\)", lambda found: found[1].replace(", ", ".."), text)


def refuse_range(node: ast.expr, where: str) -> None:
    """Raise LissomError if a tree contains a range, since a grid needs finitely many values."""
    for part in ast.walk(node):
        if (numbers := span_in(part) if isinstance(part, ast.expr) else None) is not None:
            text = "..".join(map(str, numbers))
            raise LissomError(
                f"{where}: {text} is a range, which `lissom search` takes; expected a value, or "
                f"several as in {{{numbers[0]}, {numbers[1]}}}"
            )


def parts_of(node: ast.expr, operator: type[ast.operator]) -> list[ast.expr]:
    """Return the operands of a chain such as `a | b | c` in order; Python nests it to the left."""
    parts = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        parts.append(node.right)
        node = node.left
    return [node, *reversed(parts)]


def values_of(node: ast.expr, where: str) -> Iterator[Any]:
    """Yield the values of a setting: one, or each of a {set}. Raises LissomError for others."""
    if isinstance(node, ast.Set):
        for item in node.elts:
            yield from values_of(item, where)
    elif isinstance(node, ast.Constant) and (
        node.value is None or isinstance(node.value, (int, float, str, bool))
    ):
        yield node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        for value in values_of(node.operand, where):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise not_a_value(node, where)
            yield -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.Tuple):
        numbers = [list(values_of(item, where)) for item in node.elts]
        if not numbers or any(len(n) != 1 or type(n[0]) not in (int, float) for n in numbers):
            raise not_a_value(node, where)
        yield tuple(number for (number,) in numbers)
    elif isinstance(node, ast.Name) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ):
        refuse_range(node, where)
        yield ast.unparse(node)  # by=bn is by="bn"; the menu or type of the setting checks it
    else:
        raise not_a_value(node, where)


def named_values(text: str, where: str, example: str = "") -> dict[str, Any]:
    """Return the values of a text of name=value pairs, by name. Raises LissomError, with an
    `example` if there is one, for other texts.

    >>> named_values("num_classes=3, pretrained=False", "--model-args")
    {'num_classes': 3, 'pretrained': False}
    """
    shown = f"; an example: {example}" if example else ""
    wrong = LissomError(f"{where}: expected name=value, name=value, got {text!r}{shown}")
    try:
        call = parsed(f"named({text.strip()})", where)
    except LissomError:
        raise wrong from None
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise wrong
    found = dict[str, Any]()
    for keyword in call.keywords:
        name = str(keyword.arg)
        options = list(values_of(keyword.value, f"{where}: {name}"))
        if len(options) != 1:
            raise LissomError(f"{where}: {name}: expected one value, got {len(options)}")
        (found[name],) = options
    return found


def not_a_value(node: ast.expr, where: str) -> LissomError:
    """Build the error for a tree that is not a value."""
    cure = "; several numbers stand in parentheses, as in (0.5, 0.4)"
    return LissomError(
        f"{where}: expected a number, a text in quotes or a {{set}} of them, got "
        f"'{ast.unparse(node)}'{cure if isinstance(node, ast.List) else ''}"
    )


def finite(number: float) -> bool:
    """Return whether a number fits in a float.

    >>> finite(0.5), finite(10**400), finite(float("inf"))
    (True, False, False)
    """
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def repeats(value: Any) -> int:
    """Return the number of repeats before `*`. Raises LissomError unless it is an int above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LissomError(
            "recipe: expected a whole number of at least 1 before *, as in 4 * prune(0.1), got "
            f"{value!r}"
        )
    return value


def limit(recipes: int, longest: int = 1) -> None:
    """Raise LissomError if a space would have too many recipes, or too long ones."""
    if recipes > MAX_RECIPES:
        raise LissomError(f"recipe: the space holds more than {MAX_RECIPES} recipes")
    if longest > MAX_STEPS:
        raise LissomError(f"recipe: it has more than {MAX_STEPS} steps")
    if recipes * longest > MAX_STEPS_OF_SPACE:
        raise LissomError(f"recipe: its space holds more than {MAX_STEPS_OF_SPACE} steps in all")


def written(words: Sequence[str]) -> str:
    """Return the text of a recipe from its steps, with repeated steps written once after a count.

    At each position, the repeat that saves most characters is used. The result need not be the
    shortest text.

    >>> written(["train", "prune", "fold", "prune", "fold", "mask", "mask"])
    'train | 2 * (prune | fold) | 2 * mask'
    """
    parts = []
    at = 0
    while at < len(words):
        # number of steps that repeat, number of repeats
        best = (1, 1)
        saved = 0
        for size in range(1, (len(words) - at) // 2 + 1):
            once = words[at : at + size]
            count = 1
            while words[at + count * size : at + (count + 1) * size] == once:
                count += 1
            spared = (count - 1) * len(" | ".join([*once, ""]))
            if spared > saved:
                best = (size, count)
                saved = spared
        size, count = best
        text = words[at] if size == 1 else f"({written(words[at : at + size])})"
        parts.append(text if count == 1 else f"{count} * {text}")
        at += size * count
    return " | ".join(parts)
