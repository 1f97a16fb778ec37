"""Read numbers on the command line: seeds, counts, sizes, durations."""

from __future__ import annotations

import re

from ..errors import LissomError


def seeds_of(text: str) -> list[int]:
    """Return the seeds in a text such as 0, 0,3 or 0-4.

    >>> seeds_of("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 1000:
            raise LissomError(f"--seeds: expected 0, 0,3 or 0-4, at most 1000 seeds, got {text!r}")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def numbers_of(text: str, option: str, most: int) -> list[int]:
    """Return the counts in a text such as 1 or 1,16.

    >>> numbers_of("1,16", "--batch", 65536)
    [1, 16]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) and 1 <= int(part) <= most for part in parts):
        raise LissomError(f"{option}: expected 1 or 1,16, from 1 to {most}, got {text!r}")
    return list(dict.fromkeys(int(part) for part in parts))


def workers_of(text: str, threads: int = 0) -> int | str:
    """Return the value of --workers: a number of processes, or a cluster; 0 for ''. `threads` is
    the value of --worker-threads.

    >>> workers_of("4"), workers_of("ray://head:10001"), workers_of("")
    (4, 'ray://head:10001', 0)
    """
    if threads and not text:
        raise LissomError("--worker-threads: it does nothing without --workers; leave it out")
    if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= 1024:
        return int(text)
    if text in ("", "ray") or re.fullmatch(r"ray://[^\s/]+:[0-9]{1,5}", text):
        return text or 0
    raise LissomError(
        f"--workers: expected a number from 1 to 1024, ray or ray://HOST:PORT, got {text!r}"
    )


def size_of(text: str | None) -> tuple[int, int] | None:
    """Return height and width from a text such as 32 or 32x48.

    >>> size_of("32x48")
    (32, 48)
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= height <= 8192 or not 1 <= width <= 8192:
        raise LissomError(f"--size: expected 32 or 32x48, at most 8192, got {text!r}")
    return height, width


SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(text: str) -> float:
    """Return the seconds in the value of --budget, such as 90s, 30min or 1.5h.

    >>> seconds_of("30min"), seconds_of("1.5h")
    (1800.0, 5400.0)
    """
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([a-z]+)\s*", text.lower())
    if not match or match[2] not in SECONDS or float(match[1]) == 0:
        raise LissomError(f"--budget: expected a time such as 90s, 30min or 2h, got {text!r}")
    return float(match[1]) * SECONDS[match[2]]
