"""The only exception that users see, and helpers for its text."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import Any

MOST = 1_000  # characters of one error, so that it fits on a screen
COLOUR = re.compile("\x1b\\[[0-9;]*m")  # colour codes of terminals


class LissomError(Exception):
    """Say in one line where something is wrong, and name the expected and the given value.

    The command line prints the text and exits with status 2; Python code gets the exception. The
    text may quote files, folders and other people's code, so `one_line` cleans it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class LissomWarning(UserWarning):
    """Say that a step did not do all that it was asked to, such as quantizing a layer."""


class Unmeasured(LissomError):
    """Say that some recipes or files failed; `records` has the records of all finished networks."""

    def __init__(self, errors: list[LissomError], records: list[dict[str, Any]]) -> None:
        more = f"; {len(errors) - 1} more failed" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}; everything else is done and stored")
        self.records = records


def silent(_: str) -> None:
    """Say nothing: where no messages are wanted."""


def one_line(text: str) -> str:
    """Return a text as one line of limited length without line breaks and control characters.

    >>> one_line("a file \\x1b[31m\\n  is red")
    'a file \\\\x1b[31m is red'
    >>> len(one_line("no " * 1_000_000))
    1000
    """
    # keep the beginning of an error and the cure at its end; a long list in the middle is cut
    if len(text) > MOST:
        text = f"{text[: MOST * 2 // 3]} ... {text[5 + MOST * 2 // 3 - MOST :]}"
    if not text.isprintable():
        text = " ".join(line.strip() for line in text.splitlines())
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[
            :MOST
        ]
    return text


def listed(names: Iterable[object], most: int = 8) -> str:
    """Return names separated by commas: all if they are few, else the first ones and their number.

    >>> listed("abc"), listed(range(750), 3)
    ('a, b, c', '0, 1, 2, ... (750 in all)')
    """
    words = [cut(str(name), 80) for name in names]
    return (
        ", ".join(words)
        if len(words) <= most + 2
        else f"{', '.join(words[:most])}, ... ({len(words)} in all)"
    )


def cut(text: str, most: int = 300) -> str:
    """Return a text as one line of at most `most` characters, cut in the middle if it is longer.

    >>> cut("abcdefghij", 7)
    'a ... j'
    """
    line = " ".join(text.split())
    return (
        line if len(line) <= most else f"{line[: most - 5 - most // 5]} ... {line[-(most // 5) :]}"
    )


def cause_of(error: BaseException) -> str:
    """Return the cause of an error in one line: the deepest `__cause__` with a text, and the line
    of the user's code.
    """
    chain = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain.append(inner)
    told = next((e for e in reversed(chain) if str(e).strip()), error)
    said = next(iter(COLOUR.sub("", str(told)).strip().splitlines()), "")
    place = next(filter(None, (place_of(extract_tb(e.__traceback__)) for e in reversed(chain))), "")
    kind = "" if " " in said else type(told).__name__ + (": " if said else "")
    return cut(kind + said) + (f" ({place})" if place else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def place_of(frames: Iterable[FrameSummary]) -> str:
    """Return file and line of the innermost frame of the user's own code in a traceback, or ""."""
    others = (
        str(Path(__file__).parent),
        *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")),
        "<",
    )
    theirs = [frame for frame in frames if not frame.filename.startswith(others)]
    return f"{Path(theirs[-1].filename).name}, line {theirs[-1].lineno}" if theirs else ""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in singular or plural.

    >>> counted(1, "network"), counted(2, "network"), counted(3, "entry")
    ('1 network', '2 networks', '3 entries')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def type_of(value: object) -> str:
    """Return the type of a value with its article.

    >>> type_of(3), type_of("text")
    ('an int', 'a str')
    """
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that `name` misspells slightly, or that begins with it, or the most similar
    one, or None.

    >>> nearest("prunne", ["train", "prune"]), nearest("onnx", ["mnn", "onnxruntime"])
    ('prune', 'onnxruntime')
    >>> nearest("nin-", ["nin-gc", "nin"])
    'nin'
    """
    options = list(options)
    slips = get_close_matches(name.lower(), options, n=1, cutoff=0.8)
    begun = [
        option for option in options if len(name) > 2 and option.lower().startswith(name.lower())
    ]
    matches = (
        slips or sorted(begun, key=len) or get_close_matches(name.lower(), options, n=1, cutoff=0.5)
    )
    return matches[0] if matches else None


def unknown(where: str, word: str, given: str, options: Iterable[str]) -> LissomError:
    """Build the error for a name that is not among `options`.

    >>> print(unknown("recipe", "step", "prunne", ["prune", "train"]))
    recipe: there is no step 'prunne'; did you mean 'prune'? There are: prune, train
    """
    options = sorted(options)
    if not options:
        return LissomError(f"{where}: there is no {word} '{given}', nor any other")
    close = nearest(given, options)
    hint = f"; did you mean '{close}'?" if close else "."
    return LissomError(
        f"{where}: there is no {word} '{given}'{hint} There are: {', '.join(options)}"
    )
