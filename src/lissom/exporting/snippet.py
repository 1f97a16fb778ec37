"""A few lines of Python that run an exported file on a picture: Pillow, NumPy and the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import LissomError
from ..language.preprocess import Preprocess

FIRST = '"""Print what'  # how every such script begins
HERE = 'str(Path(__file__).with_name("{file}"))'
RUNTIMES = {
    "onnxruntime": (
        "import onnxruntime as ort",
        f"session = ort.InferenceSession({HERE})\n"
        "outputs = session.run(None, {{session.get_inputs()[0].name: x[None]}})[0][0]",
    ),
    "openvino": (
        "import openvino as ov",
        f'model = ov.Core().compile_model({HERE}, "CPU")\noutputs = model(x[None])[0][0]',
    ),
}


def snippet(target: str, file: str, facts: Mapping[str, Any]) -> str:
    """Return a script that prints what a file, with its facts, answers for a picture.

    Raises LissomError for a runtime or a preprocessing that a few lines cannot do.
    """
    if file.endswith(".onnxz"):
        raise LissomError(
            "--snippet: the runtime alone cannot read a packed file; leave packed out"
        )
    if target not in RUNTIMES:
        raise LissomError(f"--snippet: expected a target of {', '.join(RUNTIMES)}, got {target}")
    held = {name: parsed(value) for name, value in facts.items()}
    if not held.get("mean") and held.get("baked") != "true":
        raise LissomError(
            "--snippet: the file takes no picture, but numbers as the data set gives them"
        )
    imported, run = RUNTIMES[target]
    mode = "L" if held.get("order") == "gray" else "RGB"
    text = str(held.get("preprocess") or "")
    pictures = Preprocess.of(text).pictures if text else ()
    lines = [
        f'{FIRST} {file} answers for a picture: python {file.rpartition(".")[0]}.py picture.jpg"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        imported,
        "from PIL import Image",
        "",
        f'picture = Image.open(sys.argv[1]).convert("{mode}")',
        *(operation.code() for operation in pictures),
        "x = np.asarray(picture, np.float32)",
    ]
    if held.get("baked") != "true":
        mean = [255 * value for value in held["mean"]]
        std = [255 * value for value in held["std"]]
        lines.append(f"x = (x - np.float32({mean})) / np.float32({std})")
    channels_first = "x = x[None]" if mode == "L" else "x = x.transpose(2, 0, 1).copy()"
    classes = held.get("classes") or []
    answer = "print(int(outputs.argmax()), outputs.max())"
    if classes and len(json.dumps(classes)) < 2_000:
        lines.append(f"classes = {classes}")
        answer = "print(classes[int(outputs.argmax())], outputs.max())"
    return "\n".join([*lines, channels_first, run.format(file=file), answer, ""])


def parsed(value: Any) -> Any:
    """Return what a fact says: files hold what is no text as JSON.

    >>> parsed("[0.5]"), parsed("RGB")
    ([0.5], 'RGB')
    """
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, list) else value
