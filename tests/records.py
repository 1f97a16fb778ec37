"""Records in the form that tables and figures read."""

from __future__ import annotations

from typing import Any


def record(
    recipe: str,
    seed: int,
    score: float | None,
    targets: dict[str, float | None],
    **more: float | None,
) -> dict[str, Any]:
    """Return what a table reads of a record: `targets` are their scores, `more` further scores."""
    scores = {"test": {"top1": score, **more}}
    ran = {
        "latency_ms": {"median": 2.0 + seed, "low": 1.9 + seed, "high": 2.1 + seed},
        "size_bytes": 1000,
        "float_size_bytes": 4000,
        "float_latency_ms": {"median": 8.0, "low": 7.0, "high": 9.0},
        "fused": "3/3",
        "peak_mib": 50.0,
    }
    return {
        "task": {"model": "net", "data": "digits"},
        "key": f"key{seed}",
        "recipe": recipe,
        "seed": seed,
        "params": 1000,
        "macs": 2000 + seed,
        "scores": scores,
        "weights_bytes": 4000,
        "float": {"scores": scores, "weights_bytes": 8000, "params": 2000, "macs": 4000},
        "machine": {"cpu": "some", "cores": 2},
        "targets": {name: {"top1": found, **more, **ran} for name, found in targets.items()},
    }
