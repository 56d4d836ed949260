"""Features that are no N x C x H x W are refused by name, in a run file and in Python.

N x H x W x C of timm's Swin: huggingface/pytorch-image-models#1438,
qubvel-org/segmentation_models.pytorch#1004 (``output_fmt`` says so).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ray_kd import Outputs, create_path, distill
from ray_kd.config.errors import UserError
from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.tapped import TappedModel
from ray_kd.training.preflight import check_run
from tests.helpers import TINY


def swin(classes: int, channels: int, dim: int = 8) -> nn.Module:
    """torchvision's Swin, small, as any network of a user's."""
    arguments = {"embed_dim": dim, "depths": [1, 1], "num_heads": [1, 1], "window_size": [2, 2]}
    net = torchvision.models.SwinTransformer(patch_size=[2, 2], num_classes=classes, **arguments)
    net.features[0][0] = nn.Conv2d(channels, dim, 2, stride=2)
    return net


def vit(classes: int, channels: int) -> nn.Module:
    arguments = {"num_layers": 2, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
    net = torchvision.models.VisionTransformer(image_size=16, patch_size=4, num_classes=classes, **arguments)
    net.conv_proj = nn.Conv2d(channels, 8, 4, stride=4)
    return net


class Moved(nn.Module):
    """Gives its features in another order of dimensions."""

    def __init__(self, order: tuple[int, ...], channels: int = 4, pooled: int | None = None) -> None:
        super().__init__()
        self.order, self.body, self.moved = order, nn.Conv2d(3, channels, 1), nn.Identity()
        self.pool = nn.Identity() if pooled is None else nn.AdaptiveAvgPool2d(pooled)

    def forward(self, image: Tensor) -> Tensor:
        found = self.pool(self.body(image))
        self.moved(
            found.flatten(2).permute(self.order) if len(self.order) == 3 else found.permute(self.order)
        )
        return found.mean((2, 3))


def tap(net: nn.Module, module: str, size: int = 16, **known: str) -> TappedModel:
    for name, value in known.items():
        setattr(net, name, value)
    model = TappedModel(net, [module], "student")
    model.measure(3, size)
    return model


def map_size(model: TappedModel, size: int = 16) -> tuple[int, ...]:
    """Height and width of the only feature map that a network returns."""
    (feature,) = model(torch.rand(2, 3, size, size)).features
    return tuple(feature.shape[2:])


@pytest.mark.parametrize(
    ("build", "module", "says"),
    [
        ("swin", "features.1", ["(2, 8, 8, 8)", "N, H, W, C", "Swin"]),
        ("swin", "features.3", ["(2, 4, 4, 16)", "N, H, W, C"]),
        ("vit", "encoder.layers.encoder_layer_1", ["(2, 17, 8)", "N, L, C", "tokens"]),
        ("vit", "encoder", ["N, L, C"]),
        ("swin", "features.1.0.attn", ["N, H, W, C"]),
        ("swin", "head", ["(2, 3)", "expected a feature map (N, C, H, W)"]),
    ],
)
def test_other_layouts_are_refused_by_name(build: str, module: str, says: list[str]) -> None:
    options = {"name": "factory", "build": f"{__name__}:{build}", "image_size": 16, "taps": [module]}
    with pytest.raises(UserError) as error:
        create_model(classes=3, channels=3, **options)
    for word in [f"'{module}'", *says]:
        assert word in str(error.value), str(error.value)
    with pytest.raises(UserError, match=r"expected a feature map \(N, C, H, W\)"):
        check_run(RunSpec.parse({**TINY, "student": options}))


def test_a_map_within_such_a_network_is_read() -> None:
    for name, build, module in (("swin", swin, "features.0.0"), ("vit", vit, "conv_proj")):
        model = tap(build(3, 3), module)
        assert model.stage_channels == (8,), name
        assert model.tap_layouts == ("NCHW",)
        assert map_size(model) == ((8, 8) if name == "swin" else (4, 4))


@pytest.mark.parametrize("size", [8, 12])
def test_where_channels_are_as_many_as_rows_two_sizes_tell(size: int) -> None:
    """C = H = W: the shape of one size says nothing."""
    assert tap(Moved((0, 1, 2, 3), channels=size), "moved", size).stage_channels == (size,)
    with pytest.raises(UserError, match=r"\(N, H, W, C\)"):
        tap(Moved((0, 2, 3, 1), channels=size), "moved", size)


def test_where_the_network_takes_one_size_its_own_word_tells() -> None:
    net = Moved((0, 2, 3, 1), channels=4, pooled=4)
    with pytest.raises(UserError, match="does not tell which of these are the channels"):
        tap(net, "moved")
    with pytest.raises(UserError, match=r"\(N, H, W, C\)"):
        tap(net, "moved", output_fmt="NHWC")
    plain = Moved((0, 1, 2, 3), channels=4, pooled=4)
    assert map_size(tap(plain, "moved", output_fmt="NCHW")) == (4, 4)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ((0, 2, 3, 1), r"\(N, H, W, C\)"),
        ((0, 2, 1), r"\(N, L, C\)"),
        ((0, 1, 2), r"\(N, C, L\)"),
        ((1, 0, 2, 3), r"\(4, 2, 16, 16\) for 2 images"),
        ((2, 0, 1), r"\(256, 2, 4\) for 2 images"),
    ],
)
def test_every_order_of_dimensions_has_its_name(order: tuple[int, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        tap(Moved(order), "moved")


def test_pooled_to_one_place_is_still_a_map() -> None:
    assert map_size(tap(Moved((0, 1, 2, 3), pooled=1), "moved")) == (1, 1)
    with pytest.raises(UserError, match=r"\(N, H, W, C\)"):
        tap(Moved((0, 2, 3, 1), pooled=1), "moved")


def test_torchvisions_own_swin_tells_its_maps_apart() -> None:
    """A tap before the permutation, which was permuted all the same."""
    options = {"arch": "swin_t", "taps": ["features.0.0", "features.1"]}
    with torch.device("meta"):
        model = create_model("torchvision", classes=3, channels=3, **options)
        outputs = model(torch.empty(2, 3, 64, 64))
    assert model.stage_channels == (96, 96)
    assert [tuple(f.shape) for f in outputs.features] == [(2, 96, 16, 16)] * 2
    assert model.tap_layouts == ("NCHW", "NHWC")


# The same in Python.


class Own(nn.Module):
    """A user's network with its features in an order of its own."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3), channels: int = 8) -> None:
        super().__init__()
        self.order, self.stage_channels = order, (channels,)
        self.body, self.head = nn.Conv2d(1, channels, 1), nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> Outputs:
        found = self.body(image)
        flat = found.flatten(2) if len(self.order) == 3 else found
        return Outputs((flat.permute(self.order),), self.head(found.mean((2, 3))))


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("name", ["hint", "nst", "attention_transfer", "similarity", "vid", "feature_map"])
def test_a_path_refuses_what_is_no_map(name: str, side: str) -> None:
    path = create_path(name, student_channels=(8,), teacher_channels=(8,), stages=(0,))
    maps = torch.randn(2, 8, 4, 4)
    plain = Outputs((maps,), torch.randn(2, 5))
    path(plain, path.target(plain))
    for wrong in (maps.permute(0, 2, 3, 1), maps.flatten(2).transpose(1, 2), maps[:, :3]):
        odd = Outputs((wrong,), plain.logits)
        student, teacher = (odd, plain) if side == "student" else (plain, odd)
        with pytest.raises(UserError, match=r"stage 0: expected a feature map \(N, C, H, W\) of 8 channels"):
            path(student, path.target(teacher))


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 2, 1)])
def test_own_networks_are_looked_at_before_they_train(
    role: str, order: tuple[int, ...], tmp_path: Any
) -> None:
    """Images are 8 x 8 and channels 8: no batch's shape tells."""
    spec = RunSpec.parse({**TINY, "paths": ["attention_transfer"], "storage": str(tmp_path)})
    pair = {"student": Own(), "teacher": Own(), role: Own(order)}
    with pytest.raises(UserError, match=rf"{role}.* \(Own\): features\[0\].*expected a feature map"):
        distill(spec, **pair)  # type: ignore[arg-type]
    summary = distill(spec, student=Own(), teacher=Own(), key="plain")
    assert summary["status"] == "finished"


class Registered(Own):
    """A user's network under a name."""

    tasks = ("classification",)
    Options = ModelOptions
    last_layers = ("head",)

    def __init__(self, options: ModelOptions, classes: int, channels: int) -> None:
        super().__init__((0, 2, 3, 1))


def test_registered_networks_are_looked_at_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS.load()
    monkeypatch.setattr(MODELS, "_entries", {**MODELS._entries})  # for this test alone
    MODELS.register("registered_elsewhere", source="a user's own")(Registered)
    spec = RunSpec.parse(
        {**TINY, "student": "registered_elsewhere", "paths": ["attention_transfer"], "storage": str(tmp_path)}
    )
    with pytest.raises(UserError, match=r"the student \(Registered\): features\[0\].*\(N, H, W, C\)"):
        distill(spec, teacher=Own())
