"""Options that several commands have, and the task that some of them describe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import LissomError
from .counts import size_of

if TYPE_CHECKING:
    from ..tasks.task import Task

RecipeText = Annotated[
    str, typer.Argument(help="Steps in order, as in: train(10) | prune({0.3, 0.5}) | quantize(8)")
]
DataName = Annotated[
    str, typer.Option("--data", help="digits, cifar10, cifar100, fashion-mnist or folder:PATH.")
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="resnet20, preresnet38, vgg16, "
        "densenet40, nin, nin_gc, ..., "
        "any of them -half or -quarter as wide "
        "(vgg16-quarter), "
        "torchvision:NAME, package.module:factory or "
        "path/to/file.py:factory.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="A state dict: .safetensors, or .pt of tensors alone."),
]
OwnTask = Annotated[
    str | None, typer.Option("--task", help="file.py:task, in place of --model and --data.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where torchvision's data sets are.")
]
Size = Annotated[
    str | None, typer.Option("--size", help="Height x width of the images, as in 32 or 32x48.")
]
Channels = Annotated[
    int | None,
    typer.Option("--channels", help="1 or 3; that of the data if not given.", min=1, max=3),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out files that cannot be read, and count them.")
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
STORE = Path(".lissom")


def wait_asleep() -> None:
    """Let the threads of PyTorch sleep while they wait, if others run on this machine.

    Threads that spin train at 0.6 of the speed of sleeping ones beside one busy process, and 1.25
    times as fast on an idle machine. It must be said before torch is loaded.
    """
    from ..bench.cores import others_run

    if "OMP_WAIT_POLICY" not in os.environ and others_run():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def task_of(
    task: str | None,
    data: str,
    model: str,
    weights: str | None,
    data_root: Path | None,
    size: str | None,
    channels: int | None,
    skip_bad: bool,
) -> Task:
    """Load what the user brings; every name is checked before torch is loaded."""
    from ..data.source import check_spec
    from ..tasks.task import Task, check_model_spec, own_task

    wait_asleep()
    shape = size_of(size)
    if task is not None:
        return own_task(task)
    check_spec(data, shape, channels)
    check_model_spec(model)
    if weights and not os.path.isfile(weights):
        raise LissomError(f"weights: {weights} cannot be read (there is no such file)")
    from ..data.data import Data

    return Task.of(
        model,
        Data.of(data, root=data_root, size=shape, channels=channels, skip_bad=skip_bad),
        weights=weights,
    )


def print_json(value: Any) -> None:
    """Print a value for scripts."""
    typer.echo(json.dumps(value, indent=1))
