"""A data set for detection in Pascal VOC's format: an XML file with boxes for each image."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from ..errors import LissomError
from ..language.preprocess import Preprocess, Size
from .boxes import AnnotatedImage, Annotations, Corners, corners_of, read_boxes
from .folder import image_endings
from .split import SourceData

LIST_NAMES = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}
CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: Path,
    size: Size | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> SourceData:
    """Read Annotations/*.xml with the images of the same names in JPEGImages.

    ImageSets/Main/train.txt, val.txt and test.txt name the images of each part; trainval.txt
    names the training images if the first two are missing. Without lists, a fifth of the images
    is the test set. Classes are the names in the files, sorted, or those `stated`. Difficult
    objects are left out. Raises LissomError for files that do not fit.
    """
    for name in ("Annotations", "JPEGImages"):
        if not (root / name).is_dir():
            raise LissomError(
                f"data: {root} has no folder {name}; expected Annotations/*.xml and JPEGImages/*, as in "
                "VOCdevkit/VOC2012"
            )
    endings = image_endings()
    pictures = {
        path.stem: path
        for path in sorted((root / "JPEGImages").iterdir())
        if path.suffix.lower() in endings
    }
    digest = hashlib.sha256()
    left_out = Counter[str]()
    parts = dict[str, list[AnnotatedImage]]()
    for part, listed in names_in(root).items():
        parts[part] = list[AnnotatedImage]()
        for name in listed:
            file = root / "Annotations" / f"{name}.xml"
            if name not in pictures:
                raise LissomError(
                    f"data: there is no image {name}.* in {root / 'JPEGImages'}, of which {part} is to "
                    "hold one"
                )
            text = text_in(file)
            digest.update(f"{part} {name} {text}".encode(errors="surrogatepass"))
            parts[part].append(annotated_image(file, text, pictures[name], left_out))
    names = [sample.names for sample in chain(*parts.values())]
    classes = stated or tuple(sorted(set(chain(*names))))
    annotations = Annotations(f"voc:{root.name}", parts, classes, digest.hexdigest(), left_out)
    return read_boxes(annotations, size, channels, skip_bad, preprocess)


def names_in(root: Path) -> dict[str, list[str]]:
    """Return the names of the images of each part, or all as one part if there are no lists."""
    lists = root / "ImageSets" / "Main"
    parts = dict[str, list[str]]()
    for part, names in LIST_NAMES.items():
        files = [lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()]
        if files:
            parts[part] = lines_in(files[0])
    if parts.keys() <= {"test"} and (lists / "trainval.txt").is_file():
        parts["train"] = lines_in(lists / "trainval.txt")
    if parts:
        return parts
    every = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    if not every:
        raise LissomError(f"data: {root / 'Annotations'} holds no XML file")
    return {"all": every}


def lines_in(file: Path) -> list[str]:
    """Return the names of images in a list, one on each line."""
    names = [line.strip() for line in text_in(file).splitlines() if line.strip()]
    for name in names:
        # a path could lead out of the data set
        if re.search(r"[/\\]", name) or name in (".", ".."):
            raise LissomError(
                f"data: {file}: expected names of images without folder and ending, got {name!r:.80}"
            )
    return names


def text_in(file: Path) -> str:
    """Return the text of a file. Raises LissomError if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LissomError(f"data: there is no file {file}") from None
    except (OSError, ValueError) as error:
        raise LissomError(f"data: {file} cannot be read as UTF-8 text ({error})") from None


def root_in(file: Path, text: str) -> ElementTree.Element:
    """Return the root of an XML file. Raises LissomError for a DOCTYPE and for invalid XML."""
    # a DOCTYPE can expand a small file enormously; the text is decoded, so no encoding hides it
    if "<!DOCTYPE" in text:
        raise LissomError(f"data: {file}: expected XML without a DOCTYPE; remove it")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise LissomError(f"data: {file} cannot be read as XML ({error})") from None


def annotated_image(file: Path, text: str, picture: Path, left_out: Counter[str]) -> AnnotatedImage:
    """Return an image with the boxes in its XML file."""
    root = root_in(file, text)
    if root.tag != "annotation":
        raise LissomError(f"data: {file}: expected <annotation>, got <{root.tag:.80}>")
    sample = AnnotatedImage(picture, [], [], size_in(root, file))
    for place, element in enumerate(root.findall("object"), 1):
        where = f"data: {file}: object {place}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise LissomError(f"{where}: expected the name of a class in <name>")
        if (element.findtext("difficult") or "0").strip() not in ("0", ""):
            left_out["difficult"] += 1
            continue
        sample.corners.append(corners_in(element, where))
        sample.names.append(name)
    return sample


def size_in(root: ElementTree.Element, file: Path) -> Size | None:
    """Return the stated (width, height) of an image, None if it is missing or 0.

    Some programs write 0. Raises LissomError for anything but whole numbers.
    """
    sides = [(root.findtext(f"size/{name}") or "0").strip() for name in ("width", "height")]
    if not all(re.fullmatch("[0-9]{1,7}", side) for side in sides):
        raise LissomError(
            f"data: {file}: expected whole numbers for width and height, got {sides[0]!r:.40} and "
            f"{sides[1]!r:.40}"
        )
    width, height = map(int, sides)
    return (width, height) if width and height else None


def corners_in(element: ElementTree.Element, where: str) -> Corners:
    """Return the corners of an object's box. VOC counts pixels from 1 and includes the last one."""
    texts = [(element.findtext(f"bndbox/{name}") or "").strip() for name in CORNER_TAGS]
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise LissomError(
            f"{where}: bndbox: expected numbers for xmin, ymin, xmax and ymax, got "
            f"{', '.join(f'{text:.40}' or 'nothing' for text in texts)}"
        ) from None
    x1, y1, x2, y2 = corners_of(numbers, f"{where}: bndbox")
    return x1 - 1, y1 - 1, x2, y2
