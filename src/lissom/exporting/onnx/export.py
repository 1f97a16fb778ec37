"""Export to ONNX for every runtime that reads it: float, or quantized with Q/DQ nodes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import LissomError, cause_of
from ..exporter_memory import forget_exported_networks

if TYPE_CHECKING:
    from torch import nn

    from ...trees import Tree
    from ..example_inputs import ExportInputs


def export_onnx(
    model: nn.Module,
    path: Path,
    shape: tuple[int, ...],
    facts: dict[str, Any],
    in_integers: bool = True,
    adapt: Callable[[Any], None] | None = None,
    example: Tree | None = None,
) -> None:
    """Export `model`, which takes (n, *shape) or inputs like `example`, to ONNX with a dynamic
    batch and metadata.

    A quantized network is written in integers, or in float for readers without Q/DQ nodes. In
    float, weights stay on their grid, and activations are rounded only if some have fewer than 8
    bits. Weights that `cast` stores in 16 bits stay so, or become float32 for readers without Q/DQ
    nodes. `adapt` changes the ONNX model for its runtime, in place. All other floats are float32. A
    single input is called 'images' and a single output 'outputs'; several have the names of
    arguments, keys and fields. Facts that are not text are written as JSON. The file is checked by
    onnx.checker.
    Raises LissomError if the network cannot be exported.
    """
    import onnx

    from ...surgery.layers import bake_transforms
    from ...surgery.quantization.network import QuantizedNetwork
    from ...surgery.weights.cast import kinds_of
    from ...tasks.user_network import network_of
    from ..example_inputs import export_inputs
    from ..floats import round_in_floats
    from ..network_with_preprocessing import NetworkWithPreprocessing
    from .layers import round_in_integers
    from .names import name_by_layer
    from .nms import write_suppression
    from .preprocessing_nodes import prepend_preprocessing
    from .recurrent import write_recurrent
    from .weights import store_weights_in_16_bits

    model = network_of(copy.deepcopy(model).cpu().float().eval(), "export")
    inputs = export_inputs(model, shape, example)
    model = inputs.network(model)
    with_preprocessing = next(
        (part for part in model.modules() if isinstance(part, NetworkWithPreprocessing)), None
    )
    # lissom's wrappers hold the wrapped network as `network`
    prefix = ""
    inner = model
    while type(inner).__module__.startswith("lissom.") and "network" in inner._modules:
        inner = inner.get_submodule("network")
        prefix = f"{prefix}network."
    for layer in list(model.modules()):
        if isinstance(layer, QuantizedNetwork):
            if in_integers:
                round_in_integers(layer)
            else:
                round_in_floats(layer, always=False)
    kinds = kinds_of(model)
    bake_transforms(model)
    write_suppression(model)
    write_recurrent(model)
    proto = convert(model, inputs)
    name_by_layer(proto, prefix)  # by what the exporter recorded
    replace_metadata(proto, facts)
    rewrite_nodes(proto)
    if in_integers and kinds:
        store_weights_in_16_bits(proto, kinds)
    if adapt is not None:
        adapt(proto)
    if with_preprocessing is not None:
        prepend_preprocessing(proto, with_preprocessing.preprocess)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # protobuf and onnx raise errors of their own
        raise LissomError(
            f"export: the ONNX file does not hold together: {str(error).splitlines()[0]}"
        ) from error
    onnx.save(proto, str(path))


def replace_metadata(proto: Any, facts: dict[str, Any]) -> None:
    """Replace what the exporter recorded in a model by these facts, in place.

    It records source lines, which contain local paths, and shapes, which any reader infers.
    """
    import onnx

    onnx.helper.set_model_props(
        proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    )
    proto.producer_name = "lissom"
    graph = proto.graph
    del graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def rewrite_nodes(proto: Any) -> None:
    """Replace nodes that runtimes cannot read, or compute slowly, by equivalents, in place."""
    from .average_padding import round_padded_averages
    from .circular_padding import replace_circular_padding
    from .constants import fold_constant_layers
    from .integer_clip import clip_integers
    from .sequence_reductions import reduce_sequences_as_pictures
    from .split_parts import round_split_parts
    from .weights import fold_scales_at_load

    remove_negative_zeros(proto)
    fold_constant_layers(proto)
    replace_circular_padding(proto)
    round_split_parts(proto)
    round_padded_averages(proto)
    clip_integers(proto)
    reduce_sequences_as_pictures(proto)
    fold_scales_at_load(proto)


def convert(model: nn.Module, inputs: ExportInputs) -> Any:
    """Return a network as an ONNX model, from PyTorch's exporter. Raises LissomError if that fails."""
    import torch

    from ..decompose import export_decomposing_by_operator
    from .attention import FourAxisAttention
    from .layers import OPSET
    from .pooling import GlobalPoolingAsMean

    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad(), forget_exported_networks():
            cache_exporter_functions()
            warnings.simplefilter("ignore")

            def export() -> Any:
                with FourAxisAttention(), GlobalPoolingAsMean():
                    return torch.onnx.export(
                        model,
                        inputs.arguments,
                        dynamo=True,
                        opset_version=OPSET,
                        verbose=False,
                        input_names=inputs.names,
                        output_names=inputs.outputs,
                        dynamic_shapes=inputs.shapes(torch.export.Dim("batch")),
                    )

            program = export_decomposing_by_operator(export)
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # the exporter raises whatever its passes raise
        raise LissomError(
            f"export: the ONNX exporter cannot convert this network: {cause_of(error)}"
        ) from error
    refuse_fixed_batch(proto, inputs)
    return proto


def cache_exporter_functions() -> None:
    """Make PyTorch's exporter read the sources of its 500 functions once, not at each export."""
    from torch.onnx._internal.exporter import _registration

    # private to PyTorch, so it may be missing in other versions
    functions: Any = getattr(_registration, "onnxscript_apis", None)
    read = getattr(functions, "get_torchlib_ops", None)
    if read is not None and not hasattr(read, "cache_info"):
        functions.get_torchlib_ops = cache(read)


def refuse_fixed_batch(proto: Any, inputs: ExportInputs) -> None:
    """Raise LissomError if the network's code turned the batch size of an input into a number."""
    axes = inputs.shapes("batch")[0]
    dynamic = dict(zip(inputs.names, [axes] if isinstance(axes, dict) else axes, strict=True))
    for entry in proto.graph.input:
        if dynamic.get(entry.name) and entry.type.tensor_type.shape.dim[0].dim_value:
            raise LissomError(
                "export: the file would take batches of "
                f"{entry.type.tensor_type.shape.dim[0].dim_value} only, since the "
                "network's code makes a number of its batch, as len(x) does; x.shape[0], or -1 in "
                "a view, keeps it open"
            )


def remove_negative_zeros(proto: Any) -> None:
    """Turn -0.0 among the weights of an ONNX model into 0.0, in place.

    Folding a batch-norm with a negative factor makes them. They change no sum, and a file with one
    kind of zero packs better.
    """
    import onnx
    from numpy import frombuffer

    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
            tensor.raw_data = (frombuffer(tensor.raw_data, "<f4") + 0.0).astype("<f4").tobytes()


@contextlib.contextmanager
def quiet() -> Any:
    """Keep the exporter's progress prints and log lines off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
