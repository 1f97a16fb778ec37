"""Search for several goals on several networks, and print the result or the reason for refusal.

    python benchmarks/search_goals.py [--budget 4min] [--only resnet20,nin-half,detector]
    [--cells FOLDER] [--store FOLDER] [-o goals.md]

Each network has four goals. The last cannot be reached and must be refused before anything is
trained. ResNet-20 and the half-width NIN learn scikit-learn's digits at 16x16. The detector learns
the blood cells in FOLDER, in COCO's format (BCCD, 364 images). Rows are Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lissom
from lissom.bench.machine import machine
from lissom.cli.counts import seconds_of
from lissom.data.data import Data
from lissom.errors import LissomError, first_line
from lissom.tasks.task import Task

HEAD = "| network | wanted | metric | ms | bytes | trained | s | recipe, or why it was refused |"
COMPRESSED = 'prune(0..0.8, of="macs", by={l1, fisher}) | distill("kd", {2, 6}) | quantize(8)'


@dataclass(frozen=True)
class Case:
    """A network, the step that trains it, and the space and goals of its search."""

    model: str
    data: str
    begin: str
    space: str
    goals: tuple[str, ...]
    size: tuple[int, int] | None = None
    preprocess: str = ""


def cases(cells: str) -> dict[str, Case]:
    """Return the cases by name. `cells` is the folder of the detector's images."""
    classified = (
        "fastest, top1 >= float - 0.01",
        "smallest, top1 >= float - 0.01, ms <= float / 3",
        "accurate, bytes <= float / 16",
        "fastest, bytes <= float / 400",
    )
    found = (
        "fastest, mAP >= float - 0.02",
        "smallest, mAP >= float - 0.03, ms <= float / 3",
        "accurate, bytes <= float / 6",
        "fastest, bytes <= float / 400",
    )
    learns = 'lr=0.001, batch=16, optimizer="adamw"'
    detected = (
        f'prune(0..0.6, of="macs", by={{l1, taylor}}) | distill("kd", {{3, 8}}, {learns}) | '
        "quantize(8)"
    )
    return {
        "resnet20": Case("resnet20", "digits", "train(20)", COMPRESSED, classified, (16, 16)),
        "nin-half": Case("nin-half", "digits", "train(20)", COMPRESSED, classified, (16, 16)),
        "detector": Case(
            "tiny_detect",
            f"coco:{cells}",
            'train(60, lr=0.002, batch=16, optimizer="adamw")',
            detected,
            found,
            preprocess='resize(192, 256) | normalize("data")',
        ),
    }


def rows(name: str, case: Case, store: Path, budget_s: float) -> Iterator[str]:
    """Yield a Markdown row for each goal."""
    data = Data.of(case.data, size=case.size, preprocess=case.preprocess or None)
    task = Task.of(case.model, data)
    metric = task.metric_names[0]
    for goal in case.goals:
        try:
            found = lissom.search(
                f"{case.begin} | {case.space}",
                goal,
                task,
                store,
                budget_s=budget_s,
                targets="onnxruntime",
            )
        except LissomError as error:
            yield f"| {name} | {goal} | | | | 0 | | refused: {first_line(error)} |"
            continue
        outcomes = [each for each in found.outcomes if not (each["probe"] or each.get("stopped"))]
        chosen = next(each for each in outcomes if each["recipe"] == found.chosen[0])
        own, plain = chosen["values"], found.reference
        numbers = [
            f"{own[metric]:.4f} of {plain[metric]:.4f}",
            f"{own['ms@onnxruntime']:.3f} of {plain['ms@onnxruntime']:.3f}",
            f"{own['bytes@onnxruntime']:,.0f} of {plain['bytes@onnxruntime']:,.0f}",
        ]
        met = "" if found.met else "not met, the nearest: "
        yield (
            f"| {name} | {goal} | {' | '.join(numbers)} | {len(outcomes)} | {found.seconds:.0f} "
            f"| {met}`{found.chosen[0].removeprefix(case.begin + ' | ')}` |"
        )


def main() -> None:
    """Print the rows, and write them to the file given by -o."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--budget", default="4min")
    options.add_argument("--only", default="resnet20,nin-half,detector")
    options.add_argument("--cells", default="bccd-cells")
    options.add_argument("--store", type=Path)
    options.add_argument("-o", "--output", type=Path)
    given = options.parse_args()
    root = given.store or Path(tempfile.mkdtemp())
    print(f"{machine()['cpu']}, {given.budget} for each goal")
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    print(*lines, sep="\n")
    for name in given.only.split(","):
        for line in rows(name, cases(given.cells)[name], root / name, seconds_of(given.budget)):
            print(line, flush=True)
            lines.append(line)
            if given.output:
                given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
