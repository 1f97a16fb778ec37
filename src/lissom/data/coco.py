"""A data set for detection in COCO's format: JSON with images, boxes and categories."""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import LissomError, listed
from ..language.preprocess import Preprocess, Size
from .boxes import AnnotatedImage, Annotations, Corners, corners_of, read_boxes
from .classes import by_name
from .folder import PARTS
from .split import SourceData

FILE_NAME = re.compile(r"(?:instances_)?(train|valid|val|test)[0-9]*\.json")
REQUIRED_LISTS = ("images", "annotations", "categories")
EXPORTED_FILE_NAME = "_annotations.coco.json"  # in the folder of a part's images

Id = int | str
Entry = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """The checked contents of a JSON file: images by id, boxes with image and category ids."""

    pictures: dict[Id, tuple[Path, Size | None]]
    boxes: list[tuple[Id, int, Corners]]
    categories: dict[int, str]


def read_coco(
    place: Path,
    size: Size | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> SourceData:
    """Read train.json, valid.json (or val.json) and test.json of a folder, or one JSON file.

    Images lie beside the file, in a folder of its name or in `images`; COCO's own file and folder
    names work too. Classes are the categories in the order of their ids, or those `stated`, which
    are matched by name, or by id if the names are unknown. Boxes of crowds are left out. Raises
    LissomError for a file that is not in COCO's format, and for missing images.
    """
    files = {"all": place} if place.is_file() else files_in(place)
    digest = hashlib.sha256()
    left_out = Counter[str]()
    documents = dict[str, Document]()
    for part, file in files.items():
        content = bytes_in(file)
        digest.update(content)
        documents[part] = document_in(file, content, left_out, skip_bad=skip_bad)
    categories = categories_in(documents, place)
    used = {category for each in documents.values() for _, category, _ in each.boxes}
    names = category_names(categories, used, stated)
    annotations = Annotations(
        f"coco:{place.name}",
        {part: annotated_images(document, names) for part, document in documents.items()},
        stated or tuple(categories[key] for key in sorted(categories)),
        digest.hexdigest(),
        left_out,
    )
    return read_boxes(annotations, size, channels, skip_bad, preprocess)


def files_in(root: Path) -> dict[str, Path]:
    """Return the JSON file of each part."""
    files = dict[str, Path]()
    for file in [*sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))]:
        name = FILE_NAME.fullmatch(file.name)
        if name and file.parent in (root, root / "annotations"):
            part = name[1]
        elif file.name == EXPORTED_FILE_NAME and file.parent != root:
            part = file.parent.name
        else:
            continue
        part = "valid" if part == "val" else part
        if part in files:
            raise LissomError(
                f"data: {root}: expected one file for {part}, got {files[part].relative_to(root)} and "
                f"{file.relative_to(root)}; move one of them away"
            )
        if part in PARTS:
            files[part] = file
    if not files:
        raise LissomError(
            f"data: {root} holds no JSON file called train, valid or test; expected train.json, "
            "valid.json and test.json, some of them, or COCO's own annotations/instances_train2017.json; "
            "coco:FILE.json names one of another name"
        )
    return {part: files[part] for part in PARTS if part in files}


def bytes_in(file: Path) -> bytes:
    """Return the content of a file. Raises LissomError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise LissomError(f"data: {file} cannot be read ({error.strerror})") from None


def document_in(file: Path, content: bytes, left_out: Counter[str], *, skip_bad: bool) -> Document:
    """Return the checked contents of a JSON file. Raises LissomError for an invalid entry."""
    try:
        tree = json.loads(content)
    # numbers of thousands of digits raise ValueError too
    except (ValueError, RecursionError) as error:
        raise LissomError(f"data: {file} cannot be read as JSON ({error})") from None
    if not isinstance(tree, dict) or not all(
        isinstance(tree.get(key), list) for key in REQUIRED_LISTS
    ):
        got = (
            f"one with {listed(tree) or 'nothing'}"
            if isinstance(tree, dict)
            else type(tree).__name__
        )
        raise LissomError(
            f"data: {file}: expected COCO's JSON, an object with the lists "
            f"{listed(REQUIRED_LISTS)}, got {got}"
        )
    pictures = pictures_in(tree, file, skip_bad=skip_bad)
    categories = dict[int, str]()
    for where, entry in entries(tree, "categories", file):
        key = entry.get("id")
        name = entry.get("name")
        if not isinstance(key, int) or not isinstance(name, str):
            raise LissomError(
                f"{where}: expected an id, a whole number, and a name, got {reprlib.repr(entry)}"
            )
        if key in categories:
            raise LissomError(f"{where}: the id {key} stands for '{categories[key]:.80}' already")
        categories[key] = name
    boxes = list[tuple[Id, int, Corners]]()
    for where, entry in entries(tree, "annotations", file):
        if entry.get("iscrowd"):
            left_out["around crowds (iscrowd)"] += 1
            continue
        boxes.append(box_in(entry, pictures, categories, where))
    return Document(pictures, boxes, categories)


def entries(tree: Entry, key: str, file: Path) -> Iterator[tuple[str, Entry]]:
    """Yield each object of one of the lists, with its location for error messages."""
    for place, entry in enumerate(tree[key]):
        where = f"data: {file}: {key}[{place}]"
        if not isinstance(entry, dict):
            raise LissomError(f"{where}: expected an object, got {reprlib.repr(entry)}")
        yield where, entry


def pictures_in(tree: Entry, file: Path, *, skip_bad: bool) -> dict[Id, tuple[Path, Size | None]]:
    """Return path and stated size of every image by its id.

    With `skip_bad`, a missing image gets a path too: it is left out later. Otherwise it raises
    LissomError.
    """
    folders = folders_for(file)
    pictures = dict[Id, tuple[Path, Size | None]]()
    for where, entry in entries(tree, "images", file):
        key = entry.get("id")
        if not isinstance(key, (int, str)):
            raise LissomError(
                f"{where}: expected an id, a whole number or a text, got {reprlib.repr(key)}"
            )
        if key in pictures:
            raise LissomError(
                f"{where}: the id {reprlib.repr(key)} stands for {pictures[key][0].name} already"
            )
        name = name_in(entry, where)
        folder = next((each for each in folders if os.path.isfile(each / name)), None)
        if folder is None and not skip_bad:
            raise LissomError(
                f"{where}: there is no image {name!r:.200} in {listed(folders, 4)}; --skip-bad "
                "leaves it out"
            )
        # the next image most likely lies there too
        if folder is not None and folder != folders[0]:
            folders = [folder, *(each for each in folders if each != folder)]
        pictures[key] = (folders[0] / name, size_in(entry, where))
    return pictures


def folders_for(file: Path) -> list[Path]:
    """Return the folders in which the images of a JSON file may lie.

    >>> [folder.as_posix() for folder in folders_for(Path("annotations/instances_val2017.json"))][4:]
    ['val2017', 'images', 'images/val2017']
    """
    part = file.stem.removeprefix("instances_")
    other = {"val": "valid", "valid": "val"}.get(part, part)
    here = file.parent
    folders = [here, here / part, here / other, here / "images", here / "images" / part]
    if here.name == "annotations":
        beside = here.parent
        folders += [beside / part, beside / "images", beside / "images" / part]
    return list(dict.fromkeys(folders))


def name_in(entry: Entry, where: str) -> str:
    """Return the path of an image. Raises LissomError if it leads out of the folder of images."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise LissomError(f"{where}: expected a file_name, got {reprlib.repr(name)}")
    path = PureWindowsPath(name)  # accepts / and \, and knows drives
    if path.anchor or ".." in path.parts:
        raise LissomError(
            f"{where}: file_name: expected a path inside the folder of images, got {name!r:.200}; "
            "absolute paths and .. are refused"
        )
    return path.as_posix()


def size_in(entry: Entry, where: str) -> Size | None:
    """Return the stated (width, height) of an image, None if it is not stated."""
    sides: list[Any] = [entry.get("width"), entry.get("height")]
    if sides == [None, None]:
        return None
    if not all(is_whole(side) for side in sides):
        raise LissomError(
            f"{where}: expected whole numbers for width and height, got {reprlib.repr(sides)}"
        )
    return int(sides[0]), int(sides[1])


def is_whole(value: Any) -> bool:
    """Return whether a value of JSON is a whole number; 640.0 is one too."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def box_in(
    entry: Entry,
    pictures: dict[Id, tuple[Path, Size | None]],
    categories: dict[int, str],
    where: str,
) -> tuple[Id, int, Corners]:
    """Return the ids of a box's image and category, and its corners."""
    picture = entry.get("image_id")
    category = entry.get("category_id")
    if not isinstance(picture, (int, str)) or picture not in pictures:
        raise LissomError(
            f"{where}: expected an image_id of one of the images, got {reprlib.repr(picture)}"
        )
    if not isinstance(category, int) or category not in categories:
        raise LissomError(
            f"{where}: expected a category_id of {listed(categories) or 'which there is none'}, got "
            f"{reprlib.repr(category)}"
        )
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise LissomError(
            f"{where}: bbox: expected [x, y, width, height], got {reprlib.repr(bbox)}"
        )
    x, y, width, height = corners_of(bbox, f"{where}: bbox")
    return picture, category, (x, y, x + width, y + height)


def categories_in(documents: dict[str, Document], place: Path) -> dict[int, str]:
    """Return the names of all categories by id. Raises LissomError if two files disagree."""
    categories = dict[int, str]()
    for document in documents.values():
        for key, name in document.categories.items():
            if categories.setdefault(key, name) != name:
                raise LissomError(
                    f"data: {place}: its files do not agree on the category {key}, which is "
                    f"'{categories[key]:.80}' and '{name:.80}'"
                )
    return categories


def category_names(
    categories: dict[int, str], used: set[int], stated: tuple[str, ...] | None
) -> dict[int, str]:
    """Return the name of each category among the stated classes: its own name, or its id.

    >>> category_names({3: "cat", 90: "dog"}, {3}, tuple(map(str, range(91))))
    {3: '3', 90: '90'}
    """
    known = by_name(stated or ())
    named = all(categories[key] in known for key in used)
    numbered = all(str(key) in known for key in used)
    if stated and numbered and not named:
        return {key: str(key) for key in categories}
    return categories


def annotated_images(document: Document, names: dict[int, str]) -> list[AnnotatedImage]:
    """Return the images of a document in order, each with its boxes."""
    samples = {
        key: AnnotatedImage(path, [], [], size) for key, (path, size) in document.pictures.items()
    }
    for picture, category, corners in document.boxes:
        samples[picture].corners.append(corners)
        samples[picture].names.append(names[category])
    return list(samples.values())
