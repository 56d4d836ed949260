"""torchvision's networks and one's own: taps by path, weights under their own names."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.tapped import TappedModel
from ray_kd.outputs import Outputs
from ray_kd.paths import create_path
from ray_kd.training.preflight import check_run
from tests.helpers import TINY


def resnet18(**options: Any) -> Any:
    return create_model("torchvision", classes=5, channels=3, arch="resnet18", **options)


def test_taps_and_logits_are_the_networks_own_and_so_are_the_names() -> None:
    model = resnet18().eval()
    plain = torchvision.models.resnet18(num_classes=5).eval()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 64, 64)
    outputs = model(image)
    first = plain.layer1(plain.maxpool(plain.relu(plain.bn1(plain.conv1(image)))))
    expected = [first, plain.layer2(first)]
    assert torch.equal(outputs.logits, plain(image))
    assert all(map(torch.equal, outputs.features, expected))
    assert model.stage_channels == (64, 128, 256, 512)
    plain.fc.bias.data += 1
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(image).logits, plain(image))
    around = nn.ModuleDict({"student": model})
    assert {name.removeprefix("student.") for name in around.state_dict()} == plain.state_dict().keys()
    around.load_state_dict(around.state_dict())


def test_a_copy_has_taps_of_its_own() -> None:
    model = resnet18(taps=["layer1", "layer3.0.conv2"]).eval()
    image = torch.randn(2, 3, 32, 32)
    before = [feature.clone() for feature in model(image).features]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert not torch.equal(twin(image).features[1], before[1])
    assert all(map(torch.equal, model(image).features, before))
    assert [tuple(f.shape[1:]) for f in before] == [(64, 8, 8), (256, 2, 2)]


def test_a_compiled_network_gives_the_same() -> None:
    model = TappedModel(small(5, 3), ["0", "1"], "student")
    image = torch.randn(2, 3, 8, 8)
    compiled, plain = torch.compile(model, backend="eager")(image), model(image)
    torch.testing.assert_close(compiled.logits, plain.logits)
    for one, other in zip(compiled.features, plain.features, strict=True):
        torch.testing.assert_close(one, other)


def test_softmax_regression_reads_the_head_where_there_is_one() -> None:
    teacher = resnet18().eval()
    path = create_path(
        "softmax_regression", student_channels=(512,) * 4, teacher_channels=(512,) * 4, adapter=None
    )
    path.bind(teacher)
    outputs = teacher(torch.randn(2, 3, 32, 32))
    assert float(path(outputs, path.target(outputs))["softmax_regression"].detach()) == pytest.approx(
        0, abs=1e-10
    )
    wide = create_model("wrn", classes=5, channels=3).eval()
    path = create_path(
        "softmax_regression", student_channels=(128,) * 3, teacher_channels=(128,) * 3, adapter=None
    )
    path.bind(wide)
    outputs = wide(torch.randn(2, 3, 32, 32))
    assert float(path(outputs, path.target(outputs))["softmax_regression"].detach()) == pytest.approx(
        0, abs=1e-10
    )
    with pytest.raises(UserError, match="head"), torch.device("meta"):
        path.bind(create_model("torchvision", classes=5, channels=3, arch="mobilenet_v2"))


@pytest.mark.parametrize(
    ("arch", "channels"),
    [
        ("mobilenet_v3_small", (16, 24, 48, 96)),
        ("vit_b_32", (768,) * 4),
        ("swin_t", (96, 192, 384, 768)),
        ("regnet_x_400mf", (32, 64, 160, 400)),
    ],
)
def test_families_have_maps_of_their_resolutions(arch: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = create_model("torchvision", classes=5, channels=1, arch=arch)
        outputs = model(torch.empty(2, 1, 224, 224))
    assert model.stage_channels == tuple(feature.shape[1] for feature in outputs.features) == channels
    assert all(feature.dim() == 4 for feature in outputs.features)
    assert outputs.logits.shape == (2, 5)


def test_the_maps_of_a_vit_are_its_tokens_in_their_places() -> None:
    with torch.device("meta"):
        model = create_model("torchvision", classes=5, channels=3, arch="vit_b_32")
    tokens = torch.randn(2, 1 + 4, 7)
    feature = model.as_map(0, tokens, (64, 64))
    assert feature.shape == (2, 7, 2, 2)
    assert torch.equal(feature[0, :, 1, 0], tokens[0, 1 + 2])


@pytest.mark.parametrize(
    ("arch", "channels", "kind"),
    [
        ("deeplabv3_resnet18", (64, 128, 256, 512), "resnet18"),
        ("fcn_resnet50", (256, 512, 1024, 2048), "fcn_resnet50"),
        ("lraspp_mobilenet_v3_large", (24, 40, 112, 160), "lraspp_mobilenet_v3_large"),
    ],
)
def test_segmentation_networks_answer_at_their_own_resolution(
    arch: str, channels: tuple[int, ...], kind: str
) -> None:
    with torch.device("meta"):
        model = create_model("torchvision_segmentation", classes=21, channels=3, arch=arch)
        outputs = model(torch.empty(2, 3, 64, 96))
        assert outputs.logits.shape == (2, 21, 8, 12)
        assert model.stage_channels == channels
        if kind == arch:
            plain = torchvision.models.get_model(arch, num_classes=21, weights_backbone=None)
            assert plain.state_dict().keys() == model.state_dict().keys()


def test_segmentation_logits_are_torchvisions_before_they_are_enlarged() -> None:
    model = create_model("torchvision_segmentation", classes=4, channels=3, arch="fcn_resnet18").eval()
    image = torch.randn(1, 3, 48, 48)
    large = nn.functional.interpolate(
        model(image).logits, size=(48, 48), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(model.net(image)["out"], large)
    strided = torchvision.models.resnet18().eval()
    strided.load_state_dict({**strided.state_dict(), **model.net.backbone.state_dict()})
    middle = strided.layer2(strided.layer1(strided.maxpool(strided.relu(strided.bn1(strided.conv1(image))))))
    torch.testing.assert_close(model(image).features[1], middle)
    assert model(image).features[3].shape[-2:] == middle.shape[-2:], "dilated, not strided"


def small(classes: int, channels: int, width: int = 4) -> nn.Module:
    """A network as a user would write it."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(2 * width, classes),
    )


class Own(nn.Module):
    """One that answers in Outputs, and looks at values on its way, which meta tensors do not have."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, classes)

    def forward(self, image: Tensor) -> Outputs:
        assert float(image.sum()) < 1e9
        feature = self.body(image)
        return Outputs((feature,), self.head(feature.mean((2, 3))))


def own(classes: int, channels: int) -> nn.Module:
    return Own(classes)


def seven(channels: int, **_: Any) -> nn.Module:
    return small(7, channels)


HERE = __name__


def test_a_factory_makes_any_network() -> None:
    options = {"build": f"{HERE}:small", "options": {"width": 6}}
    model = create_model("factory", classes=5, channels=2, seed=3, taps=["0", "1"], **options)
    assert model.stage_channels == (6, 12)
    again = create_model("factory", classes=5, channels=2, seed=3, taps=["0", "1"], **options)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    small(5, 2, 6).load_state_dict(model.state_dict())
    mine = create_model("factory", classes=5, channels=1, build=f"{HERE}:own")
    assert mine.stage_channels == (3,)
    assert isinstance(mine.head, nn.Linear)
    assert mine(torch.randn(2, 1, 8, 8)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ({"name": "factory", "build": "no_such_package.nets:build"}, ["no_such_package", "PYTHONPATH"]),
        ({"name": "factory", "build": f"{HERE}:smal"}, ["no function 'smal'", "'small'"]),
        ({"name": "factory", "build": f"{HERE}:small", "options": {"wdth": 3}}, ["'wdth'", "classes="]),
        ({"name": "factory", "build": f"{HERE}:seven"}, ["7 classes", "expected 10"]),
        ({"name": "factory", "build": "builtins:dict"}, ["torch.nn.Module", "dict"]),
        ({"name": "factory", "build": f"{HERE}:small", "taps": ["3"]}, ["'3'", "(N, C, H, W)"]),
        ({"name": "torchvision", "arch": "resnet19"}, ["'resnet19'", "'resnet18'"]),
        ({"name": "torchvision", "arch": "resnet18", "taps": ["layr2"]}, ["'layr2'", "'layer2'", "layer3"]),
        ({"name": "torchvision", "arch": "resnet18", "taps": ["layer2.9"]}, ["Modules of layer2: 0, 1"]),
        ({"name": "torchvision", "arch": "resnet18", "taps": ["fc"]}, ["'fc'", "(N, C, H, W)"]),
        ({"name": "torchvision", "arch": "resnet18", "taps": ["layer1", "layer1"]}, ["distinct"]),
        ({"name": "torchvision", "arch": "resnet18", "arguments": {"wide": 2}}, ["arguments", "wide"]),
        ({"name": "torchvision", "arch": "resnet18", "weights": "IMAGENET1K_V3"}, ["IMAGENET1K_V1"]),
        ({"name": "torchvision", "arch": "resnet18", "weights": "none.pt"}, ["no file 'none.pt'"]),
        ({"name": "resnet", "weights": "IMAGENET1K_V1"}, ["'resnet'", "torchvision"]),
    ],
)
def test_mistakes_are_found_before_anything_trains(student: dict[str, Any], says: list[str]) -> None:
    spec = RunSpec.parse({**TINY, "student": student})
    with pytest.raises(UserError) as error:
        check_run(spec)
    for word in says:
        assert word in str(error.value), str(error.value)


def test_a_place_that_is_none_is_refused_with_the_file() -> None:
    with pytest.raises(UserError, match=r"my_package\.my_module:my_function"):
        RunSpec.parse({**TINY, "student": {"name": "factory", "build": "my_nets.build"}})


def test_a_tap_that_takes_no_part_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.used(image).mean((2, 3))

    with pytest.raises(UserError, match="'idle' took no part"):
        TappedModel(Idle(), ["used", "idle"], "student").measure(1, 8)


def test_measuring_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    net = small(5, 3)
    net.insert(1, nn.BatchNorm2d(4))
    kept, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    model = TappedModel(net, ["0", "2"], "student")
    model.measure(3, 16)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, net.state_dict().values(), kept.values()))


def test_a_mistake_in_the_network_itself_comes_out_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 6, 3))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 5 channels, but got 4"):
        TappedModel(net, ["0"], "student").measure(3, 16)
