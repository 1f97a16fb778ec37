"""What a measurement was taken on."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("lissom", "torch", "torchvision", "numpy", "onnx", "onnxruntime", "openvino", "MNN", "ncnn", "pnnx",
             "executorch")
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm",
         "sve")


@cache
def machine() -> dict[str, Any]:
    """Return CPU, cores, instruction sets, memory, system and library versions."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    libraries = {}
    for library in LIBRARIES:
        try:
            libraries[library] = version(library)
        except PackageNotFoundError:
            continue
    return {"cpu": name, "cores": cores, "isa": [f for f in FLAGS if f in flags], "memory_gib": round(memory / 2**30, 1),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
            "libraries": libraries}
