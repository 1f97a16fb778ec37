"""Choose layers by glob patterns over their names."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..errors import LissomError, nearest


def matching(names: Iterable[str], patterns: str, where: str) -> set[str]:
    """Return the names that match any of the comma-separated `patterns`.

    Raises LissomError if a pattern matches nothing.

    >>> sorted(matching(["stem", "layer1.0", "layer1.1"], "stem,layer1.*", "prune"))
    ['layer1.0', 'layer1.1', 'stem']
    """
    names = list(names)
    matched = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            close = nearest(pattern, names)
            some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise LissomError(
                f"{where}: no layer is called "
                f"'{pattern}'"
                + (f"; did you mean '{close}'?" if close else ";")
                + f" There are: {some}"
            )
        matched |= hits
    return matched
