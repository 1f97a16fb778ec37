"""Mutate the inputs of lissom and check that each mutant works or is refused with a short error.

    python tools/fuzz.py --family records --count 100000      the first 100,000 mutants of a family;
        all families by default
    python tools/fuzz.py --replay records:1234                read one again and print its traceback

The rule: a mutant is read, or a LissomError of one line and at most 1,000 characters says why not.
There is no other exception, at most 2 s of processor time, at most 512 MiB more memory than for
valid files, nothing written outside a scratch folder, and nothing run. Mutants are drawn from
`--seed` and their number, so a number always means the same mutant. Mutants that break the rule are
kept in `--keep`. Exit 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fuzzing.child import FAMILIES, decoded, family_of, fault, mutant_of, serve
from fuzzing.family import LONGEST, Wrong


def main() -> int:
    """Run the command line and return the exit status."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [name for name in FAMILIES if name != "faulty"]
    words.add_argument(
        "--family",
        action="append",
        choices=FAMILIES,
        help=f"one of {', '.join(names)}; all if not given",
    )
    words.add_argument("--count", type=int, default=1_000, help="mutants of each family")
    words.add_argument("--first", type=int, default=0, help="the number of the first mutant")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop a family after so many"
    )
    words.add_argument(
        "--keep",
        type=Path,
        default=Path("fuzz-found"),
        help="where mutants that break the rule are kept",
    )
    words.add_argument(
        "--replay", metavar="FAMILY:NUMBER", help="read one mutant again and show what it does"
    )
    words.add_argument("--serve", choices=FAMILIES, help=argparse.SUPPRESS)
    words.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.serve:
        serve(given.serve, given.seed, given.first, given.first + given.count, given.folder, None)
        return 0
    # on a disk, most of the time would go into writing
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lissom-fuzz-", dir=memory) as folder:
        if given.replay:
            return replay(given.replay, given.seed, given.keep, Path(folder))
        from fuzzing.watch import run, summary

        wrong = False
        for name in given.family or names:
            found = run(
                name,
                seed=given.seed,
                first=given.first,
                count=given.count,
                folder=Path(folder),
                kept=given.keep,
                seconds=60 * given.minutes,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
            print("\n".join(summary(name, found)), flush=True)
            wrong = wrong or bool(found.faults)
    return int(wrong)


def replay(what: str, seed: int, kept: Path, folder: Path) -> int:
    """Read one mutant in this process, from the file that was kept or drawn again."""
    name, _, number = what.partition(":")
    family, file = family_of(name, folder), kept / f"{name}-{number}.json"
    row = json.loads(file.read_text()) if file.is_file() else {}
    mutant = (
        decoded(row["mutant"])
        if "mutant" in row and row["seed"] == seed
        else mutant_of(family, seed, int(number))
    )
    for place, data in mutant.items():
        print(f"{place}: {len(data):,} bytes: {data[:LONGEST]!r}")
    try:
        print("refused" if family.read(mutant) else "works")
    except Exception as error:  # any exception breaks the rule and is shown
        traceback.print_exception(
            error.__cause__ if isinstance(error, Wrong) and error.__cause__ else error
        )
        print(f"breaks the rule: {type(error).__name__}: {str(error)[:LONGEST]}")
        return 1
    said, _ = fault(family, mutant, [])
    print(said or "keeps the rule")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
