"""Networks as the command line names them: check a name, and find the function that builds it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.published import LIBRARIES, classes_of_detector, newest_weights
from ..errors import LissomError, unknown
from .builders import library_model, onnx_file, program_file
from .code import file_mark, loaded, parameters_of

if TYPE_CHECKING:
    from torch import nn

    from ..data.data import Data


def check_model_spec(spec: str) -> None:
    """Raise LissomError unless `spec` can name a network.

    That is a built-in, torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE, package.module:factory or
    path/to/file.py:factory.
    """
    from ..models import check_name

    if file := program_file(spec) or onnx_file(spec):
        if not os.path.isfile(file):
            raise LissomError(f"model: there is no file {file}")
        return
    place, colon, name = spec.rpartition(":")
    if not colon:
        if spec.endswith(".py") or "/" in spec:
            raise LissomError(
                f"model: {spec!r} says no name in that file; wanted path/to/file.py:factory, a function "
                "or class that builds the network"
            )
        if spec.endswith(".pt2"):
            raise LissomError(f"model: {spec!r}: expected pt2:{spec} for a program in a file")
        if spec.endswith((".onnx", ".onnxz")):
            raise LissomError(f"model: {spec!r}: expected onnx:{spec} for a network in a file")
        check_name(spec)
    elif not place or not name:
        raise LissomError(
            f"model: {spec!r}: wanted torchvision:NAME, timm:NAME, onnx:FILE, pt2:FILE, "
            "package.module:factory or path/to/file.py:factory"
        )
    elif place.endswith(".py") and not os.path.isfile(place):
        raise LissomError(f"model: there is no file {place}")


def factory_of(spec: str) -> tuple[Callable[..., nn.Module], str]:
    """Return the factory of the network `spec`, and a text that changes with its source."""
    check_model_spec(spec)
    if program := program_file(spec):
        from .program import program_network

        return partial(program_network, program), f"pt2: {file_mark(program)}"
    if file := onnx_file(spec):
        from ..importing.file import content_mark
        from ..importing.onnx_network import onnx_network

        return partial(onnx_network, file), f"onnx: {content_mark(file)}"
    place, _, name = spec.rpartition(":")
    if not place:
        from ..models import factory

        return factory(name), spec
    if place in LIBRARIES:
        return library_model(place, name), spec
    return loaded(place, name, "model")


def arguments_for(
    factory: Callable[..., nn.Module], model: str, data: Data, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments for a factory: `more`, and channels and classes if it takes them.

    Raises LissomError if it does not take one of `more`.
    """
    if onnx_file(model):
        return dict(more)  # inputs that are fixed
    takes = parameters_of(factory)
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for name in more:
        if name not in takes and not anything:
            raise unknown(f"--model-args: {model}", "argument", name, takes)
    given = {"in_channels": data.channels} if "in_channels" in takes else {}
    if data.classes and (anything or "num_classes" in takes):
        given["num_classes"] = len(data.classes)
    given = {**given, **more}
    if model.startswith("torchvision:") and isinstance(more.get("weights"), str):
        check_detector(model, more["weights"], given.get("num_classes"), data)
    return given


def check_detector(model: str, weights: str, classes: int | None, data: Data) -> None:
    """Raise LissomError if the published weights of torchvision's detectors know other classes than
    the data. Their first is COCO's id 1, since torchvision counts the background as 0.
    """
    known = classes_of_detector(model.partition(":")[2], weights)
    if known is None or classes is None:
        return
    shifted = data.name.startswith("coco:") and data.classes == tuple(map(str, range(known)))
    if classes != known or shifted:
        got = "0 to " + str(classes - 1) if shifted else f"{classes} classes"
        raise LissomError(
            f"model {model}: the network of {weights} knows {known} classes, which are COCO's ids 1 "
            f"to {known}, got {got} of {data.name}; for COCO's data, --classes FILE names a file of "
            f"these numbers, one a line, as seq {known} > FILE writes it; for other classes, leave "
            "the published weights out"
        )


def is_own_code(model: str) -> bool:
    """Return whether the user's own code builds a network, which may then be trained already."""
    place = model.rpartition(":")[0]
    return bool(place) and place not in LIBRARIES and not onnx_file(model)


def is_published(weights: str, model: str) -> bool:
    """Return whether `weights` name published weights of a library's network, not a file."""
    return model.partition(":")[0] in LIBRARIES and bool(re.fullmatch(r"[A-Z0-9_]+", weights))


def published_argument(model: str, weights: str) -> dict[str, Any]:
    """Return the argument that makes a library's builder load its published weights."""
    if model.startswith("torchvision:"):
        if weights == "DEFAULT":  # the key must name the weights that are the newest now
            newest = newest_weights(model.partition(":")[2])
            if newest is None:
                raise LissomError(f"weights: torchvision publishes none for {model}")
            return {"weights": newest}
        return {"weights": weights}
    if weights != "DEFAULT":
        raise LissomError(
            f"weights: timm knows its weights by the name of the network, as in "
            f"timm:resnet50.a1_in1k; expected DEFAULT, got {weights}"
        )
    return {"pretrained": True}
