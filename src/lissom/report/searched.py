"""What a search found, in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ..running.search.found import Found
from .table import print_records

SHOWN = 12  # of the recipes that lost


def print_found(found: Found) -> None:
    """Print what was tried, why others lost, and the records of what was chosen."""
    console = Console(soft_wrap=True)
    names = shown_names(found)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_row("uncompressed", *cells(found.reference, names), "")
    trained = [each for each in found.outcomes if not each["probe"]]
    order = [each for each in trained if each["recipe"] in found.chosen]
    rest = [each for each in trained if each["recipe"] not in found.chosen]
    for each in {one["recipe"]: one for one in [*order, *rest[-SHOWN:]]}.values():
        chosen = each["recipe"] in found.chosen
        verdict = "chosen" if chosen and found.met else found.why_not.get(each["recipe"], "nearest")
        table.add_row(each["recipe"], *cells(each["values"], names), verdict)
    console.print(table)
    if len(rest) > SHOWN:
        console.print(f"{len(rest) - SHOWN} more were tried before")
    if found.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.importances.items())
        console.print(f"what the first metric depends on (fANOVA): {shares}")
    probes = len(found.outcomes) - len(trained)
    console.print(
        f"{len(trained)} recipes trained, {probes} probed without training, {found.seconds:.0f} s; "
        "metrics of this table are on validation data"
    )
    if not found.met:
        bounds = ", ".join(found.bounds)
        console.print(
            f"[bold]Nothing that was tried keeps {bounds}.[/bold] The nearest is measured:"
        )
    print_records(found.records, "table")
    for recipe in found.chosen:
        console.print(f"recipe: {recipe}", markup=False)


def shown_names(found: Found) -> list[str]:
    """Return the values to show: what is aimed at, what is bounded, the first metric."""
    bounded = [bound.split()[0] for bound in found.bounds]
    first = next(iter(found.reference))
    return list(dict.fromkeys([first, *found.aims, *bounded]))


def cells(values: dict[str, Any], names: list[str]) -> list[str]:
    """Return values as text."""
    return [shown(values.get(name)) for name in names]


def shown(value: float | None) -> str:
    """Return a number with four digits, and thousands together.

    >>> shown(0.98213), shown(1234567.0), shown(None)
    ('0.9821', '1,234,567', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
