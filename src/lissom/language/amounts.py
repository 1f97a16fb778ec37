"""Format numbers for people: three digits and a fitting unit."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Return a number of bytes as text.

    >>> size_text(1_107_651)
    '1.11 MB'
    """
    return scaled(count, (" B", " kB", " MB", " GB"))


def count_text(count: float) -> str:
    """Return a count as text.

    >>> count_text(269_722)
    '270k'
    """
    return scaled(count, ("", "k", "M", "G"))


def scaled(count: float, units: tuple[str, ...]) -> str:
    """Return a number with three digits and the fitting unit."""
    place = 0
    while count >= 999.5 and place < len(units) - 1:
        count = count / 1000
        place = place + 1
    return f"{count:.3g}{units[place]}"


def amount_text(name: str, value: float) -> str:
    """Return the value of a cost or a metric with its unit; `name` as in `--want`.

    >>> amount_text("bytes@openvino", 60_421), amount_text("ms@openvino", 0.05213)
    ('60.4 kB', '0.0521 ms')
    >>> amount_text("params", 37_210), amount_text("top1", 0.979166)
    ('37.2k', '0.9792')
    """
    quantity = name.partition("@")[0]
    if quantity == "bytes":
        return size_text(value)
    if quantity in ("params", "macs"):
        return count_text(value)
    unit = {"ms": " ms", "resident": " MiB"}.get(quantity)
    return f"{value:.3g}{unit}" if unit else f"{value:.4g}"
