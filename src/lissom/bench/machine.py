"""Facts about the machine that measurements were taken on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
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
# PyTorch's names of some FLAGS
NAMES_IN_PYTORCH = {"fma3": "fma", "avx512_f": "avx512f", "dot": "asimddp", "neon_dot": "asimddp"}
CPU_FILE = Path("/proc/cpuinfo")  # Linux's
DRIVER_FILE = Path("/proc/driver/nvidia/version")  # NVIDIA's, on Linux


@cache
def machine() -> dict[str, Any]:
    """Return CPU, cores, instruction sets, memory, system, library versions and GPU. Unknown facts
    are left out.
    """
    name, flags = processor()
    libraries = {}
    for library in LIBRARIES:
        try:
            libraries[library] = version(library)
        except PackageNotFoundError:
            continue
    memory = memory_gib()
    graphics = gpu()
    return {
        "cpu": name,
        "cores": len(allowed_cpus() or ()) or os.cpu_count(),
        "isa": [f for f in FLAGS if f in flags],
        **({} if memory is None else {"memory_gib": memory}),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": libraries,
        **({"gpu": graphics} if graphics else {}),
    }


def machine_text(facts: Mapping[str, Any]) -> str:
    """Return the text that identifies a machine in tables of latency: processor and cores.

    >>> machine_text({"cpu": "AMD EPYC 9B14", "cores": 4, "memory_gib": 15.6})
    'AMD EPYC 9B14, 4 cores'
    """
    return f"{facts['cpu']}, {facts['cores']} cores"


def measured_on(record: dict[str, Any], measurement: dict[str, Any]) -> str:
    """Return the machine on which a target of a record was measured, and the number of threads if
    there were several: only latencies with equal ones are compared. Records of earlier versions
    name no machine; there it is the one that made the network.

    >>> measured_on({}, {"machine": "AMD EPYC 9B14, 4 cores", "threads": 4})
    'AMD EPYC 9B14, 4 cores, with 4 threads'
    """
    threads = measurement.get("threads", 1)
    several = "" if threads == 1 else f", with {threads or 'all'} threads"
    return (measurement.get("machine") or machine_text(record["machine"])) + several


def processor() -> tuple[str, set[str]]:
    """Return the name of the processor and its known instruction sets."""
    name = ""
    flags = set[str]()
    with suppress(OSError):
        for line in CPU_FILE.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    if not flags:
        import torch

        # PyTorch has this function since 2.12
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        name = name or str(capabilities.get("cpu_name") or "")
        flags = {
            NAMES_IN_PYTORCH.get(flag, flag) for flag, has in capabilities.items() if has is True
        }
    return name or platform.processor() or platform.machine(), flags


def memory_gib() -> float | None:
    """Return the memory of the machine in GiB, None if unknown."""
    with suppress(psutil.Error, OSError, ValueError, KeyError):
        return round(psutil.virtual_memory().total / 2**30, 1)
    return None


def gpu() -> dict[str, Any]:
    """Return the name and memory of PyTorch's first GPU, the number of GPUs, and the versions of
    driver, CUDA and cuDNN; {} if there is no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()  # 92400 stands for 9.24.0
    driver = ""
    with suppress(OSError):
        match = re.search(r"Module.*?\s(\d+(?:\.\d+)+)", DRIVER_FILE.read_text(encoding="utf-8"))
        driver = match[1] if match else ""
    facts = {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "count": torch.cuda.device_count(),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": cudnn and f"{cudnn // 10_000}.{cudnn // 100 % 100}.{cudnn % 100}",
    }
    return {name: value for name, value in facts.items() if value}
