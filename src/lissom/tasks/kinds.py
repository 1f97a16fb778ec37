"""The kind of a task: named, of the user's own code, or what the targets look like."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import LissomError, type_of
from ..language.kind import Kind
from ..language.menu import menu
from ..language.method import method_of
from .code import called, loaded

if TYPE_CHECKING:
    from ..trees import Tree

KINDS = ("classify", "segment", "multilabel", "tag", "detect", "regress")  # as targets are tried


def is_own_kind(text: str) -> bool:
    """Return whether a text names a kind in the user's own code, as boxes.py:kind does."""
    return text.rpartition(":")[0].endswith(".py")


def check_kind(text: str) -> None:
    """Raise unless a text can name a kind of task; imports nothing of the user's."""
    if text.endswith(".py"):
        raise LissomError(f"--kind: {text} says no name in that file; expected {text}:NAME")
    if not is_own_kind(text):
        method_of("kinds", text, "--kind")
    elif not os.path.isfile(text.rpartition(":")[0]):
        raise LissomError(f"--kind: there is no file {text.rpartition(':')[0]}")


def kind_named(text: str) -> tuple[Kind, str]:
    """Return the kind that a text names, and what changes with the user's own code: nothing for one
    of the menu.
    """
    if not is_own_kind(text):
        kind: Kind = method_of("kinds", text, "--kind")
        return kind, ""
    place, _, name = text.rpartition(":")
    found, source = loaded(place, name, "kind")
    if isinstance(found, type) or (callable(found) and not isinstance(found, Kind)):
        found = called(found, f"--kind: {text}")
    if not isinstance(found, Kind):
        raise LissomError(
            f"--kind: expected a lissom.Kind in {text}, as one made from a class that inherits from "
            f"{listed_classes()}, got {type_of(found)}"
        )
    return found, source


def listed_classes() -> str:
    """Return the classes that a kind of the user's own may begin with."""
    kinds = menu("kinds")
    return ", ".join(f"{kinds[name].__module__}.{kinds[name].__name__}" for name in sorted(kinds))


def kind_of(targets: Tree | None, *, own: bool) -> Kind | None:
    """Return the kind of task that targets look like; None where a task with a loss and metrics of
    its `own` has others than classes, or where they look like none, as several tensors do.
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
