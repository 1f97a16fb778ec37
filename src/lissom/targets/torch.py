"""PyTorch itself, with a file that needs no model code."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import LissomError, cause_of
from ..exporting.exporter_memory import forget_exported_networks
from ..language.method import arg
from ..language.target import Images, Run, Target, one_or_all

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..trees import Tree


@dataclass(frozen=True)
class Torch(Target):
    """Export with torch.export and run in PyTorch; quantized layers are simulated in float.

    Weights that `cast` stores in 16 bits keep them in the file (.pt2) and are widened in each call.
    compile=True compiles the network with torch.compile, with constant weights, when the file is
    loaded. That takes a minute and needs a C++ compiler; without it the network runs eagerly.

    Also known as: torch.export, torch.compile, pt2.
    Source: torch.export, https://docs.pytorch.org/docs/stable/export.html
    """

    ending: ClassVar[str] = "pt2"
    module: ClassVar[str] = "torch.export"

    _: KW_ONLY
    compile: bool = arg("compile the network with torch.compile when it is loaded", False)

    def missing(self) -> str | None:
        from shutil import which

        return (
            None
            if not self.compile or which("c++")
            else "torch.compile needs a C++ compiler, and there is no c++"
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

        from ..exporting.example_inputs import export_inputs
        from ..exporting.floats import round_in_floats
        from ..surgery.quantization.network import QuantizedNetwork
        from ..surgery.weights.cast import bake_but_cast

        model = copy.deepcopy(model).cpu().float().eval()
        inputs = export_inputs(model, shape, example)
        model = inputs.network(model)
        for layer in list(model.modules()):
            if isinstance(layer, QuantizedNetwork):
                round_in_floats(layer, always=True)
        bake_but_cast(model)
        text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
        try:
            with warnings.catch_warnings(), torch.no_grad(), forget_exported_networks():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    model, inputs.arguments, dynamic_shapes=inputs.shapes(torch.export.Dim("batch"))
                )
                torch.export.save(program, path, extra_files={"lissom.json": json.dumps(text)})
        except OSError:
            raise
        except Exception as error:
            # torch.export raises whatever the network's code or its passes raise
            raise LissomError(
                f"export: torch.export cannot convert this network: {cause_of(error)}"
            ) from error

    def load(self, path: Path, threads: int) -> Run:
        import torch

        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            network = program.module()
        # with several inputs or outputs the program takes a tuple, see exporting/example_inputs.py
        takes_tuple = isinstance(program.example_inputs[0][0], (tuple, list))
        if self.compile:
            from torch._inductor import config

            config.freezing = True
            network = torch.compile(network, dynamic=False)  # type: ignore[assignment]

        def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
            tensors = tuple(map(torch.from_numpy, inputs))
            with torch.no_grad():
                outputs = network(tensors if takes_tuple else tensors[0])
            return [part.numpy() for part in (outputs if takes_tuple else (outputs,))]

        return one_or_all(run)
