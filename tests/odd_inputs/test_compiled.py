"""Networks that torch.compile has wrapped: taken, trained, resumed, and saved under their own names.

Weights with ``_orig_mod.`` in their names: pytorch/pytorch#101107.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_kd import Outputs, distill
from ray_kd.models import create_model
from ray_kd.models.compiled import is_compiled, load_own_state, own_state
from ray_kd.models.tapped import TappedModel
from tests.helpers import tiny


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> None:
    torch.compiler.reset()  # after too many networks PyTorch compiles no more


class Net(nn.Module):
    """A user's network, without a length."""

    stage_channels = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)

    def forward(self, image: Tensor) -> Outputs:
        feature = self.body(image)
        return Outputs((feature,), self.head(feature.relu().mean((2, 3))))


class Empty(Net):
    """One whose length is 0, which makes it false."""

    def __len__(self) -> int:
        return 0


def compiled(how: str) -> nn.Module:
    torch.manual_seed(3)
    net = Net()
    if how == "a part":
        net.body = torch.compile(net.body, backend="eager")  # type: ignore[assignment]
    elif how == "in place":
        net.compile(backend="eager")
    elif how == "all":
        return torch.compile(net, backend="eager")
    elif how == "twice":
        return torch.compile(nn.Sequential(torch.compile(net, backend="eager")), backend="eager")
    return net


def weights(storage: Path, summary: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    folder = storage / "runs" / summary["identity"]
    return {name: load_file(folder / f"{name}.safetensors") for name in ("student", "best")}


@pytest.mark.parametrize("how", ["all", "a part", "in place"])
def test_a_compiled_student_trains_as_the_plain_one(how: str, tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=["attention_transfer", "soft_target"])
    plain = weights(tmp_path, distill(spec, student=compiled("none"), teacher=Net(), key="plain"))
    summary = distill(spec, student=compiled(how), teacher=Net(), key=how)
    assert summary["status"] == "finished"
    for name, state in weights(tmp_path, summary).items():
        assert state.keys() == Net().state_dict().keys()
        for key, value in state.items():
            torch.testing.assert_close(value, plain[name][key], msg=key)


def test_a_compiled_teacher_is_taken(tmp_path: Path) -> None:
    teacher = torch.compile(Net(), backend="eager")
    spec = tiny(tmp_path, paths=["attention_transfer"])
    assert distill(spec, student=Net(), teacher=teacher)["status"] == "finished"


def test_a_student_of_length_0_is_not_none(tmp_path: Path) -> None:
    summary = distill(tiny(tmp_path), student=Empty(), key="empty")
    assert weights(tmp_path, summary)["student"].keys() == Net().state_dict().keys()


def test_a_state_goes_from_compiled_to_plain_and_back() -> None:
    for how in ("all", "a part", "in place", "twice"):
        one = compiled(how)
        assert is_compiled(one)
        state = own_state(one)
        assert not [name for name in state if "_orig_mod" in name]
        plain: nn.Module = nn.Sequential(Net()) if how == "twice" else Net()
        plain.load_state_dict(state)
        changed = {name: value + 1 for name, value in state.items()}
        load_own_state(one, changed)
        assert all(torch.equal(value, changed[name]) for name, value in own_state(one).items())
    assert not is_compiled(Net())


def built(classes: int, channels: int) -> nn.Module:
    """A factory's network that comes compiled."""
    body = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    return torch.compile(net, backend="eager")


def test_a_factory_may_compile(tmp_path: Path) -> None:
    student = {"name": "factory", "build": f"{__name__}:built", "taps": ["0.1", "0"]}
    options = {key: value for key, value in student.items() if key != "name"}
    model = create_model("factory", classes=10, channels=1, **options)
    assert model.stage_channels == (4, 4)
    assert not [name for name in model.state_dict() if "_orig_mod" in name or name.startswith("net.")]
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    image, net = torch.randn(2, 1, 8, 8), model.net._orig_mod
    expected = net[0][1](net[0][0](image))
    found = model.eval().train()(image)
    assert float(found.features[0].detach().min()) < 0
    torch.testing.assert_close(found.features[0], expected)
    torch.testing.assert_close(found.features[1], expected.relu())
    teacher = {"model": {"name": "digits_cnn", "width": 4}, "at_chance": "go_on", "weights": "initial"}
    spec = tiny(tmp_path, student=student, teacher=teacher, paths=["attention_transfer"])
    summary = distill(spec)
    own = torch.nn.Sequential(*(part for part in built(10, 1)._orig_mod))  # type: ignore[attr-defined]
    own.load_state_dict(weights(tmp_path, summary)["student"])


def test_a_compiled_network_is_looked_at_as_it_was_written() -> None:
    """Looking compiles nothing: it would be thrown away, and again for every size."""
    seen: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(1)
        return graph.forward

    net = torch.compile(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2)), backend=backend)
    model = TappedModel(net, ["0"], "student")
    model.predict = lambda image: Outputs(logits=net(image))  # type: ignore[method-assign]
    model.measure(1, 8)
    assert not seen
    model(torch.randn(2, 1, 8, 8))
    assert seen
