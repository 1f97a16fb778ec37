"""Print the results of `lissom inspect`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..errors import counted, listed
from .terminal import terminal


def print_inspection(found: dict[str, Any]) -> None:
    """Print groups, the layers that couple them, the layers left whole and what can be removed."""
    console = terminal()
    table = Table(box=None, header_style="bold", padding=(0, 1))
    sensitivity = found.get("sensitivity")
    amounts = sensitivity["amounts"] if sensitivity else []
    for name in (
        "units",
        "least",
        "params",
        "MACs",
        *(f"-{a:.0%}" for a in amounts),
        "made by",
        "read by",
    ):
        table.add_column(
            name,
            justify="left" if name.endswith(" by") else "right",
            no_wrap=not name.endswith(" by"),
            overflow="fold",
        )
    for group in found["groups"]:
        scores = (
            [("-" if s is None else f"{s:.3f}") for s in sensitivity["groups"][group["name"]]]
            if sensitivity
            else []
        )
        even = (
            f" (even over {' and '.join(map(str, group['even_over']))} groups)"
            if group["even_over"]
            else ""
        )
        table.add_row(
            str(group["units"]),
            str(group["least"]),
            f"{group['removable']['params']:.1%}",
            f"{group['removable']['macs']:.1%}",
            *scores,
            ", ".join(group["made_by"]) + even,
            ", ".join(group["read_by"]),
        )
    console.print(table)
    for note in found.get("notes", []):
        console.print(f"note: {note}", soft_wrap=True)
    if found["left_whole"]:
        console.print("\nleft whole:")
        reasons: dict[str, list[str]] = {}
        for layer, why in found["left_whole"].items():
            reasons.setdefault(why, []).append(layer)
        for why, layers in reasons.items():
            console.print(
                f"  {', '.join(layers[:6])}{f' and {len(layers) - 6} more' if len(layers) > 6 else ''}: {why}"
            )
    console.print(
        f"\ncan be removed, in multiples of {found['multiple']} channels with floor={found['floor']:g}:"
    )
    for of, ends in found["removable"].items():
        console.print(f"  {of:9} {ends['least']:.3f} to {ends['most']:.3f}")
    if "latency" in found:
        ms = found["latency"]
        console.print(
            f"  latency   up to {ms['most']:.3f} in {ms['on']}: {ms['whole_ms']:.3f} ms whole, "
            f"{ms['narrowest_ms']:.3f} ms at its narrowest, measured"
        )
    if blocks := found.get("blocks"):
        shares = [
            f"{sum(block[of] for block in blocks):.3f} of the {of}" for of in ("params", "macs")
        ]
        console.print(
            f"\n{counted(len(blocks), 'residual block')} can be dropped (drop), {' and '.join(shares)}: "
            + listed(block["name"] for block in blocks),
            soft_wrap=True,
        )
    if sensitivity:
        console.print(
            f"\ncolumns -25% to -75%: validation score with that share of the group alone zeroed, ranked by "
            f"{found['by']}; {sensitivity['score']:.3f} with all of it"
        )
