"""ExecuTorch on the CPU."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import LissomError, cause_of
from ..language.target import Images, Run, Target, one_or_all

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..trees import Tree

# largest batch of a file: its memory is planned for that many images; ExecuTorch 1.5 plans for at
# most 15
MAX_BATCH = 8


@dataclass(frozen=True)
class Executorch(Target):
    """Export to ExecuTorch (.pte), the PyTorch runtime for phones and small devices.

    It uses XNNPACK's kernels on the CPU. If all activations have 8 bits, convolutions run in
    integers, whatever the bits of their weights, except those whose output is not rounded. Linear
    layers run in float with weights on their grid. If some activations do not have 8 bits, the
    whole network runs in float, because XNNPACK has no kernels for them.

    Also known as: XNNPACK, pte.
    Source: ExecuTorch, https://docs.pytorch.org/executorch; XNNPACK,
    https://github.com/google/XNNPACK
    """

    ending: ClassVar[str] = "pte"
    module: ClassVar[str] = "executorch.runtime"

    def missing(self) -> str | None:
        return (
            None
            if find_spec("executorch")
            else "ExecuTorch is not installed: pip install 'lissom[executorch]'"
        )

    def export(
        self,
        model: nn.Module,
        path: Path,
        shape: tuple[int, ...],
        facts: dict[str, Any],
        images: Images | None = None,
        example: Tree | None = None,
    ) -> None:
        import torch

        from ..exporting.decompose import export_decomposing_by_operator
        from ..exporting.example_inputs import float_samples
        from ..exporting.floats import round_in_floats
        from ..exporting.xnnpack import prepare_integer_convolutions
        from ..surgery.layers import bake_transforms
        from ..surgery.quantization.network import QuantizedNetwork

        samples = float_samples(self, model, shape, example)
        model = copy.deepcopy(model).cpu().float().eval()
        for layer in list(model.modules()):
            if isinstance(layer, QuantizedNetwork) and not prepare_integer_convolutions(layer):
                round_in_floats(layer, always=True)
        bake_transforms(model)
        try:
            with without_log_lines(), torch.no_grad():
                program = export_decomposing_by_operator(lambda: program_of(model, samples))
        except Exception as error:  # the passes of ExecuTorch raise errors of any type
            raise LissomError(
                f"export: ExecuTorch cannot convert this network: {cause_of(error)}; onnxruntime may run it"
            ) from error
        path.write_bytes(program)

    def load(self, path: Path, threads: int) -> Run:
        import torch

        with without_log_lines():
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
            from executorch.runtime import Runtime

        torch.set_num_threads(threads)
        _unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(path)
        method = program.load_method("forward")

        def run(inputs: list[np.ndarray], _: object = program) -> list[np.ndarray]:
            (images,) = inputs
            # the next output is written into the same memory
            parts = [
                method.execute([part.contiguous()])[0].clone()
                for part in torch.from_numpy(images).split(MAX_BATCH)
            ]
            return [torch.cat(parts).numpy()]

        return one_or_all(run)


def program_of(model: nn.Module, samples: Any) -> bytes:
    """Return a network as an ExecuTorch program for inputs like `samples`, up to MAX_BATCH at once."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from ..exporting.xnnpack import convolutions_read_as_floats

    batch = torch.export.Dim("batch", max=MAX_BATCH)
    program = torch.export.export(model, (samples,), dynamic_shapes=({0: batch},))
    if float_layers := convolutions_read_as_floats(program):
        for name in float_layers:
            model.get_submodule(name).make_float()  # type: ignore[operator]
        program = torch.export.export(model, (samples,), dynamic_shapes=({0: batch},))
    buffer: bytes = (
        to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        .to_executorch()
        .buffer
    )
    return buffer


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Keep the converter's warnings and log lines off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
