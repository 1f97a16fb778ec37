"""Commands that write files and time them: export, bench."""

from __future__ import annotations

import json as jsons
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LissomError
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

if TYPE_CHECKING:
    from ..data.data import Data

UNCHANGED = "normalize(mean=0, std=1)"  # says the same as an empty preprocessing


@app.command()
def export(
    key: Annotated[str, typer.Argument(help="A key of the store, or its beginning.")],
    to: Targets = "onnxruntime",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; model.* if none.")
    ] = None,
    bake: Bake = False,
    nms: Annotated[
        bool,
        typer.Option(
            "--nms",
            help="Put non-maximum suppression into a detector's file: it returns boxes, scores and "
            "classes without overlapping detections.",
        ),
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="With --nms: its settings, as in 'detect(iou=0.5)'."),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Put all of the preprocessing into the file: it takes images of any size, (n "
            "height width c) in 8 bits, and gives boxes in their pixels.",
        ),
    ] = False,
    snippet: Annotated[
        bool,
        typer.Option(
            "--snippet",
            help="Also write a short script that runs the file on an image, or on a .npy of floats.",
        ),
    ] = False,
    model: Again = None,
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Write a finished network as a file for a runtime."""
    from ..store.store import Store
    from ..tasks.kinds import check_kind

    wait_asleep()
    kept = Store(store)
    found = kept.find(key)
    if kind is not None:
        if not nms:
            raise LissomError("--kind: it says how detections are picked; give --nms")
        check_kind(kind)
    from ..commands.bench import size_bytes as bytes_of
    from ..commands.export import ExportOptions, export_key
    from ..report.live import Live

    wanted = ExportOptions(bake, nms, kind, pictures)

    with Live(quiet=json) as live:
        path = export_key(found, kept, to, output, wanted, model, say=live.begin, with_code=snippet)
    typer.echo(
        jsons.dumps({"artefact": str(path), "size_bytes": bytes_of(path)}) if json else str(path)
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
        bool, typer.Option("--layers", help="Also time each layer, if the runtime can.")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Compare keys with their uncompressed network in every runtime for floats."
        ),
    ] = True,
    data: Annotated[
        str, typer.Option("--data", help="Also measure accuracy on the test set of this data.")
    ] = "",
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess", help="The preprocessing of images; by default that of each file."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="All classes of the files: imagenet, a number, or a file."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="The kind of task; by default that of each file."),
    ] = None,
    size: Size = None,
    channels: Channels = None,
    model: Again = None,
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Measure the latency of networks or files, alternately, in fresh processes.

    With --data, measure their accuracy too.
    """
    from ..commands.bench_arguments import file_or_key
    from ..data.source import check_spec
    from ..store.store import Store
    from ..tasks.kinds import check_kind

    wait_asleep()
    batches = numbers_of(batch, "--batch", 65536)
    counts = numbers_of(threads, "--threads", 1024)
    kept = Store(store)
    for thing in things:
        file_or_key(thing, kept)
    from ..commands.bench import bench
    from ..report.benchmark import print_bench

    for option, value in (("preprocess", preprocess), ("classes", classes), ("kind", kind)):
        if value and not data:
            raise LissomError(f"--{option}: it says how --data are seen; give --data")
    if kind is not None:
        check_kind(kind)
    if data:
        check_spec(data, None, channels, preprocess, classes)
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
        kind=kind,
        data=partial(data_to_test, data, preprocess, classes, channels) if data else None,
        say=lambda text: typer.echo(text, err=True),
    )
    if json:
        print_json(rows)
    else:
        print_bench(rows)


def data_to_test(
    name: str, stated: str | None, classes: str | None, channels: int | None, said: str | None
) -> Data:
    """Load data with the preprocessing `stated`, or else the one that a file has `said`.

    Raises LissomError if there is neither, or the data have no labels.
    """
    from ..data.data import Data
    from ..data.source import is_own_data

    if name.startswith("images:"):
        raise LissomError(
            f"bench: accuracy needs labels, and {name} has none; expected labelled data, as in "
            "folder:PATH"
        )
    if is_own_data(name):
        from ..tasks.datasets import own_data

        return own_data(name, preprocess=stated or said or None, classes=classes)
    if stated is None and said is None:
        raise LissomError(
            "bench: the file does not state the preprocessing of its images; expected "
            "--preprocess, as in --preprocess imagenet"
        )
    seen = stated or said or UNCHANGED
    return Data.of(name, channels=channels, preprocess=seen, classes=classes)
