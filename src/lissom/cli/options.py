"""Options that several commands share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import LissomError

RecipeText = Annotated[
    str, typer.Argument(help="Steps in order, as in: train(10) | prune({0.3, 0.5}) | quantize(8)")
]
Size = Annotated[
    str | None, typer.Option("--size", help="Height x width of the images, as in 32 or 32x48.")
]
Channels = Annotated[
    int | None,
    typer.Option("--channels", help="1 or 3; by default that of the data.", min=1, max=3),
]
Place = Annotated[
    Path, typer.Option("--store", help="The folder of finished networks.", envvar="LISSOM_STORE")
]
Seeds = Annotated[str, typer.Option("--seeds", help="A seed, several or a range: 0, 0,3 or 0-4.")]
Format = Annotated[
    Literal["table", "markdown", "csv"], typer.Option("--format", help="How tables are printed.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Targets = Annotated[
    str, typer.Option("--to", help='Runtimes, as in: onnxruntime,openvino(precision="bf16")')
]
Threads = Annotated[int, typer.Option("--threads", help="Threads of a runtime.", min=1, max=1024)]
Bake = Annotated[
    bool,
    typer.Option("--bake", help="Put the normalisation into the file: it takes pixels in 0..255."),
]
Again = Annotated[
    str | None,
    typer.Option("--model", help="Your code that builds it, if the entry is not signed by you."),
]
Log = Annotated[
    str,
    typer.Option(
        "--log",
        help="Further loggers of epochs and networks: tensorboard, tensorboard:FOLDER, mlflow:URI.",
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        help="Make networks in parallel: a number of processes on this machine, or ray, "
        "ray://HOST:PORT for a cluster. Files are measured when all are made.",
    ),
]
WorkerThreads = Annotated[
    int,
    typer.Option(
        "--worker-threads",
        min=0,
        max=1024,
        help="Threads of each worker; 0 for its share of the cores, or 1 on a cluster.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        max=1024,
        help="Processes that learn together, each on a part of every batch; each has a GPU if "
        "there are enough, else they share the cores.",
    ),
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", help="Key, weight file, or MODEL=FILE, for distill.")
]
Expect = Annotated[
    str,
    typer.Option(
        "--expect",
        help="What the uncompressed network must reach on the test set, to within 0.005, before it "
        "is compressed, as in top1=0.888.",
    ),
]
CheckpointMin = Annotated[
    float,
    typer.Option(
        "--checkpoint",
        min=0,
        help="Minutes between two checkpoints of learning, from which a killed run resumes; 0: none.",
    ),
]
STORE = Path(".lissom")


def wait_asleep() -> None:
    """Let the threads of PyTorch sleep instead of spin while they wait, if this machine is busy.

    Next to one busy process, spinning threads train at 0.6 times the speed of sleeping ones; on an
    idle machine, at 1.25 times. This must be set before torch is imported.
    """
    from ..bench.cores import others_run

    if "OMP_WAIT_POLICY" not in os.environ and others_run():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def given(words: typer.Context, parameter: str) -> bool:
    """Return whether an option stands on the command line."""
    source = words.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def check_used(words: typer.Context, parameter: str, other: str, other_given: object) -> None:
    """Raise LissomError if an option was given that does nothing without another one."""
    if given(words, parameter) and not other_given:
        raise LissomError(
            f"--{parameter}: it does nothing without {other}; expected both or neither"
        )


def print_json(value: Any) -> None:
    """Print a value as JSON for scripts."""
    typer.echo(json.dumps(value, indent=1))
