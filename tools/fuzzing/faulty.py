"""A family whose mutants break every rule, to test that each violation is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

from lissom.errors import LissomError

from .family import Family, Mutant, refused

WAYS = (
    "works",
    "refused",
    "traceback",
    "hang",
    "memory",
    "long error",
    "writes outside",
    "runs a program",
    "runs a file",
    "ends the process",
    "two lines",
)


class Faulty(Family):
    """Mutants that hang, raise, take memory, write elsewhere, run things and end their process."""

    name = "faulty"
    number = 0

    def make(self, seed: Path) -> None:
        """Do nothing: no seeds are needed."""

    def begin(self, seed: Path) -> None:
        """Do nothing: no seeds are read."""

    def mutant(self, rng: Random) -> Mutant:
        """Return one of WAYS."""
        return {rng.choice(WAYS): b""}

    def read(self, mutant: Mutant) -> bool:
        """Break the rule that the mutant names."""
        (way,) = mutant
        outside = self.work.parents[2] / "lissom-fuzz-written"
        if way == "traceback":
            raise KeyError("layers")
        if way == "hang":
            while True:
                pass
        if way == "memory":
            held = bytearray(700 << 20)
            held[::4096] = b"\1" * len(held[::4096])
        if way == "writes outside":
            outside.write_text("here")
        if way == "runs a program":
            subprocess.run([sys.executable, "-c", ""], check=True)
        if way == "runs a file":
            (self.work / "evil.py").write_text("x = 1")
            exec(compile("x = 1", str(self.work / "evil.py"), "exec"), {})
        if way == "ends the process":
            os._exit(3)

        def raises() -> None:
            if way in ("refused", "long error", "two lines"):
                error = LissomError("")
                error.args = (
                    {"refused": "no", "long error": "no" * 1_000_000, "two lines": "no\nno"}[way],
                )
                raise error

        return refused(raises)
