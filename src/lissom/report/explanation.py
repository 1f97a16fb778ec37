"""The conclusions and tables of `lissom explain`."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench.intervals import is_wide
from ..errors import counted
from .table import DISTURBED, number
from .terminal import terminal

LEGEND = (
    "dB: the weights (w) and inputs (x) of a layer over what rounding changes of them; use: share of "
    "the inputs' range that the middle 99.8 % of them reach; beyond: share of inputs off its ends; "
    "alone, without: the score with only this layer, and with all but it, rounded"
)
# name of a stage that only networks that learned after quantization have
LEARNED_STAGE = "learned, not rounded"
# relative difference of outputs on an older processor above which it is reported
MAX_CAPPED_DIFFERENCE = 0.02


def conclusions(found: dict[str, Any]) -> list[str]:
    """Return conclusions from the numbers, as sentences."""
    stages = {row["name"]: row for row in found["stages"]}
    count = found["images"]["stages"]
    rounded = stages["both, simulated"]
    unrounded = stages.get(LEARNED_STAGE, stages["float"])
    sentences = []
    if LEARNED_STAGE in stages and rounded["score"] is not None:
        sentences.append(
            f"Learning with rounding took the network from {100 * stages['float']['score']:.2f} to "
            f"{100 * rounded['score']:.2f} points; what it learned, not rounded, gives "
            f"{100 * unrounded['score']:.2f}."
        )
    if rounded["score"] is not None and "lost" in rounded:
        loss = unrounded["score"] - rounded["score"]
        margin = 1.96 * math.sqrt(rounded["lost"] + rounded["won"]) / count
        sentences.append(
            f"Rounding costs {100 * loss:.2f} points of {100 * unrounded['score']:.2f} "
            f"({rounded['lost']} of {count} "
            f"images became wrong, {rounded['won']} right), "
            f"{'no more than chance might' if abs(loss) <= margin else 'beyond chance'} "
            f"(±{100 * margin:.2f})."
        )
    parts = {name: stages[name]["noise"] ** 2 for name in ("weights only", "inputs only")}
    larger = max(parts, key=lambda name: parts[name])
    if sum(parts.values()) > 0:
        sentences.append(
            f"{parts[larger] / sum(parts.values()):.0%} of the noise comes from rounding "
            f"{'weights' if larger.startswith('w') else 'inputs'}."
        )
    rows = found["layers"]
    total = sum(row["noise"] ** 2 for row in found["layers"])
    if total > 0:
        shares = {row["name"]: row["noise"] ** 2 / total for row in rows}
        sentences.append(
            "Most of it enters at "
            + ", ".join(f"{name} ({shares[name]:.0%})" for name in found["worst"])
            + "."
        )
    for row in rows:
        sentences += range_problems(row)
    for name, target in found["targets"].items():
        if target["agreement"] is not None:
            sentences.append(
                f"{name} gives the simulation's answer on {target['agreement']:.2%} of the images"
                + (f", {target['fused']} operations in integers" if target["fused"] else "")
                + (f"; not: {', '.join(target['not_fused'][:5])}." if target["not_fused"] else ".")
            )
        differing = [row for row in target["capped"] if row["noise"] > MAX_CAPPED_DIFFERENCE]
        if differing:
            sentences.append(
                f"{name}: with no more than {' or '.join(row['cap'] for row in differing)} "
                "its answers would differ by "
                f"{max(row['noise'] for row in differing):.0%} of their size, since 8-bit "
                "products saturate without "
                "VNNI; quantize(..., reduce_range=True) does not."
            )
    return sentences


def range_problems(row: dict[str, Any]) -> list[str]:
    """Return problems with the ranges of one layer, each with a cure."""
    sentences = []
    inputs = row["inputs"]
    if inputs and (inputs["saturated"] or 0) > 0.01:
        sentences.append(
            f"{row['name']}: {inputs['saturated']:.1%} of its inputs lie beyond the "
            'range; range="minmax" '
            "holds all."
        )
    if inputs and inputs["use"] is not None and inputs["use"] < 0.4:
        sentences.append(
            f'{row["name"]}: nearly all of its inputs use {inputs["use"]:.0%} of the range; range="mse" '
            "weighs the rest against it."
        )
    return sentences


def remedy_conclusion(rows: list[dict[str, Any]], count: int, *, counted: bool) -> list[str]:
    """Return a conclusion on the remedies from their scores on `count` validation images. The first
    row is the unchanged network. Chance is weighed only if scores are shares of images that are
    `counted` as right.
    """
    known = [row for row in rows if row.get("valid") is not None]
    if len(known) < 2 or known[0] is not rows[0]:
        return []
    unchanged = known[0]["valid"]
    best = max(known[1:], key=lambda row: row["valid"])
    if not counted:
        gain = (
            f"{best['what']}, gives {best['valid'] - unchanged:+.4f} on {count} validation images"
        )
        return [
            f"Of what was tried, the best, {gain}."
            if best["valid"] > unchanged
            else f"Nothing tried is better: the best, {gain}."
        ]
    margin = 1.96 * math.sqrt(2 * unchanged * (1 - unchanged) / count)
    gain = f"gives {100 * (best['valid'] - unchanged):+.2f} points on {count} validation images"
    return [
        f"Of what was tried, {best['what']} {gain}, beyond chance (±{100 * margin:.2f})."
        if best["valid"] - unchanged > margin
        else f"Nothing tried is better than chance might make it: the best, {best['what']}, "
        f"{gain} (±{100 * margin:.2f})."
    ]


def print_explanation(found: dict[str, Any]) -> None:
    """Print stages, files, layers, remedies that were tried, and conclusions."""
    console = terminal()
    stages = new_table("stage", "score", "noise", "now wrong", "now right")
    for row in found["stages"]:
        stages.add_row(
            row["name"],
            number(row["score"], 4),
            percent(row["noise"]),
            str(row.get("lost", "-")),
            str(row.get("won", "-")),
        )
    for name, row in found["targets"].items():
        stages.add_row(
            name, number(row["score"], 4), percent(row["noise"]) + " of simulated", "", ""
        )
        for other in row["capped"]:
            stages.add_row(
                f"  {other['cap']}: {other['latency_ms']:.3f} ms",
                number(other["score"], 4),
                percent(other["noise"]),
                "",
                "",
            )
    console.print(f"test, {counted(found['images']['stages'], 'image')}", soft_wrap=True)
    console.print(stages)
    print_layers(console, found)
    if found.get("tried"):
        tried = new_table("tried", "validation", "test", "files", "key")
        for row in found["tried"]:
            files = ", ".join(
                f"{target} {file_text(file)}" for target, file in row.get("targets", {}).items()
            )
            tried.add_row(
                row["what"],
                number(row.get("valid"), 4),
                number(row.get("test"), 4),
                row["failed"] or files,
                row.get("key", ""),
            )
        console.print()
        console.print(tried)
    console.print()
    for sentence in found["said"]:
        console.print(sentence, soft_wrap=True)


def print_layers(console: Console, found: dict[str, Any]) -> None:
    """Print the table of layers, most noise first, with the images that it was measured on."""
    layers = new_table(
        "layer", "bits", "dB w", "dB x", "use", "beyond", "noise", "alone", "without"
    )
    for row in sorted(found["layers"], key=lambda row: -row["noise"]):
        weights = row["weights"] or {}
        inputs = row["inputs"] or {}
        layers.add_row(
            row["name"],
            f"{weights.get('bits', 32)}/{inputs.get('bits', 32)}",
            number(weights.get("sqnr_db"), 1),
            number(inputs.get("sqnr_db"), 1),
            percent(inputs.get("use")),
            percent(inputs.get("saturated")),
            percent(row["noise"]),
            number(row["alone"], 4),
            number(row["left_out"], 4),
        )
    ends = found["ends"]
    console.print(
        f"\nvalidation, {counted(found['images']['layers'], 'image')}: "
        f"nothing rounded {number(ends['float'], 4)}, all rounded {number(ends['rounded'], 4)}",
        soft_wrap=True,
    )
    console.print(layers)
    console.print(LEGEND, soft_wrap=True, style="dim")


def file_text(found: dict[str, Any]) -> str:
    """Return score, size and latency of a file as text."""
    badly = f" ({DISTURBED})" if is_wide(found["latency_ms"]) else ""
    return (
        f"{number(found.get('score', found.get('top1')), 4)}, {found['size_bytes'] / 1000:.0f} kB, "
        f"{found['latency_ms']['median']:.3f} ms{badly}"
    )


def new_table(*titles: str) -> Table:
    """Return a table whose first column is text."""
    result = Table(box=None, header_style="bold", padding=(0, 1))
    for place, name in enumerate(titles):
        result.add_column(
            name,
            justify="left" if place == 0 or name in ("files", "key") else "right",
            overflow="fold",
            no_wrap=name == "layer",
        )
    return result


def percent(value: float | None) -> str:
    """Return a share in percent as text, "-" for None."""
    return "-" if value is None else f"{value:.1%}"
