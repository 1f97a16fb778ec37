"""One training loop for every step that learns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.augment import crop, cutout, flip
from .data.data import Data
from .data.split import Images
from .errors import LissomError
from .norms import Frozen, hold_norms


@dataclass(frozen=True)
class Batch:
    """What a term of the loss sees: `images` (n c h w) as the network saw them, `labels` (n), `outputs`."""

    images: Tensor
    labels: Tensor
    outputs: Tensor


Term = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Pace:
    """How long and how fast to learn: `epochs` over the data, `lr` the peak learning rate."""

    epochs: int
    lr: float = 0.1
    batch: int = 128
    schedule: Literal["onecycle", "cosine", "step", "constant"] = "onecycle"
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    clip: float | None = None
    cutout: int = 0
    augment: Literal["auto", "none", "crop", "flip", "crop+flip"] = "auto"
    norm_momentum: float | None = None
    freeze: Frozen = "none"
    optimizer: Literal["sgd", "adamw"] = "sgd"

    def rate(self, progress: float) -> float:
        """Return the learning rate at `progress`, the share of all steps already taken (0 to 1).

        onecycle: linear from 0.1 of the peak to the peak over the first quarter, then linear to 0.
        cosine: lr * (1 + cos(pi * progress)) / 2. step: lr, a tenth of it after 1/2, a hundredth after 3/4.
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        if self.schedule == "step":
            return self.lr * (1 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
        if progress < 0.25:
            return self.lr * (0.1 + 0.9 * progress / 0.25)
        return self.lr * max(0.0, 1 - progress) / 0.75


@dataclass(frozen=True)
class Progress:
    """Where the loop is, for whoever shows it."""

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    top1: float | None
    images_per_s: float
    seconds_per_step: float


def fit(model: nn.Module, data: Data, pace: Pace, *, seed: int, device: torch.device, loss: Term | None = None,
        terms: Sequence[Term] = (), where: str = "fit", watch: Callable[[Progress], None] | None = None,
        precision: torch.dtype | None = None, extra: Sequence[nn.Module] = ()) -> list[dict[str, Any]]:
    """Train `model` in place on `data.train` and return one row for each epoch.

    `loss` takes the model and a `Batch` and returns a scalar; cross-entropy if None. `terms` are added
    to it. The rows hold epoch, lr, loss, top1 (of the training batches, as seen; None where labels are no classes)
    and seconds. Weight decay spares batch-norm and biases. `precision` is that of autocast:
    `fast_precision(device)` if None. `extra` are modules that `loss` uses and that learn along with the model.
    Raises LissomError, naming epoch and step, when the loss stops being a number.
    """
    if not len(data.train):
        raise LissomError(f"{where}: the training split is empty")
    draw, _ = torch.Generator().manual_seed(seed), torch.manual_seed(seed)  # the latter for layers that draw
    learner = nn.ModuleList([model, *extra])
    learner.to(device).to(memory_format=layout_of(model, device)).train()
    release = hold_norms(learner, pace.norm_momentum, pace.freeze)
    layout, precision = layout_of(model, device), precision or fast_precision(device)
    train = data.train.on(device) if isinstance(data.train, Images) else data.train
    loss = loss or cross_entropy(pace.smoothing)
    optimizer = optimizer_of(learner, pace)
    steps = math.ceil(len(train) / pace.batch) * pace.epochs
    rows = []
    for epoch in range(1, pace.epochs + 1):
        begin = time.perf_counter()
        seen, total, right = 0, torch.zeros((), device=device), torch.zeros((), device=device)
        order = torch.randperm(len(train), generator=draw)
        for k, (pixels, labels) in enumerate(train.batches(pace.batch, device, order)):
            if len(labels) == 1 and seen:
                continue  # one image has no batch statistics
            step = (epoch - 1) * (steps // pace.epochs) + k
            for group in optimizer.param_groups:
                group["lr"] = pace.rate(step / steps)
            images = augmented(pixels, data, pace, draw).contiguous(memory_format=layout)
            with autocast(device, precision):
                outputs = model(images)
            batch = Batch(images, labels, outputs.float())
            value = loss(model, batch)
            for term in terms:
                value = value + term(model, batch)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if pace.clip is not None:
                nn.utils.clip_grad_norm_(learner.parameters(), pace.clip)
            optimizer.step()
            seen += len(labels)
            total += value.detach() * len(labels)
            right += correct(outputs.detach(), labels)
            if k % 10 == 9 or step + 1 == steps or seen >= len(train) - 1:
                mean = finite(total / seen, value, f"{where}: epoch {epoch}, step {k + 1}")
                if watch:
                    spent = time.perf_counter() - begin
                    watch(Progress(epoch, pace.epochs, step + 1, steps, mean, share(right, seen), seen / spent,
                                   spent / (k + 1)))
        rows.append({"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "loss": float(total) / seen,
                     "top1": share(right, seen), "seconds": time.perf_counter() - begin})
    release()
    model.eval().to(memory_format=torch.contiguous_format)
    return rows


def optimizer_of(model: nn.Module, pace: Pace) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW; weight decay is for weights of two or more dimensions alone."""
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in learned if p.ndim > 1], "weight_decay": pace.decay},
              {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if pace.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=pace.lr, betas=(pace.momentum, 0.999))
    return torch.optim.SGD(groups, lr=pace.lr, momentum=pace.momentum, nesterov=pace.momentum > 0)


def augmented(pixels: Tensor, data: Data, pace: Pace, draw: torch.Generator) -> Tensor:
    """Return a batch of pixels shifted by up to an eighth, mirrored, normalised and cut out, as `pace` says."""
    wanted = pace.augment if pace.augment != "auto" else "crop+flip" if data.flip else "crop"
    if "crop" in wanted:
        pixels = crop(pixels, max(1, min(data.size) // 8), draw)
    if "flip" in wanted:
        pixels = flip(pixels, draw)
    images = data.normalised(pixels)
    if pace.cutout:
        images = cutout(images, pace.cutout, draw)
    return images


def cross_entropy(smoothing: float = 0.0) -> Term:
    """Return the cross-entropy of outputs (n classes) against labels, with label smoothing."""
    def value(_: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.outputs, batch.labels, label_smoothing=smoothing)
    return value


def layout_of(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels-last, the faster layout, unless the network holds a layer that it breaks on a CPU.

    The gradient of a strided 1x1 convolution with fewer inputs than a vector register holds (pruned shortcuts)
    is wrong or ends the process there: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    broken = any(isinstance(m, nn.Conv2d) and set(m.kernel_size) == {1} and max(m.stride) > 1
                 and m.in_channels // m.groups < 16 for m in model.modules())
    return torch.contiguous_format if broken and device.type == "cpu" else torch.channels_last


def fast_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes in it faster than in float32, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    of_cpu: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch before 2.12 does not tell
    # with AVX512-BF16 alone Intel's are slower than in float32, AMD's 1.8 times as fast (benchmarks/throughput.py)
    amd = of_cpu.get("avx512_bf16", False) and str(of_cpu.get("cpu_name", "")).startswith("AMD")
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() or amd else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> Any:
    """Return the context in which the network computes in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return how many of the largest outputs (n classes) are those of their labels (n); NaN where labels are no classes."""
    if outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        return torch.full((), torch.nan, device=outputs.device)
    return (outputs.argmax(1) == labels).sum()


def share(right: Tensor, seen: int) -> float | None:
    """Return the share of `seen` images that were named right, None where that is no number."""
    return float(right) / seen if torch.isfinite(right) else None


def finite(mean: Tensor, value: Tensor, where: str) -> float:
    """Return the mean loss as a number, or raise if it is none."""
    if not (torch.isfinite(mean) and torch.isfinite(value)):
        raise LissomError(f"{where}: the loss is {float(value.detach()):g}; a lower lr or clip=1.0 may help")
    return float(mean)
