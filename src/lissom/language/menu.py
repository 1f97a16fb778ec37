"""A folder of methods: the file name is the method name, and a file is imported on demand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..errors import LissomError, unknown

WORDS = {
    "steps": "step",
    "importance": "importance",
    "losses": "loss",
    "grids": "grid",
    "ranges": "range",
    "targets": "target",
    "preprocess": "preprocessing operation",
    "kinds": "kind of task",
    "augmentations": "augmentation",
}


class Menu:
    """List and import the methods of one folder; nothing is registered anywhere.

    >>> "prune" in list(menu("steps"))
    True
    """

    def __init__(self, folder: str) -> None:
        if folder not in WORDS:
            raise unknown("menu", "menu", folder, WORDS)
        self.folder = folder
        self.word = WORDS[folder]
        self.package = import_module(f"lissom.{folder}")
        self.imported: dict[str, type[Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(module.name for module in iter_modules(self.package.__path__)))

    def __contains__(self, name: object) -> bool:
        """Return whether there is a method of this name; the folder is read only if it was not used
        before.
        """
        return name in self.imported or name in list(self)

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class in `<folder>/<name>.py` with the name of the file, capitalised.

        Raises LissomError if there is no such file or class.
        """
        if name in self.imported:
            return self.imported[name]
        if name not in self:
            raise unknown("menu", self.word, name, self)
        module = import_module(f"lissom.{self.folder}.{name}")
        wanted = name.replace("_", "").lower()
        for key, value in vars(module).items():
            if key.lower() == wanted and isinstance(value, type):
                self.imported[name] = value
                return value
        raise LissomError(f"lissom/{self.folder}/{name}.py: holds no class called like the file")


@cache
def menu(folder: str) -> Menu:
    """Return the menu of a folder: steps, importance, losses, grids, ranges, targets, preprocess,
    kinds or augmentations."""
    return Menu(folder)
