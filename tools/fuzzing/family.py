"""What every family of mutants is: a valid seed made once, a mutator, and a reader as a user would
call it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

from lissom.errors import LissomError

LONGEST = 1_000  # characters of one error, which are to fit on a screen

Mutant = dict[str, bytes]  # file, or whatever else is read, by name


class Wrong(Exception):
    """Say that a reader broke the rule in another way than by an exception of its own."""


class Family(ABC):
    """Mutants of one kind of thing; `seed` is a folder that outlives a child, `work` is the child's own."""

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
        """Read the seeds into memory, and check that they can be read as they are."""

    @abstractmethod
    def mutant(self, rng: Random) -> Mutant:
        """Return a mutant; the same of the same `rng`."""

    @abstractmethod
    def read(self, mutant: Mutant) -> bool:
        """Read a mutant in every way; return whether any refused it. Raises what a user would see
        beside a LissomError.
        """


def refused(reader: Callable[[], object]) -> bool:
    """Return whether a reader refuses what it is given; raise Wrong where its error is not one short line."""
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
