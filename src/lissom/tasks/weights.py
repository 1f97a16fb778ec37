"""Find the weights in a trainer's checkpoint, whatever its layout; no code in it is run."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError, cut, listed
from .code import ORDER, weights_file
from .pickled import check

HOLDERS = tuple(
    """
    state_dict model_state_dict model net network module weights params state_dict_ema model_ema
    ema_state_dict ema student teacher
    """.split()
)
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTS = {"n_averaged"}  # counters that AveragedModel adds to the weights
DEPTH = 3  # most nested prefixes, and most nested dicts

State = dict[str, Tensor]


def load_weights(model: nn.Module, path: str) -> None:
    """Load the weights in a file (.pt, .pth or .safetensors) into `model`.

    The state dict may be the whole file or lie under "model", "state_dict" and the like, and its
    names may have the prefixes of wrappers. A .pt file is read with weights_only, which runs no
    code from it. With `order:FILE`, tensors are matched by order instead of name. Raises
    LissomError, and loads nothing, if not all of them fit.
    """
    file = weights_file(path)
    load_state(model, read_checkpoint(file), file, by_order=file != path)


def read_checkpoint(path: str) -> Any:
    """Return the contents of a .pt, .pth or .safetensors file, read with weights_only.

    These are tensors, numbers and options of argparse. Raises LissomError for a file that cannot be
    read or that holds objects of other classes.
    """
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            if path.endswith(".safetensors"):
                return load_file(path)
            check(path, {name_of(kind) for kind in torch.serialization.get_safe_globals()})
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LissomError(
            f"weights: {path} holds more than tensors and would run code when "
            f"read{named_in(str(error))}; "
            "save model.state_dict() alone where it was made, better still as "
            ".safetensors"
        ) from None
    except Exception as error:
        # torch.load raises errors of many kinds for files that are not state dicts
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LissomError(f"weights: {path} cannot be read ({cut(first, 200)})") from None


def name_of(kind: Any) -> str:
    """Return the name that a class of PyTorch's list of safe globals has in a file."""
    return str(kind[1]) if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}"


def named_in(said: str) -> str:
    """Return the class that PyTorch's error names, in brackets for our error, or ""."""
    found = said.partition("GLOBAL ")[2].partition(" was not")[0] if "GLOBAL " in said else ""
    return f" (a {cut(found, 80)})" if found else ""


def is_state(value: object) -> bool:
    """Return whether a value is a state dict: a nonempty mapping of names to tensors."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def states_in(held: Any, depth: int = DEPTH) -> Iterator[State]:
    """Yield the state dicts in the contents of a checkpoint, the likeliest first."""
    if is_state(held) or (held == {} and depth == DEPTH):
        yield dict(held)
    elif isinstance(held, Mapping) and depth:
        tensors = {k: v for k, v in held.items() if isinstance(k, str) and isinstance(v, Tensor)}
        for key in HOLDERS:
            if isinstance(held.get(key), Mapping):
                yield from states_in(held[key], depth - 1)
        if tensors and all(isinstance(k, str) for k in held):
            yield tensors


def bared(state: State, own: Mapping[str, Tensor]) -> State:
    """Return a state dict without the prefixes of wrappers.

    A prefix is removed if all names have it, or, as Lightning's, all names of the network.
    """
    state = {k: v for k, v in state.items() if k not in COUNTS or k in own}
    for _ in range(DEPTH):
        if own.keys() & state.keys():
            break
        for prefix in PREFIXES:
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if inner and (len(inner) == len(state) or own.keys() <= inner.keys()):
                state = inner
                break
        else:
            break
    return (
        {k.replace("_orig_mod.", ""): v for k, v in state.items()}
        if not own.keys() & state.keys()
        else state
    )


def fits(state: State, own: Mapping[str, Tensor]) -> int:
    """Return how many of the network's tensors a state dict has with the same name and shape."""
    return sum(k in state and state[k].shape == v.shape for k, v in own.items())


def same_order(state: State, own: Mapping[str, Tensor]) -> bool:
    """Return whether two state dicts hold, in the same order, tensors of the same shapes and kinds.

    A kind is the last part of a name, such as "weight" or "running_mean".
    """
    return len(state) == len(own) > 0 and all(
        one.rpartition(".")[2] == two.rpartition(".")[2] and state[one].shape == own[two].shape
        for one, two in zip(state, own, strict=True)
    )


def load_state(model: nn.Module, held: Any, path: str, *, by_order: bool = False) -> None:
    """Load the state dict in the contents of a checkpoint into `model`.

    `by_order`: the first tensor becomes the network's first, and so on, whatever their names; their
    shapes and kinds must match. Raises LissomError, and loads nothing, if not all of it fits.
    """
    own = model.state_dict()
    found = [bared(state, own) for state in states_in(held)]
    if not found:
        keys = f", which has {listed(held)}" if isinstance(held, Mapping) and held else ""
        raise LissomError(
            f"weights: {path} is not a state dict: names with tensors, nor holds "
            f"one under a usual name{keys}"
        )
    if by_order:
        state = next((state for state in found if same_order(state, own)), None)
        if state is None:
            raise LissomError(
                f"weights: {ORDER}{path} does not fit; expected {len(own)} tensors of the network's "
                "shapes in its order, got others; nothing was loaded"
            )
        model.load_state_dict(dict(zip(own, state.values(), strict=True)))
        return
    state = max(found, key=lambda state: fits(state, own))  # the first among equals
    wrong = [
        f"{k}: {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the network"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    problems = [
        f"{what} ({len(keys)}): "
        f"{', '.join(cut(k, 120) for k in keys[:6])}{', ...' if len(keys) > 6 else ''}"
        for what, keys in zip(
            ("missing from the file", "not in the network", "other shapes"),
            (missing, extra, wrong),
            strict=True,
        )
        if keys
    ]
    if problems:
        other = not any(k in state for k in own)
        cure = ""
        if other and same_order(state, own):
            cure = (
                f"; but all {len(own)} shapes agree, in the same order: if it is the same network "
                f"written by somebody else, --weights {ORDER}{path} loads them one after the other, "
                "and --expect checks that it answers as it should"
            )
        elif other:
            cure = (
                "; the names are those of another network: --model names the one that was trained"
            )
        raise LissomError(
            f"weights: {path} does not fit; nothing was loaded. {'; '.join(problems)}{cure}"
        )
    model.load_state_dict(state, strict=False)
