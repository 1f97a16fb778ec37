"""Intervals of latency: whether what lies between their ends is a measurement."""

from __future__ import annotations

from typing import Any

# ends of an interval of latency, at most, for the number between them to be one to go by
APART = 1.5


def wide(ms: dict[str, Any]) -> bool:
    """Return whether the ends of an interval are so far apart that what lies between is no measurement.

    >>> wide({"median": 2.0, "low": 1.9, "high": 2.1}), wide({"median": 2.0, "low": 1.93, "high": 32.0})
    (False, True)
    """
    return bool(ms["high"] > APART * ms["low"])


def disturbed(latencies: dict[str, Any]) -> bool:
    """Return whether a target's latency, or that of the uncompressed network beside it, was not
    measured well.
    """
    return wide(latencies["latency_ms"]) or wide(latencies["float_latency_ms"])
