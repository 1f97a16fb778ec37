"""The options for network and data, which several commands share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import LissomError
from .counts import size_of
from .options import Channels, Size, wait_asleep

if TYPE_CHECKING:
    from ..store.store import Store
    from ..tasks.task import Task


# options on how images are read, and on how a network is built
OF_PICTURES = ("size", "channels", "skip_bad", "data_root")
OF_MODEL = ("model_args", "weights", "preprocess", "classes", "kind")


@dataclass
class TaskOptions:
    """The options for the network, the data and the preprocessing."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="digits, cifar10, cifar100, fashion-mnist, folder:PATH, images:PATH, masks:PATH, "
            "csv:FILE, coco:PATH, voc:PATH, shards:PATTERN "
            "or file.py:name, a Dataset, a DataLoader or several.",
        ),
    ] = "digits"
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="resnet20, preresnet38, vgg16, densenet40, nin, nin_gc, ..., any of them -half or "
            "-quarter as wide (vgg16-quarter), torchvision:NAME, timm:NAME, "
            "onnx:FILE, pt2:FILE, package.module:factory or path/to/file.py:factory.",
        ),
    ] = "resnet20"
    model_args: Annotated[
        str,
        typer.Option(
            "--model-args",
            help="Arguments of the builder, as in 'num_classes=3, width=0.5'; with onnx:FILE, "
            "values of inputs, as in 'sr=16000'.",
        ),
    ] = ""
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="A state dict: .safetensors, or .pt that holds only tensors. For torchvision:NAME and "
            "timm:NAME also DEFAULT, the published weights. order:FILE takes tensors in order, "
            "ignoring their names.",
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            help="The preprocessing of images, as in 'resize(256) | center_crop(224) | "
            'normalize("imagenet")\'; or a short name: imagenet, cifar10, data, timm, torchvision.',
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="All classes of the network, if the folders are only some of them: "
            "imagenet, a number, or a file with one class per line.",
        ),
    ] = None
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="The kind of task: classify, multilabel, regress, segment, tag, detect, or your own "
            "file.py:name; by default guessed from the targets.",
        ),
    ] = None
    task: Annotated[
        str | None, typer.Option("--task", help="file.py:task, instead of --model and --data.")
    ] = None
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where torchvision's data sets are.")
    ] = None
    size: Size = None
    channels: Channels = None
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out files that cannot be read, and count them."),
    ] = False

    def load(self) -> Task:
        """Load the task that the options name; all names are checked before torch is imported.

        Raises LissomError if an option is wrong or would have no effect.
        """
        from ..data.source import check_spec, is_own_data
        from ..language.grammar import named_values
        from ..tasks.builders import onnx_file
        from ..tasks.code import weights_file
        from ..tasks.kinds import check_kind
        from ..tasks.networks import check_model_spec, is_published
        from ..tasks.task import Task, own_task

        wait_asleep()
        size = size_of(self.size)
        if self.task is not None:
            self.refuse_beside("--task", {"model", "data", *OF_PICTURES, *OF_MODEL} - {"weights"})
            return own_task(self.task, self.weights or "")
        arguments = named_values(self.model_args, "--model-args")
        check_model_spec(self.model)
        if onnx_file(self.model):
            self.refuse_beside(f"--model {self.model}, which holds its weights", {"weights"})
        if self.kind is not None:
            check_kind(self.kind)
        preprocess = self.preprocess_text()
        check_spec(self.data, size, self.channels, preprocess, self.classes)
        weights = self.weights
        if weights and not is_published(weights, self.model):
            file = weights_file(weights)
            if not os.path.isfile(file):
                raise LissomError(f"weights: {file} cannot be read (there is no such file)")
        from ..data.data import Data

        if is_own_data(self.data):
            self.refuse_beside(f"--data {self.data}", OF_PICTURES)
            from ..tasks.datasets import own_data

            data = own_data(self.data, preprocess=preprocess, classes=self.classes)
        else:
            data = Data.of(
                self.data,
                root=self.data_root,
                size=size,
                channels=self.channels,
                skip_bad=self.skip_bad,
                preprocess=preprocess,
                classes=self.classes,
            )
        return Task.of(self.model, data, weights=weights, arguments=arguments, kind=self.kind)

    def load_for(self, key: str, store: Store) -> Task:
        """Load the task that the options name, or without any, the one of an entry of the store."""
        from ..running.entries import task_of_entry

        given = any(getattr(self, option.name) != option.default for option in fields(self))
        task = None if given or not key else task_of_entry(key, store)
        return task or self.load()

    def refuse_beside(self, what: str, names: Collection[str]) -> None:
        """Raise LissomError if an option in `names` is given, which has no effect with `what`."""
        for option in fields(self):
            if option.name in names and getattr(self, option.name) != option.default:
                word = option.name.replace("_", "-")
                raise LissomError(f"--{word}: it does nothing beside {what}; leave it out")

    def preprocess_text(self) -> str | None:
        """Return the preprocessing as text: the stated one, else the one in an ONNX file's
        metadata, else, for published weights and no --size, that of the library that publishes the
        network.
        """
        from ..data.published import LIBRARIES
        from ..tasks.builders import onnx_file
        from ..tasks.networks import is_published

        library = self.model.partition(":")[0]
        stated = self.preprocess
        if (file := onnx_file(self.model)) and stated is None and self.size is None:
            from ..importing.file import preprocess_said

            return preprocess_said(Path(file))
        if stated in LIBRARIES and stated != library:
            raise LissomError(
                f"--preprocess: {stated} goes with --model {stated}:NAME, got --model {self.model}; "
                f"{stated}:NAME names a network whose preprocessing it is"
            )
        published = self.weights is not None and is_published(self.weights, self.model)
        if stated not in LIBRARIES and not (stated is None and published and self.size is None):
            return stated
        named = published and library == "torchvision" and self.weights != "DEFAULT"
        return f"{self.model}:{self.weights}" if named else self.model


def takes_network_and_data(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: replace its parameter `options` by the options of `TaskOptions`."""
    hints = get_type_hints(command, include_extras=True)
    annotations = get_type_hints(TaskOptions, include_extras=True)
    parameters = list[inspect.Parameter]()
    for name, parameter in inspect.signature(command).parameters.items():
        if name != "options":
            parameters.append(keyword(name, hints[name], parameter.default))
            continue
        for option in fields(TaskOptions):
            default = inspect.Parameter.empty if option.default is MISSING else option.default
            parameters.append(keyword(option.name, annotations[option.name], default))

    @wraps(command)
    def with_options(**given: Any) -> None:
        options = TaskOptions(
            **{option.name: given.pop(option.name) for option in fields(TaskOptions)}
        )
        command(options=options, **given)

    del with_options.__wrapped__  # otherwise the signature of the wrapped command would be read
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return a keyword-only parameter."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
