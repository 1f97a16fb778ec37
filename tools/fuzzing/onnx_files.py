"""Files for --model onnx:FILE: small networks of convolutions, of attention and of recurrent layers, in
float, in 16 bits and in each form of integers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random
from typing import Any

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of


class Onnx(Family):
    """ONNX files that lissom and PyTorch exported."""

    name = "onnx"

    def make(self, seed: Path) -> None:
        """Export a network in float and in integers, and one with attention."""
        import torch
        from torch import nn

        import lissom

        torch.manual_seed(0)
        convolutions = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ).eval()
        images = torch.randn(4, 2, 6, 6)
        whole = lissom.apply("quantize(8)", convolutions, images, images, notes=True)[0]
        lissom.export(convolutions, "onnxruntime", str(seed / "float.onnx"), shape=(2, 6, 6))
        lissom.export(whole, "onnxruntime", str(seed / "integers.onnx"), shape=(2, 6, 6))

        class Attention(nn.Module):
            """Attention with two heads."""

            def __init__(self) -> None:
                super().__init__()
                self.qkv = nn.Linear(8, 24)
                self.norm = nn.LayerNorm(8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
                weights = (q @ k.transpose(-2, -1)).softmax(-1)
                return nn.functional.gelu(self.norm(x + (weights @ v).transpose(1, 2).flatten(2)))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Attention().eval(),
                (torch.randn(2, 5, 8),),
                str(seed / "attention.onnx"),
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "batch"}},
            )
        make_rounded(seed)
        make_recurrent(seed)

    def begin(self, seed: Path) -> None:
        """Read all seeds."""
        self.files = {path.name: path.read_bytes() for path in sorted(seed.glob("*.onnx"))}
        for name, data in self.files.items():
            if self.read({name: data}):
                raise Wrong(f"the seed {name} is refused")

    def mutant(self, rng: Random) -> Mutant:
        """Return a file with changed bytes, with a part of another file, or with changed fields."""
        name = rng.choice([*self.files])
        if rng.random() < 0.6:
            return {name: fields_of(rng, self.files[name])}
        return {name: bytes_of(rng, self.files[name], self.files[rng.choice([*self.files])])}

    def read(self, mutant: Mutant) -> bool:
        """Import the file as a network and check it against ONNX Runtime."""
        from lissom import from_onnx

        ((name, data),) = mutant.items()
        path = self.work / name
        path.write_bytes(data)
        return refused(lambda: from_onnx(path))


# what is between is large, and valid: a network may need a GiB for images of 60,000 rows
WHOLE = (0, 1, -1, 2, 3, 5, 7, 8, 16, 255, 2**31, -(2**31), 2**40, 2**62, -(2**63))
REAL = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("nan"))


def fields_of(rng: Random, data: bytes) -> bytes:
    """Return a model with one to four fields of its graph changed: what bytes are, most of them keep."""
    import onnx

    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change_field(rng, model)
    return bytes(model.SerializeToString())


def change_field(rng: Random, model: Any) -> None:
    """Change one field of a model: of a node, an attribute, a tensor, an input or the opset."""
    graph = model.graph
    node = rng.choice(graph.node)
    names = [name for each in graph.node for name in (*each.input, *each.output)]
    kind = rng.randrange(9)
    if kind == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("", *names))
    elif kind == 1:
        node.op_type = rng.choice(graph.node).op_type
    elif kind == 2 and node.attribute:
        change_attribute(rng, rng.choice(node.attribute))
    elif kind == 3 and graph.initializer:
        change_tensor(rng, rng.choice(graph.initializer))
    elif kind == 4:
        dims = rng.choice(graph.input).type.tensor_type.shape.dim
        if dims:
            rng.choice(dims).dim_value = rng.choice(WHOLE)
    elif kind == 5:
        model.opset_import[0].version = rng.randrange(1, 26)
    elif kind == 6:
        graph.node.remove(node)
    elif kind == 7:
        rng.choice(graph.input).type.tensor_type.elem_type = rng.randrange(20)
    else:
        graph.node.insert(rng.randrange(len(graph.node)), node)
    if not graph.node:
        graph.node.add(op_type="Relu", input=["x"], output=["y"])


def change_attribute(rng: Random, held: Any) -> None:
    """Change a number of an attribute, or its type."""
    if held.ints:
        held.ints[rng.randrange(len(held.ints))] = rng.choice(WHOLE)
    elif held.HasField("t"):
        change_tensor(rng, held.t)
    elif rng.random() < 0.1:
        held.type = rng.randrange(1, 9)
    elif held.type == 1:
        held.f = rng.choice(REAL)
    else:
        held.i = rng.choice(WHOLE)


def change_tensor(rng: Random, tensor: Any) -> None:
    """Change the type, a size or a number of a tensor."""
    kind = rng.randrange(4)
    if kind == 0:
        tensor.data_type = rng.randrange(1, 24)
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(WHOLE)
    elif kind == 2:
        sizes = [*tensor.dims]
        rng.shuffle(sizes)
        tensor.dims[:] = sizes
    elif len(tensor.raw_data) >= 8:  # one of the numbers that say sizes, if it holds such
        numbers = bytearray(tensor.raw_data)
        at = 8 * rng.randrange(len(numbers) // 8)
        numbers[at : at + 8] = (rng.choice(WHOLE) % 2**64).to_bytes(8, "little")
        tensor.raw_data = bytes(numbers)


def make_rounded(seed: Path) -> None:
    """Write the float network as ONNX Runtime's quantizer and its converter to 16 bits do."""
    import logging

    import numpy as np
    import onnx
    from onnxruntime import quantization
    from onnxruntime.transformers.float16 import convert_float_to_float16

    class Noise(quantization.CalibrationDataReader):  # type: ignore[misc]
        """One batch of noise."""

        def __init__(self, name: str) -> None:
            pictures = np.random.default_rng(0).standard_normal((4, 2, 6, 6), np.float32)
            self.batches = iter([{name: pictures}])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self.batches, None)

    logging.disable(logging.WARNING)
    path = seed / "float.onnx"
    model = onnx.load(str(path))
    name = model.graph.input[0].name
    quantization.quantize_static(
        str(path),
        str(seed / "operators.onnx"),
        Noise(name),
        quant_format=quantization.QuantFormat.QOperator,
        per_channel=True,
    )
    quantization.quantize_dynamic(str(path), str(seed / "dynamic.onnx"))
    onnx.save(convert_float_to_float16(model), str(seed / "half.onnx"))


def make_recurrent(seed: Path) -> None:
    """Write a GRU that resets first and an LSTM behind it, which is also rounded as it runs."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper
    from onnxruntime import quantization

    rng = np.random.default_rng(0)
    shapes = {"w": (1, 9, 4), "r": (1, 9, 3), "b": (1, 18), "v": (1, 8, 3), "q": (1, 8, 2)}
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("GRU", ["t", "w", "r", "b"], ["o"], hidden_size=3),
            helper.make_node("Squeeze", ["o", "one"], ["s"]),
            helper.make_node("LSTM", ["s", "v", "q"], ["", "h"], hidden_size=2),
            helper.make_node("Transpose", ["h"], ["y"], perm=[1, 0, 2]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", 1, ("batch", 5, 4))],
        [helper.make_tensor_value_info("y", 1, ("batch", 1, 2))],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ]
        + [numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(seed / "recurrent.onnx"))
    quantization.quantize_dynamic(
        str(seed / "recurrent.onnx"), str(seed / "recurrent-dynamic.onnx")
    )
