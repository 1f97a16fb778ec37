"""From text to methods: one, a list, a sum, or one for each choice from the {sets} of a call."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from functools import lru_cache
from itertools import chain, product
from typing import Any

from ..errors import LissomError, unknown
from .grammar import limit, parsed, parts_of, values_of
from .menu import Menu
from .menu import menu as menu_of
from .settings import setting_fields


@lru_cache(4096)  # the steps of a space name the same few
def method_of(folder: str, text: str, where: str | None = None) -> Any:
    """Build one method of a menu from text such as `percentile(0.999)`, or just `l1`. Raises
    LissomError for a {set}, or an unknown name or setting.

    >>> method_of("importance", "l1")
    L1()
    """
    menu = menu_of(folder)
    where = where or menu.word
    if not text.strip():
        raise unknown(where, menu.word, text, menu)
    try:
        methods = list(methods_in(parsed(text, where), menu, where))
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None
    if len(methods) != 1:
        raise LissomError(f"{where}: expected one {menu.word}, got {text!r}")
    return methods[0]


def method_of_class(method: type[Any], call: str, where: str) -> Any:
    """Build a method of a user's own class from text such as `Mine(ignore=200)`. Raises LissomError
    for a {set} or an unknown setting.
    """
    tree = parsed(call, where)
    combinations = _combinations(tree if isinstance(tree, ast.Call) else None, method)
    methods = [method(**settings) for settings in combinations]
    if len(methods) != 1:
        raise LissomError(f"{where}: expected one value of each setting, got {call!r}")
    return methods[0]


def methods_of(folder: str, text: str) -> list[Any]:
    """Build the methods of a comma-separated list such as `onnxruntime,openvino`."""
    menu = menu_of(folder)
    tree = parsed(f"({text.strip()},)", menu.word)
    try:
        items = getattr(tree, "elts", [tree])
        return list(chain.from_iterable(methods_in(item, menu, menu.word) for item in items))
    except RecursionError:
        raise LissomError(f"{menu.word}: it is nested too deeply") from None


def methods_in(node: ast.expr, menu: Menu, where: str) -> Iterator[Any]:
    """Yield the method that a tree names, once for each choice from the {sets} of its settings."""
    if isinstance(node, ast.Name):
        name = node.id
        call = None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        call = node
    else:
        raise LissomError(
            f"{where}: expected a {menu.word}, as in {next(iter(menu))}(...), got "
            f"'{ast.unparse(node)}'"
        )
    if name not in menu:
        raise unknown(where, menu.word, name, menu)
    method = menu[name]
    for settings in _combinations(call, method):
        typed = tuple((name, type(value), value) for name, value in settings.items())
        yield _built(method, typed)  # type: ignore[arg-type]


@lru_cache(20_000)
def _built(method: type[Any], settings: tuple[tuple[str, type, Any], ...]) -> Any:
    """Build a method, once for all recipes that contain it. The types are part of the cache key,
    since 1, 1.0 and True are equal.
    """
    return method(**{name: value for name, _, value in settings})


def _combinations(call: ast.Call | None, method: type[Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings in a call by name, once for each choice from its {sets}."""
    values = {
        name: list(values_of(node, f"{method.name()}({name}=...)"))
        for name, node in _bound(call, method).items()
    }
    for setting in setting_fields(method):
        if setting.default is MISSING and setting.name not in values:
            raise LissomError(
                f"{method.name()}: '{setting.name}' is missing: {setting.metadata.get('help')}; "
                f"'lissom list {method.name()}' shows what fits"
            )
    limit(math.prod(map(len, values.values())))
    for choice in product(*values.values()):
        yield dict(zip(values, choice, strict=True))


def _bound(call: ast.Call | None, method: type[Any]) -> dict[str, ast.expr]:
    """Return the tree of each value in a call by the name of its setting. Raises LissomError for
    too many values, an unknown name or one given twice.
    """
    if call is None:
        return {}
    names = [setting.name for setting in setting_fields(method)]
    positional = [setting.name for setting in setting_fields(method) if not setting.kw_only]
    if len(call.args) > len(positional):
        raise LissomError(
            f"{method.name()}: {len(call.args)} settings were given without a name; it takes "
            f"{len(positional)}: {', '.join(positional) or 'none'}"
        )
    bound = dict[str, ast.expr]()
    for name, node in [
        *zip(positional, call.args, strict=False),
        *((keyword.arg or "**", keyword.value) for keyword in call.keywords),
    ]:
        if name not in names:
            raise unknown(method.name(), "setting", name, names)
        if name in bound:
            raise LissomError(f"{method.name()}: '{name}' is given twice")
        bound[name] = node
    return bound


@dataclass(frozen=True)
class Sum:
    """Methods of one menu in order, each with its weight, or None."""

    terms: tuple[tuple[float | None, Any], ...]

    def __str__(self) -> str:
        """Return the shortest text that reads back as the same sum."""
        return " + ".join(
            str(method) if weight is None else f"{weight!r}*{method}"
            for weight, method in self.terms
        )

    def identity(self) -> str:
        """Return the identity of this sum as text: the weight and identity of every method."""
        return json.dumps([[weight, method.identity()] for weight, method in self.terms])


def sum_of(folder: str, text: str, where: str | None = None) -> Sum:
    """Build a sum of methods of a menu from text such as `kd`, `kd + gram`, `kd(temperature=4) +
    0.5*attention`.

    >>> str(sum_of("losses", "kd( ) + .5 * gram(clip=1)"))
    'kd + 0.5*gram(1.0)'
    """
    menu = menu_of(folder)
    where = where or menu.word
    if not text.strip():
        raise unknown(where, menu.word, text, menu)
    try:
        terms = parts_of(parsed(text, where), ast.Add)
        return Sum(tuple(_term(term, menu, where) for term in terms))
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None


def _term(node: ast.expr, menu: Menu, where: str) -> tuple[float | None, Any]:
    if not isinstance(node, ast.BinOp):
        return None, method_of(menu.folder, ast.unparse(node), where)
    weight = (
        node.left.value
        if isinstance(node.op, ast.Mult) and isinstance(node.left, ast.Constant)
        else None
    )
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < 1e308:
        raise LissomError(
            f"{where}: expected a sum of {menu.word}es, each maybe with a number above 0 in front, "
            f"as in kd + 0.5*gram, got '{ast.unparse(node)}'"
        )
    return float(weight), method_of(menu.folder, ast.unparse(node.right), where)
