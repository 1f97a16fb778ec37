"""What libraries tell their makers, and write into a user's home to do so: off wherever lissom runs."""

from __future__ import annotations

import os
import sys
from typing import Any

# ONNX Runtime's, which is on by default; that of Hugging Face's hub, which timm imports; Ray's;
# MLflow's
OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# OpenVINO has no switch but a file in the user's home. It does without the package that sends,
# where there is none
SENDERS = ("openvino_telemetry",)


def switch_off() -> None:
    """Switch telemetry off in this process and in those that it starts; called before anything else
    is imported.
    """
    os.environ.update(OFF)
    modules: dict[str, Any] = sys.modules
    for name in SENDERS:
        modules.setdefault(name, None)  # importing it raises ImportError from now on
