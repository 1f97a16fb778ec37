"""The zeros of a masked network by layer, for the terminal and the page."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..errors import counted
from ..store.checks import Wrong, fields, listing, mapping, number, text, whole
from ..store.store import Store
from .terminal import terminal

MASK_FACTS = fields(  # the facts of a mask
    masked=listing(fields(name=text, weights=whole(), zeros=whole(), sparsity=number())),
    sparsity=fields(layers=number(), network=number()),
    left_whole=(mapping(text), dict),
    dense_bytes=whole(),
    packed_bytes=whole(),
)


def zeros_of(record: dict[str, Any], store: Store) -> dict[str, Any] | None:
    """Return the zeros of the last mask in the recipe of a network; None if no step masked, or if
    its record says too little of them.

    `layers` has a row for each masked layer, `said` has sentences on all of them. Later steps keep
    the zeros, so the counts stay valid, unless channels are pruned afterwards: then they are those
    of the network right after the mask.
    """
    entry = record
    visited = {record["key"]}
    while "masked" not in entry["facts"]:
        before = entry["before"] or ""
        earlier = None if before in visited else store.readable(before)
        if earlier is None:
            return None
        visited.add(before)
        entry = earlier
    try:
        facts = MASK_FACTS(entry["facts"])
    except Wrong:
        return None
    return {
        "step": entry["step"],
        "layers": facts["masked"],
        "said": sentences(entry["step"], facts),
    }


def sentences(step: str, facts: dict[str, Any]) -> list[str]:
    """Return sentences on a mask: the share of zeros, the layers with most and least, the layers
    left whole and why.

    >>> facts = {"masked": [{"name": "a", "sparsity": 0.4}, {"name": "b", "sparsity": 0.6}],
    ...          "left_whole": {"c": "it was not chosen"}, "sparsity": {"layers": 0.5, "network": 0.3},
    ...          "dense_bytes": 800, "packed_bytes": 500}
    >>> first, *rest = sentences("mask(0.5)", facts)
    >>> print(*first.split("; "), *rest, sep="\\n")
    mask(0.5): 50.0% of the weights of 2 layers are zero, 30.0% of all parameters
    most in b (60.0%), least in a (40.0%)
    800 bytes as they were, 500 packed; latency does not change, since no runtime here skips single zeros
    left whole: c: it was not chosen
    """
    rows = sorted(facts["masked"], key=lambda row: row["sparsity"])
    summary = (
        f"{step}: {facts['sparsity']['layers']:.1%} of the weights of "
        f"{counted(len(rows), 'layer')} are zero, "
        f"{facts['sparsity']['network']:.1%} of all parameters"
    )
    if rows and rows[0]["sparsity"] < rows[-1]["sparsity"]:
        summary += "; " + ", ".join(
            f"{word} in {row['name']} ({row['sparsity']:.1%})"
            for word, row in (("most", rows[-1]), ("least", rows[0]))
        )
    reasons: dict[str, list[str]] = {}
    for layer, why in facts["left_whole"].items():
        reasons.setdefault(why, []).append(layer)
    return [
        summary,
        f"{facts['dense_bytes']:,} bytes as they were, {facts['packed_bytes']:,} packed; latency "
        "does not change, "
        "since no runtime here skips single zeros",
        *(
            "left whole: "
            f"{', '.join(layers[:6])}{f' and {len(layers) - 6} more' if len(layers) > 6 else ''}: {why}"
            for why, layers in reasons.items()
        ),
    ]


def print_zeros(found: dict[str, Any]) -> None:
    """Print sentences on the zeros, and a table of the zeros of each layer."""
    console = terminal()
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("layer", "weights", "zeros", "share"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
    for row in found["layers"]:
        table.add_row(
            row["name"], f"{row['weights']:,}", f"{row['zeros']:,}", f"{row['sparsity']:.1%}"
        )
    for line in found["said"]:
        console.print(line, soft_wrap=True)
    console.print(table)
