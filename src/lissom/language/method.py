"""A method is a frozen dataclass whose fields, declared with `arg`, are its settings.

The grammar, the checks, `lissom list`, the keys of the store and the columns of the report all read
the fields, so nothing about a setting is stated twice.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from itertools import chain, product
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import LissomError, unknown
from .grammar import limit, parsed, parts_of, values_of
from .menu import Menu
from .menu import menu as menu_of

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": (">", operator.gt),
    "low": (">=", operator.ge),
    "below": ("<", operator.lt),
    "high": ("<=", operator.le),
}

USER_MODULE = "lissom_user_"  # names of modules imported from a user's file begin with this

_KINDS: dict[type, dict[str, Any]] = {}  # by class: the type of each setting
_ORDERED: dict[type, tuple[Field[Any], ...]] = {}  # by class: its fields
_DEFAULTS: dict[type, dict[str, Any]] = {}  # by class: the defaults that were checked already


def arg(
    help: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    menu: str | None = None,
    sum: bool = False,
    late: bool = False,
) -> Any:
    """Declare one setting of a method: its help, default and allowed values.

    `low` and `high` are inclusive bounds, `above` and `below` exclusive ones. `menu` says that the
    value names a method of that folder; with `sum`, a sum of several. The annotation gives the
    type. Every setting is in the key, even at its default, so that a new default means a new
    network. The exception is a `late` setting, added when stores already held networks made without
    it: at its default, which must mean the earlier behaviour, it is not part of the identity.
    """
    facts = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "menu": menu,
        "sum": sum,
        "late": late,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Method:
    """A named method with checked settings: abstract as the contract of a menu, or final."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        kinds = kinds_of(type(self))
        defaults = _DEFAULTS.setdefault(type(self), {})
        for setting in ordered(type(self)):
            name = setting.name
            value = getattr(self, setting.name)
            untouched = value is setting.default
            if untouched and name in defaults:  # the usual case: skip the check
                value = defaults[name]
            else:
                value = checked(value, kinds[name], setting.metadata, f"{self.name()}({name}=...)")
            if untouched:
                defaults[name] = value
            object.__setattr__(self, name, value)

    @classmethod
    def name(cls) -> str:
        """Return the name used in recipes: that of the file, or of a user's own class."""
        return cls.__name__ if cls.__module__.startswith(USER_MODULE) else cls._file()

    @classmethod
    def _file(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    def __str__(self) -> str:
        """Return the shortest text that parses back: first and required settings are positional."""
        words = []
        for place, setting in enumerate(ordered(type(self))):
            value = getattr(self, setting.name)
            if setting.default is MISSING or (
                place == 0 and value != setting.default and not setting.kw_only
            ):
                words.append(_text(value))
            elif value != setting.default:
                words.append(f"{setting.name}={_text(value)}")
        return self.name() + (f"({', '.join(words)})" if words else "")

    def settings(self) -> dict[str, Any]:
        """Return every setting with its value."""
        return {f.name: getattr(self, f.name) for f in ordered(type(self))}

    def identity(self) -> str:
        """Return the identity of this method as text: name, version and every setting.

        A setting that names another method (`by="l1"`) is replaced by the identity of that method,
        so that a new default or version there changes the key here.
        """
        values = self.settings()
        for setting in ordered(type(self)):
            value = values[setting.name]
            if setting.metadata.get("late") and value == setting.default:
                del values[setting.name]
            elif setting.metadata.get("menu") and value is not None:
                values[setting.name] = _named(setting.metadata, value).identity()
        return json.dumps([self._file(), self.version, values], sort_keys=True)


def ordered(method: type[Method]) -> tuple[Field[Any], ...]:
    """Return the fields of a method class: positional ones, then keyword-only ones."""
    if method not in _ORDERED:
        _ORDERED[method] = tuple(sorted(fields(method), key=lambda f: bool(f.kw_only)))
    return _ORDERED[method]


def kinds_of(method: type[Method]) -> dict[str, Any]:
    """Return the type of each setting. They are cached: Python evaluates annotations at each call,
    and a space makes thousands of methods.
    """
    if method not in _KINDS:
        _KINDS[method] = get_type_hints(method)
    return _KINDS[method]


def kind_text(kind: Any) -> str:
    """Return a type as text for users.

    >>> kind_text(int | None)
    'int or None'
    """
    if get_origin(kind) is Literal:
        return " | ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("None" if k is NoneType else kind_text(k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        return f"({kind_text(get_args(kind)[0])}, ...)"
    return str(getattr(kind, "__name__", kind))


def checked(value: Any, kind: Any, facts: Mapping[str, Any], where: str) -> Any:
    """Return `value` converted to its declared type. Raises LissomError if it does not fit."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in options:
        return None
    for option in options:
        ok, cast = _fits(value, option)
        if ok:
            break
    else:
        literal = next((k for k in options if get_origin(k) is Literal), None)
        words = [choice for choice in get_args(literal) if isinstance(choice, str)]
        # not for '8' instead of 8
        if isinstance(value, str) and words and value not in map(str, get_args(literal)):
            raise unknown(where, "choice", value, map(str, get_args(literal)))
        raise LissomError(f"{where}: expected {kind_text(kind)}, got {value!r}")
    for key, (sign, holds) in BOUNDS.items():
        if facts.get(key) is None or isinstance(cast, str):
            continue
        if not all(holds(v, facts[key]) for v in (cast if isinstance(cast, tuple) else (cast,))):
            raise LissomError(f"{where}: expected a value {sign} {facts[key]:g}, got {value!r}")
    if facts.get("menu"):
        return str(_named(facts, cast, where))
    return cast


def _named(facts: Mapping[str, Any], text: str, where: str | None = None) -> Method | Sum:
    """Build the method of a menu, or the sum of several, that the text of a setting names."""
    return _of_menu(facts["menu"], bool(facts.get("sum")), text, where)


@lru_cache(4096)  # the methods of a space mostly name the same few, and these are frozen
def _of_menu(folder: str, several: bool, text: str, where: str | None) -> Method | Sum:
    return sum_of(folder, text, where) if several else method_of(folder, text, where)


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    if get_origin(kind) is Literal:
        return any(
            type(value) is type(choice) and value == choice for choice in get_args(kind)
        ), value
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple) or not value:
            return False, value
        fits = [_fits(each, get_args(kind)[0]) for each in value]
        return all(ok for ok, _ in fits), tuple(cast for _, cast in fits)
    if kind is float:
        good = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) < 1e308
            and float(value) == value
        )  # an int that no float equals would become another number
        return good, float(value) + 0.0 if good else value  # + 0.0 turns -0.0 into 0.0
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole, value
    return isinstance(value, kind), value


def _text(value: Any) -> str:
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in value:
        return f'"{text[1:-1]}"'
    return text


# from text to methods


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


def method_of_class(method: type[Method], call: str, where: str) -> Method:
    """Build a method of a user's own class from text such as `Mine(ignore=200)`. Raises LissomError
    for a {set} or an unknown setting.
    """
    tree = parsed(call, where)
    found = [
        method(**each) for each in _settings(tree if isinstance(tree, ast.Call) else None, method)
    ]
    if len(found) != 1:
        raise LissomError(f"{where}: expected one value of each setting, got {call!r}")
    return found[0]


def methods_of(folder: str, text: str, where: str | None = None) -> list[Any]:
    """Build the methods of a comma-separated list such as `onnxruntime,openvino`."""
    menu = menu_of(folder)
    where = where or menu.word
    tree = parsed(f"({text.strip()},)", where)
    try:
        items = getattr(tree, "elts", [tree])
        return list(chain.from_iterable(methods_in(item, menu, where) for item in items))
    except RecursionError:
        raise LissomError(f"{where}: it is nested too deeply") from None


def methods_in(node: ast.expr, menu: Menu, where: str) -> Iterator[Method]:
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
    for values in _settings(call, method):
        typed = tuple((setting, type(value), value) for setting, value in values.items())
        yield _made(method, typed)  # type: ignore[arg-type]


@lru_cache(20_000)
def _made(method: Callable[..., Method], settings: tuple[tuple[str, type, Any], ...]) -> Method:
    """Build a method, once for all recipes that contain it. The types are part of the cache key,
    since 1, 1.0 and True are equal.
    """
    return method(**{name: value for name, _, value in settings})


def values_in(text: str, where: str, example: str = "") -> dict[str, Any]:
    """Return the values of a text of name=value pairs, by name. Raises LissomError, with an
    `example` if there is one, for other texts.

    >>> values_in("num_classes=3, pretrained=False", "--model-args")
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


def _settings(call: ast.Call | None, method: type[Method]) -> Iterator[dict[str, Any]]:
    names = [f.name for f in ordered(method)]
    placed = [f.name for f in ordered(method) if not f.kw_only]
    given: dict[str, list[Any]] = {}
    if call is not None:
        if len(call.args) > len(placed):
            raise LissomError(
                f"{method.name()}: {len(call.args)} settings were given without a "
                "name; it takes "
                f"{len(placed)}: {', '.join(placed) or 'none'}"
            )
        pairs = [
            *zip(placed, call.args, strict=False),
            *((k.arg or "**", k.value) for k in call.keywords),
        ]
        for name, node in pairs:
            if name not in names:
                raise unknown(method.name(), "setting", name, names)
            if name in given:
                raise LissomError(f"{method.name()}: '{name}' is given twice")
            given[name] = list(values_of(node, f"{method.name()}({name}=...)"))
    for f in ordered(method):
        if f.default is MISSING and f.name not in given:
            raise LissomError(
                f"{method.name()}: '{f.name}' is missing: {f.metadata.get('help')}; "
                f"'lissom list {method.name()}' shows what fits"
            )
    limit(math.prod(map(len, given.values())))
    for choice in product(*given.values()):
        yield dict(zip(given, choice, strict=True))


@dataclass(frozen=True)
class Sum:
    """Methods of one menu in order, each with its weight, or None."""

    terms: tuple[tuple[float | None, Method], ...]

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


def _term(node: ast.expr, menu: Menu, where: str) -> tuple[float | None, Method]:
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
