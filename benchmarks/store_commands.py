"""Time `report`, `store`, `plan`, `run` and `show` on a store of 2,000 entries, each command in a
process of its own.

    python benchmarks/store_commands.py [--entries 2000] [--rounds 3] [--model resnet56]

One recipe is run to its end. Its entries are then copied under the keys of a whole space, so that
every file is as lissom writes it, and `plan` and `run` find the space finished. The commands take
turns. Prints the minimum and maximum over rounds of wall-clock and processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lissom import Recipe, Space, Store, Task, run
from lissom.data.data import Data
from lissom.store.manifest import seal

BITS = (8, 7, 6, 5, 4, 3, 2)
ONE = "train(1) | prune(0.5) | quantize(8)"


def space_of(entries: int) -> str:
    """Return a space of about `entries` steps."""
    amounts = ", ".join(f"{(k + 1) / 1000:g}" for k in range(max(1, entries // (len(BITS) + 1))))
    return f"train(1) | prune({{{amounts}}}) | quantize({{{', '.join(map(str, BITS))}}})"


def filled(root: Path, model: str, entries: int) -> str:
    """Fill a store with about `entries` entries and return their space."""
    task = Task.of(model, Data.of("digits"))
    store, first = Store(root / "first"), task.root(0)
    run(ONE, task, store, targets="onnxruntime")
    patterns = [(store.folder(key), store.record(key)) for key in Recipe(ONE).keys(first)]
    goal, space = root / "store", space_of(entries)
    for recipe in Space(space):
        keys = recipe.keys(first)
        for place, (key, (folder, record)) in enumerate(zip(keys, patterns, strict=True)):
            if not (goal / key).exists():
                shutil.copytree(folder, goal / key, copy_function=linked)
                named = {
                    "key": key,
                    "before": keys[place - 1] if place else first,
                    "step": str(recipe.steps[place]),
                    "recipe": str(Recipe(recipe.steps[: place + 1])),
                    "float": {**record["float"], "key": keys[0]},
                    "targets": moved(record["targets"]),
                }
                (goal / key / "record.json").write_text(
                    json.dumps({**record, **named}, indent=1), encoding="utf-8"
                )
                seal(goal / key, key)
    return space


def linked(source: str, goal: str) -> None:
    """Hard-link a file to save gigabytes, or copy it if it will be rewritten."""
    if Path(source).name in ("record.json", "manifest.json"):
        shutil.copyfile(source, goal)
    else:
        os.link(source, goal)


def moved(targets: dict[str, Any]) -> dict[str, Any]:
    """Return targets with the paths of artefacts relative to the entry."""
    return {
        name: {
            **found,
            "artefact": "artefacts/"
            + found["artefact"].replace("\\", "/").rpartition("artefacts/")[2],
        }
        for name, found in targets.items()
    }


def seconds(words: list[str], folder: Path) -> tuple[float, float]:
    """Run a command and return its wall-clock seconds and its processor seconds."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "lissom", *words], cwd=folder, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{words[0]}: {done.stderr}")
    # user and system time of child processes
    return time.perf_counter() - start, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="resnet56")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        space = filled(root, words.model, words.entries)
        store = Store(root / "store")
        keys = list(store)
        there = ["--store", str(store.root)]
        commands = {
            "report": ["report", "-o", "report.html", *there],
            "store": ["store", *there],
            "plan": ["plan", space, "--model", words.model, *there],
            "run": ["run", space, "--model", words.model, "--to", "onnxruntime", *there],
            "show": ["show", keys[-1], *there],
            "show, all": ["show", *keys, *there],
            "--help": ["--help"],
        }
        found: dict[str, list[tuple[float, float]]] = {command: [] for command in commands}
        for _ in range(words.rounds):
            for command, line in commands.items():
                found[command].append(seconds(line, root))
        size = sum(store.size_bytes(key) for key in keys) / 1e6
        print(f"{len(keys)} entries, {size:.0f} MB; seconds of the clock, and of the processor")
        for command, times in found.items():
            clock, processor = zip(*times, strict=True)
            print(
                f"{command:10} {min(clock):6.2f} to {max(clock):6.2f}  {min(processor):6.2f} to "
                f"{max(processor):6.2f}"
            )


if __name__ == "__main__":
    main()
