"""What goes wrong in a path, an aggregator or a network is said before step 1, and by whose name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.registry import AGGREGATORS, PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.logit import LogitOptions, LogitPath
from ray_kd.training.distill import distill
from ray_kd.training.preflight import check_run
from tests.helpers import TINY, tiny
from tests.odd_inputs.doors import Net, classes, pictures, spec


class WrongOptions(LogitOptions):
    """Options of a path with a mistake."""


class Wrong(LogitPath):
    """A path with a mistake."""

    Options: ClassVar[Any] = WrongOptions
    name: ClassVar[str] = "wrong"
    version: ClassVar[int] = 1
    source: ClassVar[str] = ""
    mistake: ClassVar[str] = ""

    def setup(self, *given: Any, **options: Any) -> None:
        super().setup(*given, **options)
        if self.mistake == "setup":
            raise KeyError("no_such_thing")

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        if self.mistake == "target":
            raise IndexError("list index out of range")
        return super().target(teacher)

    def loss(self, student: Tensor, teacher: Tensor, batch: Any) -> Tensor:
        if self.mistake == "loss":
            student = student @ torch.ones(7, 7)
        return (student - teacher).square().mean()


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> type[Wrong]:
    PATHS.load()
    monkeypatch.setitem(PATHS._entries, "wrong", Wrong)
    monkeypatch.setattr(WrongOptions, "component_name", "wrong", raising=False)
    monkeypatch.setattr(WrongOptions, "component_version", 1, raising=False)
    return Wrong


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("setup", r"path 'wrong': it cannot be built: KeyError: 'no_such_thing'"),
        ("loss", r"path 'wrong': it fails on the first batch.*: RuntimeError: .*7x7"),
        ("target", r"targets: a teacher or a path fails on the first batch: IndexError: list index"),
    ],
)
def test_a_path_with_a_mistake_is_named_before_step_1(
    tmp_path: Path, wrong: type[Wrong], monkeypatch: pytest.MonkeyPatch, mistake: str, named: str
) -> None:
    monkeypatch.setattr(wrong, "mistake", mistake)
    run = tiny(tmp_path, paths=["wrong"], teacher={**TINY["teacher"], "weights": "initial"})
    with pytest.raises(UserError, match=named) as caught:
        distill(run)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("epochs.jsonl"))


def test_an_aggregator_with_a_mistake_is_named_by_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(AGGREGATORS.get("equal")):  # type: ignore[misc]
        def __init__(self, *given: Any, **options: Any) -> None:
            raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(AGGREGATORS._entries, "equal", Fails)
    with pytest.raises(UserError, match=r"aggregation \(equal\): it cannot be built: ZeroDivisionError"):
        check_run(tiny(tmp_path, paths=["soft_target"], aggregation="equal"))


class Late(Net):
    """A network that fails on the batch and not on a blank image."""

    def __init__(self) -> None:
        super().__init__()
        self.last = Gate()

    def forward(self, image: Tensor) -> Outputs:
        outputs = super().forward(image)
        return Outputs(outputs.features, self.last(outputs.logits, image))


class Gate(nn.Module):
    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        if image.device.type != "meta" and image.abs().sum() > 0:
            return logits[:, [99]]
        return logits


def test_a_network_that_fails_on_the_batch_alone_names_its_module(tmp_path: Path) -> None:
    rows = list(zip(pictures(), classes(), strict=True))
    run = spec(tmp_path, teacher={**TINY["teacher"], "at_chance": "go_on"}, paths=["soft_target"])
    sets: dict[str, Any] = {"train": rows, "validation": rows, "test": rows}
    with pytest.raises(UserError, match=r"student: its forward pass fails .* 'last' \(Gate\): IndexError"):
        distill(run, student=Late(), teacher=Net(), **sets)
    alone = spec(tmp_path, paths=[], teacher=None)
    with pytest.raises(UserError, match=r"student: its forward pass fails .* 'last' \(Gate\): IndexError"):
        distill(alone, student=Late(), **sets)
    assert not list(tmp_path.rglob("epochs.jsonl"))
