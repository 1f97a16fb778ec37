"""What every importance is: a rank for each channel of a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .method import Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Importance(Method, ABC):
    """Rank the channels of a group; those of the smallest importance are cut first."""

    @abstractmethod
    def __call__(self, group: Any, evidence: Any) -> Tensor:
        """Return the importance (c) of the channels of a Group, as an Evidence shows it.

        Both are of surgery/channels: `evidence` has the weights and what calibration samples do.
        """
