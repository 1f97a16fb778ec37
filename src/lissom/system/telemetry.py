"""Switch off the telemetry of libraries, and their files for it in a user's home."""

from __future__ import annotations

import os
import sys
from typing import Any

# ONNX Runtime, where it is on by default; Hugging Face's hub, which timm imports; Ray; MLflow
OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# OpenVINO's only switch is a file in the user's home. But it works without the package that sends
SENDERS = ("openvino_telemetry",)


def switch_off() -> None:
    """Switch telemetry off in this process and its children. Call it before any other import."""
    os.environ.update(OFF)
    modules: dict[str, Any] = sys.modules
    for name in SENDERS:
        modules.setdefault(name, None)  # importing it raises ImportError from now on
