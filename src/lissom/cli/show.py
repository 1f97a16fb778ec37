"""Commands that show methods, networks and stores: list, show, compare, report, store."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import LissomError
from .app import app
from .options import STORE, Format, Json, Place, check_used, given, print_json


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="steps, importance, losses, grids, ranges, targets, preprocess, kinds, "
            "augmentations."
        ),
    ] = "",
    name: Annotated[str, typer.Argument(help="One method.")] = "",
    json: Json = False,
) -> None:
    """Print all methods with their settings and help."""
    from ..report.methods import method_rows, print_methods

    rows = method_rows(what, name)
    if json:
        print_json(rows)
    else:
        print_methods(rows, long=len(rows) == 1)


@app.command()
def show(
    keys: Annotated[list[str], typer.Argument(help="Keys of the store, or their beginnings.")],
    store: Place = STORE,
    form: Format = "table",
    json: Json = False,
) -> None:
    """Print the record of a network, or a table of several."""
    from ..report.table import print_record, print_records
    from ..store.store import Store

    kept = Store(store)
    records = kept.records_by_prefix(keys)
    if json:
        print_json(records if len(keys) > 1 else records[0])
    elif len(records) > 1 or form != "table":
        print_records(records, form)
    else:
        print_record(records[0], kept)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A key of the store, or its beginning.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Show the differences between two networks.

    Steps, metrics, sizes, and layer by layer.
    """
    from ..report.comparison import compare_records, print_comparison
    from ..store.store import Store

    kept = Store(store)
    found = compare_records(kept.record(kept.find(first)), kept.record(kept.find(second)), kept)
    if json:
        print_json(found)
    else:
        print_comparison(found)


@app.command()
def report(
    words: typer.Context,
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys; every measured network if none.")
    ] = None,
    store: Place = STORE,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path(
        "lissom-report.html"
    ),
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw a figure for a paper instead: .svg, .png or .pdf."),
    ] = None,
    against: Annotated[
        Literal["latency", "size", "macs", "seeds"],
        typer.Option("--against", help="What the figure shows; seeds = bars with their spread."),
    ] = "latency",
    json: Json = False,
) -> None:
    """Write the report, a page that works offline, or a figure."""
    check_used(words, "against", "--figure", figure)
    if figure is not None and given(words, "output"):
        raise LissomError("report: expected -o for a page or --figure for a figure, got both")
    from ..store.store import Store

    kept = Store(store)
    found = [kept.find(key) for key in keys or []]
    if figure is not None:
        from ..report.figure import write_figure

        path = write_figure(found, kept, figure, against)
    else:
        from ..report.page import write_report

        path = write_report(found, kept, output)
    typer.echo(jsons.dumps({"report": str(path.resolve())}) if json else str(path.resolve()))


@app.command()
def store(
    words: typer.Context,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete entries that no finished recipe needs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="With --prune: keep only these keys, and all before them."),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="Delete this entry.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all files with their checksums.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Sign all entries as your own: code that they name will be imported."
        ),
    ] = False,
    push: Annotated[
        str,
        typer.Option(
            "--push", help="Copy all entries to a place, as in s3://bucket/folder or gs://..."
        ),
    ] = "",
    pull: Annotated[
        str,
        typer.Option("--pull", help="Copy the entries that are missing here from such a place."),
    ] = "",
    store: Place = STORE,
    json: Json = False,
) -> None:
    """List the finished networks; check, sign, copy or delete them."""
    check_used(words, "keep", "--prune", prune)
    check_used(words, "yes", "--prune", prune)
    operations = {
        "--remove": remove,
        "--push": push,
        "--pull": pull,
        "--trust": trust,
        "--verify": verify,
        "--prune": prune,
    }
    wanted = [option for option, asked in operations.items() if asked]
    if len(wanted) > 1:
        raise LissomError(f"store: expected one operation, got {' and '.join(wanted)}")
    from ..commands.store import run_store_command
    from ..store.store import Store

    run_store_command(
        Store(store),
        prune=prune,
        yes=yes,
        keep=keep or [],
        remove=remove or [],
        verify=verify,
        trust=trust,
        push_to=push,
        pull_from=pull,
        quiet=json,
        ask=typer.confirm,
        say=lambda text: typer.echo(text, err=True),
    )
