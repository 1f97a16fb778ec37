"""Draw the answer of a network onto an image: labels of pixels as colours, boxes with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from torch import Tensor

# Okabe and Ito 2008 and Tol 2021: distinguishable for colour-blind readers, the first ones best
COLOURS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#332288",
    "#bbbbbb",
    "#882255",
    "#117733",
    "#44aa99",
    "#999933",
    "#cc6677",
    "#ddcc77",
    "#88ccee",
    "#aa4499",
)
OPACITY = 0.5
MOST_NAMED = 24  # characters of a name beside a box
MOST_WITH_NAMES = 8  # boxes in an image; if there are more, names are left out

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom


def class_name(classes: Sequence[str], number: int) -> str:
    """Return the name of a class, or its number if it has no name.

    >>> class_name(("cat", "dog"), 1), class_name((), 7)
    ('dog', '7')
    """
    return classes[number] if 0 <= number < len(classes) else str(number)


def class_colour(number: int) -> str:
    """Return the colour of a class as #rrggbb; if there are many classes, some share a colour.

    >>> class_colour(0), class_colour(0) == class_colour(len(COLOURS))
    ('#e69f00', True)
    """
    return COLOURS[number % len(COLOURS)]


def class_colours(numbers: Tensor, classes: Sequence[str]) -> dict[str, str]:
    """Return the colours of the classes with these numbers (n), by name, in numerical order."""
    found = sorted(set(numbers.flatten().long().tolist()))
    return {class_name(classes, number): class_colour(number) for number in found}


def draw_labels(picture: Image, labels: Tensor, shown: Tensor) -> Image:
    """Return an image with the classes (h w) of its pixels as semi-transparent colours.

    `shown` (h w) says which pixels have a class; the others do not change. The image may be
    larger than the labels by an integer factor.
    """
    import torch
    from PIL import Image as images

    palette = torch.tensor([list(bytes.fromhex(colour[1:])) for colour in COLOURS])
    pixels = palette.to(torch.uint8)[labels.long() % len(COLOURS)]
    opacity = shown.to(torch.uint8) * round(255 * OPACITY)
    nearest = images.Resampling.NEAREST
    layer = images.fromarray(pixels.numpy()).resize(picture.size, nearest)
    mask = images.fromarray(opacity.numpy()).resize(picture.size, nearest)
    out = picture.convert("RGB")
    out.paste(layer, (0, 0), mask)
    return out


def draw_boxes(picture: Image, rows: Tensor, classes: Sequence[str], zoom: int) -> Image:
    """Return an image with boxes, rows (k 5) of x1 y1 x2 y2 class, in the colours of their classes.

    Corners are in pixels of the image before it was enlarged `zoom` times. Rows of class -1 and
    boxes with NaN or infinite corners are left out. Parts outside of the image are cut off. Names
    are written only if there are few boxes; many would hide one another, and the legend of
    `class_colours` is enough.
    """
    from PIL import ImageDraw

    boxes = rows[(rows[:, 4] >= 0) & rows.isfinite().all(1)].double()
    limit = boxes.new_tensor([picture.width - 1, picture.height - 1] * 2)
    corners = (boxes[:, :4] * zoom).clamp_min(0).minimum(limit)
    # the largest first, so that they hide no smaller ones
    order = (corners[:, 2:] - corners[:, :2]).prod(1).argsort(descending=True, stable=True)
    out = picture.convert("RGB")
    pen = ImageDraw.Draw(out)
    shown = []
    for place in order.tolist():
        left, top, right, bottom = corners[place].round().int().tolist()
        if left <= right and top <= bottom:
            shown.append(((left, top, right, bottom), int(boxes[place, 4])))
    for box, number in shown:
        draw_edge(pen, box, class_colour(number))
    for box, number in shown if len(shown) <= MOST_WITH_NAMES else ():
        draw_name(pen, box, class_name(classes, number), class_colour(number))
    return out


def draw_edge(pen: ImageDraw, box: Box, colour: str) -> None:
    """Draw the outline of a box."""
    thick = max(2, round(max(pen.im.size) / 110))
    left, top, right, bottom = box
    # a dark line on both sides makes a bright line visible on a bright image
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="#000000", width=thick + 2)
    pen.rectangle(box, outline=colour, width=thick)


def draw_name(pen: ImageDraw, box: Box, name: str, colour: str) -> None:
    """Draw a name above the left end of a box, or inside it if there is no room above."""
    from PIL import ImageFont

    left, top, _, _ = box
    width, height = pen.im.size
    font = ImageFont.load_default(max(10, round(max(width, height) / 22)))
    text = name if len(name) <= MOST_NAMED else f"{name[: MOST_NAMED - 1]}…"
    _, _, wide, tall = (round(side) for side in font.getbbox(text))
    x = max(0, min(left, width - wide - 5))
    y = top - tall - 3 if top >= tall + 3 else top
    pen.rectangle((x, y, x + wide + 4, y + tall + 3), fill=colour)
    pen.text((x + 2, y + 1), text, fill=ink_on(colour), font=font)


def ink_on(colour: str) -> str:
    """Return black or white, whichever is legible on a colour.

    >>> ink_on("#f0e442"), ink_on("#332288")
    ('#000000', '#ffffff')
    """
    red, green, blue = bytes.fromhex(colour[1:])
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"
