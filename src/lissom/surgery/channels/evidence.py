"""The inputs of importance scores: weights, and gradients and activations on calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LissomError
from ...trees import Tree, length, run_on_copied_inputs
from ..loss import Loss, cross_entropy
from .group import Group, layers_in

# batches of samples and their labels, None if there are no labels
Labelled = list[tuple[Tree, Tensor | None]]


@dataclass
class Evidence:
    """A network, its groups, and labelled samples. Measured once, and only if a score needs it."""

    model: nn.Module
    groups: Iterable[Group]
    images: Callable[[], Labelled]
    loss: Loss = cross_entropy
    seed: int = 0

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers by name. Shared ones appear under each of their names."""
        return dict(
            [*self.model.named_parameters(remove_duplicate=False), *self.model.named_buffers()]
        )

    @cached_property
    def draw(self) -> torch.Generator:
        """The random generator of all scores."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def gates(self) -> dict[str, Tensor]:
        """The gradient of a gate of 1 on each channel of a layer's output: layer -> (samples
        channels).

        It is the sum over positions of activation times gradient, separately for each sample, and 0
        if the loss does not depend on the layer. A layer that is called with several numbers of
        rows, such as (n c) and (n*k c), is left out if one of them is no multiple of the samples.
        """
        slopes: dict[str, list[Tensor]] = {}
        left_out = set[str]()
        for images, labels in self._batches():
            for name, by_rows in self._slopes(images, labels).items():
                slope = of_samples(by_rows, length(images))
                if slope is None:
                    left_out.add(name)
                else:
                    slopes.setdefault(name, []).append(slope.float().cpu())
        return {name: torch.cat(parts) for name, parts in slopes.items() if name not in left_out}

    def _slopes(self, images: Tree, labels: Tensor | None) -> dict[str, dict[int, Tensor]]:
        """Return the gradients of the gates of each layer on a batch: layer -> rows -> (rows
        channels), with one gate for all calls with the same number of rows.

        Raises LissomError if the loss depends on no layer.
        """
        gates: dict[tuple[str, int], Tensor] = {}

        def gated(name: str, layer: nn.Module, out: Tensor) -> Tensor:
            axis = channel_axis(layer, out)
            rows = len(out) if axis else 1  # a vector has only channels
            if (name, rows) not in gates:
                gates[name, rows] = out.new_ones(rows, out.shape[axis], requires_grad=True)
            shape = [1] * out.ndim
            shape[0] = rows
            shape[axis] = out.shape[axis]
            return out * gates[name, rows].view(shape)

        with self._hooked(gated), torch.enable_grad():
            outputs = run_on_copied_inputs(self.model, images)
            if not gates:
                return {}  # no layer was called as a module; `of` raises the error
            loss = self.loss(images, labels, outputs) * length(images)
            if not loss.requires_grad:
                raise LissomError(
                    "prune: the loss depends on no layer that can be cut; expected one computed "
                    'from the outputs, or by="l1", which needs only weights'
                )
            found = torch.autograd.grad(loss, list(gates.values()), materialize_grads=True)
        slopes: dict[str, dict[int, Tensor]] = {}
        for (name, rows), slope in zip(gates, found, strict=True):
            slopes.setdefault(name, {})[rows] = slope
        return slopes

    @cached_property
    def activity(self) -> dict[str, Tensor]:
        """The mean |activation| of each channel of a layer's output: layer -> (channels).

        Batches count by their samples, and all calls of a layer on a batch equally.
        """
        means: dict[str, list[Tensor]] = {}

        def seen(name: str, layer: nn.Module, out: Tensor) -> None:
            axis = channel_axis(layer, out)
            others = [other for other in range(out.ndim) if other != axis]
            sizes = out.detach().float().abs()
            means.setdefault(name, []).append((sizes.mean(others) if others else sizes).cpu())

        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        with self._hooked(seen), torch.no_grad():
            for images, _ in self._batches():
                means.clear()
                run_on_copied_inputs(self.model, images)
                count = length(images)
                for name, parts in means.items():
                    sums[name] = sums.get(name, 0) + count * torch.stack(parts).mean(0)
                    counts[name] = counts.get(name, 0) + count
        return {name: total / counts[name] for name, total in sums.items()}

    def of(self, group: Group, measured: dict[str, Tensor], where: str) -> Tensor:
        """Return the measurements at a group's layers, summed over the channels of a unit: (...
        units).

        They are taken after the normalisation if there is one, else at the layer that makes the
        channels. Before a batch-norm, weight times gradient of a filter always sums to 0. Raises
        LissomError if a layer was not measured.
        """
        role = "scale" if group.layers("scale") else "out"
        total = None
        for member in group.members:
            if member.role != role:
                continue
            values = measured.get(member.layer)
            unit = member.unit.flatten()
            if values is None or values.shape[-1] % len(unit):
                raise LissomError(
                    f"{where}: {member.layer or 'the network'} was not called as a module that "
                    "returns only its channels, for each of the samples, so nothing was measured "
                    "there; "
                    f"by=\"l1\" needs only weights, and keep='{member.layer}' leaves it whole"
                )
            if values.shape[-1] != len(unit):
                unit = unit.repeat_interleave(values.shape[-1] // len(unit))
            mine = unit >= 0
            sums = values.new_zeros(*values.shape[:-1], group.size).index_add(
                -1, unit[mine], values[..., mine]
            )
            total = sums if total is None else total + sums
        assert total is not None
        return total

    def _batches(self) -> Labelled:
        batches = self.images()
        if not batches or not length(batches[0][0]):
            raise LissomError("prune: there are no calibration images")
        return batches

    def _hooked(self, call: Callable[[str, nn.Module, Tensor], Any]) -> ExitStack:
        """Return a context that passes the output of each layer of the groups to `call`."""
        hooks = ExitStack()
        self.model.eval()
        for name in layers_in(self.groups, "out", "scale"):
            layer = self.model.get_submodule(name)
            if sum(p.ndim > 1 for p in layer.parameters()) > 1:
                continue  # with several weights it is unclear which of them makes the output

            def hook(module: nn.Module, _: Any, out: Any, name: str = name) -> Any:
                return call(name, module, out) if isinstance(out, Tensor) else None

            hooks.callback(layer.register_forward_hook(hook).remove)
        return hooks


def of_samples(by_rows: dict[int, Tensor], samples: int) -> Tensor | None:
    """Return the gradients of a layer's gates (rows channels), by number of rows, as one tensor.

    Several are added up for each sample, whose rows follow one another: (samples channels). None if
    a number of rows is no multiple of the samples.
    """
    if len(by_rows) == 1:
        return next(iter(by_rows.values()))
    if any(rows % samples for rows in by_rows):
        return None
    parts = [slope.unflatten(0, (samples, -1)).sum(1) for slope in by_rows.values()]
    return torch.stack(parts).sum(0)


def channel_axis(layer: nn.Module, out: Tensor) -> int:
    """Return the channel axis of a layer's output: the last for linear layers, else the second."""
    return out.ndim - 1 if isinstance(layer, nn.Linear) else 1
