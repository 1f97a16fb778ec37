"""What a user brings: how to build the network, the data, the loss and the metrics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from ..errors import LissomError, type_of
from ..language.kind import Kind
from ..language.tally import Collected, Itself, Metric, Tally
from .builders import onnx_file
from .code import ORDER, called, file_mark, loaded, weights_file
from .kinds import kind_named, kind_of
from .networks import arguments_for, factory_of, is_own_code, is_published, published_argument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.data import Data
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
        given = arguments_for(factory, model, data, arguments)

        def build() -> nn.Module:
            made = factory(**given)
            if weights and not published:
                from .weights import load_weights

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
            order = ORDER if weights.startswith(ORDER) else ""
            source += f" {order}{file_mark(weights_file(weights))}"
        own_kind, kind_source = (None, "") if kind is None else kind_named(kind)
        source += kind_source
        file = weights or onnx_file(model)
        task = cls(
            build,
            data,
            model,
            f"{source} {given}",
            spec={"model": model, **given},
            weights=file,
            trained=bool(file or is_own_code(model) or arguments.get("pretrained")),
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
        if not data.unlabelled:
            return task
        from .unlabelled import check_unlabelled, labelled_by

        check_unlabelled(data, task.weights, trained=task.trained)
        assert task.kind is not None
        labelled = labelled_by(task.fresh(), data, task.kind, model, task.kind_text)
        return replace(task, data=labelled, labels_itself=True)

    @classmethod
    def from_origin(cls, origin: Mapping[str, Any]) -> Task:
        """Make the task again that has this `origin`, which may have been JSON in between.

        Raises LissomError for what is not here, such as a data set on another machine.
        """
        if "task" in origin:
            return own_task(origin["task"])
        from .datasets import data_from, with_tuples

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
        """Return what a user should know of what the network is shown, if it was trained elsewhere,
        and of how it was read from an ONNX file. Raises LissomError where it does not give what the
        file gives on the data.
        """
        if not self.weights:
            return []
        seen = f"images are seen through {self.data.preprocess}"
        if self.data.as_given:
            seen = "inputs are taken as the data set gives them"
        notes = [f"{self.weights} was trained elsewhere; {seen}"]
        if file := onnx_file(self.name):
            from .imported import import_notes

            notes += import_notes(file, self.build, self.data)
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

        def build() -> nn.Module:
            try:
                return self.build()
            except URLError as error:
                raise LissomError(
                    f"model {self.name}: its weights cannot be downloaded ({error.reason}); expected a "
                    "network, or a file of weights: --weights FILE"
                ) from error

        torch.manual_seed(seed)
        model = called(build, f"model {self.name}: building it")
        if not isinstance(model, nn.Module):
            raise LissomError(
                f"model {self.name}: building it returned {type_of(model)}, not a torch.nn.Module"
            )
        return model.eval()


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
