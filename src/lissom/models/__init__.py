"""Small networks for 32x32 images, built by name: resnet20, preresnet38, vgg16 and their like."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import LissomError, unknown

if TYPE_CHECKING:
    from torch import nn

KNOWN = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "preresnet38", "preresnet92",
         "preresnet164", "vgg11", "vgg13", "vgg16", "vgg19")


def check_name(name: str) -> None:
    """Raise unless `name` is a built-in network: a known family at a depth it has."""
    found = re.fullmatch(r"(resnet|preresnet|vgg)(0|[1-9][0-9]{0,3})", name)
    if not found:
        raise unknown("model", "built-in network", name, KNOWN)
    family, depth = found[1], int(found[2])
    if family == "vgg":
        if depth not in (11, 13, 16, 19):
            raise LissomError(f"model: {name}: vgg has the depths 11, 13, 16 and 19")
        return
    step, what = (6, "6n+2") if family == "resnet" else (9, "9n+2")
    if depth < step + 2 or (depth - 2) % step:
        n = max(1, round((depth - 2) / step))
        fits = sorted({step * k + 2 for k in (max(1, n - 1), n, n + 1)})
        raise LissomError(f"model: {name}: a depth of {family} is {what}; near {depth} are {', '.join(map(str, fits))}")


def factory(name: str) -> Callable[..., nn.Module]:
    """Return what builds the named network: a callable of num_classes and in_channels."""
    from functools import partial

    from . import resnet, vgg

    check_name(name)
    family, depth = re.sub(r"\d", "", name), int(re.sub(r"\D", "", name))
    kind: Callable[..., nn.Module] = {"resnet": resnet.ResNet, "preresnet": resnet.PreResNet, "vgg": vgg.VGG}[family]
    return partial(kind, depth)
