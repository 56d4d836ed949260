"""What is asked before step 1: targets, the way of gradients, teachers that can teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS, PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.data.digits import Digits, DigitsOptions
from ray_kd.models import create_model
from ray_kd.outputs import Outputs
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath
from ray_kd.teacher import LiveTeacher
from ray_kd.teacher.normalise import Renormalise, renormalisation
from ray_kd.training.build import Parts, build
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.preflight import check_parts
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from tests.helpers import TINY, shifted, tiny


class DetachedOptions(AdaptedOptions):
    """Options of a broken path."""


class Detached(AdaptedPath):
    """A path with a mistake: its adapters read nothing of the student, or nothing reads them."""

    Options: ClassVar[Any] = DetachedOptions
    mistake: ClassVar[str] = ""

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {} if self.mistake == "no target" else super().target(teacher)

    def adapt(self, feature: Tensor, stage: int) -> Tensor:
        if self.mistake == "adapter unused":
            return feature[:, :1].expand(-1, self.teacher_channels[stage], -1, -1)
        return super().adapt(feature.detach(), stage)

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        loss = (feature - target).square().mean()
        return loss.detach() if self.mistake == "nothing trains" else loss


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[Detached]:
    PATHS.load()
    monkeypatch.setitem(PATHS._entries, "broken", Detached)
    for attribute, value in (("name", "broken"), ("version", 1), ("source", "")):
        monkeypatch.setattr(Detached, attribute, value, raising=False)
    monkeypatch.setattr(DetachedOptions, "component_name", "broken", raising=False)
    monkeypatch.setattr(DetachedOptions, "component_version", 1, raising=False)
    return Detached


def weights(storage: Path, shift: int = 0, name: str = "trained") -> str:
    """A trained teacher's file, made once for a folder. (Its top-1 is 0.9, where 0.15 is asked for.)"""
    file = storage / f"{name}.safetensors"
    if not file.exists():
        taught = {**TINY["teacher"], "training": {"epochs": 30, "batch_size": 50}}
        spec = shifted(tiny(storage / "teacher", paths=[], teacher=taught), shift)
        ensure_teachers(spec, local_context(spec), ProcessCache())
        run = spec.teacher_run("teacher").identity()
        file.write_bytes((storage / "teacher" / "runs" / run / "best.safetensors").read_bytes())
    return str(file)


def untaught(file: Path) -> str:
    """A file of weights that give every image the same answer: at chance, whatever they were drawn from."""
    model = create_model("digits_cnn", classes=10, channels=1, width=4)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    save_file(model.state_dict(), file)
    return str(file)


def with_weights(storage: Path, file: str, **changes: Any) -> RunSpec:
    teacher = {"model": {"name": "digits_cnn", "width": 4}, "weights": file, **changes}
    return tiny(storage / "results", paths=["soft_target", "hint"], teacher=teacher)


def parts_of(spec: RunSpec, cache: ProcessCache | None = None) -> Parts:
    return build(spec, local_context(spec), cache or ProcessCache())


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("no target", ["'broken' got no target"]),
        ("adapter unused", ["'broken'", "no gradient reaches its 'adapters.0.0.weight'"]),
        ("nothing trains", ["'broken'", "depends on nothing that trains"]),
        ("", ["'broken'", "no gradient reaches the student"]),
    ],
)
def test_a_path_that_teaches_nothing_stops_the_run(
    tmp_path: Path, broken: type[Detached], monkeypatch: pytest.MonkeyPatch, mistake: str, says: list[str]
) -> None:
    monkeypatch.setattr(broken, "mistake", mistake)
    teacher = {**TINY["teacher"], "weights": "initial"}
    spec = tiny(tmp_path, paths=["soft_target", "broken"], teacher=teacher)
    with pytest.raises(UserError) as error:
        distill(spec)
    for word in says:
        assert word in str(error.value), str(error.value)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    paths = ["soft_target", "crd", "vid", "review", "softmax_regression", "rkd", "nst"]
    spec = tiny(tmp_path, paths=paths, teacher={**TINY["teacher"], "weights": "initial"})
    cache, context = ProcessCache(), local_context(spec)
    parts = parts_of(spec, cache)
    modules = nn.ModuleDict({"student": parts.student, "paths": parts.paths})
    before = {name: value.clone() for name, value in modules.state_dict().items()}
    modes = [module.training for module in modules.modules()]
    drawn = torch.get_rng_state()
    check_parts(spec, parts, context, cache)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in modules.state_dict().items())
    assert [module.training for module in modules.modules()] == modes
    assert all(parameter.grad is None for parameter in modules.parameters())
    assert all(path.recording for path in parts.paths)


def test_a_teacher_at_chance_stops_the_run_unless_it_is_meant(tmp_path: Path) -> None:
    file = untaught(tmp_path / "untrained.safetensors")
    with pytest.raises(UserError) as error:
        distill(with_weights(tmp_path, file))
    for word in ("teacher 'teacher'", "no better than chance", "top-1 0.", "0.1000", "at_chance: go_on"):
        assert word in str(error.value), str(error.value)
    stopping, going = with_weights(tmp_path, file), with_weights(tmp_path, file, at_chance="go_on")
    assert stopping.identity() == going.identity(), "it changes no number"
    assert distill(going)["status"] == "finished"
    assert distill(with_weights(tmp_path, "initial"))["status"] == "finished"


@pytest.mark.outcome
def test_every_teacher_is_judged_by_its_stored_predictions(tmp_path: Path, seed_shift: int) -> None:
    """A second teacher too, and a detector."""
    untrained = {"model": {"name": "digits_cnn", "width": 4}, "weights": untaught(tmp_path / "u.safetensors")}
    detects = str(tmp_path / "detector.safetensors")
    save_file(create_model("scenes_detector", classes=10, channels=3, width=8).state_dict(), detects)
    teachers = {"good": {**untrained, "weights": weights(tmp_path, seed_shift)}, "other": untrained}
    paths = [{"name": "soft_target", "teacher": "good"}, {"name": "hint", "teacher": "other"}]
    several = {**TINY, "teachers": teachers, "paths": paths, "targets": "stored", "storage": str(tmp_path)}
    del several["teacher"]
    with pytest.raises(UserError, match=r"teacher 'other' is no better than chance on validation: top-1 0\."):
        distill(shifted(RunSpec.parse(several), seed_shift))
    detector = {
        "task": "detection",
        "dataset": {"name": "scenes", "size": 32, "train": 8, "validation": 8, "test": 8},
        "views": "none",
        "student": {"name": "scenes_detector", "width": 4},
        "teacher": {"model": {"name": "scenes_detector", "width": 8}, "weights": detects},
        "training": {"epochs": 1, "batch_size": 8},
        "paths": ["class_logit"],
    }
    said = []
    for targets in ("live", "stored"):
        with pytest.raises(UserError, match=r"no better than chance on validation: mAP50 0\.00") as error:
            distill(tiny(tmp_path, **detector, targets=targets))
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.outcome
def test_a_teacher_is_judged_once_in_a_process(tmp_path: Path, seed_shift: int) -> None:
    spec = shifted(with_weights(tmp_path, weights(tmp_path, seed_shift)), seed_shift)
    cache = ProcessCache()
    asked: list[int] = []
    parts = parts_of(spec, cache)
    parts.teachers["teacher"].model.register_forward_hook(
        lambda module, given, out: asked.append(len(given[0]))
    )
    for _ in range(2):
        check_parts(spec, parts, local_context(spec), cache)
    # All of validation once, and eight samples to follow the gradients on, once.
    assert sum(asked) == len(parts.dataset.validation) + 8


def test_a_teacher_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    """Computed by hand: back to [0, 1], then the teacher's own mean and deviation."""
    file = weights(tmp_path)
    plain = parts_of(with_weights(tmp_path, file))
    other = parts_of(with_weights(tmp_path, file, normalise={"mean": [0.3], "std": [0.2]}))
    images = plain.dataset.test.gather(torch.arange(5))["image"]
    raw = images * 0.5 + 0.5
    assert raw.min() >= 0
    assert raw.max() <= 1
    model = plain.teachers["teacher"].model
    expected = model((raw - 0.3) / 0.2).logits
    torch.testing.assert_close(other.teachers["teacher"].outputs(images).logits, expected)
    assert torch.equal(plain.teachers["teacher"].outputs(images).logits, model(images).logits)
    batch = {"image": images, "sample": torch.arange(5)}
    torch.testing.assert_close(other.targets.targets(batch)["soft_target"]["soft_target"], expected)


def test_normalisation_is_part_of_the_identity_and_equal_ones_change_no_bit(tmp_path: Path) -> None:
    file = weights(tmp_path)
    specs = [
        with_weights(tmp_path, file, **({"normalise": {"mean": [mean], "std": [0.5]}} if mean else {}))
        for mean in (None, 0.5, 0.3)
    ]
    assert len({spec.identity() for spec in specs}) == 3
    assert parts_of(specs[1]).teachers["teacher"].renormalise is None
    trained = RunSpec.parse(
        {**TINY, "teacher": {**TINY["teacher"], "normalise": {"mean": [0.3], "std": [1]}}}
    )
    assert trained.identity() != RunSpec.parse(TINY).identity()
    assert trained.teacher_run("teacher").identity() == RunSpec.parse(TINY).teacher_run("teacher").identity()


class TonedOptions(DigitsOptions):
    """Options of digits that are normalised as one likes."""

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


class Toned(Digits):
    """Digits that say what they were normalised with."""

    Options: ClassVar[Any] = TonedOptions


def test_a_teacher_trained_on_another_normalisation_sees_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DATASETS.load()
    monkeypatch.setitem(DATASETS._entries, "toned", Toned)
    for owner, attribute in ((Toned, "name"), (TonedOptions, "component_name")):
        monkeypatch.setattr(owner, attribute, "toned", raising=False)
    monkeypatch.setattr(TonedOptions, "component_version", 1, raising=False)
    for dataset, differs in ({"mean": [0.3]}, True), ({"mean": [0.5]}, False), ({}, False):
        spec = tiny(tmp_path, dataset="toned", teacher={**TINY["teacher"], "dataset": dataset})
        found = renormalisation(spec, "teacher", Toned(spec.dataset))
        assert (found is not None) == differs
        if found is not None:
            torch.testing.assert_close(found(torch.ones(1, 1, 1, 1)).item(), (1.0 - 0.3) / 0.5)


def test_normalisation_by_channel_and_its_mistakes(tmp_path: Path) -> None:
    means, stds = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images = torch.randn(2, 3, 4, 4)
    raw = images * torch.tensor(stds).view(3, 1, 1) + torch.tensor(means).view(3, 1, 1)
    torch.testing.assert_close(Renormalise((means, stds), ((0,) * 3, (1,) * 3))(images), raw)
    with pytest.raises(UserError, match=r"normalise.*each of 1 channels, got 3 and 3"):
        parts_of(with_weights(tmp_path, "initial", normalise={"mean": [0, 0, 0], "std": [1, 1, 1]}))
    with pytest.raises(UserError, match=r"normalise\.std"):
        with_weights(tmp_path, "initial", normalise={"mean": [0], "std": [0]})
    spec = with_weights(tmp_path, "initial", normalise={"mean": [0], "std": [1]})
    cache = ProcessCache()
    cache.dataset(spec.dataset, local_context(spec).device).mean = None
    with pytest.raises(UserError, match="has no known normalisation"):
        parts_of(spec, cache)


def test_published_and_own_names_of_weights_make_teachers(tmp_path: Path) -> None:
    identities = [with_weights(tmp_path, name).identity() for name in ("IMAGENET1K_V1", "IMAGENET1K_V2")]
    assert len(set(identities)) == 2
    with pytest.raises(UserError, match="nobody publishes 'IMAGENET1K_V1'"):
        distill(with_weights(tmp_path, "IMAGENET1K_V1"))
    assert isinstance(parts_of(with_weights(tmp_path, weights(tmp_path))).teachers["teacher"], LiveTeacher)
