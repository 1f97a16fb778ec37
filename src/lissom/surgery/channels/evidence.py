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
from ..loss import Loss, cross_entropy
from .group import Group, layers_in

# batches of samples and their labels, None if there are no labels
Labelled = list[tuple[Tensor, Tensor | None]]


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

        It is the sum over positions of activation times gradient, separately for each sample.
        """
        slopes: dict[str, list[Tensor]] = {}
        for images, labels in self._batches():
            gates: dict[str, Tensor] = {}

            def gated(
                name: str, layer: nn.Module, out: Tensor, gates: dict[str, Tensor] = gates
            ) -> Tensor:
                axis = channel_axis(layer, out)
                if name not in gates:  # a layer that runs twice has one gate
                    gates[name] = out.new_ones(len(out), out.shape[axis], requires_grad=True)
                shape = [1] * out.ndim
                shape[0], shape[axis] = gates[name].shape
                return out * gates[name].view(shape)

            with self._hooked(gated), torch.enable_grad():
                outputs = self.model(images)
                if not gates:
                    continue  # no layer was called as a module; `of` raises the error
                loss = self.loss(images, labels, outputs) * len(images)
                for name, slope in zip(
                    gates, torch.autograd.grad(loss, list(gates.values())), strict=True
                ):
                    slopes.setdefault(name, []).append(slope.float().cpu())
        return {name: torch.cat(parts) for name, parts in slopes.items()}

    @cached_property
    def activity(self) -> dict[str, Tensor]:
        """The mean |activation| of each channel of a layer's output: layer -> (channels)."""
        means: dict[str, list[Tensor]] = {}

        def seen(name: str, layer: nn.Module, out: Tensor) -> None:
            flat = (
                out.detach().float().movedim(channel_axis(layer, out), 1).flatten(2)
                if out.ndim > 2
                else out[..., None]
            )
            means.setdefault(name, []).append(flat.abs().mean((0, 2)).cpu())

        with self._hooked(seen), torch.no_grad():
            for images, _ in self._batches():
                self.model(images)
        return {name: torch.stack(parts).mean(0) for name, parts in means.items()}

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
                    "returns only its channels, so nothing was measured there; "
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
        if not batches or not len(batches[0][0]):
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


def channel_axis(layer: nn.Module, out: Tensor) -> int:
    """Return the channel axis of a layer's output: the last for linear layers, else the second."""
    return out.ndim - 1 if isinstance(layer, nn.Linear) else 1
