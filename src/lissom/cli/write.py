"""Commands that write files and time them: export, bench."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .counts import numbers_of, size_of
from .options import (
    STORE,
    Again,
    Bake,
    Channels,
    Json,
    Place,
    Size,
    Targets,
    print_json,
    wait_asleep,
)


@app.command()
def export(
    key: Annotated[str, typer.Argument(help="A key of the store, or its beginning.")],
    to: Targets = "onnxruntime",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; model.* if none.")
    ] = None,
    bake: Bake = False,
    model: Again = None,
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Write a finished network as a file for a runtime."""
    from ..store.store import Store

    wait_asleep()
    kept = Store(store)
    found = kept.find(key)
    from ..commands.bench import export_key
    from ..report.live import Live

    with Live(quiet=json) as live:
        path = export_key(found, kept, to, output, bake, model, say=live.begin)
    typer.echo(
        jsons.dumps({"artefact": str(path), "size_bytes": path.stat().st_size})
        if json
        else str(path)
    )


@app.command()
def bench(
    things: Annotated[list[str], typer.Argument(help="Keys of the store, or files.")],
    to: Targets = "onnxruntime",
    batch: Annotated[str, typer.Option("--batch", help="Images at once: 1 or 1,16.")] = "1",
    threads: Annotated[
        str, typer.Option("--threads", help="Threads of a runtime: 1 or 1,2.")
    ] = "1",
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer, too, where the runtime can.")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(help="Beside keys: their uncompressed network in every runtime for floats."),
    ] = True,
    size: Size = None,
    channels: Channels = None,
    model: Again = None,
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Time networks or files, in turns, in fresh processes."""
    from ..store.store import Store

    wait_asleep()
    batches = numbers_of(batch, "--batch", 65536)
    counts = numbers_of(threads, "--threads", 1024)
    kept = Store(store)
    for thing in things:
        kept.file_or_key(thing)
    from ..commands.bench import bench
    from ..report.benchmark import print_bench

    given = (channels or 3, *(size_of(size) or (0, 0))) if size else None
    rows = bench(
        things,
        kept,
        to,
        given,
        batches,
        counts,
        layers=layers,
        baselines=baselines,
        model=model,
        say=lambda text: typer.echo(text, err=True),
    )
    if json:
        print_json(rows)
    else:
        print_bench(rows)
