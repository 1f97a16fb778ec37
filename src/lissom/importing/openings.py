"""Input sizes to trace a network with. A file with open sizes does not say which ones work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LissomError
from .nodes import File
from .operators.sizes import TYPES
from .values import MOST_ELEMENTS, check_size

BATCHES = (2, 3)  # of the two traces


@dataclass(frozen=True)
class Opening:
    """Two sizes for each open axis of an input, one for each trace. Equal sizes fix the axis."""

    height: tuple[int, int] = (64, 96)  # axis 2 of images (4 or more axes)
    width: tuple[int, int] = (64, 96)  # other axes of images
    length: tuple[int, int] = (8, 12)  # axes of other inputs
    second: bool = (
        False  # whether the batch is axis 1 of recurrent states (3 axes, not the first input)
    )


# tried in this order
OPENINGS = (
    Opening(),
    Opening(height=(48, 48), length=(512, 640)),  # text lines, audio
    Opening(height=(32, 32), length=(4096, 6144)),
    Opening(height=(224, 224), width=(224, 224), length=(16000, 24000)),
    Opening(second=True),
    Opening(second=True, length=(512, 640)),
    Opening(second=True, length=(256, 288)),
)


def dims_of(value: Any) -> list[int | str]:
    """Return the sizes of an input: numbers, or names of open sizes ("" if unnamed).

    Raises LissomError if the input is not a tensor of known rank.
    """
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise LissomError(f"input {value.name!r:.80} is no tensor of known axes")
    # some exporters write -1 for an open size
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value != -1 else dim.dim_param
        for dim in kind.shape.dim
    ]


def fixed_batch(file: File) -> int | None:
    """Return the batch size of a file, None if it is open."""
    first = next((dims_of(value) for value in file.inputs if dims_of(value)), [])
    return first[0] if first and isinstance(first[0], int) else None


def opened_sizes(
    file: File, opening: Opening, *, opened: bool = True
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield for each input the pairs of sizes of the two traces: BATCHES for the batch axis, those of
    `opening` for other open axes. Raises LissomError if a size is 0.
    """
    fixed = fixed_batch(file) if opened else None
    batch = batch_name(file)
    for place, value in enumerate(file.inputs):
        dims = dims_of(value)
        if opened and 0 in dims:  # runtimes crash on empty batches
            raise LissomError(
                f"input {value.name!r:.80} has sizes {dims!s:.80}, none of them may be 0"
            )
        batch_axis = 1 if opening.second and place and len(dims) == 3 else 0
        pairs = []
        for axis, size in enumerate(dims):
            is_batch = axis == batch_axis and (isinstance(size, str) or size == fixed)
            if is_batch or (batch and size == batch):
                pairs.append(BATCHES)
            elif isinstance(size, int):
                pairs.append((size, size))
            elif len(dims) > 3:
                pairs.append(opening.height if axis == 2 else opening.width)
            else:
                pairs.append(opening.length)
        yield tuple(pairs)


def batch_name(file: File) -> str:
    """Return the name of the open batch size; "" if it has none or another axis of the first input
    shares it.
    """
    first = next((dims_of(value) for value in file.inputs if dims_of(value)), [])
    name = first[0] if first else ""
    return name if isinstance(name, str) and first.count(name) == 1 else ""


def stand_ins_for(value: Any, pairs: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return the meta tensors that stand for an input in the two traces.

    Raises LissomError if its type is not known or it is too large.
    """
    kind = TYPES.get(value.type.tensor_type.elem_type)
    if kind is None:
        raise LissomError(f"input {value.name!r:.80} has numbers of a type that is not known")
    if any(size < 0 for size, _ in pairs):
        raise LissomError(f"input {value.name!r:.80} has sizes {dims_of(value)!s:.80}")
    first, second = (
        torch.empty([pair[which] for pair in pairs], dtype=kind, device="meta") for which in (0, 1)
    )
    check_size(second, MOST_ELEMENTS)
    return first, second
