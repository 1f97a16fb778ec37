"""Small networks by name.

resnet20, preresnet38, vgg16, nin, densenet40 and others classify 32x32 images; tiny_detect detects
objects in larger ones. A name may end in -half or -quarter: every layer then has that share of the
channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

from ..errors import LissomError, unknown

if TYPE_CHECKING:
    from torch import nn

WIDTH_DIVISORS = {"": 1, "-half": 2, "-quarter": 4}
CLASSIFIERS = tuple(
    """
    resnet20 resnet32 resnet44 resnet56 resnet110 preresnet38 preresnet92 preresnet164 vgg11
    vgg13 vgg16 vgg19 vgg19_fc densenet40 nin nin_gc nin_bac nin_gc_bac
    """.split()
)
DETECTORS = ("tiny_detect",)
KNOWN = CLASSIFIERS + DETECTORS
ALL_NAMES = tuple(name + width for name, width in product(KNOWN, WIDTH_DIVISORS))
DEPTHS = {"resnet": (6, 2), "preresnet": (9, 2), "densenet": (3, 4)}  # depth = first * n + second


def parse_name(name: str) -> tuple[str, int, int]:
    """Return family, depth (0 if a family has one network) and the divisor of widths.

    Raises LissomError if there is no such network.

    >>> parse_name("vgg16-quarter")
    ('vgg', 16, 4)
    """
    match = re.fullmatch(
        r"(?:(nin(?:_gc)?(?:_bac)?|tiny_detect)|(resnet|preresnet|vgg|densenet)(0|[1-9][0-9]{0,3}))(-half|-quarter|)",
        re.sub(r"^(vgg\d+)_fc", r"\1", name),
    )
    if not match:
        raise unknown("model", "built-in network", name, ALL_NAMES if "-" in name else KNOWN)
    family = match[1] or match[2]
    depth = int(match[3] or 0)
    shrink = WIDTH_DIVISORS[match[4]]
    if family == "vgg" and depth not in (11, 13, 16, 19):
        raise LissomError(f"model: {name}: vgg has the depths 11, 13, 16 and 19")
    step, extra = DEPTHS.get(family, (1, 0))
    if family in DEPTHS and (depth < step + extra or (depth - extra) % step):
        n = max(1, round((depth - extra) / step))
        fits = sorted({step * k + extra for k in (max(1, n - 1), n, n + 1)})
        raise LissomError(
            f"model: {name}: a depth of {family} is {step}n+{extra}; near {depth} are "
            f"{', '.join(map(str, fits))}"
        )
    return family, depth, shrink


def check_name(name: str) -> None:
    """Raise LissomError unless `name` is a built-in network: a known family, depth and width."""
    parse_name(name)


def factory(name: str) -> Callable[..., nn.Module]:
    """Return the factory of the named network, a callable with num_classes and in_channels."""
    from functools import partial

    from . import densenet, nin, resnet, tiny_detect, vgg

    family, depth, shrink = parse_name(name)
    kinds: dict[str, Callable[..., nn.Module]] = {
        "resnet": partial(resnet.ResNet, depth),
        "preresnet": partial(resnet.PreResNet, depth),
        "vgg": partial(vgg.VGG, depth, hidden=4096 if "_fc" in name else 0),
        "densenet": partial(densenet.DenseNet, depth),
        "nin": nin.NIN,
        "nin_gc": partial(nin.NIN, grouped=True),
        "nin_bac": partial(nin.NIN, ahead=True),
        "nin_gc_bac": partial(nin.NIN, grouped=True, ahead=True),
        "tiny_detect": tiny_detect.TinyDetect,
    }
    return partial(kinds[family], shrink=shrink)
