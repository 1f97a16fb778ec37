"""Print the result of a search."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..language.amounts import amount_text
from ..running.search.goal import Bound
from ..running.search.run_search import SearchResult
from .table import print_records, print_wide
from .terminal import terminal

MAX_RECIPES_SHOWN = 12  # recipes that were not chosen, the last ones


def print_search(result: SearchResult) -> None:
    """Print the recipes tried, why they were not chosen, and the records of the chosen ones."""
    console = terminal()
    names = shown_names(result)
    attempts = [each for each in result.outcomes if not each["probe"]]
    trained = {each["recipe"]: each for each in attempts if not each.get("stopped")}
    rejected = [recipe for recipe in trained if recipe not in result.chosen]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", *names):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("recipe", no_wrap=True)
    table.add_row("", *cells(result.reference, names), "", "uncompressed")
    for place, recipe in enumerate([*result.chosen, *rejected[-MAX_RECIPES_SHOWN:]], 1):
        verdict = result.why_not.get(recipe, "chosen" if result.met else "nearest")
        table.add_row(str(place), *cells(trained[recipe]["values"], names), verdict, recipe)
    print_wide(console, table)
    if len(rejected) > MAX_RECIPES_SHOWN:
        console.print(f"{len(rejected) - MAX_RECIPES_SHOWN} more were tried before")
    if result.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importances.items())
        console.print(
            f"how much {names[0]} depends on each choice (fANOVA): {shares}", soft_wrap=True
        )
    console.print(
        f"{len(trained)} recipes trained, {len(attempts) - len(trained)} stopped early, "
        f"{len(result.outcomes) - len(attempts)} more only measured, "
        f"{result.seconds:.0f} s; metrics are on validation data",
        soft_wrap=True,
    )
    if not result.chosen:
        console.print("the time was up before a recipe was done; the same command goes on")
        return
    if not result.met:
        limits = [Bound.of(text).said() for text in result.bounds]
        console.print(
            f"nothing that was tried keeps {', '.join(limits)}; the nearest:", soft_wrap=True
        )
    print_records(result.records, "table")
    for recipe in result.chosen:
        console.print(f"recipe: {recipe}", markup=False, soft_wrap=True)


def shown_names(result: SearchResult) -> list[str]:
    """Return the names of the values to show: the first metric, aims, bounds."""
    bounded = [Bound.of(text).name for text in result.bounds]
    first = next(iter(result.reference))
    return list(dict.fromkeys([first, *result.aims, *bounded]))


def cells(values: dict[str, Any], names: list[str]) -> list[str]:
    """Return values as text."""
    return [amount_text(name, values[name]) if name in values else "-" for name in names]
