"""Calls that read properties of a tensor which do not depend on its values."""

from __future__ import annotations

from typing import Any

import torch

_T = torch.Tensor
LOOKS: set[Any] = {
    _T.size,
    _T.dim,
    _T.ndimension,
    _T.numel,
    _T.nelement,
    _T.stride,
    _T.is_contiguous,
    _T.is_floating_point,
    _T.get_device,
    _T.__len__,
    _T.__hash__,
    torch.numel,
    torch.is_floating_point,
    *(
        getattr(_T, name).__get__
        for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")
    ),
}
