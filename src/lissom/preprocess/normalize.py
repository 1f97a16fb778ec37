"""Normalization by mean and standard deviation of each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.preprocess import NumberOperation, Numbers

NAMED_NUMBERS: dict[str, tuple[Numbers, Numbers]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
}

MAX_MEAN = 2.0  # largest plausible mean, for pixels from 0 to 1


@dataclass(frozen=True)
class Normalize(NumberOperation):
    """Subtract a mean and divide by a standard deviation, channel by channel.

    y = (x - mean[channel]) / std[channel]

    normalize("imagenet")  mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225
    normalize("half")      mean 0.5 and std 0.5: numbers from -1 to 1
    normalize("cifar10")   mean 0.4914, 0.4822, 0.4465 and std 0.247, 0.2435, 0.2616
    normalize("data")      mean and std measured on the training images
    normalize(mean=(0.5, 0.4, 0.4), std=0.25)   given numbers, one or one for each channel

    Also known as: Normalize in torchvision, standardization.
    Source: torchvision.transforms.Normalize, https://docs.pytorch.org/vision
    """

    of: Literal["imagenet", "half", "cifar10", "data"] = arg(
        "name of the numbers, if none are given", "data"
    )
    mean: float | tuple[float, ...] | None = arg("mean to subtract; 0 if only std is given", None)
    std: float | tuple[float, ...] | None = arg(
        "standard deviation to divide by; 1 if only mean is given", None, above=0
    )

    def __post_init__(self) -> None:
        if not isinstance(self.of, str):
            raise LissomError(
                "normalize: numbers are given by name, as in normalize(mean=0.5, std=0.25), got "
                f"{self.of!r}"
            )
        super().__post_init__()
        if self.given and self.of != "data":
            raise LissomError(
                f'normalize("{self.of}"): numbers of its own were given, too; leave out the name or '
                "mean= and std="
            )

    @property
    def given(self) -> bool:
        """Whether numbers are given instead of a name."""
        return self.mean is not None or self.std is not None

    @property
    def from_data(self) -> bool:
        return self.of == "data" and not self.given

    def measured(self, mean: Numbers, std: Numbers) -> NumberOperation:
        return Normalize(mean=mean, std=std) if self.from_data else self

    def __call__(self, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers]:
        if self.from_data:
            raise LissomError("preprocess: mean and deviation of the data are not measured yet")
        numbers = (self.mean or 0.0, self.std or 1.0) if self.given else NAMED_NUMBERS[self.of]
        subtracted = number_per_channel(numbers[0], len(mean), str(self))
        divided = number_per_channel(numbers[1], len(mean), str(self))
        if not self.given and set(std) != {1.0}:
            raise LissomError(
                f"preprocess: {self}: its numbers are for pixels from 0 to 1, and what stands before it "
                "changes them; leave that out"
            )
        if any(m + x * s > MAX_MEAN for m, x, s in zip(mean, subtracted, std, strict=True)):
            raise LissomError(
                f"preprocess: {self}: its mean lies far beyond all pixels, which go from 0 to 1; for "
                f"pixels from 0 to 255: scale(255) | {self}"
            )
        return (
            tuple(m + x * s for m, x, s in zip(mean, subtracted, std, strict=True)),
            tuple(s * x for s, x in zip(std, divided, strict=True)),
        )


def number_per_channel(value: float | Numbers, channels: int, name: str) -> Numbers:
    """Return one number for each channel. Raises LissomError unless one, or as many, are given."""
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise LissomError(
            f"preprocess: {name}: expected one number or {channels}, one for each channel of the "
            f"images, got {len(numbers)}"
        )
    return numbers
