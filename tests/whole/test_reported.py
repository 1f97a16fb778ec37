"""Networks that other tools got wrong, according to their users: each is pruned, quantized, exported.

Every network is the smallest one with the reported property. Its float file and its quantized file
must give PyTorch's outputs in both runtimes. Further requests of a report have separate tests below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv, head
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import lissom
from lissom.bench.capped import run_capped
from lissom.exporting.onnx import export as onnx_export
from lissom.running.plan import one_target
from lissom.surgery.compare import network_difference
from lissom.trees import tensors_in

RUNTIMES = ("onnxruntime", "openvino")
PRECISE = 1e-4  # of a float file, of the largest output
NOISE = 0.03  # of a quantized file against its simulation, of the outputs


def boxes_and_scores() -> nn.Module:
    # https://github.com/ultralytics/ultralytics/issues/23987, 25045 and 23537
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.trunk(x)
        boxes = net.boxes(y).flatten(2) * 640
        return torch.cat([boxes, net.scores(y).sigmoid().flatten(2)], 1)

    trunk = nn.Sequential(conv(3, 16), nn.SiLU(), conv(16, 16, stride=2), nn.SiLU())
    return Net(forward, trunk=trunk, boxes=nn.Conv2d(16, 4, 1), scores=nn.Conv2d(16, 20, 1))


def attention_of_a_detector() -> nn.Module:
    # https://github.com/VainF/Torch-Pruning/issues/430 and 386: heads 2, keys 8, values 16
    def forward(net: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape[0], 32, x.shape[2], x.shape[3]
        q, k, v = net.qkv(net.stem(x)).view(n, 2, 32, h * w).split([8, 8, 16], 2)
        attention = (q.transpose(-2, -1) @ k * 8**-0.5).softmax(-1)
        y = (v @ attention.transpose(-2, -1)).view(n, c, h, w)
        return net.head(net.proj(y + net.position(v.reshape(n, c, h, w))))

    return Net(
        forward,
        stem=conv(3, 32),
        qkv=nn.Conv2d(32, 64, 1),
        position=conv(32, 32, groups=32),
        proj=nn.Conv2d(32, 32, 1),
        head=head(32),
    )


def chunk_and_extend() -> nn.Module:
    # https://github.com/VainF/Torch-Pruning/issues/522 and 147: C2f of YOLOv8
    def forward(net: Any, x: Tensor) -> Tensor:
        y = list(net.one(x).chunk(2, 1))
        for block in net.blocks:
            y.append(y[-1] + block(y[-1]))
        return net.head(net.two(torch.cat(y, 1)))

    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.SiLU())

    blocks = nn.ModuleList(nn.Sequential(block(16, 16), block(16, 16)) for _ in range(2))
    return Net(forward, one=block(3, 32), blocks=blocks, two=block(64, 32), head=head(32))


def transposed_in_groups() -> nn.Module:
    # https://github.com/microsoft/onnxruntime/issues/19694
    up = nn.ConvTranspose2d(16, 32, 4, 2, 1, groups=4)
    return nn.Sequential(conv(3, 16), nn.ReLU(), up, nn.BatchNorm2d(32), nn.ReLU(), head(32))


def few_outputs_in_groups() -> nn.Module:
    # https://github.com/opencv/opencv/pull/28920
    return nn.Sequential(conv(3, 32), nn.ReLU(), conv(32, 32, groups=8), nn.ReLU(), head(32))


def shuffled_first() -> nn.Module:
    # https://github.com/microsoft/onnxruntime/issues/26324: the stem and a unit of ShuffleNetV2
    def forward(net: Any, x: Tensor) -> Tensor:
        one, two = net.stem(x).chunk(2, 1)
        return net.head(F.channel_shuffle(torch.cat([one, net.branch(two)], 1), 2))

    def normed(layer: nn.Module) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(layer.out_channels)]  # type: ignore[arg-type]

    branch = nn.Sequential(
        *normed(nn.Conv2d(12, 12, 1)),
        nn.ReLU(),
        *normed(conv(12, 12, groups=12)),
        *normed(nn.Conv2d(12, 12, 1)),
        nn.ReLU(),
    )
    stem = nn.Sequential(*normed(conv(3, 24, stride=2)), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return Net(forward, stem=stem, branch=branch, head=head(24))


def large_bias() -> nn.Module:
    # https://github.com/microsoft/onnxruntime/issues/24711: bias / (scales) is far beyond 2 ** 31
    net = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16))
    with torch.no_grad():
        net[0].weight[::2] *= 1e-9
        net[0].bias.copy_(torch.linspace(1, 5, 16))
    return net


def batches_of_any_size() -> nn.Module:
    # https://github.com/pytorch/pytorch/issues/169178 and 166797
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


def permuted_sequence() -> nn.Module:
    # https://github.com/pytorch/executorch/issues/12959
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.one(x.flatten(2).permute(0, 2, 1))
        return net.out(y + net.two(F.relu(net.conv(y.permute(0, 2, 1))).permute(0, 2, 1)))

    return Net(
        forward,
        one=nn.Linear(3, 16),
        conv=nn.Conv1d(16, 16, 3, padding=1),
        two=nn.Linear(16, 16),
        out=nn.Linear(16, 4),
    )


def even_kernel() -> nn.Module:
    # https://github.com/pytorch/executorch/issues/20517: padding of 15 above and 16 below
    layer = nn.Conv2d(1, 16, (32, 1), padding="same")
    return Net(
        lambda s, x: s.head(F.relu(s.conv(x[:, :1].reshape(-1, 1, 256, 1)))),
        conv=layer,
        head=head(16),
    )


def two_outputs() -> nn.Module:
    # https://github.com/pytorch/executorch/issues/19152
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.conv(x).flatten(2).permute(0, 2, 1)
        return y.reshape(y.shape[0], -1), y.sum(1)

    return Net(forward, conv=conv(3, 16))


def recurrent() -> nn.Module:
    # https://github.com/quic/aimet/issues/4038, 4020 and 3937
    def forward(net: Any, x: Tensor) -> Tensor:
        y = F.relu(net.conv(x)).permute(0, 3, 1, 2).flatten(2)
        return net.out(F.relu(net.hidden(net.lstm(y)[0].flatten(1))))

    return Net(
        forward,
        conv=nn.Conv2d(3, 16, (4, 10), 2),
        lstm=nn.LSTM(16 * 4, 8, 2, batch_first=True),
        hidden=nn.Linear(8 * 4, 12),
        out=nn.Linear(12, 5),
    )


def scaled_attention() -> nn.Module:
    # https://github.com/openvinotoolkit/nncf/issues/3750
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.patches(x).flatten(2).transpose(1, 2)
        q, k, v = net.qkv(net.norm(y)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y = y + net.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return net.head((y + net.mlp(y)).mean(1))

    return Net(
        forward,
        patches=nn.Conv2d(3, 32, 4, 4),
        norm=nn.LayerNorm(32),
        qkv=nn.Linear(32, 96),
        proj=nn.Linear(32, 32),
        mlp=nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)),
        head=nn.Linear(32, 5),
    )


def twice_the_same() -> nn.Module:
    # https://github.com/openvinotoolkit/nncf/pull/3843, https://github.com/VainF/Torch-Pruning/issues/146
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.one(x)
        y = net.two(y * y).relu()
        return net.out(torch.cat([y, y], 1))

    return Net(forward, one=conv(3, 16), two=conv(16, 16), out=nn.Conv2d(32, 4, 1))


def shared_layers() -> nn.Module:
    # https://github.com/openvinotoolkit/nncf/pull/3398 and 1715: inputs of other sizes, tied weights
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.both(F.relu(net.stem(x)))
        return net.head(F.conv2d(net.both(20 * y.relu()), net.both.weight, padding=1))

    return Net(forward, stem=conv(3, 16), both=conv(16, 16), head=head(16))


def group_norms() -> nn.Module:
    # https://github.com/VainF/Torch-Pruning/issues/268, https://github.com/onnxsim/onnxsim/pull/982
    def forward(net: Any, x: Tensor) -> Tensor:
        wide = F.relu(net.norm(net.one(x)))
        low = F.interpolate(F.relu(net.two(F.avg_pool2d(wide, 2))), scale_factor=2.0)
        return net.out(F.relu(net.whole(net.up(torch.cat([wide, low], 1)))))

    return Net(
        forward,
        one=conv(3, 32),
        norm=nn.GroupNorm(8, 32),
        two=conv(32, 32),
        up=conv(64, 32),
        whole=nn.GroupNorm(1, 32),
        out=nn.Conv2d(32, 4, 1),
    )


def parametrized() -> nn.Module:
    # https://github.com/pytorch/pytorch/issues/30754
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 32)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(32, 16)),
        nn.ReLU(),
        nn.Linear(16, 5),
    )


def compiled() -> nn.Module:
    # https://github.com/pytorch/pytorch/issues/150926
    plain = nn.Sequential(conv(3, 16), nn.ReLU(), head(16))
    return torch.compile(plain, backend="eager")  # type: ignore[return-value]


def super_resolution() -> nn.Module:
    # https://github.com/openvinotoolkit/openvino/issues/439: of images that are no squares
    return nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 32), nn.PixelShuffle(2), conv(8, 12), nn.PixelShuffle(2)
    )


def tokens_beside_patches() -> nn.Module:
    # https://github.com/VainF/Torch-Pruning/issues/393: a token of the class and two registers
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([net.tokens.expand(y.shape[0], -1, -1), y], 1)
        y = net.norm(y + net.mlp(y))
        return net.head(torch.cat([y.select(1, 0), y[:, 3:].mean(1)], 1))

    return Net(
        forward,
        tokens=nn.Parameter(torch.randn(1, 3, 16)),  # type: ignore[arg-type]
        patches=nn.Conv2d(3, 16, 4, 4),
        mlp=nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)),
        norm=nn.LayerNorm(16),
        head=nn.Linear(32, 5),
    )


def normed_last() -> nn.Module:
    # https://github.com/pytorch/executorch/issues/14049: a block of ConvNeXt
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x)
        z = net.norm(net.wide(y).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return net.head(y + net.two(F.gelu(net.one(z))))

    return Net(
        forward,
        stem=conv(3, 16, stride=2),
        wide=conv(16, 16, groups=16),
        norm=nn.LayerNorm(16),
        one=nn.Conv2d(16, 64, 1),
        two=nn.Conv2d(64, 16, 1),
        head=head(16),
    )


class Swish(torch.autograd.Function):
    """x * sigmoid(x), which keeps x alone for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.sigmoid() * (1 + x * (1 - x.sigmoid())))


def gradient_of_its_own() -> nn.Module:
    # https://github.com/pytorch/pytorch/issues/146035
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(Swish.apply(net.two(Swish.apply(net.one(x)))))

    return Net(forward, one=conv(3, 16), two=conv(16, 16), head=head(16))


def sizes_of_the_skip() -> nn.Module:
    # https://github.com/pytorch/pytorch/issues/149826 and 124884
    def forward(net: Any, x: Tensor) -> Tensor:
        skip = F.relu(net.one(x))
        low = F.relu(net.two(skip))
        low = F.interpolate(low, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return net.out(torch.cat([skip, low], 1))

    return Net(forward, one=conv(3, 16), two=conv(16, 16, stride=2), out=nn.Conv2d(32, 4, 1))


def one_large_channel() -> nn.Module:
    # https://github.com/microsoft/onnxruntime/issues/29849
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    with torch.no_grad():
        net[1].weight[5] *= 100
    return net


REPORTED: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    boxes_and_scores: (3, 16, 16),
    attention_of_a_detector: (3, 6, 6),
    chunk_and_extend: (3, 8, 8),
    transposed_in_groups: (3, 8, 8),
    few_outputs_in_groups: (3, 8, 8),
    shuffled_first: (3, 16, 16),
    large_bias: (3, 8, 8),
    batches_of_any_size: (3, 32, 32),
    permuted_sequence: (3, 4, 4),
    even_kernel: (3, 16, 16),
    two_outputs: (3, 8, 8),
    recurrent: (3, 10, 17),
    scaled_attention: (3, 16, 16),
    twice_the_same: (3, 8, 8),
    shared_layers: (3, 8, 8),
    group_norms: (3, 8, 8),
    parametrized: (3, 8, 8),
    compiled: (3, 8, 8),
    super_resolution: (3, 12, 20),
    tokens_beside_patches: (3, 16, 16),
    normed_last: (3, 16, 16),
    gradient_of_its_own: (3, 8, 8),
    sizes_of_the_skip: (3, 13, 9),
    one_large_channel: (3, 4, 4),
}


@cache
def network(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """Return a network whose batch-norms have seen samples, and samples (32 ...)."""
    torch.manual_seed(0)
    net = build()
    x = torch.randn(32, *REPORTED[build], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        getattr(net, "_orig_mod", net).train()(x)
    return net.eval(), x


@cache
def quantized(build: Callable[[], nn.Module]) -> nn.Module:
    """Return such a network after quantize(8)."""
    net, x = network(build)
    return lissom.apply("quantize(8)", net, x[:1], x, notes=True)[0]


@pytest.fixture(autouse=True)
def converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's exporter, which takes most of the time, convert a network once for both runtimes."""
    kept = dict[Any, Any]()
    convert = onnx_export.convert

    def converted(model: nn.Module, inputs: Any) -> Any:
        key = tuple(tensor.shape for tensor in model.state_dict().values())
        if key not in kept:
            kept[key] = convert(model, inputs)
        return copy.deepcopy(kept[key])

    monkeypatch.setattr(onnx_export, "convert", converted)


def answers(model: nn.Module, runtime: str, x: Tensor, folder: Path) -> list[Tensor]:
    """Export a network, and return what the file answers for samples, in this process."""
    target = one_target(runtime)
    path = folder / f"model.{target.ending}"
    plain = getattr(model, "_orig_mod", model)
    target.export(copy.deepcopy(plain), path, tuple(x.shape[1:]), {})
    return [torch.from_numpy(np.asarray(part)) for part in target.load(path, 1)([x.numpy()])]


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the root mean square of what answers differ by, over that of the answers: the worst."""
    return max(
        float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
        for a, b in zip(ours, theirs, strict=True)
    )


def made(build: Callable[[], nn.Module]) -> str:
    """Return the name of a network for a test."""
    return build.__name__


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("build", REPORTED, ids=made)
def test_float_and_integer_files_answer_as_pytorch(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    net, x = network(build)
    small = quantized(build)
    with torch.no_grad():
        exact = list(tensors_in(net(x[:7])))
        simulated = list(tensors_in(small(x[:7])))
    assert gap(simulated, exact) < 0.1
    for runtime in RUNTIMES:
        for ours, theirs in zip(answers(net, runtime, x[:7], tmp_path), exact, strict=True):
            assert (ours - theirs).abs().max() <= PRECISE * theirs.abs().max()
        assert gap(answers(small, runtime, x[:7], tmp_path), simulated) < NOISE


# which layers lose channels, and which are named as whole, where a report speaks of pruning
CUT: dict[Callable[[], nn.Module], tuple[set[str], set[str]]] = {
    attention_of_a_detector: ({"stem", "proj"}, {"qkv", "position"}),
    chunk_and_extend: (
        {"one.0", "two.0", "blocks.0.0.0", "blocks.0.1.0", "blocks.1.0.0", "blocks.1.1.0"},
        set(),
    ),
    transposed_in_groups: ({"0", "2"}, set()),
    few_outputs_in_groups: ({"0", "2"}, set()),
    recurrent: ({"conv", "hidden"}, set()),
    scaled_attention: ({"mlp.1"}, {"patches", "qkv", "proj"}),
    twice_the_same: ({"one", "two"}, set()),
    shared_layers: ({"stem", "both"}, set()),
    group_norms: ({"one", "two"}, {"up"}),
    parametrized: ({"0", "4"}, set()),
    super_resolution: ({"0", "2"}, set()),
    tokens_beside_patches: ({"mlp.0"}, set()),
    normed_last: ({"one"}, {"stem", "wide", "two"}),
}


@pytest.mark.parametrize("build", CUT, ids=made)
def test_pruning_cuts_what_can_be_cut_and_names_the_rest(build: Callable[[], nn.Module]) -> None:
    net, x = network(build)
    cut, whole = CUT[build]
    small, notes = lissom.apply("prune(0.4, multiple=1)", net, x[:1], x, notes=True)
    before, after = channels(net), channels(small)
    assert {name for name in before if after[name] < before[name]} == cut
    assert all(any(name in note for note in notes) for name in whole)
    for size in (1, 7):
        with torch.no_grad():
            assert len(next(tensors_in(small(x[:size])))) == size


def channels(net: nn.Module) -> dict[str, int]:
    """Return how many channels each convolution and linear layer makes."""
    wide = {n: m.out_features for n, m in net.named_modules() if isinstance(m, nn.Linear)}
    kinds = nn.modules.conv._ConvNd
    return wide | {n: m.out_channels for n, m in net.named_modules() if isinstance(m, kinds)}


def test_scores_beside_boxes_keep_the_best_places(tmp_path: Path) -> None:
    net, x = network(boxes_and_scores)
    with torch.no_grad():
        exact = net(x[:8])[:, 4:].amax(1).topk(8).indices
    for runtime in RUNTIMES:
        (found,) = answers(quantized(boxes_and_scores), runtime, x[:8], tmp_path)
        best = found[:, 4:].amax(1).topk(16).indices
        assert all(set(exact[k].tolist()) <= set(best[k].tolist()) for k in range(8))


def test_older_processors_answer_alike(tmp_path: Path) -> None:
    # rows of fewer than 8 outputs for a group, https://github.com/opencv/opencv/pull/28920
    net, x = network(few_outputs_in_groups)
    small = lissom.apply("quantize(8, reduce_range=True)", net, x[:1], x)
    target = one_target("openvino")
    path = tmp_path / "m.onnx"
    target.export(small, path, tuple(x.shape[1:]), {})
    found = [run_capped(target, path, [x[:8].numpy()], cap) for cap in ("", "AVX2")]
    with torch.no_grad():
        wanted = small(x[:8])
    for part in found:
        assert part is None or gap([torch.from_numpy(part[0][0])], [wanted]) < NOISE


def test_a_relu_is_rounded_from_zero_whatever_the_sum_behind_it() -> None:
    small = quantized(permuted_sequence)
    assert any(site.startswith("relu") and small.from_zero(site) for site in small.shared)


def test_a_layer_called_twice_has_one_weight_and_a_range_for_each_call() -> None:
    small = quantized(shared_layers)
    both = small.network.both
    assert both.rounding is not None
    assert both.site is None  # it reads several


def test_a_recurrent_layer_stays_float_and_is_named() -> None:
    net, x = network(recurrent)
    _, notes = lissom.apply("quantize(8)", net, x[:1], x, notes=True)
    assert any("lstm" in note for note in notes)


def test_sizes_are_those_of_the_export(tmp_path: Path) -> None:
    # https://github.com/pytorch/pytorch/issues/149826: other sizes are refused, none answers wrongly
    net, x = network(sizes_of_the_skip)
    target = one_target("onnxruntime")
    target.export(net, tmp_path / "m.onnx", tuple(x.shape[1:]), {})
    run = target.load(tmp_path / "m.onnx", 1)
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|invalid dimensions"):
        run(np.zeros((1, 3, 26, 18), "float32"))


def test_four_bits_of_weights_keep_a_large_channel(tmp_path: Path) -> None:
    # https://github.com/microsoft/onnxruntime/issues/29849
    net, x = network(one_large_channel)
    small = lissom.apply("quantize(4, 32)", net, x[:1], x)
    with torch.no_grad():
        wanted = small(x[:8])
    for runtime in RUNTIMES:
        (found,) = answers(small, runtime, x[:8], tmp_path)
        assert torch.equal(found.argmax(1), wanted.argmax(1)) and gap([found], [wanted]) < 1e-4


def test_a_bias_beyond_32_bits_is_kept() -> None:
    # of a filter whose weights are next to nothing, https://github.com/microsoft/onnxruntime/issues/24711
    net, x = network(large_bias)
    small = quantized(large_bias)
    with torch.no_grad():
        assert network_difference(net, small, x[:8]) < 0.05
