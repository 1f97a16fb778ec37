"""Packed ONNX files (.onnxz): the zip file, its index, its graph and its weights."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .family import Family, Mutant, refused
from .mutate import bytes_of, json_of
from .weights import zip_of


class Packed(Family):
    """The file of one small graph with every kind of weights that is packed."""

    name = "packed"

    def make(self, seed: Path) -> None:
        """Write a graph with dense, sparse, ternary and binary weights, and pack it."""
        import numpy as np
        import onnx
        from onnx import helper, numpy_helper

        from lissom.exporting.onnx.container import write

        rng = np.random.default_rng(0)
        arrays = {
            "eight": rng.integers(-128, 128, 500),
            "three": rng.integers(-1, 2, 500),
            "two": rng.choice([-1, 1], 500),
            "one": np.full(500, 3),
            "few": (rng.random(5_000) < 0.02) * 5,
        }
        tensors = [numpy_helper.from_array(a.astype(np.int8), name) for name, a in arrays.items()]
        floats = rng.standard_normal(500) * (rng.random(500) < 0.3)
        tensors.append(numpy_helper.from_array(floats.astype(np.float32), "floats"))
        value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [value],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
            tensors,
        )
        onnx.save(helper.make_model(graph), seed / "model.onnx")
        write(seed / "model.onnx", seed / "model.onnxz")

    def begin(self, seed: Path) -> None:
        """Read the seed and check that it unpacks to the original file."""
        from lissom.importing.packed import read

        self.data = (seed / "model.onnxz").read_bytes()
        if read(seed / "model.onnxz") != (seed / "model.onnx").read_bytes():
            raise AssertionError("the packed file is not unpacked to the ordinary one")

    def mutant(self, rng: Random) -> Mutant:
        """Return the file with changed bytes, changed parts, or a changed index."""
        return {
            "model.onnxz": zip_of(rng, self.data, _part)
            if rng.random() < 0.8
            else bytes_of(rng, self.data)
        }

    def read(self, mutant: Mutant) -> bool:
        """Unpack the file."""
        from lissom.importing.packed import read

        path = self.work / "model.onnxz"
        path.write_bytes(mutant["model.onnxz"])
        return refused(lambda: read(path))


def _part(rng: Random, data: bytes) -> bytes:
    if data[:1] == b"{" and rng.random() < 0.9:
        return json_of(rng, data.decode(), ("dense", "sparse", "int8", "float32")).encode(
            errors="replace"
        )
    return bytes_of(rng, data)
