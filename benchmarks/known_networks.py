"""The networks of coverage.py and integers.py: small ones that test one thing, lissom's own, and
one of each family of torchvision and timm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as known
from torch import Tensor, nn

from lissom.models import factory

# image sizes to try; a network gets the smallest that it accepts
SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384)
Build = Callable[[], nn.Module]
# family, name, function that builds it, input shapes to try
Known = tuple[str, str, Build, tuple[tuple[int, ...], ...]]

TORCHVISION = """alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large regnet_x_400mf
regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t
vgg11 vgg16_bn vit_b_16 wide_resnet50_2"""
SEGMENTATION = """deeplabv3_mobilenet_v3_large deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50
fcn_resnet101 lraspp_mobilenet_v3_large"""
DETECTION = """fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn
fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn keypointrcnn_resnet50_fpn
maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn retinanet_resnet50_fpn_v2
ssd300_vgg16 ssdlite320_mobilenet_v3_large"""
# the smallest network of each module of timm 1.0.31, without timm's own test networks; modules
# whose
# smallest network has over 100 million parameters are left out: deepseek_vit, gemma4_vit and vgg
FAMILIES = """beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny
convmixer_768_32 convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 mobilenetv2_035 efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small
iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224
mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap
nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m
rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t resnetv2_18
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224
tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny
vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224
vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224"""
# more networks of timm: common ones, and ones built differently from the smallest of their family
TIMM = """botnet26t_256 repvgg_a0 gernet_s mobileone_s0 coat_lite_tiny convnext_atto convnextv2_atto
cs3darknet_m cspdarknet53 dla34 dpn68 efficientnet_lite0 tf_efficientnet_lite0 mixnet_s
mobilenetv4_conv_small eva02_tiny_patch14_224 ghostnet_100 hardcorenas_a hgnet_tiny lcnet_050
coatnet_nano_rw_224 poolformer_s12 mixer_s32_224 gmlp_s16_224 resmlp_12_224 mobilenetv5_300m
naflexvit_base_patch16_gap nf_resnet26 regnety_002 repvit_m0_9 res2net50_14w_8s resnet26d
seresnet50 resnetv2_50 tnt_s_patch16_224 twins_pcpvt_small vgg11_bn vit_small_r26_s32_224
vit_relpos_small_patch16_224 ese_vovnet19b_dw xception41 xcit_nano_12_p16_224"""


class Net(nn.Module):
    """A network of named layers whose forward is a function of the network and its inputs."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.call = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        """Call the function."""
        return self.call(self, *inputs)


def block(inputs: int, *widths: int) -> nn.Sequential:
    """Return 1x1 convolutions of these widths with batch-norm, and GELU between them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 1), nn.BatchNorm2d(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers[:-1])


def wide_and_deep() -> nn.Module:
    """Return a network that concatenates a deep branch with one output and a wide branch."""
    deep = nn.Sequential(
        nn.Linear(32, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(16, 1),
    )
    return Net(
        lambda s, x: s.out(torch.cat([s.wide(x.flatten(1)), s.deep(x.flatten(1))], 1)).sigmoid(),
        deep=deep,
        wide=nn.Linear(32, 3),
        out=nn.Linear(4, 1),
    )


def concatenated_thrice() -> nn.Module:
    """Return a network that concatenates concatenations."""

    def forward(s: Any, x: Tensor) -> Tensor:
        y = torch.cat([s.one(x), s.two(x)], 1)
        return s.out(torch.cat([torch.cat([y, s.three(x)], 1), s.four(x)], 1))

    return Net(
        forward,
        one=block(10, 10, 10),
        two=block(10, 20, 20),
        three=block(10, 30),
        four=block(10, 60),
        out=nn.Conv2d(120, 10, 1),
    )


def concatenated_and_split() -> nn.Module:
    """Return a network that splits by widths read from layers, concatenates one part with another
    branch and adds the other part.
    """

    def forward(s: Any, x: Tensor) -> Tensor:
        side, y = s.side(x), s.one(x)
        first = s.two[0].in_channels - s.side[-1].num_features
        part, rest = y.split((first, s.one[-1].num_features - first), 1)
        return s.two(torch.cat([part, side], 1)) + rest

    return Net(forward, one=block(10, 10, 20), side=block(10, 10, 10), two=block(20, 10))


def split_in_three() -> nn.Module:
    """Return a network that splits by widths read from layers; two parts go through the same layer."""

    def forward(s: Any, x: Tensor) -> Any:
        y, (one, two) = s.one(x), (s.two[0].in_channels, s.three[0].in_channels)
        a, b, c = y.split([one, one, two], 1)
        return s.two(a), s.two(b), s.three(c)

    return Net(forward, one=block(32, 32, 128), two=block(32, 32), three=block(64, 32))


def scaled_by_length(unused: bool) -> nn.Module:
    """Return a network that divides by the norm of each sample, with its own scale and bias."""

    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.relu(s.one(x))
        y = y / y.pow(2).sum(1, keepdim=True).sqrt()
        return s.three(s.two(y * s.scale + s.bias))

    net = Net(
        forward,
        one=nn.Linear(128, 256),
        scale=nn.Parameter(1 + 0.1 * torch.randn(256)),
        bias=nn.Parameter(0.1 * torch.randn(256)),
        two=nn.Linear(256, 256),
        three=nn.Linear(256, 10),
    )
    if unused:
        net.unused = nn.Parameter(torch.randn(10))
    return net


def with_a_skip() -> nn.Module:
    """Return a network that adds a linear layer's output to its input."""
    return Net(
        lambda s, x: s.three((y := F.relu(s.one(x))) + F.relu(s.two(y))),
        one=nn.Linear(128, 256),
        two=nn.Linear(256, 256),
        three=nn.Linear(256, 10),
    )


def two_inputs() -> nn.Module:
    """Return a network with two inputs and three outputs."""

    def forward(s: Any, x: Tensor, y: Tensor) -> Any:
        x, y = F.relu(s.one(x)), F.relu(s.two(y))
        return x, y, F.relu(s.three(torch.cat([x, y], 1)))

    return Net(forward, one=nn.Linear(128, 32), two=nn.Linear(64, 32), three=nn.Linear(64, 1000))


def joined_by_rows() -> nn.Module:
    """Return a network that concatenates along a spatial axis and splits there again."""

    def forward(s: Any, x: Tensor) -> Tensor:
        one, two = s.one(x), s.side(x)
        y = s.first(torch.cat([one, two], 2))
        return s.second(y.split([one.shape[2], two.shape[2]], 2)[0])

    return Net(
        forward,
        one=block(64, 64, 64),
        side=block(64, 64, 64),
        first=nn.Conv2d(64, 64, 1),
        second=nn.Conv2d(64, 64, 1),
    )


def viewed_as_an_image() -> nn.Module:
    """Return a network that views a linear layer's output as an image for the next layer."""

    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.relu(s.one(x)).view(-1, s.up.in_channels, 4, 4)
        return s.out(F.relu(s.upper(F.relu(s.up(y)))).flatten(1))

    return Net(
        forward,
        one=nn.Linear(512, 1024),
        up=nn.ConvTranspose2d(64, 32, 4, 2, 1),
        upper=nn.ConvTranspose2d(32, 16, 4, 2, 1),
        out=nn.Linear(4096, 10),
    )


def convolutions(*widths: int, transposed: bool = False) -> nn.Module:
    """Return convolutions with batch-norm and ReLU; the second is transposed or has a stride of 2."""
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(zip((3, *widths), widths, strict=False)):
        second = (nn.ConvTranspose2d if transposed else nn.Conv2d)(a, b, 2, 2)
        layers += [
            second if k == 1 else nn.Conv2d(a, b, 3, padding=1),
            nn.BatchNorm2d(b),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def lenet() -> nn.Module:
    """Return a LeNet, which flattens features with view."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
        nn.ReLU(),
    )


def added_to_the_first() -> nn.Module:
    """Return a network that adds the output of the first convolution in place."""

    def forward(s: Any, x: Tensor) -> Tensor:
        first = s.one(x)
        y = s.three(s.two(first))
        y += first
        return y

    return Net(
        forward,
        one=nn.Conv2d(3, 16, 3, padding=1),
        two=nn.Conv2d(16, 8, 3, padding=1),
        three=nn.Conv2d(8, 16, 3, padding=1),
    )


SMALL: dict[str, tuple[Build, tuple[tuple[int, ...], ...]]] = {
    "wide and deep": (wide_and_deep, ((32,),)),
    "concatenated thrice": (concatenated_thrice, ((10, 7, 7),)),
    "concatenated and split": (concatenated_and_split, ((10, 7, 7),)),
    "split in three": (split_in_three, ((32, 7, 7),)),
    "scaled by length": (lambda: scaled_by_length(False), ((128,),)),
    "a parameter that nothing uses": (lambda: scaled_by_length(True), ((128,),)),
    "linear layers with a skip": (with_a_skip, ((128,),)),
    "two inputs": (two_inputs, ((128,), (64,))),
    "joined along rows": (joined_by_rows, ((64, 7, 7),)),
    "viewed as an image": (viewed_as_an_image, ((512,),)),
    "one channel at the end": (lambda: convolutions(16, 64, 1), ((3, 64, 64),)),
    "transposed convolution": (lambda: convolutions(16, 64, 8, transposed=True), ((3, 64, 64),)),
    "LeNet": (lenet, ((1, 28, 28),)),
    "added to the first": (added_to_the_first, ((3, 32, 32),)),
}
# common networks from Torch-Pruning's tests
RIVAL = "alexnet convnext_base densenet121 googlenet resnet18 resnet50 vgg16_bn vit_b_16"


def networks() -> Iterator[Known]:
    """Yield every network."""
    images = tuple((3, size, size) for size in SIZES)
    for name, (build, shapes) in SMALL.items():
        yield "what Torch-Pruning tests", name, build, shapes
    for name in RIVAL.split():
        yield (
            "what Torch-Pruning tests",
            name,
            partial(known.get_model, name, weights=None),
            images,
        )
    for name in ("nin", "nin_gc", "resnet56", "preresnet38", "vgg19", "densenet40"):
        yield "lissom", name, partial(factory(name), num_classes=10), ((3, 32, 32),)
    for family, names in (
        ("torchvision", TORCHVISION),
        ("torchvision segmentation", SEGMENTATION),
        ("torchvision detection", DETECTION),
    ):
        for name in names.split():
            own: dict[str, Any] = {} if family == "torchvision" else {"weights_backbone": None}
            if (
                "_fpn" in name and "_320_" not in name
            ):  # these detectors would enlarge images to 800 pixels
                own |= {"min_size": 128, "max_size": 128}
            yield (
                family,
                name,
                partial(known.get_model, name, weights=None, **own),
                images,
            )
    for name in (*FAMILIES.split(), *TIMM.split()):
        yield "timm", name, partial(in_timm, name), images


def in_timm(name: str) -> nn.Module:
    """Return a network of timm with random weights."""
    import timm

    return timm.create_model(name, pretrained=False)
