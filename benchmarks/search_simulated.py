"""Compare ways to search on simulated networks, whose results are formulas and whose time is counted.

    python benchmarks/search_simulated.py --want front --budget 900 --seeds 7 [--space rates]
    [--trials N] [--by model,whole,random,tpe,nsga2]

`whole` is the model without early stops. The spaces are `plain`, where every training goes well,
`default`, which lissom uses if none is given, and `rates`, where most learning rates are bad. For a
front, the number is the hypervolume, the share of a box that the recipes dominate; otherwise it is
the value of the answer. Both are in tests/running/search/landscape.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from math import inf
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "running" / "search"))
from landscape import (  # type: ignore[import-not-found]
    SPACE,
    WITH_RATES,
    Landscape,
    WithRates,
    hypervolume,
    searched,
)

from lissom.running.search.early import LEAST_KNOWN
from lissom.running.search.search import Search, default_space

DEFAULT = default_space(learns=True, labelled=True, few_bits=False, samples=50_000)
SPACES = {
    "plain": (SPACE, Landscape),
    "default": (str(DEFAULT), Landscape),
    "rates": (WITH_RATES, WithRates),
}


def value(search: Search) -> float | None:
    """Return the hypervolume of a front, or the value of the answer; None if there is none."""
    if len(search.goal.aims) > 1:
        return hypervolume(search.goal, search.outcomes)
    name, _ = search.goal.aims[0]
    best = search.goal.best(search.trained)
    return None if best is None else best.values[name]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--want", default="front")
    options.add_argument("--budget", type=float, default=900, help="simulated seconds")
    options.add_argument("--trials", type=int, help="recipes that are trained")
    options.add_argument("--seeds", type=int, default=7)
    options.add_argument("--space", choices=SPACES, default="rates")
    options.add_argument("--by", default="model,whole")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    space, kind = SPACES[given.space]
    for by in given.by.split(","):
        values = list[float]()
        trained = stopped = 0
        for seed in range(given.seeds):
            known = inf if by == "whole" else LEAST_KNOWN
            with (
                tempfile.TemporaryDirectory() as folder,
                patch("lissom.running.search.early.LEAST_KNOWN", known),
            ):
                way = "model" if by == "whole" else by
                search, land = searched(
                    Path(folder),
                    given.want,
                    way,
                    seed,
                    given.budget,
                    kind,
                    space=space,
                    trials=given.trials,
                )
                found = value(search)
            values += [] if found is None else [found]
            trained += len(search.trained)
            stopped += len(land.stopped)
        each = ", ".join(f"{found:.3f}" for found in values)
        mean = statistics.mean(values) if values else float("nan")
        print(
            f"{by:6} {mean:.3f} of {len(values)} of {given.seeds} searches ({each}); "
            f"{trained / given.seeds:.0f} trained, {stopped / given.seeds:.0f} stopped",
            flush=True,
        )


if __name__ == "__main__":
    main()
