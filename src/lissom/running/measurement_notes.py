"""Notes on a measurement for the user: slow, noisy, or answers that differ from the network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bench.intervals import is_disturbed
from ..bench.machine import measured_on


def faster_way(float_ms: float, others: Mapping[str, float]) -> str:
    """Return advice on what to use instead of a file that is slower than the uncompressed network.

    >>> faster_way(44.0, {"onnxruntime": 31.0}), faster_way(44.0, {})
    ('faster: onnxruntime, 31 ms', 'faster: the uncompressed file')
    """
    best = min(others, key=lambda name: others[name], default="")
    if best and others[best] < float_ms:
        return f"faster: {best}, {others[best]:.3g} ms"
    return "faster: the uncompressed file"


def medians(record: dict[str, Any], target: str, machine: str) -> dict[str, float]:
    """Return the median latency (ms) of a network on one machine in every target but `target`."""
    return {
        name: found["latency_ms"]["median"]
        for name, found in record["targets"].items()
        if name != target and not is_disturbed(found) and measured_on(record, found) == machine
    }


def measurement_notes(
    measurement: dict[str, Any], others: Mapping[str, float] | None = None
) -> list[str]:
    """Return notes on what stands out in the measurement of one target. `others` are the median
    latencies of the same network in other targets.
    """
    latency = measurement["latency_ms"]
    float_latency = measurement["float_latency_ms"]
    agreement = measurement["agreement"]
    notes = []
    if agreement is not None and agreement < 0.995:
        notes.append(f"it and PyTorch agree on {agreement:.2%} of the test images")
    if is_disturbed(measurement):
        notes.append(
            f"not measured well, the machine was busy: {latency['low']:.3g} to {latency['high']:.3g} ms, "
            f"the uncompressed network {float_latency['low']:.3g} to {float_latency['high']:.3g}; "
            "the same command measures again"
        )
    if (share := measurement.get("macs_in_integers")) is not None and share < 0.5:
        notes.append(f"only {share:.0%} of the multiply-adds run in integers")
    if not is_disturbed(measurement) and latency["low"] > float_latency["high"]:
        floats = (
            f"; not in integers: {', '.join(measurement['not_fused'][:5])}"
            if measurement["not_fused"]
            else ""
        )
        notes.append(
            f"slower than the uncompressed network, {latency['median']:.3g} ms to "
            f"{float_latency['median']:.3g}; layers with few channels or depthwise ones may cost more "
            f"to round than their products save{floats}; {faster_way(float_latency['median'], others or {})}"
        )
    return notes
