"""The contract of importances: a number that ranks each channel of a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .method import Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Importance(Method, ABC):
    """Rank the channels of a group; those with the smallest importance are pruned first."""

    @abstractmethod
    def __call__(self, group: Any, evidence: Any) -> Tensor:
        """Return the importance (c) of the channels of a Group, given an Evidence.

        Both classes are in surgery/channels; `evidence` has the weights and the statistics of
        calibration samples.
        """
