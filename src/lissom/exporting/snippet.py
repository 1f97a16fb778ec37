"""A few lines of Python that run an exported file on a picture: Pillow, NumPy and the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import LissomError
from ..language.preprocess import Preprocess

FIRST_WORDS = '"""Print what'  # every such script begins with this
PATH_CODE = 'str(Path(__file__).with_name("{file}"))'
RUNTIMES = {
    "onnxruntime": (
        "import onnxruntime as ort",
        f"session = ort.InferenceSession({PATH_CODE})\n"
        "outputs = session.run(None, {{session.get_inputs()[0].name: x[None]}})",
    ),
    "openvino": (
        "import openvino as ov",
        f'model = ov.Core().compile_model({PATH_CODE}, "CPU")\noutputs = [*model(x[None]).values()]',
    ),
}
SAMPLE_LINES = [
    "",
    "x = np.load(sys.argv[1]).astype(np.float32)  # one sample, without the batch axis",
]


def snippet(
    target: str,
    file: str,
    facts: Mapping[str, Any],
    *,
    picks: bool = False,
    pictures: bool = False,
) -> str:
    """Return a script that runs a file on a picture and prints the class, the share of each
    class of a segmenter, the detections if the file `picks` them itself, or for other kinds the
    shapes of the outputs.

    `facts` is the metadata of the file. If it takes whole `pictures`, the script does not
    preprocess them. If it takes numbers, the script reads a sample in NumPy's format. Raises
    LissomError for a runtime or preprocessing that a short script cannot do.
    """
    if file.endswith(".onnxz"):
        raise LissomError(
            "--snippet: the runtime alone cannot read a packed file; leave packed out"
        )
    if target not in RUNTIMES:
        raise LissomError(f"--snippet: expected a target of {', '.join(RUNTIMES)}, got {target}")
    parsed_facts = {name: parse_fact(value) for name, value in facts.items()}
    import_line, run_code = RUNTIMES[target]
    takes_numbers = not parsed_facts.get("mean") and parsed_facts.get("baked") != "true"
    sample = "sample.npy" if takes_numbers else "picture.jpg"
    lines = [
        f"{FIRST_WORDS} {file} answers for a {sample.partition('.')[0]}: "
        f'python {file.rpartition(".")[0]}.py {sample}"""',
        "",
        "import sys",
        "from pathlib import Path",
        "",
        "import numpy as np",
        import_line,
        *(SAMPLE_LINES if takes_numbers else picture_lines(parsed_facts, pictures=pictures)),
    ]
    classes = parsed_facts.get("classes") or []
    has_names = bool(classes) and len(json.dumps(classes)) < 2_000
    print_lines = output_lines(
        str(parsed_facts.get("kind") or ""), has_names=has_names, picks=picks
    )
    if any("classes[" in line for line in print_lines):
        lines.append(f"classes = {classes}")
    return "\n".join([*lines, run_code.format(file=file), *print_lines, ""])


def picture_lines(facts: Mapping[str, Any], *, pictures: bool) -> list[str]:
    """Return the lines of code that read a picture and preprocess it as a file expects it."""
    mode = "L" if facts.get("order") == "gray" else "RGB"
    text = str(facts.get("preprocess") or "")
    operations = Preprocess.of(text).pictures if text else ()
    if pictures:
        mode = "L" if mode == "L" and all(each.channels is None for each in operations) else "RGB"
        operations = ()
    lines = [
        "from PIL import Image",
        "",
        f'picture = Image.open(sys.argv[1]).convert("{mode}")',
        *(operation.code() for operation in operations),
        f"x = np.asarray(picture, {'np.uint8' if pictures else 'np.float32'})",
    ]
    if facts.get("baked") != "true":
        mean = [255 * value for value in facts["mean"]]
        std = [255 * value for value in facts["std"]]
        lines.append(f"x = (x - np.float32({mean})) / np.float32({std})")
    if not pictures:
        lines.append("x = x[None]" if mode == "L" else "x = x.transpose(2, 0, 1).copy()")
    elif mode == "L":
        lines.append("x = x[:, :, None]")
    return lines


def output_lines(kind: str, *, has_names: bool, picks: bool) -> list[str]:
    """Return the lines of code that print the outputs of a kind of task."""
    label = "classes[int(label)]" if has_names else "int(label)"
    if picks:
        return [
            "for box, score, label in zip(*(output[0] for output in outputs)):",
            "    if label >= 0:",
            f"        print({label}, f'{{score:.2f}}', box.round().astype(int))",
        ]
    if not kind or kind.startswith("classify"):
        return ["label = outputs[0][0].argmax()", f"print({label}, outputs[0][0].max())"]
    if kind.startswith("segment"):
        return [
            "labels = outputs[0][0].argmax(0)",
            "for label in np.unique(labels):  # the share of each class in the image",
            f"    print({label}, f'{{(labels == label).mean():.1%}}')",
        ]
    return ["print([output.shape for output in outputs])"]


def parse_fact(value: Any) -> Any:
    """Return the value of a fact. Files store lists as JSON text.

    >>> parse_fact("[0.5]"), parse_fact("RGB")
    ([0.5], 'RGB')
    """
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, list) else value
