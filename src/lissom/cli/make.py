"""Commands that make networks, or analyse one: run, plan, inspect, explain."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LissomError, Unmeasured
from .app import app
from .counts import seeds_of, workers_of
from .options import (
    STORE,
    Bake,
    CheckpointMin,
    Expect,
    Format,
    Json,
    Log,
    Place,
    Processes,
    RecipeText,
    Seeds,
    Targets,
    Teacher,
    Threads,
    Workers,
    WorkerThreads,
    check_used,
    print_json,
)
from .task_options import TaskOptions, takes_network_and_data

if TYPE_CHECKING:
    from ..language.recipe import Recipe


@app.command()
@takes_network_and_data
def run(
    words: typer.Context,
    options: TaskOptions,
    recipe: RecipeText,
    to: Targets = "",
    teacher: Teacher = None,
    seeds: Seeds = "0",
    store: Place = STORE,
    threads: Threads = 1,
    bake: Bake = False,
    device: Annotated[
        str, typer.Option("--device", help="Where to learn: cpu, cuda, ...; a GPU if there is one.")
    ] = "",
    checkpoint: CheckpointMin = 5,
    expect: Expect = "",
    log: Log = "",
    workers: Workers = "",
    worker_threads: WorkerThreads = 0,
    processes: Processes = 1,
    form: Format = "table",
    json: Json = False,
) -> None:
    """Run a recipe, or all recipes of a space, and measure them."""
    check_used(words, "bake", "--to", to)
    from ..language.recipe import Space

    space = Space(recipe)
    from ..running.plan import targets_of

    wanted = targets_of(to)
    numbers = seeds_of(seeds)
    crew = workers_of(workers, worker_threads)
    check_alone(crew, processes)
    check_teacher(space, teacher)
    from ..store.store import Store

    kept = Store(store)
    kept.check()
    task = options.load()
    from ..report.live import Live
    from ..report.table import print_records
    from ..running import execute
    from ..running.device import device_of
    from ..running.learn_with_team import learn_with_team
    from ..running.team import team_of

    team = team_of(processes, words.obj or ())
    if team is not None and team.rank:
        learn_with_team(space, task, kept, team, seeds=numbers, teacher=teacher, device=device)
        return
    failed = None
    with ExitStack() as stack:
        live = stack.enter_context(Live(quiet=json))
        if team is not None:
            stack.enter_context(team)
            team.begin(device_of(device))
        if isinstance(crew, str):  # Ray reports lost machines on stdout, which is for the result
            stack.enter_context(redirect_stdout(sys.stderr))
        for note in task.data.notes:
            live.say(f"data: {note}")
        try:
            records = execute.run(
                space,
                task,
                kept,
                targets=wanted,
                seeds=numbers,
                threads=threads,
                device=device,
                bake=bake,
                teacher=teacher,
                checkpoint=checkpoint,
                expect=expect,
                log=log,
                workers=crew,
                worker_threads=worker_threads,
                team=team,
                say=live.say,
                watch=live.watch,
            )
        except Unmeasured as error:
            records = error.records
            failed = error
    if json:
        print_json(records)
    else:
        print_records(records, form)
    if failed:
        raise failed


def check_alone(crew: int | str, processes: int) -> None:
    """Raise LissomError if workers and processes that learn together are both asked for."""
    if crew and (processes > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1):
        raise LissomError(
            "--workers, --processes: networks are made side by side, or one by several, which torchrun "
            "does too; use one of them"
        )


def check_teacher(recipes: Iterable[Recipe], teacher: str | None) -> None:
    """Raise LissomError if a teacher is named but a recipe has no distill step."""
    for recipe in recipes if teacher else ():
        if not any(step.has_teacher for step in recipe.steps):
            raise LissomError(f"--teacher: '{recipe}' has no distill step")


@app.command()
@takes_network_and_data
def plan(
    options: TaskOptions,
    recipe: RecipeText,
    seeds: Seeds = "0",
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Show the steps of a recipe, and which would run.

    The others are in the store already. The network is tried on two images.
    """
    from ..language.recipe import Space

    space = Space(recipe)
    numbers = seeds_of(seeds)
    task = options.load()
    from ..learning.examine import examine

    examine(task)
    from ..running.plan import ends, tree
    from ..store.store import Store

    kept = Store(store)
    last = dict.fromkeys(ends(space.recipes, numbers, task.root))
    rows: list[dict[str, Any]] = [
        {
            "seed": node.seed,
            "key": node.key,
            "step": str(node.step),
            "depth": node.depth - 1,
            "done": node.key in kept,
            "recipe_ends": node in last,
        }
        for node in tree(last)
        if node.step
    ]
    if json:
        print_json(rows)
        return
    for row in rows:
        mark = "done" if row["done"] else "to run"
        typer.echo(f"{row['key']}  {mark:7} {'  ' * row['depth']}{row['step']}")
    left = sum(not row["done"] for row in rows)
    typer.echo(
        f"recipes: {len(space) * len(numbers)}, steps: {len(rows)}, of which "
        f"{len(rows) - left} done, {left} to run"
    )


@app.command()
@takes_network_and_data
def inspect(
    words: typer.Context,
    options: TaskOptions,
    key: Annotated[
        str, typer.Argument(help="A key of the store; by default the given network.")
    ] = "",
    by: Annotated[str, typer.Option("--by", help="How channels are ranked.")] = "l1",
    multiple: Annotated[
        int, typer.Option("--multiple", help="Channels are kept in multiples of this.", min=1)
    ] = 8,
    floor: Annotated[
        float, typer.Option("--floor", help="Least fraction kept in each layer.")
    ] = 0.1,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Measure the accuracy when only one group is pruned."),
    ] = False,
    on: Annotated[
        str, typer.Option("--on", help="Measure the least latency in this runtime.")
    ] = "",
    threads: Threads = 1,
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Show which channels can be pruned, and which only together.

    Lists the groups of channels, the layers that couple them, the layers left whole and why, and
    how small the network can get.
    """
    from ..language.parse_methods import method_of
    from ..report.inspection import print_inspection
    from ..running.plan import one_target
    from ..store.store import Store

    check_used(words, "threads", "--on", on)
    method_of("importance", by, "--by")
    if on:
        one_target(on)
    kept = Store(store)
    found = kept.find(key) if key else ""
    task = options.load_for(found, kept)
    from ..commands.inspect import inspect_network, network_of
    from ..learning.check_preprocessing import check_preprocessing
    from ..learning.examine import examine, run_on_two
    from ..steps.prune import Prune

    network = network_of(found, kept, task)
    if sensitivity:
        examine(task)
        check_preprocessing(task)
    else:
        run_on_two(task, network)
    step = Prune(0.5, by=by, multiple=multiple, floor=floor, on=on or "onnxruntime")
    seen = inspect_network(
        network, task, step, sensitivity=sensitivity, latency=bool(on), threads=threads
    )
    if json:
        print_json(seen)
    else:
        print_inspection(seen)
    if found:
        kept.update(found, {"inspection": seen})


@app.command()
@takes_network_and_data
def explain(
    words: typer.Context,
    options: TaskOptions,
    key: Annotated[str, typer.Argument(help="A key of the store: a quantized network.")],
    to: Targets = "",
    images: Annotated[
        int, typer.Option("--images", help="Validation images for each layer.", min=1)
    ] = 1000,
    remedy: Annotated[
        bool, typer.Option("--try", help="Also run possible remedies, and compare.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="Where steps after quantize learn again.")
    ] = "",
    store: Place = STORE,
    json: Json = False,
) -> None:
    """Show where quantization loses accuracy.

    By stage, by layer and in every file; --try tests possible remedies. Without options for the
    network and the data, they are those that the entry was made for.
    """
    check_used(words, "device", "--try", remedy)
    from ..running.plan import targets_of
    from ..store.store import Store

    wanted = targets_of(to)
    kept = Store(store)
    found = kept.find(key)
    task = options.load_for(found, kept)
    from ..commands.explain import Explainer
    from ..commands.try_remedies import check_reproducible, try_remedies
    from ..learning.check_preprocessing import check_preprocessing
    from ..learning.examine import examine
    from ..report.explanation import print_explanation
    from ..report.live import Live
    from ..running.device import device_of

    examine(task)
    check_preprocessing(task)
    with Live(quiet=json) as live:
        explainer = Explainer(task, kept, found, live.say)
        if remedy:
            check_reproducible(explainer)
        seen = explainer.findings(wanted, images)
        if remedy:
            seen["tried"] = try_remedies(explainer, seen, wanted, device_of(device))
    if json:
        print_json(seen)
    else:
        print_explanation(seen)
    kept.update(found, {"explanation": seen})
