"""The only reader of structure.json, which checks a saved network's description before anything is
built from it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..language.grid import grid_of
from ..surgery.transform import Options, transform_named
from .checks import (
    Check,
    Wrong,
    anything,
    at,
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

FORMAT = 2
MAX_GRID_TENSORS = 64  # largest number of tensors that a grid holds


def among(*options: str) -> Check:
    """Accept one of some texts."""

    def check(value: Any) -> Any:
        if value not in options:
            raise Wrong("", " or ".join(options), value)
        return value

    return check


def transforms(value: Any) -> Any:
    """Accept the settings of a weight's transforms: known ones, each with its own settings."""
    found = mapping(mapping(anything))(value)
    for name, settings in found.items():
        try:
            options = transform_named(name).options
        except LissomError as error:
            raise Wrong(name, "a weight transform", name) from error
        checked = at(name, fields(**{k: check_of(v) for k, v in options.items()}), settings)
        found[name] = {key: checked[key] for key in options}
    return found


def check_of(options: Options) -> Check:
    """Return the check of a transform's setting."""
    if isinstance(options, range):
        return whole(options[0], options[-1])
    if isinstance(options, tuple):
        return among(*options)
    return flag if options is bool else text


def width(value: Any) -> Any:
    """Accept a count, or a list of counts."""
    return COUNTS(value) if isinstance(value, list) else COUNT(value)


def rounding(value: Any) -> Any:
    """Accept the settings of a rounding: a grid of the menu, bits that it supports, its tensors."""
    found = ROUNDING(value)
    grid = grid_of(found["grid"])
    bits = grid.of_weights if found["of"] == "weights" else grid.of_inputs
    if found["bits"] not in bits or len(found["names"]) > MAX_GRID_TENSORS:
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
def held_by(grid: str, of: str, bits: int) -> set[str]:
    """Return the names of the tensors that a layer holds for a grid."""
    import torch

    made = grid_of(grid)
    return set(
        made.hold_weights(torch.eye(2), bits)
        if of == "weights"
        else made.hold_inputs(0.0, 1.0, bits)
    )


COUNT = whole(0, 2**31)
COUNTS = listing(COUNT)
ROUNDING = fields(grid=text, bits=whole(1, 32), of=among("weights", "inputs"), names=listing(text))
QUANTIZED = fields(site=maybe(text), norm=maybe(text), rounding=maybe(rounding), again=maybe(text))
NETWORK = fields(
    sites=mapping(text),
    calls=mapping(COUNT),
    skipped=listing(text),
    tied=listing(listing(text)),
    grids=mapping(rounding),
)


def renewed(value: Any) -> Any:
    """Convert a structure of format 1 to format 2; return any other value unchanged.

    In format 1, masked layers and 16-bit layers had their own classes.
    """
    if not isinstance(value, dict) or value.get("format") != 1:
        return value
    rows = value.get("layers")
    for facts in rows.values() if isinstance(rows, dict) else ():
        if not isinstance(facts, dict):
            continue
        said = str(facts.get("class"))
        old = next((word for word in ("Plain", "Masked", "Cast") if said.startswith(word)), None)
        transforms: dict[str, Any] = {}
        cast = facts.pop("cast", None)
        for held in (facts.get("quantized"), cast):
            if isinstance(held, dict) and held.pop("masked", False):
                transforms["mask"] = {}
        if old is not None:
            facts["class"] = f"Compressed{said.removeprefix(old)}"
        if old == "Masked":
            transforms["mask"] = {}
        if old == "Cast":
            transforms["cast"] = cast
        if transforms:
            facts["transforms"] = transforms
    return {**value, "format": FORMAT}


def read_structure(
    folder: Path, classes: tuple[str, ...] = (), widths: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Read structure.json. Raises LissomError if it is missing, broken or of another format.

    `classes` and `widths` are the classes of layers, and their attributes, that this version can
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
                transforms=(maybe(transforms), None),
            )
        ),
        quantized=(maybe(NETWORK), None),
    )
    try:
        found: dict[str, Any] = wanted(renewed(parsed(text_of(folder / "structure.json"))))
        for name, facts in found["layers"].items():
            kind = str(facts["class"] or "")
            ours = kind.startswith(("Quantized", "Compressed"))
            if kind.startswith("Quantized") != bool(facts["quantized"]) or (
                facts["transforms"] and not ours
            ):
                raise Wrong(
                    f"layers.{name}.class", "the class that its settings are of", facts["class"]
                )
            if facts["quantized"] and not found["quantized"]:
                raise Wrong("quantized", "how a network with quantized layers is rounded", None)
        return found
    except (OSError, ValueError, LissomError) as error:
        said = " ".join(str(error).split())[:300]
        raise LissomError(f"load: {folder}/structure.json cannot be read ({said})") from None
