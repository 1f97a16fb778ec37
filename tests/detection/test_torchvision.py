"""torchvision's detectors without their image-dependent parts predict the same as torchvision's
own.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model_builder

import lissom
from lissom import LissomError, Task
from lissom.detection.boxes import class_scores, select_detections
from lissom.detection.torchvision import decode_distances, decode_shift_and_scale, without_selection
from lissom.kinds.detect import Detect
from lissom.learning.examine import examine
from lissom.running.plan import one_target

SIZE = 160
SCORED = {"SSD": "softmax", "RetinaNet": "sigmoid", "FCOS": "sigmoid"}
NAMES = (
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
)
TWO_STAGES = ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn_v2")


@lru_cache(1)
def made(name: str) -> tuple[Any, Tensor]:
    """A detector whose places differ, and which leaves images as they are; and what is drawn next."""
    torch.manual_seed(0)
    net: Any = get_model_builder(name)(weights=None, weights_backbone=None, num_classes=4)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        net.train()
        net.backbone(torch.randn(4, 3, SIZE, SIZE))  # or features are too small to tell apart
        net.eval()
        for name, weight in net.named_parameters():
            if "head" in name and weight.ndim > 1 and "box_head" not in name:
                nn.init.normal_(weight, std=2 / weight[0].numel() ** 0.5)
    net.transform.image_mean = [0.0] * 3
    net.transform.image_std = [1.0] * 3
    net.transform.min_size = (SIZE,)
    net.transform.max_size = SIZE
    net.transform.fixed_size = (SIZE, SIZE)
    return net, torch.get_rng_state()


def network(name: str) -> Any:
    """Such a detector, for one test alone."""
    net, state = made(name)
    torch.set_rng_state(state)
    return copy.deepcopy(net)


def everything(net: Any) -> None:
    """Have torchvision return all that it predicts."""
    net.score_thresh = 0.0
    net.nms_thresh = 1.0
    net.detections_per_img = 1_000_000
    net.topk_candidates = 1_000_000


def rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Rows that can be compared whatever their order."""
    table = torch.cat([scores[:, None], labels[:, None].float(), boxes], 1)
    return table[table[:, 0].argsort(descending=True, stable=True)]


def distances(rows: Tensor, others: Tensor) -> Tensor:
    """How far each row is from the nearest other one."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)


@pytest.mark.parametrize("name", NAMES)
def test_places_are_those_that_torchvision_picks_from(name: str) -> None:
    net = network(name)
    everything(net)
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        (wanted,) = net(list(x))
        known = wanted["labels"] > 0  # 0 is the background, of which sigmoids have a score, too
        wanted = {name: values[known] for name, values in wanted.items()}
        boxes, logits = without_selection(net).eval()(x)
    scores = logits[0].sigmoid()
    if SCORED[type(net).__name__] == "softmax":
        scores = logits[0].softmax(-1)[:, 1:]
    labels = torch.arange(1, 4).expand_as(scores)
    each = boxes[0, :, None].expand(-1, 3, 4)
    found = rows(each.reshape(-1, 4), scores.flatten(), labels.flatten())
    own = rows(wanted["boxes"], wanted["scores"], wanted["labels"])
    top = slice(0, 300)
    torch.testing.assert_close(found[top, 0], own[top, 0], atol=1e-5, rtol=1e-4)
    gaps = distances(own[top], found)
    assert float(gaps.max()) < 1e-2


def two_stages(name: str) -> Any:
    """A detector of two stages, whose scores are not all 1 in float32 and whose boxes are not empty."""
    net = network(name)
    with torch.no_grad():
        net.rpn.head.cls_logits.weight.mul_(0.01)
        net.rpn.head.bbox_pred.weight.mul_(0.01)
    net.rpn._post_nms_top_n["testing"] = 100
    everything(net.roi_heads)
    return net


@pytest.mark.parametrize("name", TWO_STAGES)
def test_two_stages_detect_what_torchvision_does(name: str) -> None:
    net = two_stages(name)
    places = without_selection(net).eval()
    assert places.state_dict().keys() == net.state_dict().keys(), "its weights fit"
    x = torch.rand(2, 3, SIZE, SIZE)
    heads = net.roi_heads
    heads.nms_thresh = 0.5
    heads.score_thresh = 1e-3
    with torch.no_grad():
        wanted = net(list(x))
        found = places(x)
    assert found["row_ids"].shape == found["boxes"].shape[:2] == found["logits"].shape[:2]
    assert found["boxes"].shape[2:] == (3, 4)
    for k, own in enumerate(wanted):
        scores = class_scores(found["logits"][k], "softmax")
        boxes, values, labels = select_detections(
            found["boxes"][k], scores, heads.score_thresh, heads.nms_thresh, 1000
        )
        assert len(boxes) == len(own["boxes"]) > 50
        torch.testing.assert_close(values, own["scores"], atol=1e-4, rtol=1e-4)
        gaps = distances(
            rows(own["boxes"], own["scores"], own["labels"]), rows(boxes, values, labels + 1)
        )
        assert float(gaps.max()) < 1e-2


def test_places_without_a_proposal_are_background() -> None:
    net = two_stages(TWO_STAGES[0])
    net.rpn.score_thresh = 0.5
    net.rpn._post_nms_top_n["testing"] = 300
    found = without_selection(net).eval()(torch.rand(2, 3, SIZE, SIZE))
    empty = found["row_ids"] < 0
    assert 0 < int(empty[0].sum()) < empty.shape[1]
    assert (class_scores(found["logits"][empty], "softmax") < 1e-3).all()
    ids = found["row_ids"][0][~empty[0]]
    assert len(set(ids.tolist())) == len(ids)


def test_the_loss_teaches_all_but_which_proposals_are_picked() -> None:
    net = without_selection(two_stages(TWO_STAGES[0])).train()
    targets = torch.tensor([[[20.0, 20, 90, 90, 1], [5, 50, 60, 120, 0]]]).repeat(2, 1, 1)
    Detect(scores="softmax").loss(net(torch.rand(2, 3, SIZE, SIZE)), targets).backward()
    untaught = {name for name, weight in net.named_parameters() if weight.grad is None}
    assert untaught == {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"}


def test_pixels_are_no_features_that_quantization_sees() -> None:
    called = set[str]()

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.add(func.__name__)
            return func(*args, **(kwargs or {}))

    net = without_selection(two_stages(TWO_STAGES[0])).eval()
    with torch.no_grad(), Calls():
        net(torch.rand(2, 3, SIZE, SIZE))
    assert "linear" in called, "layers are seen"
    assert not called & {"exp", "sqrt", "cat", "topk"}


def test_the_file_of_two_stages_predicts_what_the_network_does(tmp_path: Path) -> None:
    net = without_selection(two_stages(TWO_STAGES[0])).eval()
    x = torch.rand(2, 3, 96, 96)
    path = lissom.export(net, "onnxruntime", tmp_path / "m.onnx", (3, 96, 96), x)
    with torch.no_grad():
        wanted = net(x)
    for target in ("onnxruntime", "openvino"):
        answered = one_target(target).load(path, 1)([x.numpy()])
        boxes, logits, ids = map(torch.from_numpy, answered)
        for k in range(2):
            ours = ids[k].argsort(stable=True)
            theirs = wanted["row_ids"][k].argsort(stable=True)
            assert torch.equal(ids[k][ours], wanted["row_ids"][k][theirs])
            for one, other in ((boxes, wanted["boxes"]), (logits, wanted["logits"])):
                torch.testing.assert_close(one[k][ours], other[k][theirs], atol=2e-2, rtol=1e-3)


def test_codes_are_decoded_as_torchvision_does() -> None:
    from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

    anchors = torch.rand(50, 4) * 50
    anchors[:, 2:] += anchors[:, :2]
    codes = torch.randn(50, 4) * 3
    weights = (10.0, 10.0, 5.0, 5.0)
    wanted = BoxCoder(weights).decode_single(codes, anchors)
    torch.testing.assert_close(decode_shift_and_scale(codes[None], anchors, weights)[0], wanted)
    wanted = BoxLinearCoder(normalize_by_size=True).decode(codes, anchors)
    torch.testing.assert_close(decode_distances(codes[None], anchors)[0], wanted)


def test_the_file_of_a_detector_predicts_what_the_network_does(tmp_path: Path) -> None:
    net = without_selection(network(NAMES[0])).eval()
    x = torch.rand(2, 3, SIZE, SIZE)
    path = lissom.export(net, "onnxruntime", tmp_path / "m.onnx", (3, SIZE, SIZE), x)
    with torch.no_grad():
        boxes, logits = net(x)
    found = one_target("onnxruntime").load(path, 1)([x.numpy()])
    torch.testing.assert_close(torch.from_numpy(found[0]), boxes, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(torch.from_numpy(found[1]), logits, atol=1e-2, rtol=1e-3)


def test_a_detector_is_built_by_name_for_the_classes_of_the_data_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    pixels = torch.zeros(12, 3, 64, 64, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 20, 20, 0], [8, 8, 60, 60, 1]]).repeat(12, 1, 1)
    data = lissom.Data.of_dataset((pixels, boxes), classes=["cell", "platelet"])
    ssd = Task.of(f"torchvision:{NAMES[0]}", data, kind='detect(scores="softmax")')
    found = ssd.fresh()(data.example(2))
    assert found[0].shape[2] == 4 and found[1].shape[2] == 3
    assert examine(ssd) is None
    with pytest.raises(LissomError, match=r'expected outputs .*; detect\(scores="softmax"\)'):
        examine(Task.of(f"torchvision:{NAMES[0]}", data))
    retina = Task.of(f"torchvision:{NAMES[1]}", data).fresh()
    assert retina(data.example(1))[1].shape[2] == 2


def test_other_networks_are_refused() -> None:
    with pytest.raises(LissomError, match=r"SSD, RetinaNet, FCOS or FasterRCNN .*, got Conv2d"):
        without_selection(nn.Conv2d(3, 4, 1))
    for name, kind in (
        ("maskrcnn_resnet50_fpn", "MaskRCNN"),
        ("keypointrcnn_resnet50_fpn", "KeypointRCNN"),
    ):
        builder = get_model_builder(name)
        with torch.device("meta"):
            net = builder(weights=None, weights_backbone=None)
        with pytest.raises(LissomError, match=f"got {kind}"):
            without_selection(net)
