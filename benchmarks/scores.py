"""Compare the accuracy that each importance leaves a trained network after pruning, with old and
new batch-norm statistics.

    python benchmarks/scores.py --data folder:PATH --store STORE KEY [--amount 0.5] [--of macs]
    [--multiple 4]

Nothing is trained. "cut" is the validation accuracy right after pruning, "statistics" that with
batch-norm statistics measured again on 1,024 training images.
"""

from __future__ import annotations

import argparse
from typing import Literal

from lissom.data.data import Data
from lissom.language.menu import menu
from lissom.running.context import TaskContext
from lissom.steps.prune import Prune
from lissom.store.snapshot import restore
from lissom.store.store import Store
from lissom.surgery.count import parameters
from lissom.tasks.task import Task

Scope = Literal["global", "isomorphic", "local"]
Per = Literal["channel", "cost"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("key")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--store", required=True)
    parser.add_argument("--amount", type=float, default=0.5)
    parser.add_argument("--of", default="macs")
    parser.add_argument("--multiple", type=int, default=4)
    given = parser.parse_args()
    data, store = Data.of(given.data), Store(given.store)
    task = Task.of(given.model, data)
    whole = parameters(task.fresh())
    print(f"| by | per | scope | cut | statistics | {given.of} removed | parameters left |")
    print("|---|---|---|---|---|---|---|")
    scopes: tuple[Scope, ...] = ("global", "isomorphic", "local")
    ways: list[tuple[str, Per, Scope]] = [
        (by, "channel", scope) for scope in scopes for by in menu("importance")
    ]
    ways += [(by, "cost", scope) for scope in scopes[:2] for by in ("fisher", "taylor")]
    for by, per, scope in ways:
        ctx = TaskContext(
            data.example(),
            lambda count: data.calibration(count, 0),
            task=task,
            where="prune",
            seed=1,
        )
        step = Prune(
            given.amount,
            of=given.of,
            by=by,
            per=per,
            scope=scope,
            multiple=given.multiple,
            samples=1024,
        )
        model = step(restore(task.fresh(), store.folder(given.key)), ctx)
        found = ctx.facts["recalibrated"]
        cells = (
            by,
            per,
            scope,
            *(
                f"{v:.3f}"
                for v in (
                    found["before"],
                    found["after"],
                    ctx.facts["amount"]["removed"],
                    parameters(model) / whole,
                )
            ),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
