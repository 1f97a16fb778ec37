"""All operators by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..build import Op
from . import (
    activations,
    arithmetic,
    attention,
    convolution,
    indexing,
    integers,
    linear_algebra,
    normalisation,
    pooling,
    recurrent,
    reductions,
    resize,
    shapes,
    sizes,
)

FAMILIES = (
    activations,
    arithmetic,
    attention,
    convolution,
    integers,
    linear_algebra,
    normalisation,
    indexing,
    pooling,
    recurrent,
    reductions,
    resize,
    shapes,
    sizes,
)
OPERATORS: dict[str, Callable[[Op], Any]] = {}
for family in FAMILIES:
    OPERATORS.update(family.OPERATORS)
# operators that cannot become layers, with the reason
REFUSED = {
    "NonZero": "how many numbers it returns depends on the input",
    "NonMaxSuppression": "how many boxes it returns depends on the input; cut the file before it",
    "Unique": "how many numbers it returns depends on the input",
    "Compress": "how many numbers it returns depends on the input",
    "Loop": "loops are not read",
    "Scan": "loops are not read",
}
