"""The optimizer state that one step saves and the next step loads.

A file beside the weights of an entry holds, by name of parameter, the momentum of sgd, or the first
and second moment and the number of updates of adam and adamw. Nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import LissomError

FILE = "optimizer.safetensors"
Moments = dict[str, dict[str, Tensor]]  # parameter -> name in the optimizer -> tensor


@dataclass
class OptimizerState:
    """The optimizer state of the previous step, and that which this step keeps for the next one."""

    previous_entry: Path | None = None  # folder of the previous step
    kept: Moments = field(default_factory=dict)

    def read(self, where: str) -> Moments:
        """Return the optimizer state of the previous step. Raises LissomError if there is none."""
        from safetensors.torch import load_file

        path = None if self.previous_entry is None else self.previous_entry / FILE
        if path is None or not path.is_file():
            raise LissomError(
                f"{where}: resume=True takes up the optimizer of the step before, and nothing is "
                "there; that step needs keep_optimizer=True"
            )
        found: Moments = {}
        for key, value in load_file(path).items():
            kind, _, name = key.partition("/")
            found.setdefault(name, {})[kind] = value
        return found

    def write(self, folder: Path) -> None:
        """Write the optimizer state of this step, if there is one."""
        from safetensors.torch import save_file

        tensors = {}
        for name, kinds in self.kept.items():
            for kind, value in kinds.items():
                tensors[f"{kind}/{name}"] = value.contiguous()
        if tensors:
            save_file(tensors, folder / FILE)


def moments_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Moments:
    """Return the state of an optimizer for a network's parameters, copied to the CPU."""
    return {
        name: {
            kind: value.detach().cpu().clone()
            for kind, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def load_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, moments: Moments, where: str
) -> None:
    """Load another optimizer's state into an optimizer, by names of parameters.

    Raises LissomError if a parameter has another shape now.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name not in moments:
            continue
        state = {}
        for kind, value in moments[name].items():
            if value.ndim and value.shape != parameter.shape:
                raise LissomError(
                    f"{where}: resume=True: {name} was {tuple(value.shape)} in the step before, now "
                    f"it is {tuple(parameter.shape)}"
                )
            # laid out as the parameter is; a count of updates stays on the CPU
            state[kind] = torch.empty_like(parameter).copy_(value) if value.ndim else value.clone()
        optimizer.state[parameter] = state
