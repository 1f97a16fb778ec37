"""What a measurement was taken on."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from .cores import allowed_cpus

LIBRARIES = tuple(
    """
    lissom torch torchvision numpy onnx onnxruntime openvino MNN ncnn pnnx executorch
    """.split()
)
FLAGS = tuple(
    """
    avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16 asimddp i8mm sve
    """.split()
)
# PyTorch's words for these
ELSEWHERE = {"fma3": "fma", "avx512_f": "avx512f", "dot": "asimddp", "neon_dot": "asimddp"}
INFO = Path("/proc/cpuinfo")  # Linux's


@cache
def machine() -> dict[str, Any]:
    """Return CPU, cores, instruction sets, memory, system and library versions, without what the
    system does not tell.
    """
    name, flags = processor()
    libraries = {}
    for library in LIBRARIES:
        try:
            libraries[library] = version(library)
        except PackageNotFoundError:
            continue
    memory = memory_gib()
    return {
        "cpu": name,
        "cores": len(allowed_cpus() or ()) or os.cpu_count(),
        "isa": [f for f in FLAGS if f in flags],
        **({} if memory is None else {"memory_gib": memory}),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": libraries,
    }


def processor() -> tuple[str, set[str]]:
    """Return the name of the processor and the instruction sets that it is known to have."""
    name = ""
    flags = set[str]()
    with suppress(OSError):
        for line in INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    if not flags:
        import torch

        # PyTorch before 2.12 does not tell
        said: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        name = name or str(said.get("cpu_name") or "")
        flags = {ELSEWHERE.get(flag, flag) for flag, has in said.items() if has is True}
    return name or platform.processor() or platform.machine(), flags


def memory_gib() -> float | None:
    """Return the memory of the machine; None where the system does not say."""
    with suppress(psutil.Error, OSError, ValueError, KeyError):
        return round(psutil.virtual_memory().total / 2**30, 1)
    return None
