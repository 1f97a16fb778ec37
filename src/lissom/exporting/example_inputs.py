"""The example inputs of an export, and the names of inputs and outputs in the file."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError, cause_of
from ..trees import (
    Tree,
    concatenated,
    first,
    length,
    mapped,
    put_in,
    run_network,
    run_on_copied_inputs,
    shapes,
    tensors_in,
)

IMAGES_DIM = 4  # (batch channels height width)
EXAMPLE_HINT = "where it takes integers or several inputs, give some as `example`"


class NetworkOnTuples(nn.Module):
    """A network that takes and returns a tuple of tensors, as a file does. `form` is the tree of
    the network's own inputs.
    """

    def __init__(self, network: nn.Module, form: Tree) -> None:
        super().__init__()
        self.network = network
        self.form = form

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensors_in(run_network(self.network, put_in(self.form, inputs))))


@dataclasses.dataclass
class ExportInputs:
    """The inputs to export a network with, and the names of inputs and outputs in the file."""

    inputs: Tree  # of two samples, floats in float32
    names: list[str]
    outputs: list[str]
    flat: bool  # whether the network takes or returns anything but a single tensor
    takes_starred: bool  # whether its forward takes *inputs

    def network(self, model: nn.Module) -> nn.Module:
        """Return the network to export: `model` itself if it takes and returns a single tensor."""
        return NetworkOnTuples(model, self.inputs) if self.flat else model

    @property
    def arguments(self) -> tuple[Any]:
        """The arguments that the exported network is called with."""
        return (tuple(tensors_in(self.inputs)) if self.flat else self.inputs,)

    def shapes(self, batch: Any) -> tuple[Any]:
        """Return the batch axis of each argument as torch.export's `dynamic_shapes`."""
        batch_size = length(self.inputs)
        axes = tuple(
            {0: batch} if t.ndim and len(t) == batch_size else {} for t in tensors_in(self.inputs)
        )
        return (axes,) if self.flat or self.takes_starred else (axes[0],)


def export_inputs(model: nn.Module, shape: tuple[int, ...], example: Tree | None) -> ExportInputs:
    """Return the example inputs and names to export a network with. `model` is float32, on the CPU.

    Raises LissomError if the network does not run on the inputs.
    """
    candidates = (
        [example]
        if example is not None
        else [torch.zeros(2, *shape), torch.zeros(2, *shape, dtype=torch.long)]
    )
    errors: list[Exception] = []
    for inputs in candidates:
        inputs = mapped(
            lambda t: t.detach().cpu().float() if t.is_floating_point() else t.detach().cpu(),
            inputs,
        )
        # from a single sample the exporter cannot tell which axis is the batch
        inputs = first(concatenated([inputs, inputs]), 2)
        try:
            with torch.no_grad():
                output = run_on_copied_inputs(model.eval(), inputs)
        except Exception as error:  # whatever the network's own code raises
            errors.append(error)
            continue
        names = names_in_file(model, "input_names", input_names(model, inputs))
        outputs = names_in_file(
            model, "output_names", with_unique_names(output_names(output), names)
        )
        flat = not (isinstance(inputs, Tensor) and isinstance(output, Tensor))
        return ExportInputs(inputs, names, outputs, flat, takes_starred(model))
    described = (
        "zeros of shape " + str((2, *shape))
        if example is None
        else f"`example`, of shape {shapes(example)}"
    )
    causes = [cause_of(error) for error in errors]
    as_integers = f"; on integers: {causes[1]}" if len(causes) > 1 else ""
    raise LissomError(
        f"export: the network does not run on {described}; {EXAMPLE_HINT}: {causes[0]}{as_integers}"
    ) from errors[0]


def names_in_file(model: nn.Module, which: str, names: list[str]) -> list[str]:
    """Return the names from the file that a network was imported from; `names` for other networks."""
    file_names = getattr(user_network(model), which, ())
    fits = isinstance(file_names, tuple) and len(file_names) == len(names)
    return [*file_names] if fits and all(isinstance(name, str) for name in file_names) else names


def user_network(model: nn.Module) -> nn.Module:
    """Return the user's network without lissom's wrappers, whose forward takes any arguments."""
    while type(model).__module__.startswith("lissom.") and "network" in model._modules:
        model = model.get_submodule("network")
    return model


def takes_starred(model: nn.Module) -> bool:
    """Return whether a network's forward takes its first argument among `*inputs`."""
    parameter = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return parameter is not None and parameter.kind is parameter.VAR_POSITIONAL


def input_names(model: nn.Module, inputs: Tree) -> list[str]:
    """Return names for the tensors of a tree of inputs: "images" or "inputs" for a single tensor,
    else the names of the arguments.
    """
    if isinstance(inputs, Tensor):
        return ["images" if inputs.dim() == IMAGES_DIM else "inputs"]
    model = user_network(model)
    arguments = [
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.kind is not p.VAR_POSITIONAL
    ]
    by_name = (
        inputs
        if isinstance(inputs, Mapping)
        else {
            arguments[k] if k < len(arguments) else f"input_{k}": part
            for k, part in enumerate(inputs)
        }
    )
    return with_unique_names(list(tensor_names(by_name, "")), [])


def output_names(output: Tree) -> list[str]:
    """Return names for the tensors that a network returns: its keys or fields, else "outputs".

    >>> output_names({"out": torch.zeros(1), "aux": (torch.zeros(1), torch.zeros(1))})
    ['out', 'aux_0', 'aux_1']
    """
    return list(
        tensor_names(output, "" if not isinstance(output, (Tensor, list, tuple)) else "outputs")
    )


def tensor_names(tree: Tree, name: str) -> Iterator[str]:
    """Yield a name for each tensor of a tree, in order."""
    if isinstance(tree, Tensor):
        yield name
        return
    if dataclasses.is_dataclass(tree) and not isinstance(tree, (type, Mapping)):
        tree = {field.name: getattr(tree, field.name, None) for field in dataclasses.fields(tree)}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        tree = dict(zip(tree._fields, tree, strict=True))
    parts = (
        tree.items()
        if isinstance(tree, Mapping)
        else enumerate(tree)
        if isinstance(tree, (list, tuple))
        else ()
    )
    for key, part in parts:
        yield from tensor_names(part, f"{name}_{key}" if name else str(key))


def with_unique_names(names: list[str], taken: list[str]) -> list[str]:
    """Return the names, with "_" added until each differs from the others and from `taken`."""
    unique: list[str] = []
    for name in names:
        while name in unique or name in taken:
            name += "_"
        unique.append(name)
    return unique


def is_float(inputs: Tree) -> bool:
    """Return whether inputs are a single tensor of floats."""
    return isinstance(inputs, Tensor) and inputs.is_floating_point()


def float_samples(
    target: object, model: nn.Module, shape: tuple[int, ...], example: Tree | None
) -> Tensor:
    """Return two samples (2 ...) in float32 on the CPU to export a network with: `example`, or zeros
    (2, *shape).

    Raises LissomError if the network does not take and return a single tensor of floats, as the
    files of `target` do.
    """
    if example is None or is_float(example):
        inputs = export_inputs(copy.deepcopy(model).cpu().float().eval(), shape, example)
        if not inputs.flat and is_float(inputs.inputs):
            samples: Tensor = inputs.inputs
            return samples
    raise LissomError(
        f"{target}: its files take one tensor of floats and return one; onnxruntime and "
        "openvino take integers, and several inputs and outputs"
    )
