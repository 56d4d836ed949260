"""CIFAR's networks: sizes as published, taps where the tables have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.models import create_model

# Parameters with 100 classes: those of RepDistiller's definitions, which distillation papers round to
# millions (0.28, 0.47, 0.86, 1.74, 1.23, 7.43; 0.70, 2.26, 0.57; 3.97, 9.46; 0.81; 0.95; 1.36; 23.71).
FAMILIES: list[tuple[str, dict[str, Any], int, list[int], list[int]]] = [
    ("cifar_resnet", {"depth": 20}, 278_324, [16, 32, 64], [32, 16, 8]),
    ("cifar_resnet", {"depth": 32}, 472_756, [16, 32, 64], [32, 16, 8]),
    ("cifar_resnet", {"depth": 56}, 861_620, [16, 32, 64], [32, 16, 8]),
    ("cifar_resnet", {"depth": 110}, 1_736_564, [16, 32, 64], [32, 16, 8]),
    ("cifar_resnet", {"depth": 8, "width": 4}, 1_233_540, [64, 128, 256], [32, 16, 8]),
    ("cifar_resnet", {"depth": 32, "width": 4}, 7_433_860, [64, 128, 256], [32, 16, 8]),
    ("wrn", {"depth": 16, "width": 2}, 703_284, [32, 64, 128], [32, 16, 8]),
    ("wrn", {"depth": 40, "width": 2}, 2_255_156, [32, 64, 128], [32, 16, 8]),
    ("wrn", {"depth": 40, "width": 1}, 569_780, [16, 32, 64], [32, 16, 8]),
    ("vgg", {"depth": 8}, 3_965_028, [128, 256, 512, 512], [16, 8, 4, 4]),
    ("vgg", {"depth": 13}, 9_462_180, [128, 256, 512, 512], [16, 8, 4, 4]),
    ("mobilenet_v2", {}, 812_836, [12, 16, 48, 160], [16, 8, 4, 2]),
    ("shufflenet_v1", {}, 949_258, [240, 480, 960], [16, 8, 4]),
    ("shufflenet_v2", {}, 1_355_528, [116, 232, 464], [16, 8, 4]),
    ("resnet", {"depth": 50}, 23_705_252, [256, 512, 1024, 2048], [32, 16, 8, 4]),
]


@pytest.mark.parametrize(("name", "options", "parameters", "channels", "sizes"), FAMILIES)
def test_sizes_and_taps_are_those_of_the_tables(
    name: str, options: dict[str, Any], parameters: int, channels: list[int], sizes: list[int]
) -> None:
    with torch.device("meta"):
        model = create_model(name, classes=100, channels=3, **options)
        outputs = model(torch.empty(2, 3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert list(model.stage_channels) == channels
    assert [tuple(f.shape) for f in outputs.features] == [
        (2, channel, size, size) for channel, size in zip(channels, sizes, strict=True)
    ]
    assert outputs.logits.shape == (2, 100)


@pytest.mark.parametrize(
    "name", ["cifar_resnet", "wrn", "vgg", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"]
)
def test_every_weight_takes_part_and_the_seed_decides(name: str) -> None:
    one, two, other = (create_model(name, classes=3, channels=1, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    outputs = one(torch.randn(4, 1, 32, 32))
    (outputs.logits.square().mean() + sum(f.mean() for f in outputs.features)).backward()
    assert [n for n, p in one.named_parameters() if p.grad is None] == []
    assert not all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_features_are_not_overwritten_by_the_layers_behind_them() -> None:
    """A ReLU in place behind a tap would: the tap of WRN is the sum before it."""
    model = create_model("wrn", classes=3, channels=3).eval()
    image = torch.randn(2, 3, 32, 32)
    features = model(image).features
    assert torch.equal(features[0], model.stages[0](image))
    assert all(float(feature.detach().min()) < 0 for feature in features)


def test_a_depth_between_two_is_refused() -> None:
    with pytest.raises(UserError, match=r"depth.*6n \+ 4.*nearest is 40"):
        create_model("wrn", classes=3, channels=3, depth=41)
    with pytest.raises(UserError, match=r"width.*0\.5, 1, 1\.5, 2"):
        create_model("shufflenet_v2", classes=3, channels=3, width=3)
