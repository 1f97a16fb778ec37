"""The command `search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .app import app
from .counts import seconds_of, workers_of
from .options import (
    STORE,
    CheckpointMin,
    Expect,
    Json,
    Place,
    Targets,
    Threads,
    Workers,
    WorkerThreads,
    print_json,
)
from .task_options import TaskOptions, takes_network_and_data

if TYPE_CHECKING:
    from ..running.search.run_search import SearchResult


@app.command()
@takes_network_and_data
def search(
    options: TaskOptions,
    space: Annotated[
        str,
        typer.Argument(
            help="The space: a recipe with {sets} and ranges lo..hi, as in: "
            'prune(0..0.8) | distill("kd", {2, 5}) | quantize({8, 4}). By default one that '
            "suits a trained network."
        ),
    ] = "",
    want: Annotated[
        str,
        typer.Option(
            "--want",
            help="fastest, smallest, accurate or front; and limits, as in "
            "'fastest, top1 >= float - 0.01, bytes <= 200 kB'.",
        ),
    ] = "front",
    budget: Annotated[
        str, typer.Option("--budget", help="How long it may take: 90s, 30min, 2h.")
    ] = "30min",
    trials: Annotated[
        int | None, typer.Option("--trials", help="Recipes to run at most.", min=1)
    ] = None,
    to: Targets = "onnxruntime",
    by: Annotated[
        Literal["model", "random", "tpe", "nsga2"],
        typer.Option(
            "--by",
            help="How the next recipe is chosen; all but model are for comparison.",
        ),
    ] = "model",
    seed: Annotated[
        int,
        typer.Option(
            "--seed", help="Seed of the search and of all networks.", min=0, max=2**31 - 1
        ),
    ] = 0,
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            help="File for the outcomes, or URL of a database that several searches share, as in "
            "postgresql://...; by default a file in the store.",
        ),
    ] = "",
    store: Place = STORE,
    threads: Threads = 1,
    device: Annotated[
        str, typer.Option("--device", help="Where to learn: cpu, cuda, ...; a GPU if there is one.")
    ] = "",
    workers: Workers = "",
    worker_threads: WorkerThreads = 0,
    checkpoint: CheckpointMin = 5,
    expect: Expect = "",
    json: Json = False,
) -> None:
    """Search for the recipe that best meets a goal, and get its file."""
    from ..language.search_space import SearchSpace
    from ..language.want import Want

    wanted = Want.of(want)
    seconds = seconds_of(budget)
    crew = workers_of(workers, worker_threads)
    searched = SearchSpace(space) if space else None
    from ..running.plan import targets_of

    targets = targets_of(to)
    from ..store.store import Store

    kept = Store(store)
    kept.check()
    task = options.load()
    from ..report.live import Live
    from ..running.search.run_search import IncompleteSearch
    from ..running.search.run_search import search as search_space

    with Live(quiet=json) as live:
        for note in task.data.notes:
            live.say(f"data: {note}")
        try:
            found = search_space(
                searched,
                wanted,
                task,
                kept,
                budget_s=seconds,
                targets=targets,
                trials=trials,
                seed=seed,
                threads=threads,
                device=device,
                by=by,
                storage=storage,
                workers=crew,
                worker_threads=worker_threads,
                checkpoint=checkpoint,
                expect=expect,
                say=live.say,
                watch=live.watch,
            )
        except IncompleteSearch as error:
            show(error.result, json=json)
            raise
    show(found, json=json)


def show(found: SearchResult, *, json: bool) -> None:
    """Print the result of a search."""
    from ..report.searched import print_search

    if json:
        print_json(found.json())
    else:
        print_search(found)
