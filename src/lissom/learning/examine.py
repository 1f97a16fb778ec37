"""Check a task before anything runs: its splits, its network, its loss and its metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.data import Data
from ..data.samples import tree_text
from ..data.split import CPU, Files, Images, PreprocessedImages
from ..errors import LissomError, first_line, listed, type_of
from ..language.kind import Kind
from ..language.menu import menu
from ..language.tally import Tally
from ..language.training import Batch
from ..surgery.steady import unsteady
from ..tasks.code import call_user_code, describe_error
from ..tasks.kinds import is_own_kind
from ..tasks.task import Task
from ..trees import (
    Tree,
    answer_in,
    at,
    concatenated,
    in_float,
    length,
    mapped,
    run_network,
    shapes,
    tensors_in,
)

if TYPE_CHECKING:
    from ..data.split import Split

TRIED_SAMPLES = 8  # requested from a user's own split
SCORED_LABELS = 256  # on which the metrics are tried
SPLIT_CONTRACT = "a split has labels, __len__() and batches(size, device, order)"

SIZE_HINT = "--size and --channels (size=, channels= of Data.of) make images fit"
CALL_HINT = (
    "it is called with what the data set gives before the target: a tensor, a tuple of arguments, as "
    "in ((ids, mask), target), or a dict of them by name"
)


def examine(task: Task) -> None:
    """Raise LissomError, naming the part, if a part of a task does not fit the others."""
    data = task.data
    for name in ("train", "valid", "test"):
        split = getattr(data, name)
        check_split(split, data, f"data {data.name}: the {name} split")
        if not len(split) and name != "train":
            raise LissomError(f"data {data.name}: the {name} split is empty")
    check_labels(task)
    model = task.fresh()
    outputs = torch.zeros(0)
    for training in (True, False):
        outputs = outputs_for_two(task, model.train(training))
        if training and task.loss is not None:
            check_loss(task, model, outputs)
    if reason := unsteady(model.eval(), task.data.example(2)):
        raise LissomError(f"model {task.name}: {reason}")
    check_metrics(task, outputs)


def check_split(split: Split, data: Data, where: str) -> None:
    """Raise LissomError unless an object has the methods of a split, and its batches are right."""
    for method in ("__len__", "batches", "labels"):
        if not hasattr(split, method):
            raise LissomError(f"{where}, {type_of(split)}, has no {method}; {SPLIT_CONTRACT}")
    if length(split.labels) != len(split):
        held = len(split.labels) if hasattr(split.labels, "__len__") else "no"
        raise LissomError(
            f"{where}: labels: expected a tensor of {len(split)}, one for each image, got a "
            f"{type(split.labels).__name__} of {held}"
        )
    if not len(split) or isinstance(split, (Images, Files, PreprocessedImages)):
        return
    # in reverse, to detect a split that ignores `order`
    order = torch.arange(len(split) - 1, -1, -1)[:TRIED_SAMPLES]
    pixels, labels = samples_in_order(split, order, f"{where}: batches(2, device, order)")
    if isinstance(pixels, Tensor) and tuple(pixels.shape) != (len(order), *data.shape):
        raise LissomError(
            f"{where}: batches gave images of shape {tuple(pixels.shape)} for "
            f"{len(order)} indices; "
            f"{(len(order), *data.shape)} is wanted"
        )
    if isinstance(labels, Tensor) and not torch.equal(labels.cpu(), split.labels[order].cpu()):
        raise LissomError(
            f"{where}: batches gave other labels for `order` than labels[order]; it "
            "must visit those indices "
            "in that order"
        )


def samples_in_order(split: Split, order: Tensor, where: str) -> tuple[Tree, Tree]:
    """Return the samples of a split for an order, with all batches joined."""
    try:
        pairs = list(split.batches(2, CPU, order))
        inputs = concatenated([inputs for inputs, _ in pairs])
        return inputs, concatenated([targets for _, targets in pairs])
    except LissomError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LissomError(
            f"{where} raised {describe_error(error, first_line(error))}; it must yield pairs "
            "of tensors, pixels "
            "(n c h w) and labels (n)"
        ) from error


def check_labels(task: Task) -> None:
    """Raise if targets fit no kind of task and the task lacks its own loss or metrics."""
    for name in ("train", "valid", "test"):
        labels = getattr(task.data, name).labels
        if not length(labels) or (task.loss is not None and task.metrics and task.kind is None):
            continue
        form = tree_text(labels)
        if task.kind is None:
            part = "loss" if task.loss is None else "metrics"
            raise LissomError(
                f"task {task.name}: its labels, {form} in the {name} split, are of no kind of task "
                f"({listed(menu('kinds'))}); Task({part}=...) says what they are for"
            )


def run_on_two(task: Task, model: nn.Module) -> Tree:
    """Return a network's outputs for two samples. Raises LissomError if it does not run on them."""
    inputs = task.data.example(2)
    try:
        with torch.no_grad():
            out: Tree = run_network(model, inputs)
            return out
    except Exception as error:  # the user's own code may raise anything
        what = "inputs" if task.data.as_given else "images"
        said = describe_error(error, first_line(error), f" on {what} of shape {shapes(inputs)}")
        raise LissomError(
            f"model {task.name}: it raised {said}; {CALL_HINT if task.data.as_given else SIZE_HINT}"
        ) from error


def outputs_for_two(task: Task, model: nn.Module) -> Tree:
    """Return a network's outputs for two samples. Raises LissomError if they are unfit."""
    out = run_on_two(task, model)
    count = length(task.data.example(2))
    tensors = list(tensors_in(out))
    what = f"{shapes(out)} for {count} images" if tensors else type(out).__name__
    said = f"model {task.name}: it returns {what}; "
    also = " in training too" if model.training else ""
    if not tensors or not all(t.ndim >= 1 and len(t) == count for t in tensors):
        raise LissomError(
            f"{said}expected a tensor, batch first, or a tuple or dict of such{also}; what depends "
            "on the image, as boxes after non-maximum suppression do, is left to the kind of task"
        )
    if task.kind is not None and task.loss is None:
        check_fit(task, task.kind, out, f"{said}expected ", also)
        if is_own_kind(task.kind_text):
            call_user_code(
                partial(try_kind, task, task.kind, out), f"--kind {task.kind_text}", first_line
            )
    return out


@torch.no_grad()
def try_kind(task: Task, kind: Kind, outputs: Tree) -> None:
    """Call the methods of a user's kind of task, so that errors show before a run begins."""
    split = task.data.calibration_split
    targets = at(split.labels, torch.arange(length(outputs)) % len(split))
    loss = kind.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise LissomError(
            f"--kind {task.kind_text}: expected a loss that is a tensor of one number, got "
            f"{tree_text(loss)}"
        )
    for tally, beside in ((task.tally(), targets), (kind.agreement(), outputs)):
        if not isinstance(tally, Tally):
            raise LissomError(
                f"--kind {task.kind_text}: expected a lissom.language.tally.Tally, got {type_of(tally)}"
            )
        tally.add(outputs, beside)
        tally.values()
    kind.answers(outputs)


@torch.no_grad()
def check_fit(task: Task, kind: Kind, outputs: Tree, said: str, also: str) -> None:
    """Raise unless outputs and the targets of every split fit a kind of task."""
    classes = len(task.data.classes)
    for name in ("train", "valid", "test"):
        targets = getattr(task.data, name).labels
        if not length(targets):
            continue
        try:
            wanted = call_user_code(
                partial(kind.misfit, outputs, targets, classes),
                f"--kind {task.kind_text}",
                first_line,
            )
        except LissomError as error:
            raise LissomError(f"model {task.name}: {error}") from None
        if wanted is None:
            continue
        if wanted.startswith("targets"):
            got = "" if "got" in wanted else f", got {tree_text(targets)}"
            raise LissomError(
                f"data {task.data.name}: the {name} split: {kind}: expected {wanted}{got}"
            )
        answer = answer_in(outputs)
        more = answer is not None and answer.ndim == 2 and answer.shape[1] > classes
        cure = "; where the data hold some of the network's classes, --classes names all of them"
        taken = taken_by(kind, outputs) if is_own_kind(task.kind_text) else ""
        raise LissomError(f"{said}{wanted}{also}{taken}{cure if more else ''}")


def taken_by(kind: Kind, outputs: Tree) -> str:
    """Return a phrase on the tensor that a kind takes as the answer, "" if it takes none."""
    try:
        return f", and its kind takes {shapes(kind.answer(outputs))} for the answer"
    except LissomError:
        return ""


@torch.no_grad()
def check_loss(task: Task, model: nn.Module, outputs: Tree) -> None:
    """Raise unless the task's own loss gives one number for two training images."""
    assert task.loss is not None
    images, labels = task.data.labelled(2)[0]
    value = call_user_code(
        partial(task.loss, model, Batch(images, labels, in_float(outputs))),
        f"task {task.name}: its loss",
        first_line,
    )
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise LissomError(
            f"task {task.name}: its loss returns {what} for a batch; a tensor of one number is wanted, as a "
            "mean over the batch is"
        )


@torch.no_grad()
def check_metrics(task: Task, outputs: Tree) -> None:
    """Raise LissomError unless each metric returns a number.

    It is called with true labels, because it may need every class, and with repeated outputs.
    """
    count = min(SCORED_LABELS, len(task.data.valid))
    places = torch.arange(count) * len(task.data.valid) // count
    labels = mapped(lambda t: t[places].cpu(), task.data.valid.labels)
    repeated = torch.arange(count) % length(outputs)
    many = mapped(lambda t: t[repeated], in_float(outputs))
    for name, metric in task.metrics.items():
        value = call_user_code(
            partial(metric, many, labels), f"task {task.name}: its metric '{name}'", first_line
        )
        try:
            float(value)
        except (TypeError, ValueError, RuntimeError):
            raise LissomError(
                f"task {task.name}: its metric '{name}' returns {type_of(value)}; a number is wanted"
            ) from None
