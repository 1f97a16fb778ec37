"""The memory layout and the precision in which a device computes fastest."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


def layout_of(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels-last, the faster layout, unless it breaks a layer of the network on a CPU.

    There, the gradient of a strided 1x1 convolution with fewer than 16 input channels (the size of
    a vector register; pruned shortcuts may have fewer) is wrong or crashes the process:
    https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    broken = any(
        isinstance(m, nn.Conv2d)
        and set(m.kernel_size) == {1}
        and max(m.stride) > 1
        and m.in_channels // m.groups < 16
        for m in model.modules()
    )
    return torch.contiguous_format if broken and device.type == "cpu" else torch.channels_last


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device computes faster in it than in float32, else float32.

    CPUs with AMX do, and AMD's with AVX512-BF16. The rule looks at the processor and measures
    nothing, so the same machine always trains to the same bits.
    """
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    if device.type != "cpu":
        return torch.float32
    own = of_cpu()
    # AMD's AVX512-BF16 multiplies bfloat16 at the full rate: 1.8 times the images per second of
    # float32. Intel's CPUs with AVX512-BF16 but no AMX are slower than in float32
    # (benchmarks/throughput.py)
    amd = own.get("avx512_bf16", False) and str(own.get("cpu_name", "")).startswith("AMD")
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() or amd else torch.float32


NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_named(name: str, device: torch.device) -> torch.dtype:
    """Return the precision that a setting names; `auto` is the fastest one of the device."""
    return fast_precision(device) if name == "auto" else NAMED[name]


def of_cpu() -> dict[str, Any]:
    """Return PyTorch's facts about the processor; empty before PyTorch 2.12."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def autocast(device: torch.device, precision: torch.dtype) -> Any:
    """Return the context in which the network computes in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)
