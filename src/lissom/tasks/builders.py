"""The builders of networks: names in lists, which are data, or the user's code, which is imported.

An entry of the store is trusted only to choose names: names of lissom, torchvision and timm are
looked up in lists, never as attribute paths. Code is imported only if the user's own key has signed
the entry, or if the user names that code again.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable
from functools import wraps
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.published import LIBRARIES, library_module
from ..errors import LissomError, nearest

if TYPE_CHECKING:
    from torch import nn

COUNTS = ("num_classes", "in_channels")
MAX_COUNT = 1_000_000  # limit of classes and channels


def code_named(build: dict[str, Any]) -> str | None:
    """Return the code that building a network again imports, such as net.py:make, or None.

    >>> code_named({"model": "net.py:make"}), code_named({"task": "own.py:task"})
    ('net.py:make', 'own.py:task')
    >>> code_named({"model": "pt2:net.pt2"})  # reading one can run code
    'pt2:net.pt2'
    >>> code_named({"model": "resnet20"}), code_named({"model": "torchvision:resnet18"})
    (None, None)
    >>> code_named({"model": "onnx:net.onnx"})  # which is data
    """
    if "task" in build:
        return str(build["task"])
    model = str(build.get("model", ""))
    place = model.rpartition(":")[0]
    return model if place and place not in LIBRARIES and not onnx_file(model) else None


def program_file(model: str) -> str:
    """Return the file of an exported program that a model names, "" if it names something else.

    >>> program_file("pt2:net.pt2"), program_file("net.py:make")
    ('net.pt2', '')
    """
    return model.removeprefix("pt2:") if model.startswith("pt2:") else ""


def onnx_file(model: str) -> str:
    """Return the ONNX file that a model names, "" if it names something else.

    >>> onnx_file("onnx:net.onnx"), onnx_file("net.py:make")
    ('net.onnx', '')
    """
    return model.removeprefix("onnx:") if model.startswith("onnx:") else ""


def arguments(build: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of an entry's builder: numbers, texts, and tuples of them.

    Raises LissomError for numbers of classes or channels out of range.
    """
    found = {key: value for key, value in build.items() if key != "model"}
    for key, value in found.items():
        if key in COUNTS and (type(value) is not int or not 1 <= value <= MAX_COUNT):
            raise LissomError(
                f"load: {where}: expected num_classes and in_channels from 1 to {MAX_COUNT}, got "
                f"{key!r:.40}: {value!r:.40}"
            )
        if isinstance(value, list):  # JSON has no tuples
            found[key] = tuple(value)
    return found


def chosen_arguments(build: dict[str, Any]) -> list[str]:
    """Return the arguments that may make an entry's builder do more than build, such as download.

    >>> chosen_arguments({"model": "torchvision:resnet18", "num_classes": 3, "weights": "DEFAULT"})
    ['weights']
    """
    return [] if "task" in build else sorted(set(build) - {"model", *COUNTS})


def library_model(library: str, name: str) -> Callable[..., nn.Module]:
    """Return the builder of a network that torchvision or timm lists under a name.

    Raises LissomError if the name is unknown.
    """
    module = library_module(library, "model")
    known = module.list_models()
    if name not in known and (library == "torchvision" or name not in module.list_pretrained()):
        close = nearest(name, known)
        raise LissomError(
            f"model: {library} has no "
            f"'{name:.60}'" + (f"; did you mean '{close}'?" if close else "")
        )
    if library == "torchvision":
        return torchvision_model(module.get_model_builder(name))

    def build(num_classes: int = 1000, in_channels: int = 3, **more: Any) -> nn.Module:
        made: nn.Module = module.create_model(
            name, num_classes=num_classes, in_chans=in_channels, **{"pretrained": False, **more}
        )
        return made

    return build


def torchvision_model(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return a builder of torchvision that does not download a backbone by default.

    It builds a detector as a network that returns boxes and logits.
    """
    takes = inspect.signature(builder).parameters

    @wraps(builder)
    def build(**given: Any) -> nn.Module:
        from ..detection.torchvision import is_detector, without_selection

        if "weights_backbone" in takes:
            given = {"weights_backbone": None, **given}
        detects = builder.__module__.startswith("torchvision.models.detection.")
        if detects and "num_classes" in given:  # torchvision counts the background as a class
            given["num_classes"] += 1
        network = builder(**given)
        return without_selection(network) if is_detector(network) else network

    return build


def code_file(named: str) -> Path | None:
    """Return the file that importing `named` would run: net.py:make or package.module:factory.

    Imports nothing of it. None if the file cannot be determined, and for packages installed in this
    Python, which nobody else can write to.
    """
    if program := program_file(named):
        return Path(program).resolve()
    place = named.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).resolve()
    first, *rest = place.split(".")
    path = list(sys.path)
    sys.path[:] = ["", *sys.path]
    try:
        spec = importlib.util.find_spec(first)
        for count in range(1, len(rest) + 1):
            spec = spec and PathFinder.find_spec(
                ".".join([first, *rest[:count]]), spec.submodule_search_locations
            )
    except (ImportError, ValueError, AttributeError):
        return None
    finally:
        sys.path[:] = path
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).resolve()
    return None if file.is_relative_to(Path(sysconfig.get_path("purelib")).resolve()) else file
