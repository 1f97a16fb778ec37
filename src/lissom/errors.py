"""The one exception a user sees, and the sentence it says."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

MOST = 1_000  # characters of one error: what fits on a screen


class LissomError(Exception):
    """Say in one line where something is wrong, what was given and what fits.

    The command line prints it and exits with status 2; from Python it is raised as it is. What it quotes comes from
    files, folders and other people's code: see `one_line`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class LissomWarning(UserWarning):
    """What a step did not do though it was asked to, such as leaving a layer float."""


class Unmeasured(LissomError):
    """Say that some files could not be measured; `records` are those of all networks, as far as they were."""

    def __init__(self, errors: list[LissomError], records: list[dict[str, Any]]) -> None:
        more = f"; {len(errors) - 1} more measurements failed" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}; everything else is done and stored")
        self.records = records


def one_line(text: str) -> str:
    """Return a text in one line that every terminal prints: no line ends or control characters, no endless lists.

    >>> one_line("a file \\x1b[31m\\n  is red")
    'a file \\\\x1b[31m is red'
    >>> len(one_line("no " * 1_000_000))
    1000
    """
    if len(text) > MOST:  # how an error begins and the cure at its end help; a list in its middle does not
        text = f"{text[:MOST * 2 // 3]} ... {text[5 + MOST * 2 // 3 - MOST:]}"
    if not text.isprintable():
        text = " ".join(line.strip() for line in text.splitlines())
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:MOST]
    return text


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option spelled most like `name`, or None.

    >>> nearest("prunne", ["train", "prune"])
    'prune'
    """
    found = get_close_matches(name.lower(), list(options), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(where: str, word: str, given: str, options: Iterable[str]) -> LissomError:
    """Build the error for a name that is not among `options`.

    >>> print(unknown("recipe", "step", "prunne", ["prune", "train"]))
    recipe: there is no step 'prunne'; did you mean 'prune'? There are: prune, train
    """
    options = sorted(options)
    close = nearest(given, options)
    hint = f"; did you mean '{close}'?" if close else "."
    return LissomError(f"{where}: there is no {word} '{given}'{hint} There are: {', '.join(options)}")
