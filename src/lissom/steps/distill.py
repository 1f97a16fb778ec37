"""Train a network to imitate a teacher."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError, first_line
from ..language.augmentation import Augmentations
from ..language.method import arg
from ..language.parse_methods import sum_of
from ..learning.step import Learning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..distillation.comparison import Comparison, Term
    from ..language.context import Context
    from ..language.training import Batch


@dataclass(frozen=True)
class Distill(Learning):
    """Train on the labels and on the outputs or features of a teacher network.

    loss = (1 - alpha) * task loss + alpha * (first loss + sum of weight * further loss)
    weight = share * |gradient of the first loss| / |gradient of the further loss|
    images: (n c h w), outputs: (n classes), features: (n c h w)

    `loss` is one loss or a sum, as in "kd + gram" or "kd(temperature=2) + 0.5*attention". A number
    in front of a loss sets its weight. Other weights are measured as above on the first batch and
    every 100 batches, from gradient norms over all parameters of the student.

    By default the teacher is the recipe's own network before compression (after its leading `train`
    steps). `teacher` names another: a key of the store, a weight file, MODEL=FILE for another
    network, or several of these, separated by commas, whose logits are averaged. It sees the same
    augmented batches, in inference mode and in the precision of the student.

    Losses on features compare the ends of stages, or the layers in `at`. A pruned student is
    compared on the channels that it kept. If the teacher has another architecture, 1x1 convolutions
    map the student's channels to the teacher's; they are trained with the student and dropped
    afterwards.

    Also known as: knowledge distillation (KD), feature distillation, teacher-student training.
    Source: Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network,
    https://arxiv.org/abs/1503.02531.
    """

    has_teacher: ClassVar[bool] = True

    loss: str = arg("distillation loss, or a weighted sum of losses", menu="losses", sum=True)
    epochs: int = arg("training epochs", low=1, high=100_000)
    _: KW_ONLY
    lr: float = arg(
        "peak learning rate; adamw needs about a hundredth of sgd's", 0.1, above=0, high=10
    )
    alpha: float = arg(
        "weight of the teacher's loss; the task loss gets 1 - alpha", 0.9, low=0, high=1
    )
    temperature: float | None = arg(
        "temperature of every loss that has one; None = their own", None, above=0, high=100
    )
    share: float = arg(
        "gradient norm of each loss without a number, relative to the first loss",
        0.5,
        above=0,
        high=100,
    )
    at: str | None = arg(
        'feature layers, "layer1,layer*" or "student=teacher"; None = ends of stages',
        None,
    )
    teacher: str | None = arg(
        "key, weight file, MODEL=FILE, or several; None = the uncompressed network",
        None,
    )

    def identity(self) -> str:
        """Return the settings, with a hash of each file of weights or of code of the teachers."""
        from ..tasks.teachers import teacher_marks

        return super().identity() + teacher_marks(self.teacher or "")

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Compare with the teacher once, on two images, to find whatever cannot be compared."""
        import torch

        from ..trees import mapped, run_on_copied_inputs, shapes

        super().rehearse(model, ctx)
        self._check_mixing(ctx.where)
        if ctx.task is None or ctx.teacher is None:
            return model
        # the recipe's own network, which is not trained yet
        untrained = self.teacher is None and ctx.task.teacher is None
        teacher = ctx.task.fresh() if untrained else ctx.teacher(self.teacher)
        inputs, targets = ctx.labelled(2)[0]
        try:
            with torch.no_grad():
                run_on_copied_inputs(teacher.eval(), inputs)
        except LissomError as error:
            raise LissomError(f"{ctx.where}: {error}") from None
        except Exception as error:  # a network made for other images may raise anything
            raise LissomError(
                f"{ctx.where}: the teacher raised {type(error).__name__} on images of "
                f"{shapes(mapped(lambda t: t[0], inputs))}: {first_line(error)}"
            ) from None
        compare = self._comparison(model, teacher, ctx)
        with torch.no_grad(), compare.watching():
            compare.values(run_on_copied_inputs(model.eval(), inputs), targets)
        return model

    def terms(self, where: str) -> list[Term]:
        """Return the losses with their numbers, after setting `temperature` in those that have one.

        Raises LissomError if `temperature` is set and no loss has one.
        """
        from ..language.loss import Loss

        weighted = [
            (number, loss)
            for number, loss in sum_of("losses", self.loss).terms
            if isinstance(loss, Loss)
        ]
        if self.temperature is None:
            return weighted
        warmed = [loss.at_temperature(self.temperature) for _, loss in weighted]
        if not any(warmed):
            raise LissomError(
                f"{where}: temperature={self.temperature:g} was given, but "
                f"'{self.loss}' has none; "
                "losses of logits do, such as kd"
            )
        return [(number, new or loss) for (number, loss), new in zip(weighted, warmed, strict=True)]

    def _check_mixing(self, where: str) -> None:
        """Raise LissomError if a loss needs the class of each sample and samples are mixed."""
        mixing = [p for p in Augmentations.of(self.augment).parts if p != "auto" and p.mixing]
        for _, loss in self.terms(where) if mixing else ():
            if getattr(loss, "needs_labels", False):
                raise LissomError(
                    f"{where}: {loss.name()} needs the class of each sample, which "
                    f"{mixing[0].name()} blends with others; kd needs none"
                )

    def _comparison(self, model: nn.Module, teacher: nn.Module, ctx: Context) -> Comparison:
        from ..distillation.comparison import Comparison
        from ..learning.precision import precision_named

        assert ctx.task is not None
        return Comparison(
            self.terms(ctx.where),
            model,
            teacher.eval(),
            ctx.example,
            logits=ctx.task.compared,
            at=self.at,
            share=self.share,
            where=ctx.where,
            precision=precision_named(self.precision, ctx.device),
        )

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        from ..learning.precision import layout_of

        if ctx.teacher is None or ctx.task is None:
            raise LissomError(
                f"{ctx.where}: there is no teacher; use lissom.run, which keeps the uncompressed network"
            )
        compare = self._comparison(model, ctx.teacher(self.teacher), ctx)
        compare.to(ctx.device, layout_of(model, ctx.device))
        task_loss = ctx.task.term()

        def value(student: nn.Module, batch: Batch) -> Tensor:
            taught = compare(batch.outputs, batch.labels, batch.share)
            return (
                taught
                if self.alpha == 1
                else (1 - self.alpha) * task_loss(student, batch) + self.alpha * taught
            )

        with compare.watching():
            ctx.learn(
                model,
                self.train_settings(self.epochs),
                loss=value,
                extra=compare.trained,
                stateful=[compare.balance],
            )
        ctx.facts.update(compare.facts())
        return model
