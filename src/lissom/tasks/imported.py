"""Compare a network from an ONNX file with the file itself, on samples of the run's data.

The import compares both on noise only. Two operators may agree on noise and differ on real samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import LissomError, cut
from ..trees import Tree, parts_of, tensors_in

if TYPE_CHECKING:
    from ..data.data import Data

SAMPLES = 8
LIMIT = 1e-3  # relative to the largest output, for files of 32-bit floats
SAID: dict[tuple[str, str], tuple[str, ...]] = {}  # notes by source of the network and data


def import_notes(file: str, source: str, build: Callable[[], nn.Module], data: Data) -> list[str]:
    """Return notes for the user: how a file was read, and how far the outputs of the network from
    `build` are from the file's on the data.

    Raises LissomError if a file of 32-bit floats gives other outputs than the network.
    """
    key = (source, data.fingerprint)
    if key not in SAID:
        network = build()
        notes: tuple[str, ...] = network.notes  # type: ignore[assignment]
        SAID[key] = (*notes, *compared_on(Path(file), network, data.example(SAMPLES)))
    return [*SAID[key]]


def compared_on(path: Path, network: nn.Module, samples: Tree) -> list[str]:
    """Return notes on how far a network's outputs on samples are from those of its file.

    Raises LissomError if they are too far apart and the file is of 32-bit floats.
    """
    from ..importing.file import model_in
    from ..importing.fixed import with_fixed
    from ..importing.gate import session_of, with_exact_sigmoids
    from ..importing.onnx_network import is_rounded

    fixed: Any = network.fixed
    proto = with_fixed(model_in(path), fixed)
    inputs = in_order(network, samples)
    try:
        session = session_of(proto, path.parent, None if fixed else path)
        apart = apart_on(network, session, inputs)
    except LissomError as error:
        return [f"the file itself was not compared on the data: {cut(str(error))}"]
    if apart > LIMIT and any(node.op_type == "Sigmoid" for node in proto.graph.node):
        exact = session_of(with_exact_sigmoids(proto), path.parent)
        apart = min(apart, apart_on(network, exact, inputs))
    said = (
        f"on {len(inputs[0])} samples of the data, its outputs differ from those of {path} by "
        f"{apart:.2g} of their size"
    )
    if not apart <= LIMIT and not is_rounded(proto):
        raise LissomError(f"model onnx:{path}: {said} (limit {LIMIT})")
    return [said]


def in_order(network: nn.Module, samples: Tree) -> list[Tensor]:
    """Return samples as a list of the arguments of a network."""
    if isinstance(samples, Tensor):
        return [samples]
    if isinstance(samples, Mapping):
        return [samples[name] for name in inspect.signature(network.forward).parameters]
    return [*parts_of(samples)]


def apart_on(network: nn.Module, session: Any, inputs: list[Tensor]) -> float:
    """Return the largest relative difference of the outputs on samples.

    A file with a fixed batch size gets one batch after another; the first samples fill the last one.
    """
    from ..importing.gate import answers
    from ..importing.original import largest_difference

    names: Any = network.input_names
    fixed = session.get_inputs()[0].shape[0]
    count = len(inputs[0])
    batch = fixed if isinstance(fixed, int) and fixed > 0 else count
    worst = 0.0
    for begin in range(0, count, batch):
        places = torch.arange(begin, begin + batch) % count
        part = [tensor[places] for tensor in inputs]
        with torch.no_grad():
            outputs = list(tensors_in(network(*part)))
        wanted = answers(session, names, part)
        pairs = [(a, b) for a, b in zip(outputs, wanted, strict=True) if b.is_floating_point()]
        worst = max(worst, largest_difference([a for a, _ in pairs], [b for _, b in pairs]))
    return worst
