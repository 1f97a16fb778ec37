"""Confidence intervals of latency: whether they are narrow enough to trust."""

from __future__ import annotations

from typing import Any

# largest ratio of an interval's ends at which the median can be trusted
MAX_ENDS_RATIO = 1.5


def is_wide(ms: dict[str, Any]) -> bool:
    """Return whether an interval is too wide for its median to be trusted.

    >>> is_wide({"low": 1.9, "high": 2.1}), is_wide({"low": 1.93, "high": 32.0})
    (False, True)
    """
    return bool(ms["high"] > MAX_ENDS_RATIO * ms["low"])


def is_disturbed(latencies: dict[str, Any]) -> bool:
    """Return whether the interval of a target's latency or of the float network's is too wide."""
    return is_wide(latencies["latency_ms"]) or is_wide(latencies["float_latency_ms"])
