"""The command line: thin words over the library."""

from __future__ import annotations

import json as jsons
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from .counts import numbers_of, seeds_of, size_of
from .errors import LissomError, Unmeasured

if TYPE_CHECKING:
    from .task import Task

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Make a trained PyTorch network small and fast, and prove it on the runtime that ships.")

RecipeText = Annotated[str, typer.Argument(help='Steps in order, as in: train(10) | prune({0.3, 0.5}) | quantize(8)')]
DataName = Annotated[str, typer.Option("--data", help="digits, cifar10, cifar100, fashion-mnist or folder:PATH.")]
ModelName = Annotated[str, typer.Option("--model", help="resnet20, preresnet38, vgg16, densenet40, nin, nin_gc, ..., "
                                                        "any of them -half or -quarter as wide (vgg16-quarter), "
                                                        "torchvision:NAME, package.module:factory or "
                                                        "path/to/file.py:factory.")]
Weights = Annotated[str | None, typer.Option("--weights", help="A state dict: .safetensors, or .pt of tensors alone.")]
OwnTask = Annotated[str | None, typer.Option("--task", help="file.py:task, in place of --model and --data.")]
DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Where torchvision's data sets are.")]
Size = Annotated[str | None, typer.Option("--size", help="Height x width of the images, as in 32 or 32x48.")]
Channels = Annotated[int | None, typer.Option("--channels", help="1 or 3; that of the data if not given.", min=1, max=3)]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be read, and count them.")]
Place = Annotated[Path, typer.Option("--store", help="The folder of finished networks.", envvar="LISSOM_STORE")]
Seeds = Annotated[str, typer.Option("--seeds", help="A seed, several or a range: 0, 0,3 or 0-4.")]
Format = Annotated[Literal["table", "markdown", "csv"], typer.Option("--format", help="How tables are printed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Targets = Annotated[str, typer.Option("--to", help='Runtimes, as in: onnxruntime,openvino(precision="bf16")')]
Threads = Annotated[int, typer.Option("--threads", help="Threads of a runtime.", min=1, max=1024)]
Bake = Annotated[bool, typer.Option("--bake", help="Put the normalisation into the file: it takes pixels in 0..255.")]
Again = Annotated[str | None, typer.Option("--model", help="Your code that builds it, if the entry is not signed by you.")]
STORE = Path(".lissom")
USAGE: Any = typer.BadParameter.__mro__[2]  # whatever typer finds wrong with the words themselves


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"lissom {__version__}")
        raise typer.Exit


@app.callback()
def _words(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
           debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False) -> None:
    pass


@app.command()
def run(recipe: RecipeText, data: DataName = "digits", model: ModelName = "resnet20", weights: Weights = None,
        task: OwnTask = None, to: Targets = "", teacher: Annotated[str | None, typer.Option(
            "--teacher", help="Key, weight file, or MODEL=FILE, for distill.")] = None,
        seeds: Seeds = "0", store: Place = STORE, threads: Threads = 1, bake: Bake = False, data_root: DataRoot = None,
        size: Size = None, channels: Channels = None, skip_bad: SkipBad = False,
        device: Annotated[str, typer.Option("--device", help="Where to learn: cpu, cuda, ...; a GPU if there is one.")] = "",
        checkpoint: Annotated[float, typer.Option("--checkpoint", min=0, help="Minutes between two checkpoints of learning, "
                                                  "from which a killed run goes on; 0 for none.")] = 5,
        form: Format = "table", json: Json = False) -> None:
    """Run a recipe, or every recipe of a space, and measure what comes out."""
    from .plan import targets_of
    from .recipe import Space

    space, wanted, numbers = Space(recipe), targets_of(to), seeds_of(seeds)
    for one in space if teacher else ():
        if not any(step.name() == "distill" for step in one.steps):
            raise LissomError(f"--teacher: '{one}' has no distill step")
    from .store import Store

    kept = Store(store)
    kept.check()
    brought = _task(task, data, model, weights, data_root, size, channels, skip_bad)
    from . import execute
    from .report.live import Live
    from .report.table import print_records

    failed = None
    with Live(quiet=json) as live:
        for note in brought.data.notes:
            live.say(f"data: {note}")
        try:
            records = execute.run(space, brought, kept, targets=wanted, seeds=numbers, threads=threads, device=device,
                                  bake=bake, teacher=teacher, checkpoint=checkpoint, say=live.say, watch=live.watch)
        except Unmeasured as error:
            records, failed = error.records, error
    typer.echo(jsons.dumps(records, indent=1)) if json else print_records(records, form)
    if failed:
        raise failed


@app.command()
def plan(recipe: RecipeText, data: DataName = "digits", model: ModelName = "resnet20", weights: Weights = None,
         task: OwnTask = None, seeds: Seeds = "0", store: Place = STORE, data_root: DataRoot = None, size: Size = None,
         channels: Channels = None, skip_bad: SkipBad = False, json: Json = False) -> None:
    """Show the tree of steps, what the store holds of it and what would run; the network is run on two images."""
    from .recipe import Space

    space, numbers = Space(recipe), seeds_of(seeds)
    brought = _task(task, data, model, weights, data_root, size, channels, skip_bad)
    brought.check()
    from .plan import tree
    from .store import Store

    rows: list[dict[str, Any]] = [
        {"seed": seed, "key": n.key, "step": n.step, "depth": n.depth, "done": n.done, "recipe_ends": n.last}
        for seed in numbers for n in tree(space, brought.root(seed), Store(store))]
    if json:
        typer.echo(jsons.dumps(rows, indent=1))
        return
    for row in rows:
        mark = "done" if row["done"] else "to run"
        typer.echo(f"{row['key']}  {mark:7} {'  ' * row['depth']}{row['step']}")
    left = sum(not row["done"] for row in rows)
    typer.echo(f"recipes: {len(space) * len(numbers)}, steps: {len(rows)}, of which {len(rows) - left} done, {left} to run")


@app.command()
def inspect(key: Annotated[str, typer.Argument(help="A key of the store; the network as given if none.")] = "",
            data: DataName = "digits", model: ModelName = "resnet20", weights: Weights = None, task: OwnTask = None,
            by: Annotated[str, typer.Option("--by", help="How channels are ranked.")] = "l1",
            multiple: Annotated[int, typer.Option("--multiple", help="Channels are kept in multiples of this.", min=1)] = 8,
            floor: Annotated[float, typer.Option("--floor", help="Least fraction kept in each layer.")] = 0.1,
            sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Measure the accuracy of cutting each group "
                                                      "alone.")] = False,
            on: Annotated[str, typer.Option("--on", help="Measure the least latency in this runtime.")] = "",
            threads: Threads = 1, store: Place = STORE, data_root: DataRoot = None, size: Size = None,
            channels: Channels = None, skip_bad: SkipBad = False, json: Json = False) -> None:
    """Show what pruning could do to a network: groups, what couples them, what is left whole, what can be removed."""
    from .menu import menu
    from .plan import one_target
    from .report.inspection import print_inspection
    from .store import Store

    menu("scores").make(by, "--by")
    if on:
        one_target(on)
    kept = Store(store)
    found = kept.find(key) if key else ""
    brought = _task(task, data, model, weights, data_root, size, channels, skip_bad)
    from .preflight import inspected, network_of
    from .steps.prune import Prune

    network = network_of(found, kept, brought)
    step = Prune(0.5, by=by, multiple=multiple, floor=floor, on=on or "onnxruntime")
    seen = inspected(network, brought, step, sensitivity=sensitivity, latency=bool(on), threads=threads)
    if found:
        kept.update(found, {"inspection": seen})
    typer.echo(jsons.dumps(seen, indent=1)) if json else print_inspection(seen)


@app.command()
def explain(key: Annotated[str, typer.Argument(help="A key of the store: a quantized network.")], data: DataName = "digits",
            model: ModelName = "resnet20", weights: Weights = None, task: OwnTask = None, to: Targets = "",
            images: Annotated[int, typer.Option("--images", help="Validation images for each layer.", min=1)] = 1000,
            remedy: Annotated[bool, typer.Option("--try", help="Run what might help, too, and compare.")] = False,
            device: Annotated[str, typer.Option("--device", help="Where steps after quantize learn again.")] = "",
            store: Place = STORE, data_root: DataRoot = None, size: Size = None, channels: Channels = None,
            skip_bad: SkipBad = False, json: Json = False) -> None:
    """Show where a quantized network loses accuracy: by stage, by layer, in every file; and what would mend it."""
    from .plan import targets_of
    from .store import Store

    wanted, kept = targets_of(to), Store(store)
    found = kept.find(key)
    brought = _task(task, data, model, weights, data_root, size, channels, skip_bad)
    from .execute import device_of
    from .explain import Explained
    from .report.explanation import print_explanation
    from .report.live import Live

    with Live(quiet=json) as live:
        this = Explained(brought, kept, found, live.say)
        seen = this.all(wanted, images)
        if remedy:
            seen["tried"] = this.tried(seen, wanted, device_of(device))
    kept.update(found, {"explanation": seen})
    typer.echo(jsons.dumps(seen, indent=1)) if json else print_explanation(seen)


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help="steps, scores, losses, grids, ranges, targets; all if not given.")] = "",
          name: Annotated[str, typer.Argument(help="One method.")] = "", json: Json = False) -> None:
    """Print every method with its settings, defaults, bounds and help."""
    from .report.methods import method_rows, print_methods

    rows = method_rows(what, name)
    typer.echo(jsons.dumps(rows, indent=1)) if json else print_methods(rows, long=len(rows) == 1)


@app.command()
def show(keys: Annotated[list[str], typer.Argument(help="Keys of the store, or their beginnings.")], store: Place = STORE,
         form: Format = "table", json: Json = False) -> None:
    """Print the record of a finished network, or the table of several."""
    from .report.table import print_record, print_records
    from .store import Store

    kept = Store(store)
    records = kept.several(keys)
    if json:
        typer.echo(jsons.dumps(records if len(keys) > 1 else records[0], indent=1))
    elif len(records) > 1 or form != "table":
        print_records(records, form)
    else:
        print_record(records[0], kept)


@app.command()
def compare(first: Annotated[str, typer.Argument(help="A key of the store, or its beginning.")],
            second: Annotated[str, typer.Argument(help="Another.")], store: Place = STORE, json: Json = False) -> None:
    """Show what differs between two finished networks: steps, scores, sizes, and layer by layer."""
    from .report.comparison import compared, print_compared
    from .store import Store

    kept = Store(store)
    found = compared(kept.record(kept.find(first)), kept.record(kept.find(second)), kept)
    typer.echo(jsons.dumps(found, indent=1)) if json else print_compared(found)


@app.command()
def report(keys: Annotated[list[str] | None, typer.Argument(help="Keys; every measured network if none.")] = None,
           store: Place = STORE, output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] =
           Path("lissom-report.html"), json: Json = False) -> None:
    """Write the HTML report: one page that needs no network."""
    from .report.page import write_report
    from .store import Store

    kept = Store(store)
    path = write_report([kept.find(key) for key in keys or []], kept, output)
    typer.echo(jsons.dumps({"report": str(path.resolve())}) if json else str(path.resolve()))


@app.command()
def export(key: Annotated[str, typer.Argument(help="A key of the store, or its beginning.")], to: Targets = "onnxruntime",
           output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; model.* if none.")] = None,
           bake: Bake = False, model: Again = None, store: Place = STORE, json: Json = False) -> None:
    """Write a finished network as a file for a runtime."""
    from .store import Store

    kept = Store(store)
    found = kept.find(key)
    from .bench.files import export_key
    from .report.live import Live

    with Live(quiet=json) as live:
        path = export_key(found, kept, to, output, bake, model, say=live.begin)
    typer.echo(jsons.dumps({"artefact": str(path), "size_bytes": path.stat().st_size}) if json else str(path))


@app.command()
def bench(things: Annotated[list[str], typer.Argument(help="Keys of the store, or files.")],
          to: Targets = "onnxruntime",
          batch: Annotated[str, typer.Option("--batch", help="Images at once: 1 or 1,16.")] = "1",
          threads: Annotated[str, typer.Option("--threads", help="Threads of a runtime: 1 or 1,2.")] = "1",
          layers: Annotated[bool, typer.Option("--layers", help="Time each layer, too, where the runtime can.")] = False,
          baselines: Annotated[bool, typer.Option(help="Beside keys: their uncompressed network in every runtime for "
                                                       "floats.")] = True,
          size: Size = None, channels: Channels = None, model: Again = None, store: Place = STORE,
          json: Json = False) -> None:
    """Time networks or files in a runtime, in turns, a fresh process each."""
    from .store import Store

    batches, counts, kept = numbers_of(batch, "--batch", 65536), numbers_of(threads, "--threads", 1024), Store(store)
    for thing in things:
        kept.file_or_key(thing)
    from .bench.files import bench_things
    from .report.benchmark import print_bench

    given = (channels or 3, *(size_of(size) or (0, 0))) if size else None
    rows = bench_things(things, kept, to, given, batches, counts, layers=layers, baselines=baselines, model=model,
                        say=lambda text: typer.echo(text, err=True))
    typer.echo(jsons.dumps(rows, indent=1)) if json else print_bench(rows)


@app.command()
def store(prune: Annotated[bool, typer.Option("--prune", help="Delete what no finished recipe reaches.")] = False,
          yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
          keep: Annotated[list[str] | None, typer.Option("--keep", help="Keys to keep with all before them.")] = None,
          remove: Annotated[list[str] | None, typer.Option("--remove", help="Delete this entry.")] = None,
          verify: Annotated[bool, typer.Option("--verify", help="Compare all files with their checksums.")] = False,
          trust: Annotated[bool, typer.Option("--trust", help="Sign all entries as your own: what code they name will be "
                                                              "imported.")] = False,
          store: Place = STORE, json: Json = False) -> None:
    """List the finished networks with size and age, check them, sign them, or delete those that nothing reaches."""
    from .store import Store
    from .upkeep import told

    told(Store(store), prune=prune, yes=yes, keep=keep or [], remove=remove or [], verify=verify, trust=trust,
         quiet=json, ask=typer.confirm, say=lambda text: typer.echo(text, err=True))


def _task(task: str | None, data: str, model: str, weights: str | None, data_root: Path | None, size: str | None,
          channels: int | None, skip_bad: bool) -> Task:
    """Load what the user brings; every name is checked before torch is loaded."""
    from .data.source import check_spec
    from .task import Task, check_model_spec, own_task

    shape = size_of(size)
    if task is not None:
        return own_task(task)
    check_spec(data, shape, channels)
    check_model_spec(model)
    if weights and not os.path.isfile(weights):
        raise LissomError(f"weights: {weights} cannot be read (there is no such file)")
    from .data.data import Data

    return Task.of(model, Data.of(data, root=data_root, size=shape, channels=channels, skip_bad=skip_bad), weights=weights)


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line: one line and status 2 for what the user can mend, a traceback with --debug."""
    from .bench.cores import others_run

    # threads that wait spinning halve the speed of a busy machine; those asleep cost a fifth of that of an idle one
    if "OMP_WAIT_POLICY" not in os.environ and others_run():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    given = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in given
    try:
        status = app([word for word in given if word != "--debug"] or ["--help"], standalone_mode=False)
    except LissomError as error:
        if debug:
            raise
        _end(str(error))
    except USAGE as error:
        _end(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _end(text: str) -> NoReturn:
    typer.echo("lissom: " + " ".join(text.split()), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
