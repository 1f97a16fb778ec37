"""The device that learning runs on."""

from __future__ import annotations

import torch

from ..errors import LissomError, nearest


def device_of(name: str) -> torch.device:
    """Return the device of a name; for "" a GPU if there is one. Raises LissomError if unusable."""
    try:
        chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        word = "cuda" if name.lower() == "gpu" else nearest(name, ("cpu", "cuda", "mps", "xpu"))
        hint = f"; did you mean '{word}'?" if word and word != name.partition(":")[0] else ""
        raise LissomError(
            f"device: '{name}' cannot be used{hint} ({str(error).splitlines()[0]:.160})"
        ) from None
    return chosen
