"""Images of a few test samples with the answers of the uncompressed network and of every file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.data import Data
from ..data.split import CPU, Split, evenly_spaced
from ..language.kind import Kind
from ..learning.evaluate import join_batches, network_answers
from ..store.pictures import (
    MOST_BYTES,
    MOST_CAPTION,
    MOST_SAMPLES,
    Answer,
    Answers,
    pictures_name,
    write_answers,
)
from ..store.snapshot import restore
from ..store.store import Store
from ..tasks.task import Task
from ..trees import Tree, sample, tensors_in

if TYPE_CHECKING:
    from PIL.Image import Image

SHORT_SIDE = 128  # pixels: least shorter side of an image, if DRAWN_SIDE allows it
LONG_SIDE = 320  # pixels: largest longer side in the report
DRAWN_SIDE = 1280  # pixels: largest longer side while drawing
THIN_SIDE = 4  # pixels: an input with a shorter side is not an image
JPEG_QUALITY = 85  # of JPEG


@dataclass
class MemorySplit:
    """A split of a few samples in memory: `inputs` and their targets, `labels`."""

    inputs: Tree
    labels: Tree

    def __len__(self) -> int:
        return next(len(t) for t in tensors_in(self.labels))

    def batches(
        self, _: int, device: torch.device, __: Tensor | None = None
    ) -> Iterator[tuple[Tree, Tree]]:
        """Yield all samples at once."""
        del device  # they are few
        yield self.inputs, self.labels


def samples_of(data: Data) -> MemorySplit:
    """Return a few evenly spread test samples, the same at every call."""
    split: Split = evenly_spaced(data.test, MOST_SAMPLES)
    return MemorySplit(*next(split.batches(MOST_SAMPLES, CPU)))


@dataclass
class Album:
    """The answers of a task's networks and files to the same samples, written into their entries.

    Images are only for people: an error in them is reported and never stops a measurement.
    """

    task: Task
    store: Store
    say: Callable[[str], None]
    looked: dict[str, Tree] = field(default_factory=dict)  # outputs, by target

    @cached_property
    def samples(self) -> MemorySplit:
        """The samples, read once."""
        return samples_of(self.task.data)

    def look(self, target: str, answered: Callable[[Split], Iterable[tuple[Tree, Tree]]]) -> None:
        """Run an open file on the samples and keep its outputs."""
        if self.task.kind is not None:
            with self._unharmed(target):
                self.looked[target] = join_batches(answered(self.samples))[0]

    def save_file(self, key: str, target: str) -> None:
        """Write the answers of a file into the entry of its network."""
        outputs = self.looked.pop(target, None)
        if self.task.kind is None or outputs is None:
            return
        name = pictures_name(target)
        with self._unharmed(target):
            answers = answers_of(self.task.kind, self.task.data, self.samples, {"file": outputs})
            self.store.discard(key, name)
            with self.store.artefact(key, name) as folder:
                write_answers(folder, answers)

    def save_network(self, key: str) -> None:
        """Write the ground truth and the uncompressed network's answers into its entry, once."""
        name = pictures_name()
        if self.task.kind is None or self.store.is_trusted_artefact(key, name):
            return
        with self._unharmed("the uncompressed network"), self.store.lock(f"{key}.{name}"):
            if self.store.is_trusted_artefact(key, name):
                return
            model = restore(self.task.fresh, self.store.folder(key))
            outputs, _ = join_batches(network_answers(model, self.task.data, self.samples))
            rows = {"truth": None, "network": outputs}
            answers = answers_of(self.task.kind, self.task.data, self.samples, rows)
            self.store.discard(key, name)
            with self.store.artefact(key, name) as folder:
                write_answers(folder, answers)

    @contextmanager
    def _unharmed(self, whose: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a kind of the user's own may raise anything
            said = str(error).splitlines() or [type(error).__name__]
            self.say(f"note: {whose}: its answers cannot be shown as images ({said[0]:.160})")


def answers_of(
    kind: Kind, data: Data, samples: MemorySplit, outputs: dict[str, Tree | None]
) -> Answers:
    """Return one row of answers for each source in `outputs`; None stands for the ground truth."""
    pictures, zoom = enlarged(samples.inputs, data)
    colours = dict[str, str]()
    rows = {}
    for whose, given in outputs.items():
        said = samples.labels if given is None else kind.answers(given)
        captions = captions_of(kind, data, samples.labels, given)
        row = []
        for place, (answer, (text, wrong)) in enumerate(zip(said, captions, strict=True)):
            jpeg = None
            if pictures:
                plain = pictures[place]
                drawn = kind.drawn(plain, answer, data.classes, zoom)
                # an image with nothing drawn on it is shown once, in the row of the ground truth
                if given is None or drawn is not plain:
                    jpeg = jpeg_of(drawn)
                if drawn is not plain:
                    colours |= kind.colours(answer, data.classes)
            row.append(Answer(text, wrong, jpeg))
        rows[whose] = row
    names = sorted(colours, key=lambda name: [*data.classes, name].index(name))
    return Answers(rows, {name: colours[name] for name in names})


def captions_of(
    kind: Kind, data: Data, truth: Tensor, outputs: Tree | None
) -> Iterator[tuple[str, bool | None]]:
    """Yield a caption for each sample, and whether its answer is wrong: None if it is neither right
    nor wrong. If the image shows the answer, the caption has the metric of that sample.
    """
    said = truth if outputs is None else kind.answers(outputs)
    sure = None if outputs is None else kind.sureness(outputs)
    for place, answer in enumerate(said):
        text = kind.words(answer, data.classes)
        wrong = None
        if text and outputs is not None and not answer.is_floating_point():
            wrong = bool((answer.flatten() != truth[place].flatten()).any())
        if not text and outputs is not None:
            text = metric_of(kind, data, sample(outputs, place), truth[place : place + 1])
        more = "" if sure is None else f" {100 * float(sure[place]):.0f}\N{NO-BREAK SPACE}%"
        yield text[: MOST_CAPTION - len(more)] + more, wrong


def metric_of(kind: Kind, data: Data, outputs: Tree, truth: Tensor) -> str:
    """Return the first metric of one sample as text, "" if it is not finite."""
    tally = kind.tally(len(data.classes))
    tally.add(outputs, truth)
    name, value = next(iter(tally.values().items()))
    return f"{name} {value:.2f}" if math.isfinite(value) else ""


def enlarged(inputs: Tree, data: Data) -> tuple[list[Image], int]:
    """Return the inputs as enlarged images, and the factor; no images for other inputs.

    Pixels (n c h w) are shown as they are. Other numbers are scaled from the minimum to the maximum
    of each sample.
    """
    from PIL import Image as images

    if not isinstance(inputs, Tensor) or not is_picture(inputs):
        return [], 1
    height, width = inputs.shape[2:]
    zoom = max(1, min(math.ceil(SHORT_SIDE / min(height, width)), DRAWN_SIDE // max(height, width)))
    pixels = inputs if inputs.dtype == torch.uint8 else stretched(inputs)
    if pixels.shape[1] == 3 and data.preprocess is not None and data.preprocess.order == "BGR":
        pixels = pixels.flip(1)
    pictures = []
    for each in pixels:
        array = each[0] if len(each) == 1 else each.movedim(0, 2)
        picture = images.fromarray(array.contiguous().numpy())
        pictures.append(picture.resize((zoom * width, zoom * height), images.Resampling.NEAREST))
    return pictures, zoom


def is_picture(inputs: Tensor) -> bool:
    """Return whether inputs look like gray or colour images (n c h w)."""
    return (
        inputs.ndim == 4
        and inputs.shape[1] in (1, 3)
        and min(inputs.shape[2:]) >= THIN_SIDE
        and (inputs.dtype == torch.uint8 or inputs.is_floating_point())
    )


def stretched(inputs: Tensor) -> Tensor:
    """Return numbers (n ...) as pixels: 0 is the minimum of each sample, 255 its maximum."""
    values = inputs.float().nan_to_num(0, 0, 0)
    flat = values.flatten(1)
    low = flat.amin(1).view(-1, 1, 1, 1)
    spread = flat.amax(1).view(-1, 1, 1, 1) - low
    return (255 * (values - low) / spread.clamp_min(1e-12)).round().to(torch.uint8)


def jpeg_of(picture: Image) -> bytes:
    """Return an image as a JPEG of at most 320 pixels a side."""
    from PIL import Image as images

    if max(picture.size) > LONG_SIDE:
        picture = picture.copy()
        picture.thumbnail((LONG_SIDE, LONG_SIDE), images.Resampling.LANCZOS)
    for quality in (JPEG_QUALITY, 60, 30):  # noise takes many bytes
        file = BytesIO()
        # no chroma subsampling: thin lines would lose their colour
        picture.save(file, "JPEG", quality=quality, subsampling=0)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
