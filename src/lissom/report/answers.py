"""The answers to a few test samples, for the page: captions of all runs, images of the best."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from ..errors import LissomError
from ..store.pictures import Answer, Answers, pictures_name, read_answers
from ..store.store import Store, tell

# of all JPEGs, which grow by a third as text: the page can still be sent by mail. If there are
# more, the best runs come first
MAX_JPEG_BYTES = 4_000_000


class PageImages:
    """The images of a page, each once, up to MAX_JPEG_BYTES in total."""

    def __init__(self) -> None:
        self.bytes_left = MAX_JPEG_BYTES
        self.places: dict[bytes, int] = {}
        self.pictures: list[dict[str, Any]] = []

    def row(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return a row of answers for the page, with all of its images or with none."""
        new = {answer.jpeg for answer in answers if answer.jpeg} - set(self.places)
        size = sum(map(len, new))
        fits = size <= self.bytes_left
        self.bytes_left -= size if fits else 0
        return [
            {
                "caption": answer.caption,
                "wrong": answer.wrong,
                "picture": self.place(answer) if fits and answer.jpeg else None,
                "drawn": answer.jpeg is not None,
            }
            for answer in answers
        ]

    def place(self, answer: Answer) -> int:
        """Return the index of an answer's image among all; add the image if it is new."""
        jpeg = answer.jpeg or b""
        if jpeg not in self.places:
            self.places[jpeg] = len(self.pictures)
            width, height = answer.size
            text = base64.b64encode(jpeg).decode()
            self.pictures.append({"base64": text, "width": width, "height": height})
        return self.places[jpeg]


def answers_data(records: Sequence[dict[str, Any]], store: Store) -> dict[str, Any]:
    """Return the answers of uncompressed networks and of the files of runs, by key, and all images.

    Answers that cannot be read are reported and left out.
    """
    images = PageImages()
    networks = {}
    for key in dict.fromkeys(record["float"]["key"] for record in records):
        if answers := answers_in(store, key, pictures_name()):
            rows = {name: images.row(row) for name, row in answers.rows.items()}
            networks[key] = {"rows": rows, "colours": answers.colours}
    files: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=best_metric, reverse=True):
        for target in record["targets"]:
            answers = answers_in(store, record["key"], pictures_name(target))
            if answers and "file" in answers.rows:
                row = images.row(answers.rows["file"])
                of_run = files.setdefault(record["key"], {})
                of_run[target] = {"row": row, "colours": answers.colours}
    return {"networks": networks, "files": files, "pictures": images.pictures}


def answers_in(store: Store, key: str, name: str) -> Answers | None:
    """Return the answers in a folder of an entry, None if there are none or they cannot be read."""
    try:
        return read_answers(store.folder(key) / "artefacts" / name)
    except LissomError as error:
        tell(str(error))
        return None


def best_metric(record: dict[str, Any]) -> float:
    """Return the largest first metric of the files of a run, -inf if none is known."""
    name = next(iter(record["scores"]["test"]), None)
    known = [file.get(name) for file in record["targets"].values()]
    return max((value for value in known if value is not None), default=float("-inf"))
