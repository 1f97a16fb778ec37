"""A task: how to build the network, its data, its loss and its metrics."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from ..errors import LissomError, type_of
from ..language.kind import Kind
from ..language.tally import Collected, Itself, Metric, Tally
from .builders import onnx_file
from .code import ORDER, call_user_code, file_mark, loaded, weights_file
from .kinds import kind_named, kind_of
from .networks import arguments_for, factory_of, is_own_code, is_published, published_argument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.data import Data
    from ..language.training import Batch, Term
    from ..trees import Tree

# names of metrics of which less is better
ERRORS = {"cer", "error", "error_rate", "loss", "lpips", "mae", "mse", "perplexity", "rmse", "wer"}
# arguments with which a library's builder loads weights
TRAINED = ("weights", "pretrained", "checkpoint_path")


@dataclass
class Task:
    """A network to compress, with its data, loss and metrics.

    `build` returns a new network, with the same layers each time. `kind` defines the meaning of its
    outputs; if None, it is inferred from the targets (only classes, if the task has its own `loss`
    and `metrics`). `loss` takes (network, Batch) and returns a scalar; if None, the kind's loss is
    used. `metrics` take outputs and targets of a whole split; if empty, the kind's metrics are
    used. Tables and choices use the first metric.
    `source` is part of the keys of stored networks, with the fingerprint of the data: change it
    when `build` changes.
    `origin` has the arguments, as JSON, with which another process makes the same task
    (`Task.from_origin`); it is empty if Python code made the task.
    """

    build: Callable[[], nn.Module]
    data: Data
    name: str = "model"
    source: str = ""
    loss: Term | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    teacher: Callable[[], nn.Module] | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    # the file of weights, if the network was trained elsewhere; loaded into what `build` returns
    weights: str = ""
    build_loads_weights: bool = False  # whether `build` itself loads them
    trained: bool = True  # whether `build` returns a trained network, as far as is known
    kind: Kind | None = None
    kind_text: str = ""  # the name of the kind, by default the kind as text
    labels_itself: bool = False  # whether the targets are the given network's own outputs
    origin: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    # of weights that the user's code loads; None until it is asked for
    _loaded_mark: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise LissomError(
                "Task: metrics: expected functions by name, as in {'psnr': psnr}, got "
                f"{type_of(self.metrics)}"
            )
        if self.weights and not self.build_loads_weights:
            self.source += f" {weights_mark(self.weights)}"
            self.build = partial(with_weights, self.build, self.weights)
            self.build_loads_weights = True
        if self.kind is None:
            targets = getattr(self.data.test, "labels", None)  # None if it is not a split
            self.kind = kind_of(targets, own=bool(self.loss and self.metrics))
        self.kind_text = self.kind_text or str(self.kind or "")

    def tally(self) -> Tally:
        """Return the tally that computes the metrics: the task's own, or those of its kind."""
        if self.metrics or self.kind is None:
            return Collected(self.metrics)
        tally = self.kind.tally(len(self.data.classes))
        return Itself(tally) if self.labels_itself else tally

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics; choices use the first one."""
        return self.tally().names

    @property
    def counts_samples(self) -> bool:
        """Whether the first metric is the share of samples with the right answer, as far as known."""
        if self.metrics or self.kind is None:
            return False
        # the kind's own name, though a task that labels itself calls the metric fidelity
        return self.kind.tally(len(self.data.classes)).names[0] in self.kind.shares

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
        """Return a task for a network named as on the command line, on `data`.

        `model`: a built-in such as resnet20, torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE,
        package.module:factory or path/to/file.py:factory. The factory is called with `num_classes`
        and `in_channels` if it takes them, and with `arguments`. `weights` is a file, or names the
        published weights of a library's network, which the library may download; DEFAULT is the
        newest. With `order:FILE`, tensors are matched by order instead of name. `kind` is a kind of
        task, such as `segment(ignore=11)`; by default it is inferred from the targets.
        """
        if weights and onnx_file(model):
            raise LissomError(f"--weights: {model} holds its weights; leave --weights out")
        arguments = dict(arguments or {})
        check_json(model, arguments)
        factory, source = factory_of(model)
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
            source += f" {weights_mark(weights)}"
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
            build_loads_weights=True,
            trained=bool(file or is_own_code(model) or any(map(arguments.get, TRAINED))),
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
        """Return the task that has this `origin`, which may come from JSON.

        Raises LissomError for anything missing here, such as a data set on another machine.
        """
        if "task" in origin:
            return own_task(origin["task"], origin.get("weights") or "")
        from .datasets import data_from, with_tuples

        return cls.of(
            origin["model"],
            data_from(origin["data"]),
            weights=origin["weights"],
            arguments={name: with_tuples(value) for name, value in origin["arguments"].items()},
            kind=origin["kind"],
        )

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return the logits that distillation compares, rows (m classes) of student and teacher."""
        from ..trees import rows_of_both

        compared = rows_of_both if self.kind is None else self.kind.compared
        return compared(outputs, teacher)

    def agreement(self) -> Tally:
        """Return the tally of the agreement of two outputs; an empty one if the kind is unknown."""
        return Collected({}) if self.kind is None else self.kind.agreement()

    def notes(self) -> list[str]:
        """Return notes on the preprocessing and format of a network that was trained elsewhere, and on
        how it was read from an ONNX file. Raises LissomError if its outputs on the data differ from
        those of the file.
        """
        notes = list[str]()
        first = next(iter(self.metrics), "")
        if first.lower() in ERRORS:
            notes.append(
                f"metric {first}: choices and tables take larger values for better ones; of an error, "
                "return the negative"
            )
        if not self.weights:
            return notes
        seen = f"images are seen through {self.data.preprocess}"
        if self.data.as_given:
            seen = "inputs are taken as the data set gives them"
        notes.append(f"{self.weights} was trained elsewhere; {seen}")
        if file := onnx_file(self.name):
            from .imported import import_notes

            notes += import_notes(file, self.source, self.build, self.data)
        return notes

    def root(self, seed: int) -> str:
        """Return the key of the network before the first step."""
        # top5 only accompanies top1, so it does not change the key
        names = self.metric_names
        metrics = sorted(name for name in names if name != "top5" or len(names) == 1)
        facts: tuple[object, ...] = (self.name, self.source, self.data.fingerprint, metrics, seed)
        if self.kind is not None and str(self.kind) != "classify":
            facts = (*facts, self.kind.identity())
        if mark := self.loaded_mark():
            facts = (*facts, mark)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def loaded_mark(self) -> str:
        """Return a hash of the weights that the user's own code loads, "" if it loads none."""
        if self._loaded_mark is None:
            from .loaded_parameters import loaded_mark

            own_code = not self.origin.get("model") or is_own_code(self.name)
            looks = own_code and not self.weights
            self._loaded_mark = loaded_mark(self.fresh) if looks else ""
        return self._loaded_mark

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
        model = call_user_code(build, f"model {self.name}: building it")
        if not isinstance(model, nn.Module):
            raise LissomError(
                f"model {self.name}: building it returned {type_of(model)}, not a torch.nn.Module"
            )
        return model.eval()


def with_weights(build: Callable[[], nn.Module], weights: str) -> nn.Module:
    """Return the network that `build` returns, with the weights in a file."""
    from .weights import load_weights

    network = build()
    load_weights(network, weights)
    return network


def weights_mark(weights: str) -> str:
    """Return a hash of a file of weights, with the order in which they are matched."""
    order = ORDER if weights.startswith(ORDER) else ""
    return f"{order}{file_mark(weights_file(weights))}"


def check_json(model: str, arguments: Mapping[str, Any]) -> None:
    """Raise LissomError if an argument of a factory cannot be written into an entry, as JSON."""
    for name, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise LissomError(
                f"model {model}: its argument {name} is stored as JSON: expected a number, a text, "
                f"True, False, None or a list of them, got {type_of(value)}; for others, write a "
                "function that builds the network, and name it as path/to/file.py:factory"
            ) from None


def own_task(spec: str, weights: str = "") -> Task:
    """Load the task in `file.py:name`: a Task, or a function without arguments that returns one.

    `weights` is a file of weights for its network. Raises LissomError if there is none.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place.endswith(".py"):
        raise LissomError(f"task: expected file.py:name, got {spec!r}")
    if not os.path.isfile(place):
        raise LissomError(f"task: there is no file {place}")
    found, source = loaded(place, name, "task")
    if not isinstance(found, Task) and callable(found):
        found = call_user_code(found, f"task: {spec}")
    if not isinstance(found, Task):
        raise LissomError(f"task: expected a lissom.Task in {spec}, got {type_of(found)}")
    task = replace(
        found,
        source=f"{source} {found.source}",
        spec={"task": spec},
        origin={"task": spec, "weights": weights},
    )
    return replace(task, weights=weights, build_loads_weights=False) if weights else task
