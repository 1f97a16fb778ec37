"""Parameters and multiply-adds of networks with known counts."""

from __future__ import annotations

import pytest
import torch
from networks import Net
from torch import Tensor, nn

from lissom.models import factory
from lissom.surgery.count import layer_macs, layer_table, macs, parameters


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"kernel_size": 3, "stride": (2, 3)},
        {"kernel_size": 3, "groups": 4},
        {"kernel_size": 3, "groups": 8, "bias": False},
        {"kernel_size": 3, "dilation": 2},
    ],
)
def test_a_convolution_by_hand(settings: dict[str, object]) -> None:
    layer = nn.Conv2d(8, 16, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        _, _, h, w = layer(torch.zeros(1, 8, 15, 14)).shape
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    wanted = h * w * 16 * (8 // layer.groups) * kernel
    assert macs(nn.Sequential(layer), torch.zeros(3, 8, 15, 14)) == wanted
    assert parameters(layer) == 16 * (8 // layer.groups) * kernel + (
        0 if layer.bias is None else 16
    )


def test_a_linear_layer_by_hand() -> None:
    assert macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.zeros(7, 3, 2, 2)) == 60


def test_a_matrix_product_counts_and_additions_do_not() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(1, 2) + 1).relu()

    assert macs(Net(), torch.zeros(2, 5, 3)) == 5 * 5 * 3


def resnet20_by_hand(classes: int) -> tuple[int, int]:
    """Return parameters and multiply-adds on 32x32 images."""
    params, total, width = 3 * 16 * 9 + 32, 3 * 16 * 9 * 32 * 32, 16
    for outputs, size in ((16, 32), (32, 16), (64, 8)):
        for k in range(3):
            inputs = width if k == 0 else outputs
            weights = (
                inputs * outputs * 9
                + outputs * outputs * 9
                + (inputs * outputs if inputs != outputs else 0)
            )
            total += weights * size * size
            params += weights + 4 * outputs + (2 * outputs if inputs != outputs else 0)
        width = outputs
    return params + 64 * classes + classes, total + 64 * classes


@pytest.mark.parametrize("classes", [10, 100])
def test_resnet20(classes: int) -> None:
    net, image = factory("resnet20")(num_classes=classes), torch.zeros(1, 3, 32, 32)
    assert (parameters(net), macs(net, image)) == resnet20_by_hand(classes)
    if classes == 10:
        assert (parameters(net), macs(net, image)) == (272_474, 40_813_184)


def test_vgg16() -> None:
    net, image = factory("vgg16")(num_classes=10), torch.zeros(1, 3, 32, 32)
    size, total = 32, 0
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            total += size * size * layer.weight.numel()
        elif isinstance(layer, nn.MaxPool2d):
            size //= 2
    assert macs(net, image) == total + 5120


@pytest.mark.parametrize(
    ("name", "params", "count"),
    [("resnet18", 11_689_512, 1_814_073_344), ("mobilenet_v2", 3_504_872, 300_774_272)],
)
def test_known_networks_at_224(name: str, params: int, count: int) -> None:
    import torchvision.models as known

    net = getattr(known, name)()
    assert parameters(net) == params
    assert macs(net, torch.zeros(1, 3, 224, 224)) == count


def test_the_layers_add_up() -> None:
    net, image = factory("resnet8")(num_classes=10), torch.zeros(2, 3, 16, 16)
    found = layer_macs(net, image)
    layers = [
        name for name, layer in net.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    assert sum(found[name] for name in layers) == found[""] > 0
    rows = layer_table(net, image)
    assert sum(row["params"] for row in rows) == parameters(net)
    assert sum(row["macs"] for row in rows) == found[""]
    assert next(row for row in rows if row["name"] == "stem") == {
        "name": "stem",
        "kind": "Conv2d",
        "outputs": 16,
        "params": 432,
        "macs": 432 * 256,
    }


def test_shared_parameters_count_once_and_every_run_of_them_counts() -> None:
    one, two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    two.weight = one.weight
    net = nn.Sequential(one, two)
    assert parameters(net) == 16 and macs(net, torch.zeros(1, 4)) == 32


def test_counting_leaves_the_mode_of_training() -> None:
    net = factory("resnet8")(num_classes=10).train()
    macs(net, torch.zeros(1, 3, 8, 8))
    assert net.training and net.bn.training and int(net.bn.num_batches_tracked) == 0


def test_a_quantized_network_counts_like_the_float_one() -> None:
    from lissom import apply

    net, image = factory("resnet8")(num_classes=10).eval(), torch.randn(2, 3, 16, 16)
    small = apply("quantize(8)", net, image, image)
    assert macs(small, image) == macs(net, image)
    assert {row["name"] for row in layer_table(small, image)} <= {
        row["name"] for row in layer_table(net, image)
    }


def test_a_parameter_that_modules_hand_on_is_no_obstacle() -> None:
    class Take(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.inner(pair[0] + pair[1])

    net = Net(lambda s, x: s.take((x.mean((2, 3)), s.token.expand(len(x), -1))), take=Take())
    net.token = nn.Parameter(torch.zeros(1, 4))
    assert macs(net, torch.zeros(1, 4, 5, 5)) == 8
    assert net.token.requires_grad and net.take.inner.weight.requires_grad


def test_attention_and_recurrence_count_like_the_products_they_are_made_of() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.zeros(1, 5, 8)
    mixed = 2 * 5 * 5 * 8  # queries with keys, weights with values
    assert macs(Net(lambda s, x: s.m(x, x, x)[0], m=attention), x) == 5 * 8 * 32 + mixed
    assert (
        macs(Net(lambda s, x: s.m(x, x, x, need_weights=False)[0], m=attention), x)
        == 5 * 8 * 32 + mixed
    )
    assert macs(layer, x) == 5 * 8 * 32 + mixed + 2 * 5 * 8 * 16
    assert macs(nn.LSTM(8, 6, batch_first=True), x) == 5 * 24 * (8 + 6)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("sizes", [(6, 0), (0, 4)])
def test_layers_without_weights_multiply_nothing(sizes: tuple[int, int]) -> None:
    from lissom.surgery.count import weight_macs
    from lissom.surgery.trace import traced

    inputs = torch.zeros(1, 3, sizes[0])
    model = nn.Sequential(nn.Linear(*sizes))
    assert macs(model, inputs) == 0
    assert weight_macs(traced(model, inputs)) in ({}, {"0.weight": 0})
