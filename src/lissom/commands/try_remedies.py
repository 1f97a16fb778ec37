"""`lissom explain --try`: run each remedy as a recipe, and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import LissomError, Unmeasured
from ..language.recipe import Recipe
from ..language.target import Target
from ..report.explanation import remedy_conclusion
from ..report.rows import main_score
from ..running.execute import run
from ..running.plan import ends
from ..tasks.teachers import teacher_code, teachers_in
from .explain import Explainer
from .remedies import remedies


def try_remedies(
    explainer: Explainer, findings: dict[str, Any], targets: Sequence[Target], device: torch.device
) -> list[dict[str, Any]]:
    """Run the recipe with each remedy; return a row for each, best on validation data first.

    Adds the conclusion to `findings`, the findings of the explainer. Call `check_reproducible`
    first.
    """
    main = explainer.task.metric_names[0]
    rows = list[dict[str, Any]]()
    for remedy, recipe in [
        ("as it is", Recipe(explainer.steps)),
        *remedies(explainer.steps, explainer.quantize_at, findings),
    ]:
        try:
            (record,) = run(
                recipe,
                explainer.task,
                explainer.store,
                targets=targets,
                seeds=[explainer.record["seed"]],
                device=str(device),
                say=explainer.say,
            )
        except Unmeasured as error:  # some of its files failed
            (record,) = error.records
        except LissomError as error:
            rows.append({"what": remedy, "recipe": str(recipe), "failed": str(error)})
            continue
        rows.append({"what": remedy, "recipe": str(recipe), **_outcome(record, main, targets)})
    task = explainer.task
    findings["said"] += remedy_conclusion(rows, len(task.data.valid), counted=task.counts_samples)
    return sorted(rows, key=lambda row: -(row.get("valid") or -math.inf))


def check_reproducible(explainer: Explainer) -> None:
    """Raise LissomError if the network's own recipe does not give its key, or may not be run."""
    key, store, steps = explainer.key, explainer.store, explainer.steps
    (end,) = ends([Recipe(steps)], [explainer.record["seed"]], explainer.task.root)
    if end.key != key:
        raise LissomError(
            f"explain: {key} was made of another network or other data than given here; --try "
            "needs the same --data, --model and --weights"
        )
    teachers = [getattr(step, "teacher", None) or "" for step in steps]
    named = [text for teacher in teachers for text in teachers_in(teacher)]
    code = next(filter(teacher_code, named), None)
    if code and not store.is_trusted(key):
        raise LissomError(
            f"explain: the recipe of {key} would import {code:.80}, and nothing shows that your "
            f"lissom wrote it; lissom store --trust --store {store.root} signs it"
        )


def _outcome(record: dict[str, Any], main: str, targets: Sequence[Target]) -> dict[str, Any]:
    """Return the key of a record, its values of the metric `main`, and those of its files."""
    names = [str(target) for target in targets]
    return {
        "key": record["key"],
        "failed": None,
        "valid": main_score(record["scores"]["valid"]),
        "test": main_score(record["scores"]["test"]),
        "targets": {
            name: {
                "score": file[main],
                "size_bytes": file["size_bytes"],
                "latency_ms": file["latency_ms"],
            }
            for name, file in record["targets"].items()
            if name in names
        },
    }
