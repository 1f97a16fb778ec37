"""The classes that a network predicts, and which of them a folder holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..errors import LissomError, listed, nearest

SYNSET = re.compile(r"n\d{8}")  # WordNet's name of an ImageNet class


def imagenet() -> tuple[str, ...]:
    """Return the 1,000 classes of ImageNet in the order of networks' outputs, as WordNet synsets.

    Source: Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge,
    https://arxiv.org/abs/1409.0575; the classes are those of 2012.
    """
    text = files(__package__).joinpath("imagenet_synsets.txt").read_text(encoding="ascii")
    return tuple(text.split())


def classes_named(text: str) -> tuple[str, ...]:
    """Return the classes that `--classes` names: imagenet, a number of classes, or a file of names.

    A number stands for classes called 0, 1, 2 and so on. A file has one name a line, in the order
    of the network's outputs.

    >>> classes_named("3"), len(classes_named("imagenet"))
    (('0', '1', '2'), 1000)
    """
    if text == "imagenet":
        return imagenet()
    if re.fullmatch(r"[0-9]{1,7}", text):
        if int(text) < 1:
            raise LissomError(f"--classes: expected at least 1 class, got {text}")
        return tuple(map(str, range(int(text))))
    path = Path(os.path.expanduser(text))
    if not path.is_file():
        raise LissomError(
            "--classes: expected imagenet, a number, or a file of one class a line, got "
            f"{text!r:.80}, which is no file"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LissomError(f"--classes: {text} cannot be read as text ({error})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    repeated = (
        sorted({name for name in names if names.count(name) > 1})[:3]
        if len(set(names)) < len(names)
        else []
    )
    if not names or repeated:
        got = f"{listed(repeated)} twice" if repeated else "none"
        raise LissomError(f"--classes: {text}: expected different classes, one a line, got {got}")
    return names


def classes_of_network(names: Sequence[str], stated: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the classes in the order of the network's outputs, given the class folders.

    These are the `stated` classes; else all of ImageNet if the folders are named after its synsets;
    else the folders' names, sorted. Raises LissomError for a folder that is not a stated class.
    """
    if stated is None and all(map(SYNSET.fullmatch, names)) and set(names) <= set(imagenet()):
        return imagenet()
    if stated is None:
        return tuple(sorted(names))
    known = by_name(stated)
    unknown = [name for name in names if name not in known]
    if unknown:
        close = nearest(unknown[0], known)
        raise LissomError(
            f"data: the class folder '{unknown[0]}' is none of the {len(stated)} classes "
            f"{listed(stated, 3)}"
            + (f"; did you mean '{close}'?" if close else "")
            + (f"; {len(unknown)} folders are none" if len(unknown) > 1 else "")
        )
    return stated


def by_name(classes: Sequence[str]) -> dict[str, int]:
    """Return the index of each class by its name, and by the first word of its name.

    >>> by_name(["n01440764 tench", "n01443537 goldfish"])["n01443537"]
    1
    """
    numbers = {re.split(r"[\s,]", name, maxsplit=1)[0]: k for k, name in enumerate(classes)}
    if len(numbers) < len(classes):  # the first words are not unique
        numbers = {}
    return {**numbers, **{name: k for k, name in enumerate(classes)}}
