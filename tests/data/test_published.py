"""The preprocessing of published networks, as their libraries define it."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision.models as models

from lissom import LissomError
from lissom.cli.task_options import TaskOptions
from lissom.data.published import newest_weights, preprocess_of, timm_text


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("torchvision:resnet50", models.ResNet50_Weights.IMAGENET1K_V2),
        ("torchvision:resnet50:IMAGENET1K_V1", models.ResNet50_Weights.IMAGENET1K_V1),
        ("torchvision:efficientnet_b3", models.EfficientNet_B3_Weights.DEFAULT),
        (
            "torchvision:vit_b_16:IMAGENET1K_SWAG_E2E_V1",
            models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        ),
    ],
)
def test_torchvision_says_it_for_each_set_of_weights(text: str, weights: Any) -> None:
    wanted = weights.transforms()
    preprocess = preprocess_of(text)
    resize, crop = preprocess.pictures
    settings = resize.settings()
    assert settings["size"] == wanted.resize_size[0] and settings["width"] is None
    assert settings["interpolation"] == wanted.interpolation.value
    assert crop.settings()["height"] == wanted.crop_size[0]
    assert preprocess.line(3) == (tuple(wanted.mean), tuple(wanted.std))


class Timm:
    """What is asked of timm, with a configuration of its own."""

    def __init__(self, **config: Any) -> None:
        self.config = {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, **config}

    @property
    def models(self) -> Timm:
        return self

    def get_pretrained_cfg(self, _: str) -> Timm:
        return self

    def to_dict(self) -> dict[str, Any]:
        return self.config


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("center", 'resize(272, interpolation="bicubic") | center_crop(240)'),
        ("squash", 'resize(272, width=272, interpolation="bicubic") | center_crop(240)'),
    ],
)
def test_timm_says_it_in_its_configuration(
    monkeypatch: pytest.MonkeyPatch, mode: str, wanted: str
) -> None:
    import types

    data = types.SimpleNamespace(resolve_data_config=lambda pretrained_cfg, verbose: pretrained_cfg)
    monkeypatch.setattr("lissom.data.published.importlib.import_module", lambda _: data)
    config = {"input_size": (3, 240, 240), "crop_pct": 0.882, "crop_mode": mode}
    assert timm_text(Timm(**config), "x", "here").startswith(
        wanted.replace('interpolation="bicubic"', "'bicubic'").replace("width=272, ", "272, ")
    )
    with pytest.raises(LissomError, match="timm crops images to 240x320 in the mode"):
        timm_text(Timm(**{**config, "input_size": (3, 240, 320)}), "x", "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torchvision", "expected torchvision:NAME, as in torchvision:resnet50"),
        ("torchvision:resnet5", "is unknown; did you mean 'resnet50'"),
        ("torchvision:resnet50.foo", "is unknown; did you mean 'resnet50'"),
        (
            "torchvision:resnet50:V9",
            "expected weights of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, got V9",
        ),
        ("torchvision:fcn_resnet50", "resizes images for it to sizes that depend on them"),
    ],
)
def test_what_no_library_says_is_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        preprocess_of(text)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"model": "torchvision:resnet18"}, None),
        ({"model": "torchvision:resnet18", "weights": "mine.pth"}, None),
        ({"model": "torchvision:resnet18", "weights": "DEFAULT"}, "torchvision:resnet18"),
        (
            {"model": "torchvision:resnet18", "weights": "IMAGENET1K_V1"},
            "torchvision:resnet18:IMAGENET1K_V1",
        ),
        ({"model": "torchvision:resnet18", "weights": "DEFAULT", "size": "64"}, None),
        ({"model": "torchvision:resnet18", "preprocess": "torchvision"}, "torchvision:resnet18"),
        ({"model": "timm:resnet18", "weights": "DEFAULT"}, "timm:resnet18"),
        ({"model": "resnet20", "weights": "w.pth", "preprocess": "imagenet"}, "imagenet"),
    ],
)
def test_published_weights_bring_their_preprocessing(
    options: dict[str, Any], wanted: str | None
) -> None:
    assert TaskOptions(**options).preprocess_text() == wanted


def test_the_newest_weights_have_a_name() -> None:
    assert newest_weights("resnet50") == "IMAGENET1K_V2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "t.py:t", "weights": "w.pth"}, "--weights: it does nothing beside --task"),
        ({"data": "l.py:l", "size": "32"}, "--size: it does nothing beside --data l.py:l"),
        ({"data": "l.py:l", "skip_bad": True}, "--skip-bad: it does nothing beside --data"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(LissomError, match=said):
        TaskOptions(**options).refuse_beside(
            *(
                ("--task", ("weights",))
                if "task" in options
                else ("--data l.py:l", ("size", "skip_bad"))
            )
        )
