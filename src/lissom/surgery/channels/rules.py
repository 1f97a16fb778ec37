"""The table of rules: what each operation does to the labels of channels.

A rule may declare more labels equal than necessary, never fewer. Equal channels are cut together,
which is always exact. Activations are (n c ...) for convolutions, pooling and batch-norm, (... c)
for linear layers. If an operation mixes channels (a reduction, a softmax, a product of two
activations, a normalisation over some of them), its rule declares these equal instead of refusing.
So attention heads, groups of a group norm and channels interleaved by a shuffle become units.
"""

from __future__ import annotations

from collections.abc import Callable

from ..trace import Op
from .convolutions import convolution
from .labels import Labels
from .moves import MOVES, VIEWS, cat, move, pad, shuffle, view
from .norms import NORMS, batch_norm, group_norm, layer_norm
from .pointwise import POINTWISE, gated, pointwise, write
from .products import ATTENTION, heads, linear, product
from .reductions import POOLS, REDUCTIONS, pool, reduce, softmax, unpool

RULES: dict[str, Callable[[Labels, Op], None]] = {
    "convolution": convolution,
    "_convolution": convolution,
    "addmm": linear,
    "linear": linear,
    "mm": linear,
    "glu": gated,
    "copy_": write,
    "cat": cat,
    "stack": cat,
    "bmm": product,
    "matmul": product,
    "constant_pad_nd": pad,
    "_softmax": softmax,
    "_log_softmax": softmax,
    "softmax": softmax,
    "channel_shuffle": shuffle,
    "native_channel_shuffle": shuffle,
    "max_unpool2d": unpool,
    "max_unpool3d": unpool,
    "native_group_norm": group_norm,
    "native_layer_norm": layer_norm,
    **dict.fromkeys(MOVES, move),
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys(NORMS, batch_norm),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(ATTENTION, heads),
    **dict.fromkeys(POINTWISE, pointwise),
    **{f"{name}_": pointwise for name in POINTWISE},
}
