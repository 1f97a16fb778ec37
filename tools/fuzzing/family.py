"""The contract of a family of mutants: seeds, a mutator, and a reader as users call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

from lissom.errors import LissomError

LONGEST = 1_000  # characters of one error, which should fit on a screen

Mutant = dict[str, bytes]  # the content of each file or text, by name


class Wrong(Exception):
    """Raised if a reader breaks the rule without raising an exception itself."""


class Family(ABC):
    """Mutants of one kind of input. The folder `seed` outlives a child; `work` is the child's own."""

    name: ClassVar[str]
    seeds: ClassVar[str] = ""  # the family whose seeds it shares

    def __init__(self, seed: Path, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        if not (seed / "done").is_file():
            seed.mkdir(parents=True, exist_ok=True)
            self.make(seed)
            (seed / "done").touch()
        self.begin(seed)

    @abstractmethod
    def make(self, seed: Path) -> None:
        """Write valid seeds into a folder."""

    @abstractmethod
    def begin(self, seed: Path) -> None:
        """Read the seeds into memory and check that they are valid."""

    @abstractmethod
    def mutant(self, rng: Random) -> Mutant:
        """Return a mutant that depends only on `rng`."""

    @abstractmethod
    def read(self, mutant: Mutant) -> bool:
        """Read a mutant in every way and return whether any refused it. Exceptions other than
        LissomError pass through.
        """


def refused(reader: Callable[[], object]) -> bool:
    """Return whether a reader raises LissomError. Raises Wrong if the error is not one short line."""
    try:
        reader()
    except LissomError as error:
        text = str(error)
        if "\n" in text or "\r" in text:
            raise Wrong("an error of several lines") from error
        if len(text) > LONGEST:
            raise Wrong(f"an error of {len(text)} characters") from error
        if not text.isprintable():
            raise Wrong("an error that cannot be printed as it is") from error
        return True
    return False
