"""The kind of a task: by name, from the user's own code, or inferred from the targets."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING

from ..errors import LissomError, type_of
from ..language.kind import Kind
from ..language.menu import menu
from ..language.parse_methods import method_of, method_of_class
from .code import call_user_code, loaded

if TYPE_CHECKING:
    from ..trees import Tree

# in the order in which they are tried on targets
KINDS = ("classify", "segment", "multilabel", "tag", "detect", "regress")
OWN = re.compile(r"(.*\.py):([^(]*)(\(.*\))?", re.DOTALL)  # file, name, settings


def is_own_kind(text: str) -> bool:
    """Return whether a text names a kind in the user's own code, such as boxes.py:Mine(ignore=9)."""
    return OWN.fullmatch(text) is not None


def check_kind(text: str) -> None:
    """Raise LissomError unless a text can name a kind of task; imports no code of the user."""
    if text.endswith(".py"):
        raise LissomError(f"--kind: {text} says no name in that file; expected {text}:NAME")
    own = OWN.fullmatch(text)
    if own is None:
        method_of("kinds", text, "--kind")
    elif not os.path.isfile(own[1]):
        raise LissomError(f"--kind: there is no file {own[1]}")


def kind_named(text: str) -> tuple[Kind, str]:
    """Return the kind that a text names, and a text that changes with the user's own code.

    The latter is empty for a built-in kind. Raises LissomError if the text names no kind.
    """
    own = OWN.fullmatch(text)
    if own is None:
        kind: Kind = method_of("kinds", text, "--kind")
        return kind, ""
    place, name, settings = own.groups()
    found, source = loaded(place, name, "kind")
    if settings:
        if not (isinstance(found, type) and issubclass(found, Kind)):
            raise LissomError(
                f"--kind: {name} takes no settings, got {settings}; expected a class that inherits "
                f"from {listed_classes()}"
            )
        call = partial(method_of_class, found, f"{name}{settings}", "--kind")
        found = call_user_code(call, f"--kind: {text}")
    elif isinstance(found, type) or (callable(found) and not isinstance(found, Kind)):
        found = call_user_code(found, f"--kind: {text}")
    if not isinstance(found, Kind):
        raise LissomError(
            f"--kind: expected a lissom.Kind in {text}, as one made from a class that inherits from "
            f"{listed_classes()}, got {type_of(found)}"
        )
    return found, source


def listed_classes() -> str:
    """Return the classes that a user's own kind may inherit from, as text."""
    kinds = menu("kinds")
    return ", ".join(f"{kinds[name].__module__}.{kinds[name].__name__}" for name in sorted(kinds))


def kind_of(targets: Tree | None, *, own: bool) -> Kind | None:
    """Return the kind of task that fits the targets, None if none does (as for several tensors).

    With `own`, a loss and metrics of the task, only classify is tried.
    """
    import torch

    if not isinstance(targets, torch.Tensor):
        return None
    kinds = menu("kinds")
    for name in ("classify",) if own else KINDS:
        kind: Kind = kinds[name]()
        if kind.suits(targets):
            return kind
    return None
