"""What a user brings: how to build the network, the data, the loss and the scores of merit."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from ..data.published import LIBRARIES, newest_weights
from ..errors import LissomError, listed, type_of, unknown
from ..language.kind import Kind
from ..language.tally import Collected, Itself, Metric, Tally
from .builders import (
    arguments,
    chosen_arguments,
    code_named,
    library_model,
    onnx_file,
    program_file,
)
from .code import ORDER, called, describe_error, file_mark, loaded, parameters_of, weights_file
from .kinds import kind_named, kind_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.data import Data
    from ..data.split import Split
    from ..language.training import Batch, Term
    from ..trees import Tree


@dataclass
class Task:
    """A network to compress and what it is for.

    `build` makes the network afresh, the same layers each time. `kind` says what its answers mean;
    without one it is what the targets look like, unless the task has a `loss` or `metrics` of its
    own. `loss` takes (network, Batch) and returns a scalar, that of the kind if None. `metrics`
    take outputs and targets of a whole split, those of the kind if empty; the first one is what
    tables and choices use.
    `source` names, with the fingerprint of the data, what networks of this task are stored under:
    change it when `build` changes.
    `origin` is what another process makes the same task from (`Task.from_origin`), as JSON; it is
    empty where Python code made the task.
    """

    build: Callable[[], nn.Module]
    data: Data
    name: str = "model"
    source: str = ""
    loss: Term | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    teacher: Callable[[], nn.Module] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    # the file that the weights of a network which was trained elsewhere come from
    weights: str = ""
    trained: bool = True  # whether `build` makes a network that has learned, as far as can be known
    kind: Kind | None = None
    kind_text: str = ""  # that names the kind, by default the kind as text
    labels_itself: bool = False  # whether the given network's own answers are the targets
    origin: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind is None:
            targets = getattr(self.data.test, "labels", None)  # of a split that is one
            self.kind = kind_of(targets, own=bool(self.loss and self.metrics))
        self.kind_text = self.kind_text or str(self.kind or "")

    def tally(self) -> Tally:
        """Return what counts the metrics of outputs beside targets: the task's own, or of its kind."""
        if self.metrics or self.kind is None:
            return Collected(self.metrics)
        tally = self.kind.tally(len(self.data.classes))
        return Itself(tally) if self.labels_itself else tally

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics; the first one judges."""
        return self.tally().names

    def term(self, smoothing: float = 0.0) -> Term:
        """Return the loss as a term: the task's own, or that of its kind."""
        kind = self.kind
        if self.loss is not None:
            return self.loss
        assert kind is not None

        def value(_: nn.Module, batch: Batch) -> Tensor:
            return kind.loss(batch.outputs, batch.labels, smoothing)

        return value

    @classmethod
    def of(
        cls,
        model: str,
        data: Data,
        *,
        weights: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> Task:
        """Make the task of a network named as on the command line, on `data`, maybe with trained weights.

        `model`: a built-in such as resnet20, torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE,
        package.module:factory or path/to/file.py:factory. The factory is given `num_classes` and
        `in_channels` if it takes them, and `arguments`. `weights` is a file, or for a library's
        network DEFAULT, its newest published weights, which the library may download; after
        `order:`, names in the file are not looked at. `kind` is a
        kind of task, as in `segment(ignore=11)`, by default what the targets look like.
        """
        if weights and onnx_file(model):
            raise LissomError(f"--weights: {model} holds its weights; leave --weights out")
        factory, source = factory_of(model)
        arguments = dict(arguments or {})
        published = weights if weights and is_published(weights, model) else None
        if published:
            arguments = {**published_argument(model, published), **arguments}
        wanted = {"in_channels": data.channels}
        if data.classes:
            wanted["num_classes"] = len(data.classes)
        takes = parameters_of(factory)
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        given = {k: v for k, v in wanted.items() if k in takes or (anything and k == "num_classes")}
        for name in arguments:
            if name not in takes and not anything:
                raise unknown(f"--model-args: {model}", "argument", name, takes)
        given.update(arguments)

        def build() -> nn.Module:
            made = factory(**given)
            if weights and not published:
                try:
                    load_weights(made, weights)
                except LissomError as error:
                    if "other shapes" not in str(error) or "num_classes" not in given:
                        raise
                    raise LissomError(
                        f"{error}; the network was built for {given['num_classes']} classes, those "
                        f"of {data.name}: where it knows more, --classes names all of them"
                    ) from None
            return made

        if weights and not published:
            source += (
                f" {ORDER if weights.startswith(ORDER) else ''}{file_mark(weights_file(weights))}"
            )
        own_kind, kind_source = (None, "") if kind is None else kind_named(kind)
        source += kind_source
        task = cls(
            build,
            data,
            model,
            f"{source} {given}",
            spec={"model": model, **given},
            weights=weights or onnx_file(model),
            trained=bool(weights or onnx_file(model))
            or is_own_code(model)
            or bool(arguments.get("pretrained")),
            kind=own_kind,
            kind_text=kind or "",
            origin={
                "model": model,
                "weights": weights,
                "arguments": arguments,
                "kind": kind,
                "data": data.origin,
            }
            if data.origin
            else {},
        )
        return labelled_by_itself(task) if data.unlabelled else task

    @classmethod
    def from_origin(cls, origin: Mapping[str, Any]) -> Task:
        """Make the task again that has this `origin`, which may have been JSON in between.

        Raises LissomError for what is not here, such as a data set on another machine.
        """
        if "task" in origin:
            return own_task(origin["task"])
        return cls.of(
            origin["model"],
            data_from(origin["data"]),
            weights=origin["weights"],
            arguments={name: with_tuples(value) for name, value in origin["arguments"].items()},
            kind=origin["kind"],
        )

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return what of a student's outputs and a teacher's is compared in distillation, as logits:
        rows (m classes) of both.
        """
        from ..trees import rows_of_both

        compared = rows_of_both if self.kind is None else self.kind.compared
        return compared(outputs, teacher)

    def agreement(self) -> Tally:
        """Return what counts the answers that two sets of outputs have in common; nothing where the
        kind of task is not known.
        """
        return Collected({}) if self.kind is None else self.kind.agreement()

    def notes(self) -> list[str]:
        """Return what a user should know of what the network is shown, if it was trained elsewhere."""
        if not self.weights:
            return []
        seen = f"images are seen through {self.data.preprocess}"
        if self.data.as_given:
            seen = "inputs are taken as the data set gives them"
        notes = [f"{self.weights} was trained elsewhere; {seen}"]
        if file := onnx_file(self.name):
            from ..importing.file import is_quantized
            from ..importing.quantized import NOTE

            notes += [NOTE] if is_quantized(Path(file)) else []
        return notes

    def root(self, seed: int) -> str:
        """Return the key of the network before the first step."""
        # it only comes beside top-1
        names = self.metric_names
        metrics = sorted(name for name in names if name != "top5" or len(names) == 1)
        facts: tuple[object, ...] = (self.name, self.source, self.data.fingerprint, metrics, seed)
        if self.kind is not None and self.kind.name() != "classify":
            facts = (*facts, self.kind.identity())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def fresh(self, seed: int = 0) -> nn.Module:
        """Build the network with weights drawn from `seed`, in eval mode."""
        import torch
        from torch import nn

        torch.manual_seed(seed)
        try:
            model = self.build()
        except LissomError:
            raise
        except URLError as error:
            raise LissomError(
                f"model {self.name}: its weights cannot be downloaded ({error.reason}); expected a "
                "network, or a file of weights: --weights FILE"
            ) from error
        except Exception as error:  # the user's own code may raise anything
            raise LissomError(
                f"model {self.name}: building it raised {describe_error(error, str(error))}"
            ) from error
        if not isinstance(model, nn.Module):
            raise LissomError(
                f"model {self.name}: building it returned {type_of(model)}, not a torch.nn.Module"
            )
        return model.eval()


def data_from(origin: Mapping[str, Any]) -> Data:
    """Load the data that have this `origin`."""
    from ..data.data import Data
    from ..data.source import is_own_data

    more = {name: with_tuples(value) for name, value in origin.items() if name != "name"}
    if is_own_data(origin["name"]):
        from .datasets import own_data

        return own_data(origin["name"], **more)
    root = more.pop("root")
    return Data.of(origin["name"], root=None if root is None else Path(root), **more)


def with_tuples(value: Any) -> Any:
    """Return a value as it was before it was JSON, which knows no tuple."""
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def labelled_by_itself(task: Task) -> Task:
    """Return the task with the given network's own answers as the labels of pictures without any.

    Its metric is then how often a network gives the answer that the given one gave.
    """
    import torch

    from ..trees import handed, shapes

    if not task.trained:
        raise LissomError(
            f"data: {task.data.name} has no labels, which a trained network has to give; expected "
            "--weights or a --model that is trained"
        )
    if task.weights and not task.data.stated:
        raise LissomError(
            f"preprocess: {task.weights} was trained elsewhere, and without labels lissom cannot "
            "find out how the network sees pictures; expected --preprocess, as in "
            "--preprocess imagenet"
        )
    kind = task.kind
    assert kind is not None
    model = task.fresh()
    wide = 0

    def said(outputs: Tree) -> tuple[int, Tensor]:
        if kind.name() == "classify" and (answer := kind.answer(outputs)).ndim != 2:
            raise LissomError(
                f"model {task.name}: expected outputs (batch, classes) for pictures without labels, "
                f"got {shapes(answer)}; for others, --kind says what they are"
            )
        return kind.classes(outputs), kind.answers(outputs)

    @torch.inference_mode()
    def answers(split: Split) -> Tensor:
        nonlocal wide
        found: list[Tensor] = []
        for pixels, _ in split.batches(128, torch.device("cpu")):
            inputs = task.data.normalised(pixels)
            outputs = called(partial(handed, model, inputs), f"model {task.name}: it")
            classes, labels = called(partial(said, outputs), f"--kind {task.kind_text}")
            wide = max(wide, classes)
            found.append(labels)
        return joined(found)

    labelled = task.data.labelled_by(answers)
    if len(labelled.test.labels.unique()) < 2:
        labelled.notes.append(
            f"{task.name} gives all pictures to be tested on one answer, so that fidelity says "
            "little: is it trained, and does it see them as it was?"
        )
    classes = tuple(map(str, range(wide)))
    return replace(task, data=replace(labelled, classes=classes), labels_itself=True)


def joined(answers: list[Tensor]) -> Tensor:
    """Return answers in one tensor, none where there is no sample."""
    import torch

    return torch.cat(answers) if answers else torch.zeros(0, dtype=torch.int64)


def is_own_code(model: str) -> bool:
    """Return whether the user's own code builds a network, which may be trained by then."""
    place = model.rpartition(":")[0]
    return bool(place) and place not in LIBRARIES and not onnx_file(model)


def is_published(weights: str, model: str) -> bool:
    """Return whether `weights` name some that a library publishes with its network, and no file."""
    return model.partition(":")[0] in LIBRARIES and bool(re.fullmatch(r"[A-Z0-9_]+", weights))


def published_argument(model: str, weights: str) -> dict[str, Any]:
    """Return the argument by which a library's builder loads its published weights."""
    if model.startswith("torchvision:"):
        if weights == "DEFAULT":  # the key has the name of those that are the newest now
            newest = newest_weights(model.partition(":")[2])
            if newest is None:
                raise LissomError(f"weights: torchvision publishes none for {model}")
            return {"weights": newest}
        return {"weights": weights}
    if weights != "DEFAULT":
        raise LissomError(
            f"weights: timm knows its weights by the name of the network, as in "
            f"timm:resnet50.a1_in1k; expected DEFAULT, got {weights}"
        )
    return {"pretrained": True}


def check_model_spec(spec: str) -> None:
    """Raise unless `spec` can name a network: a built-in, torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE,
    module:factory or file.py:factory.
    """
    from ..models import check_name

    if file := program_file(spec) or onnx_file(spec):
        if not os.path.isfile(file):
            raise LissomError(f"model: there is no file {file}")
        return
    place, colon, name = spec.rpartition(":")
    if not colon:
        if spec.endswith(".py") or "/" in spec:
            raise LissomError(
                f"model: {spec!r} says no name in that file; wanted "
                "path/to/file.py:factory, a function or "
                "class that builds the network"
            )
        if spec.endswith(".pt2"):
            raise LissomError(f"model: {spec!r}: expected pt2:{spec} for a program in a file")
        if spec.endswith((".onnx", ".onnxz")):
            raise LissomError(f"model: {spec!r}: expected onnx:{spec} for a network in a file")
        check_name(spec)
    elif not place or not name:
        raise LissomError(
            f"model: {spec!r}: wanted torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE, "
            "package.module:factory or path/to/file.py:factory"
        )
    elif place.endswith(".py") and not os.path.isfile(place):
        raise LissomError(f"model: there is no file {place}")


def factory_of(spec: str) -> tuple[Callable[..., nn.Module], str]:
    """Return what builds the network named by `spec`, and a text that changes when its source does."""
    check_model_spec(spec)
    if program := program_file(spec):
        from .program import program_network

        return partial(program_network, program), f"pt2: {file_mark(program)}"
    if file := onnx_file(spec):
        from ..importing.file import content_mark
        from ..importing.onnx_network import onnx_network

        return partial(onnx_network, file), f"onnx: {content_mark(file)}"
    place, _, name = spec.rpartition(":")
    if not place:
        from ..models import factory

        return factory(name), spec
    if place in LIBRARIES:
        return library_model(place, name), spec
    return loaded(place, name, "model")


def teachers_in(text: str) -> list[str]:
    """Return the teachers that a text names: one, or several with commas between them.

    >>> teachers_in("4f2a, resnet56=big.safetensors")
    ['4f2a', 'resnet56=big.safetensors']
    """
    model, equals, path = text.partition("=")
    if os.path.isfile(text) or (equals and "," not in model and os.path.isfile(path)):
        return [text]  # a file may have a comma in its name
    return [part.strip() for part in text.split(",")]


def teacher_code(text: str) -> str | None:
    """Return the code of the user's own that a teacher, MODEL=FILE, would import; None where it
    imports none.
    """
    model, equals, _ = text.rpartition("=")
    return code_named({"model": model}) if equals else None


def teacher_from(text: str, task: Task) -> nn.Module:
    """Build the teacher in a weight file: the task's own kind of network, or another, as `MODEL=FILE`."""
    model, _, path = text.rpartition("=")
    return Task.of(model or task.name, task.data, weights=path).fresh()


def build_from(
    build: dict[str, Any],
    where: str,
    given: str | None = None,
    *,
    trusted: bool = False,
    cure: str = "give it again as `model`",
) -> nn.Module:
    """Build a network afresh from what an entry of the store says of it.

    Names of menus are data. Own code is imported where the entry is `trusted`, or where the user
    names it again as `given`.
    """
    code = code_named(build)
    more = chosen_arguments(build)
    if code is None and "model" not in build:
        raise LissomError(
            f"load: {where} does not say how its network is built; give the network as `model`"
        )
    if code and not trusted and given is None:
        raise LissomError(
            f"load: {where} would import {code:.80}, and nothing shows that your "
            f"lissom wrote it; {cure}"
        )
    if more and not trusted:
        raise LissomError(
            f"load: {where} would build its network with {listed(more)}, and nothing shows that "
            "your lissom wrote it; if it is yours, lissom store --trust signs all that is in its store"
        )
    if "task" in build:
        return own_task(given or str(build["task"])).fresh()
    named = given or str(build["model"])
    factory, _ = factory_of(named)
    try:
        return factory(**arguments(build, where))
    except LissomError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LissomError(
            f"load: {where}: building {named:.80} raised {describe_error(error, str(error))}"
        ) from error


def load_weights(model: nn.Module, path: str) -> None:
    """Load the weights in a file (.pt, .pth or .safetensors) into `model`: all of them, or nothing
    and an error.

    A state dict is found as trainers keep it: alone, or under "model", "state_dict" and the like,
    its names with what wrappers put before them. A .pt file is read with weights_only, which runs
    no code from it. Of `order:FILE` names are not looked at: its tensors are those of the network
    in their order.
    """
    from .weights import load_state, read_checkpoint

    file = weights_file(path)
    load_state(model, read_checkpoint(file), file, by_order=file != path)


def own_task(spec: str) -> Task:
    """Load the task in `file.py:name`: a Task, or a function without arguments that returns one."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place.endswith(".py"):
        raise LissomError(f"task: expected file.py:name, got {spec!r}")
    if not os.path.isfile(place):
        raise LissomError(f"task: there is no file {place}")
    found, source = loaded(place, name, "task")
    if not isinstance(found, Task) and callable(found):
        found = called(found, f"task: {spec}")
    if not isinstance(found, Task):
        raise LissomError(f"task: expected a lissom.Task in {spec}, got {type_of(found)}")
    return replace(
        found, source=f"{source} {found.source}", spec={"task": spec}, origin={"task": spec}
    )
