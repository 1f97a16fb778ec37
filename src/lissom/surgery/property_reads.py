"""Calls that read properties of a tensor which do not depend on its values."""

from __future__ import annotations

from typing import Any

import torch

_T = torch.Tensor

# these do not reveal the size of the tensor either
SIZELESS_READS: set[Any] = {
    _T.dim,
    _T.ndimension,
    _T.is_floating_point,
    _T.get_device,
    _T.__hash__,
    *(
        getattr(_T, name).__get__
        for name in ("ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")
    ),
}
PROPERTY_READS: set[Any] = SIZELESS_READS | {
    _T.size,
    _T.numel,
    _T.nelement,
    _T.stride,
    _T.is_contiguous,
    _T.__len__,
    _T.shape.__get__,  # type: ignore[attr-defined]
    torch.numel,
    torch.is_floating_point,
}
