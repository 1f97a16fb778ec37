"""Compare a student with a teacher batch by batch: their outputs and their features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..language.loss import FeatureLoss, LogitLoss, Loss
from ..learning.precision import autocast, fast_precision
from ..trees import (
    Tree,
    answer_in,
    copied,
    in_float,
    mapped,
    rows_of_both,
    run_network,
    shapes,
    tensors_in,
)
from .balance import Balance
from .ensemble import Ensemble
from .features import Place, compared_places, record_features

Term = tuple[float | None, Loss]  # the number in front of a loss, and the loss


@dataclass(frozen=True)
class Answer:
    """A network's `outputs` on a batch, and its `features` (n c h w), one for each place."""

    outputs: Tree
    features: list[Tensor]


class Comparison:
    """The terms of a distillation loss, with their places, adapters, modules and weights.

    `student` and `teacher` are on one device with `example` (n c h w), or other inputs. `logits`
    returns the logits to compare, rows (m classes) of both, from the outputs of both. Within
    `watching()`, each forward pass of the student first runs the teacher, and the features of both
    are recorded. If the teacher is an ensemble, features are those of its first member.
    Raises LissomError if the networks have nothing to compare for a term.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student: nn.Module,
        teacher: nn.Module,
        example: Tree,
        *,
        logits: Callable[[Tree, Tree], tuple[Tensor, Tensor]] = rows_of_both,
        at: str | None = None,
        share: float = 0.5,
        where: str = "distill",
        precision: torch.dtype | None = None,
    ) -> None:
        self.terms = terms
        self.student = student
        self.teacher = teacher
        self.where = where
        self.precision = precision
        self.logits = logits
        self.first_teacher = teacher.members[0] if isinstance(teacher, Ensemble) else teacher
        features = [loss for _, loss in terms if isinstance(loss, FeatureLoss)]
        if at is not None and not features:
            losses = " + ".join(str(loss) for _, loss in terms)
            raise LissomError(
                f"{where}: at='{at}' names places to compare, but '{losses}' "
                "compares no features; "
                "fmse or gram does"
            )
        self.places: list[Place] = (
            compared_places(student, self.first_teacher, example, at, where) if features else []
        )
        self.balance = Balance([number for number, _ in terms], share)
        needs_adapters = any(
            not loss.any_width for loss in features
        )  # only these losses need adapters
        self.adapters = nn.ModuleList(
            adapter(place) if needs_adapters else nn.Identity() for place in self.places
        )
        widths = [
            place.teacher.shape[0] if place.channels is None else len(place.channels)
            for place in self.places
        ]
        self.modules = [
            loss.modules(widths) if isinstance(loss, FeatureLoss) else nn.ModuleList()
            for _, loss in terms
        ]
        self._features: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._teacher_answer: Answer | None = None  # the teacher's, on the student's last inputs
        self._kept_channels: list[Tensor | None] = [
            p.channels if p.how == "kept channels" else None for p in self.places
        ]

    @property
    def trained(self) -> nn.ModuleList:
        """The modules that are trained with the student and dropped afterwards."""
        return nn.ModuleList([self.adapters, *self.modules])

    def to(self, device: torch.device, layout: torch.memory_format) -> None:
        """Move the teacher, adapters and modules to the student's device."""
        self.teacher.to(device).to(memory_format=layout).eval()
        self.trained.to(device)
        self._kept_channels = [
            None if index is None else index.to(device) for index in self._kept_channels
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the teacher and record features at every forward pass of the student in this context,
        except in inference mode, in which networks are measured.

        The teacher runs first: otherwise the student's activations are held for its gradient, and a
        CPU must allocate new memory for those of the teacher at every batch, which takes a third
        longer. The hooks are always removed afterwards.
        """

        def run_teacher_first(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not torch.is_inference_mode_enabled():
                self._teacher_answer = self.teacher_answer(named or args)

        with (
            record_features(self.student, [p.student for p in self.places]) as ours,
            record_features(self.first_teacher, [p.teacher for p in self.places]) as theirs,
        ):
            self._features = (ours, theirs)
            hook = self.student.register_forward_pre_hook(run_teacher_first, with_kwargs=True)
            try:
                yield
            finally:
                hook.remove()
                self._features = ({}, {})
                self._teacher_answer = None

    def teacher_answer(self, inputs: Tree) -> Answer:
        """Run the teacher on inputs (n ...), in inference mode and the precision of training."""
        device = next(tensors_in(inputs)).device
        with torch.inference_mode(), autocast(device, self.precision or fast_precision(device)):
            outputs = run_network(self.teacher, inputs)
        # copies, because tensors from inference mode cannot take part in autograd
        features = [self._features[1][place.teacher.name] for place in self.places]
        return Answer(
            in_float(copied(outputs)),
            [
                f.to(torch.float32, copy=True)
                if index is None
                else f.index_select(1, index).float()
                for f, index in zip(features, self._kept_channels, strict=True)
            ],
        )

    def student_answer(self, outputs: Tree) -> Answer:
        """Return the student's answer in its last forward pass, which returned `outputs`."""
        features = [self._features[0][place.student.name].float() for place in self.places]
        return Answer(outputs, features)

    def values(self, outputs: Tree, labels: Tree) -> list[Tensor]:
        """Return the value of each term for the student's last forward pass, which gave `outputs`.

        `labels` are the targets. Raises LissomError if the shapes of the outputs differ.
        """
        answer = self.student_answer(outputs)
        teacher_answer = self._teacher_answer
        assert teacher_answer is not None, "the student runs within watching()"
        theirs, ours = (shapes(one_sample(each.outputs)) for each in (teacher_answer, answer))
        if theirs != ours:
            raise LissomError(
                f"{self.where}: the teacher answers with {theirs} numbers, the student with {ours}"
            )
        adapted = [adapt(f) for adapt, f in zip(self.adapters, answer.features, strict=True)]
        values = []
        for (_, loss), modules in zip(self.terms, self.modules, strict=True):
            if isinstance(loss, LogitLoss):
                student, teacher = self.logits(answer.outputs, teacher_answer.outputs)
                values.append(self.of_logits(loss, student, teacher, labels))
            elif isinstance(loss, FeatureLoss):
                maps = answer.features if loss.any_width else adapted
                values.append(
                    loss(maps, teacher_answer.features, *([modules] if len(modules) else []))
                )
        return values

    def of_logits(self, loss: LogitLoss, student: Tensor, teacher: Tensor, labels: Tree) -> Tensor:
        """Return the value of a loss on rows of logits (m classes).

        If the loss needs labels, rows without a class are left out, such as ignored pixels; without
        any other it is 0. Raises LissomError if targets are no classes.
        """
        if not loss.needs_labels:
            rows = labels.flatten() if isinstance(labels, Tensor) else torch.zeros(0)
            return loss(student, teacher, rows)
        rows = self.labels(loss, labels, student)
        has_class = (rows >= 0) & (rows < student.shape[1])
        if not bool(has_class.all()):  # a copy costs time
            student, teacher, rows = student[has_class], teacher[has_class], rows[has_class]
        return loss(student, teacher, rows) if len(student) else student.sum()

    def labels(self, loss: LogitLoss, labels: Tree, logits: Tensor) -> Tensor:
        """Return the labels of rows of logits (m classes) as whole numbers (m) in int64.

        Raises LissomError if the targets are not one class for each row.
        """
        rows = labels.flatten() if isinstance(labels, Tensor) else torch.zeros(0)
        if len(rows) != len(logits) or logits.shape[1] < 2:
            raise LissomError(
                f"{self.where}: {loss} needs the class of each answer, which targets of this kind of "
                "task do not say; kd needs none"
            )
        if rows.is_floating_point() and len(fractional := rows[rows != rows.round()]):
            raise LissomError(
                f"{self.where}: {loss} needs the class of each answer, a whole number, got "
                f"{float(fractional[0]):g}; kd needs none"
            )
        return rows.long()

    def __call__(self, outputs: Tree, labels: Tree, share: float = 1.0) -> Tensor:
        """Return the weighted sum for the student's last batch, or a `share` of it; measure the
        weights if it is due.
        """
        return self.balance(self.values(outputs, labels), self.student.parameters(), share)

    def facts(self) -> dict[str, Any]:
        """Return facts for the record: terms with weights, and places with matched channels."""
        terms = [
            {
                "loss": str(loss),
                "weight": w.value,
                "first_weight": w.value if w.first is None else w.first,
                "measured": 0 if w.fixed else self.balance.measured,
            }
            for (_, loss), w in zip(self.terms, self.balance.weights, strict=True)
        ]
        places = [
            {
                "student": p.student.name,
                "teacher": p.teacher.name,
                "size": list(p.student.size),
                "student_channels": p.student.shape[0],
                "teacher_channels": p.teacher.shape[0],
                "how": "any width" if p.how == "adapter" and isinstance(a, nn.Identity) else p.how,
            }
            for p, a in zip(self.places, self.adapters, strict=True)
        ]
        return {"terms": terms, **({"places": places} if places else {})}


def one_sample(outputs: Tree) -> Tree:
    """Return the outputs for the first sample; if the main output is known, only that."""
    answer = answer_in(outputs)
    return mapped(lambda t: t[0], outputs if answer is None else answer)


def adapter(place: Place) -> nn.Module:
    """Return a 1x1 convolution from the student's channels to the teacher's.

    If the channels are matched, it is the identity.
    """
    if place.channels is not None:
        return nn.Identity()
    return nn.Conv2d(place.student.shape[0], place.teacher.shape[0], 1, bias=False)
