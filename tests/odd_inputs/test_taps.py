"""Taps hand on what a module returned, of the call that was chosen.

In-place ReLU behind a hooked module: pytorch/pytorch#95617, pytorch/pytorch#61519; one module called twice:
meta-pytorch/captum#201.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.sync_norm import synchronise
from ray_kd.models.tapped import TappedModel
from tests.helpers import TINY

TAPS = ("bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.conv2", "layer4")


def by_hand(net: Any, image: Tensor) -> list[Tensor]:
    """What those modules of a ResNet return, nothing done in place."""
    first = net.bn1(net.conv1(image))
    around = net.maxpool(first.relu())
    block = net.layer1[0]
    second = block.bn1(block.conv1(around))
    third = block.bn2(block.conv2(second.relu()))
    rest = net.layer1[1]((third + around).relu())
    block = net.layer2[0]
    fourth = block.conv2(block.bn1(block.conv1(rest)).relu())
    return [first, second, third, fourth, net.layer4(net.layer3(net.layer2(rest)))]


def resnet() -> Any:
    return create_model("torchvision", classes=5, channels=3, arch="resnet18", taps=TAPS)


@pytest.mark.parametrize("training", [False, True])
def test_a_tap_hands_on_what_the_module_returned(training: bool) -> None:
    model = resnet().train(training)
    image = torch.randn(2, 3, 64, 64)
    for _ in range(2):  # not in the first pass alone
        expected = by_hand(copy.deepcopy(model.net), image)
        found = model(image).features
        for name, one, other in zip(TAPS, found, expected, strict=True):
            torch.testing.assert_close(one, other, msg=name)
        assert float(found[0].detach().min()) < -1


def test_a_copy_is_made_where_something_changes_the_tensor_alone() -> None:
    model = resnet()
    kept = [hook.kept for hook in model._hooks]
    assert [k[True] for k in kept] == [k[False] for k in kept] == [False, False, False, True, True]


def test_gradients_are_those_of_what_was_returned() -> None:
    model = resnet().eval()
    twin, image = copy.deepcopy(model.net), torch.randn(2, 3, 32, 32)
    weights = [torch.randn_like(feature) for feature in model(image).features]
    outputs = model(image)
    pairs = zip(outputs.features, weights, strict=True)
    sum(((f * w).sum() for f, w in pairs), outputs.logits.square().sum()).backward()
    pairs = zip(by_hand(twin, image), weights, strict=True)
    sum(((f * w).sum() for f, w in pairs), twin(image).square().sum()).backward()
    for (name, one), (_, other) in zip(model.net.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_a_tap_under_autocast() -> None:
    model, image = resnet().eval(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(image).features[0]
        expected = by_hand(copy.deepcopy(model.net), image)[0]
    assert torch.equal(found, expected)
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("whole", [True, False], ids=["all of it", "the network alone"])
def test_a_tap_under_compile(whole: bool) -> None:
    image = torch.randn(2, 3, 32, 32)
    net = torchvision.models.resnet18(num_classes=5)
    expected = by_hand(copy.deepcopy(net), image)
    net.eval()
    inner = net if whole else torch.compile(net, backend="aot_eager")
    model: nn.Module = TappedModel(inner, TAPS, "student")
    model.measure(3, 64)  # type: ignore[operator]
    model = torch.compile(model, backend="aot_eager") if whole else model
    model.train()
    for one, other in zip(model(image).features, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_network_that_ran_compiled_before_its_taps_says_so() -> None:
    torch.compiler.reset()  # after too many networks PyTorch compiles no more, and calls all hooks
    net = torch.compile(small(), backend="eager")
    net(torch.randn(2, 3, 8, 8))
    model = TappedModel(net, ["0"], "student")
    model.measure(3, 8)
    with pytest.raises(UserError, match="compiled and run before its taps were set"):
        model(torch.randn(2, 3, 8, 8))


def test_under_inference_mode_and_activation_checkpoints() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, image: Tensor) -> Tensor:
            found = checkpoint(lambda x: self.norm(self.body(x)).relu_(), image, use_reentrant=False)
            return found.mean((2, 3))

    model = TappedModel(Again(), ["norm"], "student")
    model.measure(3, 8)
    image = torch.randn(2, 3, 8, 8)
    outputs = model(image)
    assert float(outputs.features[0].detach().min()) < 0
    (outputs.features[0].square().sum() + outputs.logits.sum()).backward()
    assert not model._watch.seen
    with torch.inference_mode():
        assert float(model.eval()(image).features[0].min()) < 0


class Fickle(nn.Module):
    """Changes its feature in place only for bright images, or only while it trains."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when, self.body = when, nn.Conv2d(1, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        found = self.body(image)
        if self.training if self.when == "training" else image.mean() > 1:
            found.mul_(0)
        return found.mean((2, 3))


def test_what_is_done_in_place_in_training_alone_is_seen() -> None:
    model = TappedModel(Fickle("training"), ["body"], "student")
    model.measure(1, 4)
    image = torch.randn(2, 1, 4, 4)
    assert model._hooks[0].kept == {False: True, True: False}
    for training in (True, False):
        assert torch.equal(model.train(training)(image).features[0], model.net.body(image))


def test_what_nobody_could_see_before_is_an_error() -> None:
    """A network that asks for values cannot be looked at in training: there a copy is always made."""
    model = TappedModel(Fickle("bright"), ["body"], "student")
    model.measure(1, 4)
    bright = torch.ones(2, 1, 4, 4) * 2
    assert torch.equal(model.train()(bright).features[0], model.net.body(bright))
    with pytest.raises(UserError, match=r"'body'.*changed in place"):
        model.eval()(bright)


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_all_our_networks_hand_on_what_stands() -> None:
    """No stage of a registered network is changed in place behind its tap."""
    nets = [
        "digits_cnn",
        "cifar_resnet",
        "wrn",
        "vgg",
        "mobilenet_v2",
        "shufflenet_v1",
        "shufflenet_v2",
        "resnet",
    ]
    for name in [*nets, "scenes_segnet"]:
        model = create_model(name, classes=3, channels=3)
        returned: list[Any] = []
        if name != "scenes_segnet":
            for stage in model.stages:
                stage.register_forward_hook(lambda _, __, out, r=returned: r.append((out, out._version)))
        features = model(torch.randn(2, 3, 32, 32)).features
        assert all(value._version == was for value, was in returned), name
        assert len(features) == len(model.stage_channels)


class Twice(nn.Module):
    """One ReLU for two places, as every block of torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu, self.two = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.relu(self.two(self.relu(self.one(image)))).mean((2, 3)))


def twice(classes: int, channels: int) -> nn.Module:
    return Twice()


def test_a_module_that_is_called_twice_asks_which_call() -> None:
    with pytest.raises(UserError, match=r"'relu' is called 2 times.*0 to 1.*\{module: relu, call: 0\}"):
        create_model("factory", classes=5, channels=3, build=f"{__name__}:twice", taps=["relu"])
    with pytest.raises(UserError, match=r"'layer1\.0\.relu' is called 2 times"):
        create_model("torchvision", classes=5, channels=3, arch="resnet18", taps=["layer1.0.relu"])


def test_a_chosen_call_is_the_one_that_is_read() -> None:
    taps = [{"module": "relu", "call": 0}, {"module": "relu", "call": 1}]
    model = create_model("factory", classes=5, channels=3, build=f"{__name__}:twice", taps=taps)
    assert model.stage_channels == (4, 6)
    image, net = torch.randn(2, 3, 8, 8), model.net
    first = net.one(image).relu()
    for one, other in zip(model(image).features, [first, net.two(first).relu()], strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match=r"called 2 times.*0 to 1"):
        create_model(
            "factory", classes=5, channels=3, build=f"{__name__}:twice", taps=[{"module": "relu", "call": 2}]
        )


def test_calls_in_a_run_file() -> None:
    student = {"name": "factory", "build": f"{__name__}:twice", "taps": [{"module": "relu", "call": 1}]}
    spec = RunSpec.parse({**TINY, "student": student})
    assert spec.to_dict()["student"]["taps"] == [{"module": "relu", "call": 1}]
    assert RunSpec.parse(spec.to_dict()).identity() == spec.identity()
    for wrong in ({"module": "relu", "calls": 1}, {"call": 1}, {"module": "relu", "call": -1}):
        with pytest.raises(UserError, match="taps"):
            RunSpec.parse({**TINY, "student": {**student, "taps": [wrong]}})


def test_taps_that_are_named_make_another_run_than_before() -> None:
    """They may read other numbers; default taps read what they always did."""
    for options in ({}, {"taps": ["layer1"]}):
        student = {"name": "torchvision", "arch": "resnet18", **options}
        essence = RunSpec.parse({**TINY, "student": student}).student.essence()
        assert ("reading" in essence) == bool(options)


def test_default_taps_need_no_copy() -> None:
    """So that what they read, and what it costs, is what it was."""
    archs = ["resnet18", "regnet_x_400mf", "densenet121", "mobilenet_v2", "mobilenet_v3_small"]
    with torch.device("meta"):
        for arch in [*archs, "shufflenet_v2_x0_5", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_32"]:
            model = create_model("torchvision", classes=3, channels=3, arch=arch)
            assert all(hook.kept[False] for hook in model._hooks), arch


def test_a_module_of_two_names_is_found_by_either() -> None:
    net = nn.Module()
    net.one = nn.Conv2d(3, 4, 3)
    net.same = net.one
    net.forward = lambda image: net.one(image).mean((2, 3))  # type: ignore[method-assign]
    model = TappedModel(net, ["same"], "student")
    model.measure(3, 8)
    assert model.stage_channels == (4,)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_tap_on_a_norm_stays_when_it_is_synchronised(device: str) -> None:
    """Only the exchange is looked at; no device is asked for anything."""
    model = synchronise(resnet(), torch.device(device))
    norm = model.net.bn1  # type: ignore[union-attr]
    assert type(norm).__name__ == {"cpu": "CpuSyncBatchNorm", "cuda": "SyncBatchNorm"}[device]
    assert norm._forward_hooks
    assert model.eval()(torch.randn(2, 3, 32, 32)).features[0].shape == (2, 64, 16, 16)
    plain = torchvision.models.resnet18(num_classes=5)
    assert model.state_dict().keys() == plain.state_dict().keys()
