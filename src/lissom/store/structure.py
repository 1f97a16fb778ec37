"""The one reader of structures: what a saved network says of itself, checked before anything is
built from it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..language.grid import Grid
from ..language.method import method_of
from .checks import (
    Check,
    Wrong,
    anything,
    fields,
    flag,
    listing,
    mapping,
    maybe,
    parsed,
    text,
    text_of,
    whole,
)

FORMAT = 1
HELD = 64  # tensors that a grid holds at most


def among(*options: str) -> Check:
    """Accept one of some texts."""

    def check(value: Any) -> Any:
        if value not in options:
            raise Wrong("", " or ".join(options), value)
        return value

    return check


def width(value: Any) -> Any:
    """Accept a count, or a list of counts."""
    return COUNTS(value) if isinstance(value, list) else COUNT(value)


def rounding(value: Any) -> Any:
    """Accept the settings of what rounds a tensor: a grid of the menu with bits that it has."""
    found = ROUNDING(value)
    grid = grid_named(found["grid"])
    bits = grid.of_weights if found["of"] == "weights" else grid.of_inputs
    if found["bits"] not in bits or len(found["names"]) > HELD:
        raise Wrong(
            "bits",
            f"bits that {found['grid']:.40} has for {found['of']}: {', '.join(map(str, bits))}",
            found["bits"],
        )
    if set(found["names"]) != (held := held_by(found["grid"], found["of"], found["bits"])):
        expected = f"what {found['grid']:.40} holds: {', '.join(sorted(held)) or 'nothing'}"
        raise Wrong("names", expected, found["names"])
    return found


@lru_cache(1_000)
def grid_named(text: str) -> Grid:
    """Return the grid of a text; every layer of a network names the same few."""
    grid = method_of("grids", text)
    assert isinstance(grid, Grid)
    return grid


@lru_cache(1_000)
def held_by(grid: str, of: str, bits: int) -> set[str]:
    """Return the names of what a layer holds for a grid."""
    import torch

    made = grid_named(grid)
    return set(
        made.hold_weights(torch.eye(2), bits)
        if of == "weights"
        else made.hold_inputs(0.0, 1.0, bits)
    )


COUNT = whole(0, 2**31)
COUNTS = listing(COUNT)
ROUNDING = fields(grid=text, bits=whole(1, 32), of=among("weights", "inputs"), names=listing(text))
QUANTIZED = fields(
    site=maybe(text), masked=flag, norm=maybe(text), rounding=maybe(rounding), again=maybe(text)
)
CAST = fields(kind=among("bf16", "fp16"), masked=flag)
NETWORK = fields(
    sites=mapping(text),
    calls=mapping(COUNT),
    skipped=listing(text),
    tied=listing(listing(text)),
    grids=mapping(rounding),
)


def read_structure(
    folder: Path, classes: tuple[str, ...] = (), widths: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Read structure.json; raise LissomError, in one line, if it is missing, broken or of another format.

    `classes` and `widths` are the layers, and what they say of themselves, that this version can
    rebuild.
    """
    layer = dict.fromkeys(widths, (maybe(width), None))
    wanted = fields(
        format=whole(FORMAT, FORMAT),
        build=(maybe(mapping(anything)), None),
        buffers=listing(text),
        layers=mapping(
            fields(
                **layer,
                **{"class": (maybe(among(*classes)) if classes else anything, None)},
                quantized=(maybe(QUANTIZED), None),
                cast=(maybe(CAST), None),
            )
        ),
        quantized=(maybe(NETWORK), None),
    )
    try:
        found: dict[str, Any] = wanted(parsed(text_of(folder / "structure.json")))
        for name, facts in found["layers"].items():
            kind = str(facts["class"] or "")
            if kind.startswith("Quantized") != bool(facts["quantized"]) or kind.startswith(
                "Cast"
            ) != bool(facts["cast"]):
                raise Wrong(
                    f"layers.{name}.class", "the class that its settings are of", facts["class"]
                )
            if facts["quantized"] and not found["quantized"]:
                raise Wrong("quantized", "how a network with quantized layers is rounded", None)
        return found
    except (OSError, ValueError, LissomError) as error:
        said = " ".join(str(error).split())[:300]
        raise LissomError(f"load: {folder}/structure.json cannot be read ({said})") from None
