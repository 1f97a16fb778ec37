"""Cluster weights: round them to few shared values."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..language.context import Context


@dataclass(frozen=True)
class Cluster(Step):
    """Let the weights of convolutions, linear layers and embeddings share few values.

    weight[i] = centroid[code[i]]
    error     = sum of s[i] (w[i] - centroid[code[i]])^2

    A packed file then stores a codebook and, for each weight, a code of log2(values) bits. The
    centroids minimize the error: k-means in one dimension, solved exactly for up to 16,384 distinct
    weights and approximately for more. With sensitivity="fisher", s[i] is the mean squared gradient
    of the loss by w[i], else 1. It helps if clustering changes the loss little; with 4 values or
    fewer it has made networks worse.

    A weight that a mask holds at zero stays zero, and zero is then one of the values. Batch-norm is
    folded into the preceding layer first. A later learning step trains the centroids: each gets the
    mean gradient of the weights that share it. With renew=True the weights are trained too, with a
    straight-through estimator, and each forward pass rounds them to the nearest centroid; that
    needs a learning rate of a hundredth or less. The centroids of frozen weights are frozen.

    No runtime here is faster with shared values; files become smaller once they are packed.
    Raises LissomError if no layer can be clustered.

    Also known as: weight clustering, weight sharing, palettization, codebook quantization, k-means
    quantization, vector quantization of one dimension.
    Source: Han, Mao and Dally 2015, Deep Compression, https://arxiv.org/abs/1510.00149, section 3;
    Choi, El-Khamy and Lee 2016, Towards the Limit of Network Quantization,
    https://arxiv.org/abs/1612.01543, for sensitivity.
    Differs: the gradient of a centroid is the mean over its weights, not their sum, so that the
    learning rate does not depend on how many weights share it.
    """

    version: ClassVar[int] = 1
    leaves: ClassVar[str] = "cluster"
    cannot_follow: ClassVar = {
        "quantized": "the weights are quantized already; cluster before quantize",
        "cast": "the weights are stored in 16 bits already; cluster before cast",
        "cluster": "the weights are clustered already; a network is clustered once, with the same "
        "settings for all its layers",
    }

    values: int = arg("distinct values in a codebook", 16, low=2, high=256)
    _: KW_ONLY
    of: Literal["layer", "filter", "network"] = arg(
        "one codebook for each layer, for each filter, or for all layers together", "layer"
    )
    sensitivity: Literal["none", "fisher"] = arg(
        "weight of each error: none = 1; fisher = squared gradient of the loss", "none"
    )
    samples: int = arg("samples for sensitivity, from the training data", 256, low=1, high=100_000)
    renew: bool = arg(
        "also train the weights, which may change centroid; False = fixed assignment", False
    )
    keep: str = arg("layers to leave unchanged: glob patterns, comma-separated", "")
    only: str = arg("layers to cluster: glob patterns, comma-separated; empty = all", "")

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        from ..surgery.codebooks import Codebooks
        from ..surgery.coverage import tell_left_out
        from ..surgery.states import check_states
        from ..surgery.transformable import chosen_layers

        check_states(self, model, ctx.where)
        ctx = ctx.in_float32(model)
        ctx.finite(model)
        layers, left = chosen_layers(
            model, ctx, self.only, self.keep, misfit=self.misfit, fold=True
        )
        if not layers:
            why = "; ".join(f"{k}: {v}" for k, v in list(left.items())[:3])
            raise LissomError(f"{ctx.where}: no layer can be clustered ({why or 'there are none'})")
        books = Codebooks(self.values, self.of, self.renew)
        rows = books.cluster(layers, self.sensitivities(model, list(layers), ctx))
        ctx.gate("values beyond the limit", max(row["values"] for row in rows) - self.values, 0)
        tell_left_out(ctx, layers, left, "whole")
        self.report(model, rows, left, ctx)
        return model

    def misfit(self, layer: nn.Module) -> str | None:
        """Return why the weight of a layer cannot have codebooks of the kind `of`, or None."""
        from torch import nn

        if self.of == "filter" and isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return (
                "a transposed convolution has its inputs where others have their filters; "
                "of='layer' fits"
            )
        return None

    def sensitivities(self, model: nn.Module, layers: list[str], ctx: Context) -> dict[str, Tensor]:
        """Return the factor s of each weight's error, by layer; {} if all are 1."""
        if self.sensitivity == "none":
            return {}
        from ..surgery.sensitivity import squared_gradients

        return squared_gradients(model, layers, ctx.labelled(self.samples), ctx)

    def report(
        self, model: nn.Module, rows: list[dict[str, object]], left: dict[str, str], ctx: Context
    ) -> None:
        """Record in `ctx` the clusters of each layer and the size of the network in bytes."""
        from ..surgery.sizes import sizes

        dense = sum(p.numel() * p.element_size() for p in model.parameters())
        packed = sizes(model)["packed_bytes"]
        ctx.facts.update(clustered=rows, left_whole=left, dense_bytes=dense, packed_bytes=packed)
        ctx.notes.append(
            f"{ctx.where}: latency does not change, since no runtime here computes with codes, and "
            f"{dense} bytes shrink to {packed} only once packed"
        )
