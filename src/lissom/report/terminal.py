"""A console that prints text as it is: names and recipes may contain brackets, which Rich would read
as markup, and records of others may contain codes, which a terminal would obey.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text


class PlainConsole(Console):
    """A console that shows control characters instead of obeying them."""

    def render_str(self, text: str, **more: Any) -> Text:
        """Return a text to print, with its control characters escaped."""
        return super().render_str(plain(text), **more)


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console for any text; `width` in columns, by default that of the terminal.

    >>> terminal().print("[/red] [bold]")
    [/red] [bold]
    """
    return PlainConsole(stderr=stderr, width=width, highlight=False, markup=False)


def plain(text: str) -> str:
    """Return a text with its control characters escaped, except for tabs and the ends of lines.

    >>> plain("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def plain_line(text: str) -> str:
    """Return a text as one line, with its control characters escaped.

    >>> plain_line("one\\ntwo")
    'one two'
    """
    return plain(" ".join(text.split()) if "\n" in text or "\r" in text else text)
