"""Save and load a network as two files: structure.json and model.safetensors, without pickle.

The structure has only the properties that surgery may have changed: the classes, widths and
settings of layers. Everything else comes from building the network afresh. Only loading needs a
fresh network; saving needs just the network itself.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LissomError, type_of
from ..surgery import layers
from ..surgery.by_tensor import ByTensor
from ..surgery.channels import attention
from ..surgery.channels.windows import PartitionAttention, WindowAttention, becomes
from ..surgery.depth import DroppedBlock, drop
from ..surgery.fold import Rest, StandIn, kind_of_norm, replace_norm_by_stand_in
from ..surgery.plain_attention import PlainAttention, separate
from ..surgery.plain_layers import become_plain
from ..surgery.quantization import layers as quantized
from ..surgery.quantization.layers import MAX_PACKED_BITS, QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding
from ..surgery.quantization.sites import kind_of
from ..surgery.tensors import replace
from ..surgery.transform import WeightTransform, transform_named
from ..system.scratch import scratch, sweep
from . import structure as reader
from .manifest import checked
from .widths import misfit

STRUCTURE = "structure.json"
WEIGHTS = "model.safetensors"
WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "num_groups",
    "num_channels",
    "num_parameters",
    "input_size",
    *attention.HEAD_COUNT_ATTRIBUTES,
    *attention.WIDTH_ATTRIBUTES,
)
MISFIT_ERRORS = (  # what PyTorch and Python raise if the files do not fit the network
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
)
LISSOM_CLASSES: tuple[type[nn.Module], ...] = (
    nn.Identity,
    Rest,
    *layers.COMPRESSED.values(),
    *quantized.CLASSES.values(),
    attention.HeadAttention,
    WindowAttention,
    PartitionAttention,
    PlainAttention,
    DroppedBlock,
)
CLASSES = {kind.__name__: kind for kind in LISSOM_CLASSES}


def is_width(value: object) -> bool:
    """Return whether an attribute is an integer or a list of them, and not a user's attribute with
    the same name.
    """
    return isinstance(value, int) or (
        isinstance(value, list) and all(isinstance(number, int) for number in value)
    )


def structure_of(model: nn.Module) -> dict[str, Any]:
    """Return the properties that are needed to rebuild `model` from a freshly built network."""
    rows: dict[str, Any] = {}
    for name, layer in model.named_modules():
        # vars() leaves out properties, which need not be saved
        facts: dict[str, Any] = {
            key: vars(layer)[key] for key in (*WIDTHS, "kept") if is_width(vars(layer).get(key))
        }
        if type(layer).__name__ in CLASSES:
            facts["class"] = type(layer).__name__
        if isinstance(layer, QuantizedLayer):
            facts["quantized"] = layer.settings()
        if isinstance(layer, layers.CompressedLayer):
            if layer.geometry is not None:
                facts["geometry"] = layer.geometry
            if layer.transforms:
                facts["transforms"] = {
                    key: transform.settings() for key, transform in layer.transforms.items()
                }
        if facts:
            rows[name] = facts
    found: dict[str, Any] = {"format": reader.FORMAT, "layers": rows}
    if isinstance(model, QuantizedNetwork):
        found["quantized"] = model.description()
    return found


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer once, by its first name."""
    kept = set(model.state_dict(keep_vars=True))
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach() for name, value in named if name in kept}


def save(model: nn.Module, folder: str | Path, build: dict[str, Any] | None = None) -> None:
    """Write `model` into a folder as structure.json and model.safetensors.

    `build` says how to build the network afresh, for loading by key alone. Raises LissomError if
    the folder cannot be written; the network that was saved there before is then still there.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        structure = {
            **structure_of(model),
            "build": build,
            "buffers": sorted(name for name, _ in model.named_buffers()),
        }
        tensors = {
            name: value.cpu().contiguous().clone() for name, value in tensors_of(model).items()
        }
        sweep(folder)
        with scratch(folder, "save", "nothing was written") as new:
            (new / STRUCTURE).write_text(json.dumps(structure, indent=1), encoding="utf-8")
            save_file(tensors, new / WEIGHTS)
            _moved(new, folder)
    except Exception as error:  # safetensors reports a full disk as an exception of its own
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise LissomError(f"save: {folder} cannot be written ({error})") from None
        raise


def _moved(new: Path, folder: Path) -> None:
    """Move the two files of a network from `new` into a folder. Meanwhile it has no structure, so
    that after a kill no structure is beside the weights of another network.
    """
    before = new / "before.json"
    with suppress(FileNotFoundError):
        os.replace(folder / STRUCTURE, before)
    try:
        os.replace(new / WEIGHTS, folder / WEIGHTS)
    except BaseException:
        with suppress(FileNotFoundError):
            os.replace(before, folder / STRUCTURE)
        raise
    os.replace(new / STRUCTURE, folder / STRUCTURE)


def read_structure(folder: Path) -> dict[str, Any]:
    """Read structure.json. Raises LissomError if it is missing, broken or of another format."""
    return reader.read_structure(folder, tuple(CLASSES), (*WIDTHS, "kept"))


def has_packable_weights(folder: Path) -> bool:
    """Return whether a saved network has weights of 4 bits or fewer, which some formats pack."""
    return any(
        facts["quantized"]
        and facts["quantized"]["rounding"]
        and facts["quantized"]["rounding"]["bits"] <= MAX_PACKED_BITS
        for facts in read_structure(folder)["layers"].values()
    )


def rounded_activations(folder: Path) -> bool:
    """Return whether a saved network rounds the outputs of activations other than ReLU,
    concatenations, or the operands of attention.
    """
    return any(
        kind_of(site) in ("act", "cat", "query")
        for site in (read_structure(folder)["quantized"] or {}).get("sites", ())
    )


def restore(model: nn.Module | Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """Turn a freshly built network, or the result of a function that builds it, into the network
    saved in `folder`, bit-equal, in eval mode.

    The files are compared with their checksums meanwhile. Raises LissomError if a file is damaged
    or does not fit the network.
    """
    folder = Path(folder)
    with checked(folder):
        network = model if isinstance(model, nn.Module) else model()
        try:
            return _restored(network, folder)
        except MISFIT_ERRORS as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LissomError(
                f"load: {folder} does not fit the network built ({reason}); was it "
                "built the same way?"
            ) from error


def _restored(model: nn.Module, folder: Path) -> nn.Module:
    structure = read_structure(folder)
    tensors = _read_tensors(folder)
    if structure["quantized"]:
        model = QuantizedNetwork(model, **structure["quantized"])
    _rebuild_layers(model, structure["layers"], tensors, folder)
    _fill(model, tensors, set(structure["buffers"]), f"load: {folder}")
    _check_widths(model, folder)
    for layer in model.modules():
        if isinstance(layer, layers.CompressedLayer):
            layer.transformed()
    if isinstance(model, QuantizedNetwork):
        model.link()
    return model.eval()


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read model.safetensors. Raises LissomError if it is a link or cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if not stat.S_ISREG(os.lstat(folder / WEIGHTS).st_mode):
            raise OSError("a link or a device, not a file")
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise LissomError(f"load: {folder}/{WEIGHTS} cannot be read ({error})") from None


def _rebuild_layers(
    model: nn.Module, rows: dict[str, dict[str, Any]], tensors: dict[str, Tensor], folder: Path
) -> None:
    """Give the layers of a freshly built network the classes, transforms, rounding and widths that
    were saved, without tensors.

    The order matters. Dropped blocks go first, since nothing inside them was saved. Attention is
    split next, because later rows name its linear layers. Then layers with their own forward become
    plain ones, because only plain layers are transformed or rounded. Widths come last: they take
    out batch-norms, and quantized layers name these.
    """
    for name, facts in rows.items():
        if facts["class"] == "DroppedBlock":
            _drop(model, name, folder)
    for name, facts in rows.items():
        if facts["class"] == "PlainAttention":
            _separate(_layer_named(model, name, folder))
    for name, facts in rows.items():
        if "geometry" in facts:
            _plain(_layer_named(model, name, folder), facts["geometry"], name, tensors)
    _transform(model, rows, folder)
    if isinstance(model, QuantizedNetwork):
        for name, facts in rows.items():
            if facts["quantized"]:
                _quantize(model, _layer_named(model, name, folder), facts, folder)
    for name, facts in rows.items():
        _reshape(model, _layer_named(model, name, folder), facts)


def _check_widths(model: nn.Module, folder: Path) -> None:
    """Raise LissomError if the widths of a layer are not those of its tensors."""
    for name, layer in model.named_modules():
        if reason := misfit(layer):
            raise LissomError(
                f"load: {folder}: the widths of {name} are not those of its tensors ({reason:.200})"
            )


def _layer_named(model: nn.Module, name: str, folder: Path) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise LissomError(
            f"load: {folder}: the network built has no layer '{name}'; was it built the same way?"
        ) from None


def _drop(model: nn.Module, name: str, folder: Path) -> None:
    """Drop a block, unless the network as built has none there any more."""
    block = _layer_named(model, name, folder)
    if block is model:
        raise LissomError(f"load: {folder}: the network itself cannot be dropped")
    if not isinstance(block, DroppedBlock):
        drop(model, name)


def _separate(layer: nn.Module) -> None:
    """Split PyTorch's attention into linear layers."""
    if not isinstance(layer, nn.MultiheadAttention):
        raise LissomError(
            f"load: {type_of(layer)} cannot become a PlainAttention; was the network built the same way?"
        )
    separate(layer)


def _plain(
    layer: nn.Module, geometry: dict[str, Any], name: str, tensors: dict[str, Tensor]
) -> None:
    """Turn a layer with its own forward into the plain layer that it was saved as. A shared tensor
    is saved only once.
    """

    def held(key: str) -> Tensor | None:
        saved = tensors.get(f"{name}.{key}")
        own = layer._parameters.get(key)
        return own if saved is None or (own is not None and _cut_from(saved, own)) else saved

    weight = held("weight")
    if weight is None:
        raise LissomError(
            f"load: nothing is saved for {name}.weight; was the network built the same way?"
        )
    become_plain(
        layer,
        geometry,
        weight,
        held("bias") if geometry["bias"] or f"{name}.bias" in tensors else None,
    )


def _quantize(model: nn.Module, layer: nn.Module, facts: dict[str, Any], folder: Path) -> None:
    """Turn a layer into a quantized one; its tensors are filled in later."""
    settings = facts["quantized"]
    _become(layer, facts["class"])
    assert isinstance(layer, QuantizedLayer)
    norm = _layer_named(model, settings["norm"], folder) if settings["norm"] else None
    assert norm is None or isinstance(norm, nn.modules.batchnorm._BatchNorm)
    layer.prepare(norm, settings["norm"])
    layer.site = settings["site"]
    layer.own_input_rounding_name = settings["again"]
    layer.rounding = Rounding.rebuilt(settings["rounding"]) if settings["rounding"] else None
    if norm is not None:
        replace_norm_by_stand_in(model, norm)
        layer.norm = norm


def _transform(model: nn.Module, rows: dict[str, dict[str, Any]], folder: Path) -> None:
    """Add the transforms of weights, without tensors. Layers that share a weight share them."""
    added: list[WeightTransform] = []
    of = ByTensor[list[WeightTransform]]()
    for name, facts in rows.items():
        if not facts["transforms"]:
            continue
        layer = layers.compress(_layer_named(model, name, folder))
        if layer.weight not in of:
            of[layer.weight] = [
                transform_named(key).rebuilt(settings, layer.weight, added)
                for key, settings in facts["transforms"].items()
            ]
            added += of[layer.weight]
        for transform in of[layer.weight]:
            layer.add_transform(transform)


def _become(layer: nn.Module, kind: str) -> None:
    """Change the class of a layer to one of lissom's. Raises LissomError if such a layer never
    becomes that class.
    """
    ours = CLASSES[kind]
    plain = layers.torch_class(layer)
    if plain is None and isinstance(layer, nn.MultiheadAttention):
        plain = nn.MultiheadAttention
    if not (becomes(layer) is ours if plain is None else issubclass(ours, plain)):
        raise LissomError(
            f"load: {type_of(layer)} cannot become a {kind}; was the network built the same way?"
        )
    layer.__class__ = ours


def _reshape(model: nn.Module, layer: nn.Module, facts: dict[str, Any]) -> None:
    kind = facts.get("class")
    if kind in ("Rest", "Identity"):
        if kind_of_norm(layer) is not None:
            layer = replace_norm_by_stand_in(model, layer)
        if isinstance(layer, StandIn) and "num_features" in facts:
            layer.narrow(facts["num_features"])
        return
    if kind and type(layer).__name__ != kind:
        _become(layer, kind)
    for key, value in ((k, facts[k]) for k in (*WIDTHS, "kept") if facts[k] is not None):
        if isinstance(value, list) and isinstance(vars(layer).get(key), int):
            raise LissomError(
                f"load: {key} of {type(layer).__name__}: expected a count, got {value!s:.80}"
            )
        setattr(layer, key, value)


def _fill(model: nn.Module, tensors: dict[str, Tensor], buffers: set[str], where: str) -> None:
    for name, value in tensors.items():
        path, _, key = name.rpartition(".")
        try:
            now = getattr(model.get_submodule(path), key, None)
        except AttributeError:
            raise LissomError(f"{where}: the network built has no place for '{name}'") from None
        if isinstance(now, Tensor) and now.shape == value.shape and now.dtype == value.dtype:
            now.data.copy_(value)
        elif (isinstance(now, Tensor) and not _cut_from(value, now)) or (
            now is None and key == "weight"
        ):
            raise LissomError(
                f"{where}: '{name}' does not fit the network built; was it built the same way?"
            )
        else:
            # a copy has PyTorch's memory alignment; with the file's, kernels may sum in another
            # order
            replace(model, name, value.clone(), buffer=name in buffers)
    left = set(tensors_of(model)) - set(tensors)
    left |= {
        f"{name}.{key}"
        for name, part in model.named_modules()
        if isinstance(part, Rounding)
        for key in part.names
        if not hasattr(part, key)
    }
    if left:
        raise LissomError(
            f"{where}: nothing is saved for {', '.join(sorted(left)[:5])}; "
            "was the network built the same way?"
        )


def _cut_from(value: Tensor, whole: Tensor) -> bool:
    """Return whether pruning can have made `value` from `whole`: fewer channels, the rest equal."""
    same = value.ndim < 4 or value.shape[2:] == whole.shape[2:]  # kernels keep their size
    return (
        value.ndim == whole.ndim
        and same
        and all(a <= b for a, b in zip(value.shape, whole.shape, strict=True))
    )
