"""A folder of methods: the file name is the method name, and the file is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import LissomError, unknown

if TYPE_CHECKING:
    from .method import Method
    from .sums import Sum

WORDS = {"steps": "step", "scores": "score", "losses": "loss", "grids": "grid", "ranges": "range", "targets": "target"}


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
        self.path = Path(__file__).parent / folder
        self.imported: dict[str, type[Method]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.stem for p in self.path.glob("*.py") if not p.stem.startswith("_")))

    def __getitem__(self, name: str) -> type[Method]:
        """Return the class in `<folder>/<name>.py` that is called like the file, capitalised."""
        if name in self.imported:
            return self.imported[name]
        if name not in list(self):
            raise unknown("menu", self.word, name, self)
        module = import_module(f"lissom.{self.folder}.{name}")
        wanted = name.replace("_", "").lower()
        for key, value in vars(module).items():
            if key.lower() == wanted and isinstance(value, type):
                self.imported[name] = value
                return value
        raise LissomError(f"lissom/{self.folder}/{name}.py: holds no class called like the file")

    def make(self, text: str, where: str | None = None) -> Method:
        """Build a method from its text, as in a recipe: `percentile(0.999)` or just `l1`.

        >>> menu("scores").make("l1")
        L1()
        """
        from .recipe import method_from_text

        return method_from_text(text, self, where or self.word)

    def sum(self, text: str, where: str | None = None) -> Sum:
        """Build the methods that a text adds up: `kd + 0.5*gram`, or just `kd`.

        >>> [str(method) for _, method in menu("losses").sum("kd + 0.5*gram").terms]
        ['kd', 'gram']
        """
        from .sums import sum_from_text

        return sum_from_text(text, self, where or self.word)


@cache
def menu(folder: str) -> Menu:
    """Return the menu of a folder: steps, scores, losses, grids, ranges or targets."""
    return Menu(folder)
