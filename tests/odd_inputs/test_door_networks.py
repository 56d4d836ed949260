"""Networks as people have them: their answers are taken, or one message names the module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_kd.cluster.plan import plan_table
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.outputs import Outputs
from ray_kd.training.distill import distill
from ray_kd.training.preflight import check_run
from tests.helpers import TINY, tiny
from tests.odd_inputs.doors import Net, classes, figures, net, pictures, spec


def sets(size: int = 8) -> dict[str, Any]:
    rows = list(zip(pictures(size=size), classes(), strict=True))
    return {"train": rows, "validation": rows, "test": rows}


class Answers(nn.Module):
    """The network of these tests, its answer in another form."""

    def __init__(self, form: str, **options: int) -> None:
        super().__init__()
        self.net, self.form = net(**options), form

    def forward(self, image: Tensor) -> Any:
        outputs = self.net(image)
        logits = outputs.logits
        return {
            "bare": logits,
            "out": {"out": logits, "aux": logits * 0},
            "logits": {"loss": None, "logits": logits},
            "tuple": (logits, outputs.features[0]),
            "other mapping": {"scores": logits},
            "nothing": None,
            "logits and features": (logits, [*outputs.features]),
            "features alone": Outputs(outputs.features),
            "a map of logits": outputs.features[0],
        }[self.form]


@pytest.mark.parametrize("form", ["bare", "out", "logits"])
def test_logits_are_taken_alone_or_out_of_a_mapping(tmp_path: Path, form: str) -> None:
    plain = figures(distill(spec(tmp_path / "plain"), student=net(), **sets()))
    student = Answers(form)
    summary = distill(spec(tmp_path / "odd"), student=student, **sets())
    assert figures(summary) == plain
    kept = load_file(tmp_path / "odd" / "runs" / summary["identity"] / "student.safetensors")
    assert kept.keys() == student.state_dict().keys(), "it is saved under its own names"
    assert all(torch.equal(kept[name], value) for name, value in student.state_dict().items())


def test_features_are_taken_beside_logits(tmp_path: Path) -> None:
    options = {"teacher": {**TINY["teacher"], "at_chance": "go_on"}, "paths": ["attention_transfer"]}
    plain, odd = (
        figures(distill(spec(tmp_path / name, **options), student=student, teacher=net(), **sets()))
        for name, student in (("plain", net()), ("odd", Answers("logits and features")))
    )
    assert plain == odd


@pytest.mark.parametrize("form", ["bare", "out", "logits"])
def test_a_teacher_s_too(tmp_path: Path, form: str) -> None:
    options = {"teacher": {**TINY["teacher"], "at_chance": "go_on"}, "paths": ["soft_target"]}
    plain, odd = (
        figures(distill(spec(tmp_path / name, **options), student=net(), teacher=teacher, **sets()))
        for name, teacher in (("plain", net()), ("odd", Answers(form)))
    )
    assert plain == odd


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("tuple", ["student (Answers)", "tuple of 2", "return Outputs"]),
        ("other mapping", ["student (Answers)", "scores", "'out' or 'logits'"]),
        ("nothing", ["student (Answers)", "NoneType"]),
        ("features alone", ["student (Answers)", "logits (N, K)", "none"]),
        ("a map of logits", ["student (Answers)", "logits (N, K)", "[2, 4, 8, 8]"]),
    ],
)
def test_an_answer_that_nobody_can_read_is_one_message(tmp_path: Path, form: str, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        distill(spec(tmp_path), student=Answers(form), **sets())
    for word in named:
        assert word in str(caught.value), str(caught.value)
    assert not list(tmp_path.rglob("epochs.jsonl"))


def test_a_teacher_of_a_thousand_classes_for_four(tmp_path: Path) -> None:
    run = spec(tmp_path, teacher={**TINY["teacher"], "at_chance": "go_on"}, paths=["soft_target"])
    with pytest.raises(
        UserError, match=r"teacher 'teacher' has logits for 1000 classes, and the student for 4"
    ):
        distill(run, student=net(), teacher=net(classes=1000), **sets())


def test_a_network_cannot_teach_itself(tmp_path: Path) -> None:
    """A teacher is frozen: what it shares with the student would never train."""
    run = spec(tmp_path, teacher={**TINY["teacher"], "at_chance": "go_on"}, paths=["soft_target"])
    both = net()
    with pytest.raises(UserError, match="shares weights with the student"):
        distill(run, student=both, teacher=both, **sets())
    assert all(parameter.requires_grad for parameter in both.parameters())


def test_a_student_of_too_few_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"student \(Net\): its logits are for 3 classes, .* has 4"):
        distill(spec(tmp_path), student=net(classes=3), **sets())


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_what_is_no_detector(tmp_path: Path, name: str) -> None:
    boxes = {"boxes": torch.tensor([[1.0, 1.0, 5.0, 5.0]]), "box_label": torch.tensor([0])}
    rows = [{"image": image, **boxes} for image in pictures(size=8)]
    changes = {"student": "scenes_detector", "teacher": {"at_chance": "go_on"}} if name == "teacher" else {}
    run = spec(tmp_path, task="detection", **changes)
    with pytest.raises(UserError, match=rf"{name}.* \(Net\): detection needs .* with a head"):
        distill(run, **{name: net()}, train=rows, validation=rows, test=rows)
    assert not list(tmp_path.iterdir())


def test_channels_that_are_not_as_said(tmp_path: Path) -> None:
    student = net()
    student.stage_channels = (7,)
    with pytest.raises(UserError, match=r"student \(Net\): its stage_channels say \[7\], .* have \[4\]"):
        distill(spec(tmp_path), student=student, **sets())


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_what_is_no_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: expected a torch.nn.Module, got function"):
        distill(spec(tmp_path), **{name: lambda image: image})


class Fixed(nn.Module):
    """A network for images of 8x8 alone, as a ViT with its table of positions is."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 4, stride=4)
        self.body = nn.Sequential(Positions(), nn.Flatten())
        self.head = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.patches(image)))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 6, 2, 2))

    def forward(self, patches: Tensor) -> Tensor:
        return patches + self.table


class Single(nn.Module):
    """A network whose BatchNorm sees one number a channel of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).flatten(1))


class Values(Fixed):
    """One that asks for values, which no meta tensor has; nothing else is wrong with it."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image * (1 if float(image.sum()) > 1e9 else 2))


def fixed(classes: int, channels: int) -> nn.Module:
    return Fixed()


def values(classes: int, channels: int) -> nn.Module:
    return Values()


def single(classes: int, channels: int) -> nn.Module:
    return Single()


def broken(classes: int, channels: int) -> nn.Module:
    raise KeyError("no_such_option")


def factory(build: str, **options: Any) -> dict[str, Any]:
    return {"name": "factory", "build": f"{__name__}:{build}", "image_size": 8, **options}


SCENES = {
    "dataset": {"name": "scenes", "size": 24},
    "task": "segmentation",
    "views": "none",
}


@pytest.mark.parametrize("part", ["student", "teacher"])
@pytest.mark.parametrize("build", ["fixed", "values"])
def test_a_network_of_a_fixed_size_is_found_by_the_plan_with_its_module(
    tmp_path: Path, part: str, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the teacher trains: nothing is written at all."""
    monkeypatch.setattr("ray_kd.data.digits.Digits.image_shape", lambda options: (1, 12, 12))
    changes: dict[str, Any] = {"student": factory(build)} if part == "student" else {}
    if part == "teacher":
        changes["teacher"] = {**TINY["teacher"], "model": factory(build)}
    run = tiny(tmp_path, paths=["soft_target"], **changes)
    sweep = SweepSpec.parse({"name": "s", "base": run.to_dict(), "cells": {"a": {}}, "seeds": [0]})
    for look in (lambda: check_run(run), lambda: plan_table(sweep), lambda: distill(run)):
        with pytest.raises(UserError) as caught:
            look()
        message = str(caught.value)
        for word in (part, "forward pass", "'body.0' (Positions)", "[2, 1, 12, 12]"):
            assert word in message, message
        assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_what_only_the_meta_device_cannot_do_is_no_mistake(tmp_path: Path) -> None:
    check_run(tiny(tmp_path, student=factory("values"), paths=["soft_target"]))


def test_a_factory_that_fails_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"student \(factory\): it cannot be built: KeyError: 'no_such_option'"
    ):
        check_run(tiny(tmp_path, student=factory("broken"), paths=[]))


def test_a_batch_of_one_and_a_batchnorm_on_one_pixel(tmp_path: Path) -> None:
    run = tiny(tmp_path, student=factory("single"), paths=[], teacher=None, training={"batch_size": 1})
    with pytest.raises(
        UserError, match=r"student.*\[1, 1, 8, 8\].*'body\.1' \(BatchNorm2d\).*more than 1 value"
    ):
        check_run(run)
    with pytest.raises(UserError, match=r"student.*'body\.1' \(BatchNorm2d\)"):
        distill(spec(tmp_path, training={"epochs": 1, "batch_size": 1}), student=Single(), **sets())
    check_run(tiny(tmp_path, student=factory("single"), paths=[], teacher=None, training={"batch_size": 2}))


class Breaks(Net):
    """A mistake of one's own in a module below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(self.conv, nn.Conv2d(5, 4, 1))  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_mistake_in_an_own_network_names_its_module(tmp_path: Path, name: str) -> None:
    run = spec(tmp_path, teacher={**TINY["teacher"], "at_chance": "go_on"}, paths=["soft_target"])
    networks = {"student": net(), "teacher": net(), name: Breaks()}
    with pytest.raises(
        UserError, match=rf"{name}.*\(Breaks\).*'conv\.1' \(Conv2d\): RuntimeError: .*channels"
    ):
        distill(run, **networks, **sets())
    assert not list(tmp_path.rglob("epochs.jsonl"))


def test_looking_leaves_a_network_as_it_was(tmp_path: Path) -> None:
    """Statistics, modes and the random stream: a run that is refused late has changed nothing."""
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(1))
    student.extend([nn.Flatten(), nn.Linear(4, 4)])
    student[1].eval()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    modes = [module.training for module in student.modules()]
    run = spec(tmp_path, teacher={**TINY["teacher"], "at_chance": "go_on"}, paths=["soft_target"])
    given = {"student": student, "teacher": net(classes=1000), **sets()}
    drawn = torch.get_rng_state()
    with pytest.raises(UserError, match="1000"):
        distill(run, **given)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    assert [module.training for module in student.modules()] == modes
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_torchvision_vit_of_another_size(tmp_path: Path) -> None:
    """The case that trained its teacher and ended in 105 lines."""
    model = {"name": "torchvision", "arch": "vit_b_32", "arguments": {"image_size": 64}}
    run = RunSpec.parse(
        {**TINY, "student": model, "storage": str(tmp_path), "paths": ["soft_target"], "views": "none"}
    )
    with pytest.raises(UserError) as caught:
        distill(run)
    assert "student (torchvision)" in str(caught.value)
    assert "8" in str(caught.value)
    assert "64" in str(caught.value)
    assert not list(tmp_path.iterdir())
