"""Surgery alone, for whoever trains in a loop of their own: no store, no task."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from .errors import LissomError, LissomWarning
from .recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn


@overload
def apply(recipe: str, model: nn.Module, example: Tensor, images: Tensor | Sequence[Tensor] | None = None,
          *, seed: int = 0, notes: Literal[False] = False) -> nn.Module: ...


@overload
def apply(recipe: str, model: nn.Module, example: Tensor, images: Tensor | Sequence[Tensor] | None = None,
          *, seed: int = 0, notes: Literal[True]) -> tuple[nn.Module, list[str]]: ...


def apply(recipe: str, model: nn.Module, example: Tensor, images: Tensor | Sequence[Tensor] | None = None,
          *, seed: int = 0, notes: bool = False) -> nn.Module | tuple[nn.Module, list[str]]:
    """Return a copy of `model` after the surgery steps of `recipe`; the copy is an ordinary module to train on.

    `example` (n ...) is one input as the network takes it; `images` are inputs to calibrate on and to compare with,
    a tensor (n ...) or batches of them, `example` if None. With `notes` the sentences that the steps have to say come
    with the network; else a LissomWarning says which layers were left as they are and why. Raises LissomError for a step
    that learns.

    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 4))
    >>> small = apply("prune(0.5) | quantize(8)", net, torch.randn(1, 3, 8, 8), torch.randn(16, 3, 8, 8))
    >>> sum(p.numel() for p in net.parameters()), sum(p.numel() for p in small.parameters())
    (5572, 2788)
    """
    import torch

    from .bench.clock import clock_of
    from .context import Context
    from .surgery.computed_weights import copyable

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batches = [example] if images is None else [images] if isinstance(images, torch.Tensor) else list(images)

    def calibration(count: int) -> list[Tensor]:
        taken: list[Tensor] = []
        for batch in batches:
            left = count - sum(map(len, taken))
            if left > 0:
                taken.append(batch[:left].to(device))
        return taken

    steps = Recipe(recipe)
    for step in steps.steps:
        if step.learning:
            raise LissomError(f"apply: '{step}' learns and needs data; use lissom.run, or train in your own loop")
    steps.check()
    try:
        with copyable(model):
            model = copy.deepcopy(model).eval()
    except RuntimeError as error:  # tensors that somebody's own code has computed and kept
        raise LissomError(f"apply: the network cannot be copied ({str(error).split('.')[0]}); where a layer keeps "
                          "tensors that it computed, remove these first") from None
    try:
        with torch.no_grad():
            model(example.to(device))
    except Exception as error:  # whatever the network's own code raises
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LissomError(f"apply: the network does not run on `example`, of shape {tuple(example.shape)}; one input as "
                          f"it takes it fits, batch first: {why}") from error
    said = list[str]()
    for step in steps.steps:
        torch.manual_seed(seed)
        ctx = Context(example.to(device), calibration, seed=seed, device=device, where=str(step), clock=clock_of())
        model = step(model, ctx)
        said += ctx.notes
        for warning in ctx.warnings if not notes else ():
            warnings.warn(warning, LissomWarning, stacklevel=2)
    return (model, said) if notes else model


def save(model: nn.Module, folder: str | Path) -> None:
    """Write a network as structure.json and model.safetensors into a folder; no pickle.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    >>> small = apply("prune(0.5)", net, torch.randn(1, 3, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(small, folder)
    ...     again = load(folder, net)
    >>> again[0].out_channels
    8
    """
    from .snapshot import save as write

    write(model, folder)


def load(place: str | Path, model: nn.Module | None = None, *, store: str | Path = ".lissom") -> nn.Module:
    """Load a network: from a folder that `save` wrote, or by key from a store.

    With a folder, `model` is the network freshly built, as it was before surgery; it is changed and returned.
    With a key, the store knows how to build it.
    """
    from .execute import load_key
    from .snapshot import restore
    from .store import Store

    if model is not None:
        return restore(model, place)
    if (Path(place) / "structure.json").is_file():
        raise LissomError(f"load: {place} is a folder; give the freshly built network as `model` too")
    return load_key(str(place), Store(store))


def export(model: nn.Module, target: str, path: str | Path, shape: Sequence[int], images: Tensor | None = None) -> Path:
    """Write a network, which takes (n, *shape), to a file for a target such as "onnxruntime"; return its path.

    `images` (n, *shape) are inputs for a target that quantizes by itself, as mnn(8, activations="kl") does. The file is
    opened in its runtime and compared with the network, on two of the images, or on noise. Raises LissomError, with nothing
    written, if it cannot be made, does not run or answers otherwise.

    >>> import tempfile
    >>> from torch import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(nn.Conv2d(1, 2, 3), "onnxruntime", folder + "/net.onnx", (1, 8, 8)).name
    'net.onnx'
    """
    from .plan import one_target
    from .proof import prove
    from .scratch import written

    chosen = one_target(target)
    with written(Path(path), "export") as beside:
        chosen.export(model, beside, tuple(shape), {"baked": "false"},
                      None if images is None else lambda count: [images[:count]])
        prove(chosen, beside, model, tuple(shape), images)
    return Path(path)


def latency(files: Sequence[str | Path], targets: str, shape: Sequence[int], *, threads: int = 1) -> list[dict[str, object]]:
    """Time exported files on inputs of `shape` (n c h w) in every target, in turns; one row for each pair.

    `disturbed`: the ends of the interval are so far apart that the machine was busy with something else.
    """
    from .bench.latency import latencies
    from .plan import targets_of
    from .report.rows import wide

    pairs = [(str(target), Path(file)) for target in targets_of(targets) for file in files]
    for _, path in pairs:
        if not path.is_file():
            raise LissomError(f"latency: there is no file {path}")
    timings = latencies(pairs, tuple(shape), threads=threads)
    return [{"target": target, "artefact": str(path), "size_bytes": path.stat().st_size, "latency_ms": t.latency_ms(),
             "disturbed": wide(t.latency_ms()),
             "energy_mj": t.energy_mj, "load_ms": t.load_ms, "peak_mib": t.peak_mib, "resident_mib": t.resident_mib,
             "threads": threads}
            for (target, path), t in zip(pairs, timings, strict=True)]
