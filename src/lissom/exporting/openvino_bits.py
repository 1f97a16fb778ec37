"""One-bit convolutions in OpenVINO: found in a model read from ONNX, their weights packed as single bits.

None of OpenVINO's front ends makes such a convolution, so it is built here.
What the CPU plugin of OpenVINO 2026.4 computes wrongly, without a word, is kept away from it here:
- input channels that are no multiple of 8: the bits of neighbouring places overlap, memory is
  overwritten
- places counted as 0 with a stride of 3: it counts the taps inside the image in unsigned numbers
- places counted as 0 where no row of the kernel meets the image: it adds a row all the same
- a sum with something else that is made binary next: computed in one operation, the something else
  is made binary too It also refuses shapes that are not fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Step = Callable[["np.ndarray"], "np.ndarray"]  # (channels) -> (channels), monotone in each
TINIEST = 2.0**-126  # the smallest normal float32
PLAIN = {"f32", "f64", "i8", "u8", "i32", "i64", "boolean"}  # types that NumPy holds as they are
BIASED = "/WithoutBiases"  # what the front end appends to the name of a convolution with bias
LAYERS = {
    "Convolution",
    "GroupConvolution",
    "BinaryConvolution",
    "MatMul",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
}
WORD = 8  # the plugin keeps a place's channels as whole bytes


@dataclass(frozen=True)
class Bits:
    """Where the inputs of a convolution are made binary: bit = (source > threshold) != flipped, for
    each channel.
    """

    source: Any  # ov.Output (n c h w)
    threshold: np.ndarray  # (c) float32
    flipped: np.ndarray  # (c) bool
    low: int  # what a zero bit counts: -1 or 0


def binarised(model: Any) -> tuple[Any, tuple[str, ...], dict[str, str]]:
    """Replace each convolution with binary inputs and weights by one that computes in single bits.

    inputs in {-1, 1}: y = scale * B with B = sum(w * (2 * bit - 1)), where padded places count 0
    inputs in {0, 1}:  y = scale / 2 * (B + sum(w)), where padded places are zero bits, so -1 in B

    `model` is the ov.Model read from ONNX, inputs (n c h w), weights (out in h w) in {-scale,
    scale}, scale: (out). A batch-norm, or constants multiplied and added per channel, that only
    comparisons read becomes their threshold. Returns a new model, the names of the layers replaced
    (the front end's, without "/WithoutBiases"), and why others that have binary inputs or binary
    weights were left as they are.
    Source: Rastegari et al. 2016, XNOR-Net, https://arxiv.org/abs/1603.05279
    Source: OpenVINO, operation BinaryConvolution-1, https://docs.openvino.ai
    Differs: a negative input smaller than 2**-126 may count as 0, so that the answer does not
    depend on whether the processor flushes such numbers to zero.
    """
    model = model.clone()
    done = []
    left = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        weight = constant(node.input_value(1))
        inputs = bits(node.input_value(0))
        if weight is not None and not is_binary(weight):
            weight = None
        if inputs is None and weight is None:
            continue
        name = node.get_friendly_name().removesuffix(BIASED)
        if inputs is None:
            left[name] = "its inputs are not binary"
        elif weight is None:
            left[name] = "its weights are not binary"
        elif reason := obstacle(node, inputs):
            left[name] = reason
        else:
            replace(node, inputs, weight)
            done.append(name)
    for node in model.get_ordered_ops():
        if (
            node.get_type_name() == "Add"
            and adds_single_bits(node)
            and is_made_binary(node.output(0))
        ):
            part(node)
    model.validate_nodes_and_infer_types()
    return model, tuple(done), left


def constant(value: Any) -> np.ndarray | None:
    """Return what an output that depends on constants alone holds, else None."""
    import numpy as np
    import openvino as ov

    node = value.get_node()
    if node.get_type_name() == "Constant":
        return np.array(node.data) if node.get_element_type().get_type_name() in PLAIN else None
    inputs = [constant(v) for v in node.input_values()]
    if not inputs or any(i is None for i in inputs):
        return None
    results = [ov.Tensor(o.get_element_type(), ov.Shape()) for o in node.outputs()]
    done = node.evaluate(results, [ov.Tensor(np.ascontiguousarray(i)) for i in inputs])
    return np.array(results[value.get_index()].data) if done else None


def is_binary(weight: np.ndarray) -> bool:
    """Return whether the weights of every output channel are one number and its negative."""
    import numpy as np

    size = np.abs(weight.reshape(-1, *weight.shape[-3:]) if weight.ndim > 3 else weight)
    size = size.reshape(len(size), -1)
    return bool((size == size[:, :1]).all())


def bits(value: Any) -> Bits | None:
    """Return how a convolution's inputs are made binary, None where they are not."""
    import numpy as np

    channels = value.get_partial_shape()[1] if value.get_partial_shape().rank.is_static else None
    steps = []
    node = value.get_node()
    while (kind := node.get_type_name()) in ("Convert", "Subtract", "Multiply"):  # DequantizeLinear
        if kind != "Convert":
            number = constant(node.input_value(1))
            if number is None or number.size != 1:
                return None
            steps.append((kind, float(number.reshape(-1)[0])))
        node = node.input_value(0).get_node()
    if kind != "Select" or channels is None or channels.is_dynamic:
        return None
    compare = node.input_value(0).get_node()
    sides = [constant(v) for v in node.input_values()[1:]]
    if compare.get_type_name() != "GreaterEqual" or any(s is None or s.size != 1 for s in sides):
        return None
    pair = np.array([float(s.reshape(-1)[0]) for s in sides if s is not None])
    for kind, number in reversed(steps):
        pair = pair - number if kind == "Subtract" else pair * number
    bound = per_channel(constant(compare.input_value(1)), channels.get_length())
    pair = pair.round(6)
    if bound is None or pair[0] != 1 or pair[1] not in (-1, 0):
        return None
    source, chain = absorbed(compare.input_value(0), channels.get_length())

    def holds(x: np.ndarray) -> np.ndarray:
        for step in chain:
            x = step(x)
        return x >= bound

    return Bits(source, *threshold(holds, channels.get_length()), int(pair[1]))


def per_channel(number: np.ndarray | None, channels: int) -> np.ndarray | None:
    """Return a constant that broadcasts along channels as (channels) float32, None for any other."""
    import numpy as np

    if number is None or (
        number.size != 1 and (number.ndim < 3 or number.shape[-3] != number.size)
    ):
        return None
    return np.broadcast_to(number.reshape(-1).astype(np.float32), (channels,))


def absorbed(value: Any, channels: int) -> tuple[Any, list[Step]]:
    """Return the output from which steps that nothing but comparisons read lead to `value`, and
    these steps in order.
    """
    import numpy as np

    chain: list[Step] = []
    while readers := [r.get_node().get_type_name() for r in value.get_target_inputs()]:
        if set(readers) != {"GreaterEqual"} and not (chain and len(readers) == 1):
            break
        node = value.get_node()
        kind = node.get_type_name()
        numbers = [constant(v) for v in node.input_values()]
        at = [i for i, n in enumerate(numbers) if n is None]  # what the step computes from
        if kind == "BatchNormInference" and at == [0]:
            chain.insert(0, normalised(numbers[1:], node.get_attributes()["epsilon"]))
        elif (
            len(at) == 1
            and len(numbers) == 2
            and (kind in ("Multiply", "Add") or (kind, at) == ("Subtract", [0]))
        ):
            number = per_channel(numbers[1 - at[0]], channels)
            if number is None:
                break
            operation = np.multiply if kind == "Multiply" else np.add
            chain.insert(0, partial(operation, -number if kind == "Subtract" else number))
        else:
            break
        value = node.input_value(at[0])
    return value, chain


def normalised(numbers: list[Any], epsilon: float) -> Step:
    """Return a batch-norm, rounded as PyTorch rounds it: its kernels multiply and add in one operation.

    alpha = gamma / sqrt(variance + epsilon);  y = x * alpha + (beta - mean * alpha)
    """
    import numpy as np

    # a product of two float32 is exact in float64
    single = np.float32
    double = np.float64
    gamma, beta, mean, variance = numbers
    alpha = gamma * (single(1) / np.sqrt(variance + single(epsilon)))
    shift = (beta.astype(double) - mean.astype(double) * alpha).astype(single)
    return lambda x: (x.astype(double) * alpha + shift).astype(single)


def threshold(holds: Step, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return t and f, each (channels), such that holds(x) is (x > t) != f for every float32 x.

    `holds` is monotone in each channel: what it says of the smallest and the largest number tells
    whether it rises (f is False), falls (f is True: negative gamma) or is constant (t is -inf).
    Between them the float32 numbers are halved, in their order, until two neighbours are left, so
    that rounding and equality are those of `holds` itself.

    >>> import numpy as np
    >>> t, f = threshold(lambda x: np.array([2, -2, 0], np.float32) * x >= 3, 3)
    >>> t.round(6).tolist(), f.tolist()
    ([1.5, -1.5, -inf], [False, True, True])
    """
    import numpy as np

    # the order of float32 numbers: 0 is 0, 1 is 2**-149, ...
    def number(place: np.ndarray) -> np.ndarray:
        return np.copysign(
            np.abs(place).astype(np.int32).view(np.float32), place.astype(np.float32)
        ) + np.float32(0)

    most = int(np.array(np.finfo(np.float32).max).view(np.int32))
    low = np.full(channels, -most, np.int64)
    high = np.full(channels, most, np.int64)
    with np.errstate(all="ignore"):
        first = holds(number(low))
        last = holds(number(high))
        while (high - low > 1).any():
            middle = (low + high) // 2
            same = holds(number(middle)) == first
            low = np.where(same, middle, low)
            high = np.where(same, high, middle)
    limits = number(low)
    # x = 0 must exceed a negative threshold even where the processor takes tiny numbers for 0
    limits = np.where((limits < 0) & (limits > -TINIEST), np.float32(-TINIEST), limits)
    return np.where(first == last, np.float32(-np.inf), limits).astype(np.float32), ~last


def obstacle(node: Any, inputs: Bits) -> str | None:
    """Return why a convolution of binary inputs and weights cannot be one in single bits, or None."""
    shape = node.input_value(0).get_partial_shape()
    if node.get_type_name() == "GroupConvolution":
        return "it has groups, and BinaryConvolution has none"
    if len(shape) != 4:
        return "BinaryConvolution is two-dimensional"
    if shape[2].is_dynamic or shape[3].is_dynamic:
        return "its images have no fixed size"
    if inputs.low == 0 and not fits(node, padding_is_zero=False):
        return "OpenVINO's kernels do not take its padding, and a place in {0, 1} cannot be padded before"
    return None


def fits(node: Any, *, padding_is_zero: bool) -> bool:
    """Return whether OpenVINO's kernels for any x86 CPU take the padding and compute it correctly.

    They compute 2 (SSE, AVX2) or 4 (AVX-512) neighbouring places at once, and padding must not
    exceed that.
    """
    begin = node.get_pads_begin()
    end = node.get_pads_end()
    if not any(begin) and not any(end):
        return True
    (height, width), kernel = (
        [value.get_partial_shape()[i].get_length() for i in (2, 3)] for value in node.input_values()
    )
    stride = node.get_strides()
    dilation = node.get_dilations()
    places = node.output(0).get_partial_shape()[3].get_length()
    for most in (2, 4):
        at_once = min(most, places)
        last = (places - places % at_once - 1) * stride[1] + (kernel[1] - 1) * dilation[1]
        if begin[1] > at_once or last - (width + begin[1] - 1) > at_once:
            return False
    if kernel[1] > 7 and max(stride) > 1:
        return False
    return not padding_is_zero or (max(stride) <= 2 and height >= dilation[0])


def replace(node: Any, binary: Bits, weight: np.ndarray) -> None:
    """Put the binary convolution of inputs `binary` in the place of `node`, the multiplication by the scale
    behind it.
    """
    import numpy as np
    import openvino as ov
    from openvino import opset8 as op

    scale = np.abs(weight).reshape(len(weight), -1)[:, 0].reshape(1, -1, 1, 1)
    sign = weight > 0
    source = binary.source
    t = binary.threshold
    flipped = binary.flipped
    begin = list(node.get_pads_begin())
    end = list(node.get_pads_end())
    if binary.low and (sign.shape[1] % 2 or not fits(node, padding_is_zero=True)):
        # every channel twice, and the two differ where the images are padded: there they cancel,
        # elsewhere they agree
        pads = [op.constant(np.array([0, 0, *side])) for side in (begin, end)]
        source = op.concat(
            [
                op.pad(source, *pads, "constant", op.constant(np.float32(v)))
                for v in (np.inf, -np.inf)
            ],
            1,
        )
        sign = np.concatenate([sign, sign], 1)
        t = np.tile(t, 2)
        flipped = np.tile(flipped, 2)
        scale = scale / 2
        begin = [0, 0]
        end = [0, 0]
    if more := -sign.shape[1] % WORD:
        # zero bits; in {-1, 1} their number is even, and weights of both signs cancel
        source = op.pad(
            source,
            op.constant(np.zeros(4, int)),
            op.constant(np.array([0, more, 0, 0])),
            "constant",
            op.constant(np.float32(0)),
        )
        other = np.broadcast_to(
            (np.arange(more) % 2 == 0)[:, None, None], (len(sign), more, *sign.shape[2:])
        )
        sign = np.concatenate([sign, other], 1)
        flipped = np.append(flipped, np.zeros(more, bool))
        t = np.append(t, np.full(more, np.inf, np.float32))
    row = (1, -1, 1, 1)
    bound = op.constant(t.reshape(row))
    lows = flipped.reshape(row).astype(np.float32)
    inputs = op.fake_quantize(source, bound, bound, op.constant(lows), op.constant(1 - lows), 2)
    packed = np.packbits(sign.reshape(-1), bitorder="little")
    # else NumPy's memory
    bit = ov.op.Constant(ov.Tensor(packed, ov.Shape(sign.shape), ov.Type.u1), shared_memory=False)
    padded = binary.low and any(begin + end)
    y = op.binary_convolution(
        inputs,
        bit,
        node.get_strides(),
        begin,
        end,
        node.get_dilations(),
        "xnor-popcount",
        0.0 if padded else -1.0,
    )
    if not binary.low:
        total = (2 * sign.astype(np.float32) - 1).sum((1, 2, 3)).reshape(row)
        y = op.add(y, op.constant(total))
        scale = scale / 2
    y = op.multiply(y, op.constant(scale.astype(np.float32)))
    y.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(y.output(0))  # the tensor's name goes along
    if node.get_friendly_name().endswith(BIASED):
        settle_bias(y)


def settle_bias(y: Any) -> None:
    """Make the bias added to `y` one constant: the front end lets nine operations find its shape."""
    from openvino import opset8 as op

    for reader in y.output(0).get_target_inputs():
        add = reader.get_node()
        if add.get_type_name() == "Add":
            # what is reshaped to (1 out 1 1)
            bias = constant(add.input_value(1).get_node().input_value(0))
            if bias is not None:
                add.input(1).replace_source_output(op.constant(bias.reshape(1, -1, 1, 1)).output(0))


def adds_single_bits(add: Any) -> bool:
    """Return whether a sum is that of a binary convolution, scale and bias behind it, and of what
    is no constant.
    """
    for product, other in (add.input_values(), add.input_values()[::-1]):
        node = product.get_node()
        while (
            node.get_type_name() in ("Add", "Multiply")
            and constant(node.input_value(1)) is not None
        ):
            node = node.input_value(0).get_node()
        if node.get_type_name() == "BinaryConvolution" and constant(other) is None:
            return True
    return False


def is_made_binary(value: Any) -> bool:
    """Return whether nothing reads a value but what makes it binary, with steps of one value each
    between them, no layers.

    More than one may: what is the same twice, the plugin makes one.
    """
    readers = [reader.get_node() for reader in value.get_target_inputs()]
    return bool(readers) and all(
        int(node.get_attributes()["levels"]) == 2
        if node.get_type_name() == "FakeQuantize"
        else node.get_type_name() not in LAYERS
        and sum(constant(v) is None for v in node.input_values()) == 1
        and is_made_binary(node.output(0))
        for node in readers
    )


def part(add: Any) -> None:
    """Keep what makes a sum binary out of the convolution that it is computed in: what lies between
    changes no number.
    """
    import numpy as np
    from openvino import opset8 as op

    readers = add.output(0).get_target_inputs()
    apart = op.maximum(add.output(0), op.constant(np.float32(-np.inf)))
    for reader in readers:
        reader.replace_source_output(apart.output(0))
