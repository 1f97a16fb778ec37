"""Checkpoints, from which a killed training run resumes: one file, from which nothing is unpickled.

The file is safetensors. Its metadata hold, as JSON, a checksum and all values that are not tensors.
So one rename of a new file replaces the whole checkpoint.

It holds everything that the next batch depends on: every parameter and buffer (also masks and
moving ranges), the optimizer's tensors with their memory layout, all random generators, the order
of the epoch and the position in it, and the further state of steps (`memory` and `recall`: the
weights of a sum of losses, how far a penalty has grown). After the last epoch the file stays until
the entry is in the store, because measuring the network takes long too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LissomError, silent

FORMAT = 1
EVERY_MIN = 5.0  # minutes between two checkpoints unless the user says otherwise


class Unusable(Exception):
    """The reason why a checkpoint cannot be resumed from."""


@dataclass
class Checkpoints:
    """One checkpoint in `folder`, replaced at most every `every_s` seconds; `say` gets messages."""

    folder: Path
    every_s: float = 60 * EVERY_MIN
    say: Callable[[str], None] = silent
    written: int = 0
    last: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)
    # seconds that earlier runs took up to the checkpoint that this one resumes from
    before_s: float = 0.0

    @property
    def path(self) -> Path:
        """The path of the checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        return time.monotonic() - self.last >= self.every_s

    def write(self, circumstances: dict[str, Any], state: Any) -> None:
        """Replace the checkpoint by one rename; `circumstances` must be equal to resume."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        facts = {
            "format": FORMAT,
            "of": circumstances,
            "state": packed(state, tensors),
            "sum": checksum(tensors),
            "seconds": self.before_s + time.monotonic() - self.begun,
        }
        new = self.folder / f".checkpoint.{os.getpid()}"
        try:
            save_file(tensors, new, {"lissom": json.dumps(facts)})
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except Exception as error:  # safetensors has its own exception for a full disk
            with suppress(OSError):
                new.unlink()
            if not isinstance(error, OSError) and "os error" not in str(error).lower():
                raise
            self.say(f"no checkpoint could be written ({error}); the step goes on without")
        self.written = self.written + 1
        self.last = time.monotonic()

    def read(self, circumstances: dict[str, Any]) -> Any:
        """Return the state of the checkpoint, None if there is none that fits.

        A checkpoint that does not fit is moved aside, and `say` is told.
        """
        # left by a process that was killed while it wrote
        for rest in self.folder.glob(".checkpoint.*"):
            with suppress(OSError):
                rest.unlink()
        if not self.path.exists():
            return None
        try:
            return self._state(circumstances)
        except Unusable as error:
            self.set_aside(str(error))
            return None

    def set_aside(self, reason: str) -> None:
        """Move the checkpoint out of the way, so that the step starts anew."""
        self.before_s = 0.0
        with suppress(OSError):
            os.replace(self.path, self.folder / "checkpoint-aside.safetensors")
        self.say(f"the checkpoint of an earlier run is set aside, the step starts anew: {reason}")

    def _state(self, circumstances: dict[str, Any]) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {})["lissom"])
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if facts["format"] != FORMAT:
                raise Unusable(f"its format is {facts['format']}, not {FORMAT}")
            before = facts["of"]
            if differing := sorted(
                name
                for name in before.keys() | circumstances.keys()
                if before.get(name) != circumstances.get(name)
            ):
                name = differing[0]
                raise Unusable(
                    f"its {name} was {before.get(name)}, now it is {circumstances.get(name)}"
                )
            if facts["sum"] != checksum(tensors):
                raise Unusable("it was changed, or damaged, after it was written")
            state = unpacked(facts["state"], tensors)
            self.before_s = float(facts.get("seconds", 0))
            return state
        except (
            OSError,
            SafetensorError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
            RuntimeError,
        ) as error:
            # the errors that reading a damaged file may raise
            raise Unusable(
                f"it cannot be read ({type(error).__name__}: {str(error)[:100]})"
            ) from None


def every_s(minutes: float) -> float | None:
    """Return the seconds between two checkpoints, None for no checkpoints.

    >>> every_s(5), every_s(0)
    (300, None)
    """
    if not 0 <= minutes < math.inf:
        raise LissomError(f"checkpoint: expected minutes, 0 for none, got {minutes:g}")
    return 60 * minutes or None


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return nested dicts, lists, tuples, numbers and tensors in a form for JSON.

    Tensors are put into `tensors`. Raises TypeError for other values.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, dict):
        # a list of pairs, because keys may be numbers
        return {"dict": [[key, packed(each, tensors)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [packed(each, tensors) for each in value]}
    if isinstance(value, list):
        return [packed(each, tensors) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept in a checkpoint")


def unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value that `packed` was given, with the original memory layout of tensors.

    >>> held = {}
    >>> unpacked(packed({1: (2.5, [None, torch.ones(2)])}, held), held)
    {1: (2.5, [None, tensor([1., 1.])])}
    """
    if isinstance(value, list):
        return [unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: unpacked(each, tensors) for key, each in value["dict"]}
    if "tuple" in value:
        return tuple(unpacked(each, tensors) for each in value["tuple"])
    found = tensors[value["tensor"]]
    if found.is_contiguous() and list(found.stride()) == value["stride"]:
        # a copy is aligned as PyTorch aligns tensors; unaligned bytes of the file may make kernels
        # sum in another order
        return found.clone()
    return torch.empty_strided(found.shape, value["stride"], dtype=found.dtype).copy_(found)


def checksum(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 of tensors with their names, types and shapes."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and every buffer, persistent or not (masks, moving ranges)."""
    return {
        name: value.detach()
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }


def refill(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Fill a module in place with values from `all_tensors`. Raises Unusable if they do not fit."""
    now = all_tensors(module)
    for name in {**now, **values}:  # in the network's order, to report the first difference
        sizes = [
            None if name not in each else (tuple(each[name].shape), each[name].dtype)
            for each in (values, now)
        ]
        if sizes[0] != sizes[1]:
            raise Unusable(f"'{name}' was {sizes[0]}, now it is {sizes[1]}")
    for name, value in now.items():
        value.copy_(values[name])


def rng_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global random generators: Python's, NumPy's, PyTorch's."""
    found = {
        "python": random.getstate(),
        "numpy": numpy_rng_state(),
        "torch": torch.get_rng_state(),
    }
    return {**found, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else found


def restore_rng_states(state: dict[str, Any], device: torch.device) -> None:
    """Restore the states that `rng_states` returned."""
    random.setstate(state["python"])
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def numpy_rng_state() -> tuple[Any, ...]:
    kind, words, *rest = np.random.get_state()
    return (kind, np.asarray(words).tolist(), *rest)
