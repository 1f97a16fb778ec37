"""The functions for your own training loop: surgery, export and latency without a store or task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from .errors import LissomError, LissomWarning, cut, type_of
from .language.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

FEW_IMAGES = 8  # fewer measure ranges badly, which needs a warning


@overload
def apply(
    recipe: str,
    model: nn.Module,
    example: Any,
    images: Any = None,
    *,
    seed: int = 0,
    notes: Literal[False] = False,
) -> nn.Module: ...


@overload
def apply(
    recipe: str,
    model: nn.Module,
    example: Any,
    images: Any = None,
    *,
    seed: int = 0,
    notes: Literal[True],
) -> tuple[nn.Module, list[str]]: ...


def apply(
    recipe: str,
    model: nn.Module,
    example: Any,
    images: Any = None,
    *,
    seed: int = 0,
    notes: bool = False,
) -> nn.Module | tuple[nn.Module, list[str]]:
    """Return a copy of `model` after the surgery steps of `recipe`: an ordinary module that you can
    train further.

    `example` (n ...) is one input of the network: a tensor or array, a tuple of its arguments, or a
    dict of them by name. `images` are inputs for calibration and comparisons, by default `example`:
    a tensor (n ...) like it, or a list or DataLoader of batches or single samples, with or without
    labels. With `notes`, return the network and the list of the steps' notes. Otherwise a
    LissomWarning says which layers were left unchanged and why. prune and mask keep the dtype of
    16-bit and float64 weights, fold and equalize that of float64 weights; other steps convert
    weights to float32.
    Raises LissomError for a step that trains, and if the network's outputs differ from call to
    call.

    >>> import torch
    >>> from torch import nn
    >>> layers = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()
    >>> net = nn.Sequential(*layers, nn.Linear(32 * 36, 4))
    >>> small = apply("prune(0.5) | quantize(8)", net, torch.randn(1, 3, 8, 8), torch.randn(16, 3, 8, 8))
    >>> sum(p.numel() for p in net.parameters()), sum(p.numel() for p in small.parameters())
    (5572, 2788)
    """
    import torch

    steps = Recipe(recipe)
    for step in steps.steps:
        if step.learning:
            raise LissomError(
                f"apply: '{step}' learns and needs data; use lissom.run, or train in your own loop"
            )
    steps.check()
    with torch.inference_mode(False):  # inference mode hides single operations from the trace
        small, said, warned = _applied(steps, model, example, images, seed)
    for warning in warned if not notes else ():
        warnings.warn(warning, LissomWarning, stacklevel=2)
    return (small, said) if notes else small


def from_onnx(path: str | Path, **fixed: Any) -> nn.Module:
    """Return the network in an ONNX file as a module of ordinary layers, in eval mode.

    `fixed` sets inputs of the file to constants, as in from_onnx("vad.onnx", sr=16000).

    Layers have the names of their weights in the file. The network takes the file's inputs as
    arguments, and returns one tensor, or a dict of several by name. Its outputs are compared with
    ONNX Runtime's on random inputs. `metadata` holds the file's metadata, `notes` what was read
    differently from what the file states.
    Raises LissomError if the file is damaged, has unknown operators, or if the outputs differ.
    """
    from .importing.onnx_network import onnx_network

    return onnx_network(path, **fixed)


def _applied(
    steps: Recipe, model: nn.Module, example: Any, images: Any, seed: int
) -> tuple[nn.Module, list[str], list[str]]:
    """Return the network after the steps, their notes, and their warnings."""
    from .data.samples import Samples, example_of
    from .tasks.user_network import copied_network, network_of
    from .trees import length

    whole = network_of(model, "apply")
    example = example_of(example, whole)
    model = copied_network(whole, "apply")
    samples = Samples(example if images is None else images, example)
    others = None if images is None else samples
    if not all(step.compares for step in steps.steps):
        _check_runs(model, example, others)
    try:
        few_images = images is None and length(example) < FEW_IMAGES
        return _in_turn(steps, model, example, samples, seed, few_images)
    except Exception:
        _check_runs(copied_network(whole, "apply"), example, others)  # raises a clearer error
        raise


def _in_turn(
    steps: Recipe, model: nn.Module, example: Any, samples: Any, seed: int, few_images: bool
) -> tuple[nn.Module, list[str], list[str]]:
    """Run the steps in order; random numbers on the CPU and the network's device go on as before."""
    import torch

    from .bench.clock import clock_of
    from .language.context import SurgeryContext
    from .tasks.user_network import dtype_of
    from .trees import in_float, length, tensors_in

    device = next(tensors_in(example)).device
    said = list[str]()
    warned = list[str]()
    dtype = dtype_of(model)
    images = samples

    def samples_in_float(count: int) -> list[Any]:
        return [in_float(batch) for batch in samples(count)]

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for step in steps.steps:
            torch.manual_seed(seed)
            if dtype != dtype_of(model):  # the last step converted it to float32
                example = in_float(example)
                images = samples_in_float
            ctx = SurgeryContext(
                example, images, seed=seed, device=device, where=str(step), clock=clock_of()
            )
            model = step(model, ctx)
            if few_images and ctx.facts.get("ranges"):
                ctx.warnings.append(
                    f"{step}: ranges were measured on `example` alone, of {length(example)} inputs; "
                    "give some hundred as `images`"
                )
                ctx.notes += ctx.warnings[-1:]
            said += ctx.notes
            warned += ctx.warnings
    return model, said, warned


def _check_runs(model: nn.Module, example: Any, samples: Any) -> None:
    """Raise LissomError unless the network runs on the example and a sample, and is deterministic."""
    import torch

    from .surgery.steady import unsteady
    from .trees import first, run_on_copied_inputs, shapes

    answers = []
    others = (
        []
        if samples is None
        else [(first(batch, 1), "a sample of `images`") for batch in samples(1)]
    )
    for shown, what in [(example, "`example`"), *others]:
        try:
            with torch.no_grad():
                answers.append(run_on_copied_inputs(model, shown))
        except Exception as error:  # whatever the network's own code raises
            like = "" if shown is example else f"; `example` is {shapes(example)}"
            raise LissomError(
                f"apply: the network does not run on {what}, of shape "
                f"{shapes(shown)}{like}; expected one input as it takes it, batch first: "
                f"{cut(str(error) or type(error).__name__)}"
            ) from error
    if reason := unsteady(model, example, answers[0]):
        raise LissomError(f"apply: {reason}")


def save(model: nn.Module, folder: str | Path) -> None:
    """Save a network to a folder, as structure.json and model.safetensors, without pickle.

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
    from .store.snapshot import save as write

    write(model, folder)


def load(
    place: str | Path, model: nn.Module | None = None, *, store: str | Path = ".lissom"
) -> nn.Module:
    """Load a network from a folder that `save` wrote, or by key from a store.

    With a folder, `model` is the network freshly built, as it was before surgery. It is changed in
    place and returned. With a key, the store knows how to build it. If an entry names code of
    yours, that code is only imported if your own lissom wrote the entry. Otherwise pass `model`
    here too, or sign the store with `lissom store --trust`.
    """
    from .running.entries import load_key
    from .store.snapshot import restore
    from .store.store import Store

    kept = Store(store)
    if model is not None:
        return restore(model, kept.folder(kept.find(str(place))) if str(place) in kept else place)
    if (Path(place) / "structure.json").is_file():
        raise LissomError(
            f"load: {place} is a folder; give the freshly built network as `model` too"
        )
    return load_key(str(place), kept)


def export(
    model: nn.Module,
    target: str,
    path: str | Path,
    shape: Sequence[int] = (),
    images: Any = None,
    *,
    example: Any = None,
) -> Path:
    """Export a network with inputs (n, *shape) to a file for a target such as "onnxruntime", and
    return the path.

    `example` is one input of the network, for inputs that `shape` cannot describe: integers, a
    tuple of its arguments, or a dict of them by name. `images` (n, *shape) are inputs for a target
    that quantizes by itself, such as mnn(8, activations="kl"). Floats in the file are float32,
    whatever the network's dtype. The file is run in its runtime and compared with the network, on
    two of the images, the example or noise. Raises LissomError and writes nothing if the file
    cannot be made, does not run, or its outputs differ.

    >>> import tempfile
    >>> from torch import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(nn.Conv2d(1, 2, 3), "onnxruntime", folder + "/net.onnx", (1, 8, 8)).name
    'net.onnx'
    """
    import torch

    from .data.samples import as_tensors
    from .running.parity import prove
    from .running.plan import one_target
    from .system.scratch import written
    from .tasks.user_network import copied_network, network_of

    try:
        shape = tuple(index(size) for size in shape)
    except TypeError:
        raise LissomError(
            "export: shape: expected the sizes of one input without the batch, as "
            "in (3, 224, 224), got "
            f"{type_of(shape)}; inputs themselves are given as example="
        ) from None
    if any(size < 1 for size in shape):
        raise LissomError(
            f"export: shape: expected sizes of at least 1, got {shape}; a file takes any number of "
            "inputs, all of one size"
        )
    if not shape and example is None:
        raise LissomError(
            "export: the shape of an input without the batch is missing, as in "
            "shape=(3, 224, 224), or an "
            "input itself as example="
        )
    chosen = one_target(target)
    seen = as_tensors(images)
    shown = as_tensors(example)
    model = copied_network(network_of(model, "export"), "export")
    with torch.inference_mode(False), written(Path(path), "export") as beside:
        chosen.export(
            model,
            beside,
            shape,
            {"baked": "false"},
            None if seen is None else lambda count: [seen[:count]],
            shown,
        )
        prove(chosen, beside, model, shape, seen if shown is None else shown)
    return Path(path)


def latency(
    files: str | Path | Sequence[str | Path],
    targets: str,
    shape: Sequence[int],
    *,
    threads: int = 1,
) -> list[dict[str, object]]:
    """Measure the latency of exported files in every target, in turns. Return a row for each pair.

    `shape` (n c h w) is that of the inputs, including the batch. `disturbed`: the interval is so
    wide that the machine must have been busy with something else. Raises LissomError if a file does
    not exist or does not take `shape`.
    """
    from .bench.inputs import images as pictures
    from .bench.intervals import is_wide
    from .bench.latency import latencies
    from .commands.bench import check_shape, size_bytes
    from .running.plan import targets_of

    given = [files] if isinstance(files, (str, Path)) else files
    pairs = [(str(target), Path(file)) for target in targets_of(targets) for file in given]
    for _, path in pairs:
        if not path.is_file():
            raise LissomError(f"latency: there is no file {path}")
        check_shape(path, tuple(shape))
    timings = latencies(pairs, pictures(shape), threads=threads)
    return [
        {
            "target": target,
            "artefact": str(path),
            "size_bytes": size_bytes(path),
            "latency_ms": t.latency_ms(),
            "disturbed": is_wide(t.latency_ms()),
            "energy_mj": t.energy_mj,
            "load_ms": t.load_ms,
            "peak_mib": t.peak_mib,
            "resident_mib": t.resident_mib,
            "threads": threads,
        }
        for (target, path), t in zip(pairs, timings, strict=True)
    ]
