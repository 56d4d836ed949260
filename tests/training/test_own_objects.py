"""Runs of one's own objects: nothing that finished is lost, and no figure is taken for another's."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ray_kd.cluster.plan import plan_table
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.outputs import Outputs
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Interrupted, Training
from ray_kd.training.run_context import local_context
from tests.helpers import TINY, tiny


class Net(nn.Module):
    """Somebody's network."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, kernel, stride=2, padding=1)
        self.head = nn.Linear(width, 10)
        self.stage_channels = (width,)

    def forward(self, image: torch.Tensor) -> Outputs:
        feature = self.conv(image).relu()
        return Outputs((feature,), self.head(feature.mean((2, 3))))


class Other(Net):
    """The same shapes by another name."""


def pairs(count: int, size: int = 8, seed: int = 0) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(count + seed)
    return [(torch.randn(1, size, size, generator=generator), (i * (1 + seed)) % 10) for i in range(count)]


def sets(size: int = 8) -> dict[str, Any]:
    return {"train": pairs(60, size), "validation": pairs(20, size), "test": pairs(30, size)}


def run(storage: Path, **changes: Any) -> RunSpec:
    return tiny(storage, paths=[], teacher=None, **changes)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a run's folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def folder_of(storage: Path, summary: dict[str, Any]) -> Path:
    return storage / "runs" / summary["identity"]


def test_without_a_key_every_call_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first = distill(run(tmp_path), student=Net(3), **sets())
    before = files(folder_of(tmp_path, first))
    second = distill(run(tmp_path), student=Net(5), **sets())
    assert second["identity"] != first["identity"]
    assert second["parameters"] != first["parameters"]
    assert files(folder_of(tmp_path, first)) == before
    with pytest.raises(UserError):  # it fails before it trains
        distill(tiny(tmp_path), student=Net(3), train=pairs(2), validation=pairs(2), test=pairs(2))
    assert files(folder_of(tmp_path, first)) == before


def test_the_same_objects_without_a_key_give_the_same_numbers_in_another_folder(tmp_path: Path) -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(1)
        ends.append(distill(run(tmp_path), student=Net(3), **sets()))
    assert ends[0]["identity"] != ends[1]["identity"]
    assert ends[0]["best"] == ends[1]["best"]


CHANGED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another width": ({"student": Net(5)}, ["student", "conv.weight", "[3, 1, 3, 3]", "[5, 1, 3, 3]"]),
    "another class": ({"student": Other(3)}, ["student", "class", "Net", "Other"]),
    "another teacher": ({"teacher": Net(6)}, ["teacher", "conv.weight"]),
    "fewer samples": ({"train": pairs(50)}, ["train", "length", "60", "50"]),
    "other pictures": (sets(9), ["image", "[1, 8, 8]", "[1, 9, 9]"]),
    "other labels": ({"train": pairs(60, seed=2)}, ["train", "labels"]),
    "fewer classes": (
        {name: [(image, label % 5) for image, label in pairs] for name, pairs in sets().items()},
        ["dataset.classes was 10, is 5"],
    ),
    "another type": ({"test": tuple(pairs(30))}, ["test", "class", "list", "tuple"]),
}


@pytest.mark.parametrize("what", CHANGED)
def test_other_objects_under_a_known_key_are_an_error_that_names_the_difference(
    tmp_path: Path, what: str
) -> None:
    changes, named = CHANGED[what]
    spec = tiny(tmp_path, paths=["soft_target"])
    teacher = Net(4)
    given = {"student": Net(3), "teacher": teacher, **sets()}
    first = distill(spec, key="mine", **given)
    before = files(folder_of(tmp_path, first))
    with pytest.raises(UserError, match="key 'mine'") as caught:
        distill(spec, key="mine", **{**given, **changes})
    for word in [*named, "fresh=True"]:
        assert word in str(caught.value)
    assert files(folder_of(tmp_path, first)) == before
    assert distill(spec, key="mine", **given) == first, "and the first one is found as ever"
    other = distill(spec, key="other", **{**given, **changes})
    assert other["identity"] != first["identity"]


def test_a_teacher_that_learnt_something_else_is_another_teacher(tmp_path: Path) -> None:
    spec, teacher = tiny(tmp_path, paths=["soft_target"]), Net(4)
    given = {"student": Net(3), "teacher": teacher, **sets()}
    first = distill(spec, key="mine", **given)
    learnt = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        teacher.conv.weight += 1
    with pytest.raises(UserError, match=r"teacher.*weights"):
        distill(spec, key="mine", **given)
    # The student's own weights are what training changes: they are no reason.
    teacher.load_state_dict(learnt)
    assert distill(spec, key="mine", **{**given, "student": Net(3)}) == first


def test_layers_without_weights_are_seen_too(tmp_path: Path) -> None:
    def net(activation: nn.Module) -> nn.Module:
        body = [nn.Conv2d(1, 3, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)]
        return nn.Sequential(*body)

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: torch.Tensor) -> Outputs:
            return Outputs((), self.inner(image))

    distill(run(tmp_path), student=Wrapped(net(nn.ReLU())), key="mine", **sets())
    with pytest.raises(UserError, match=r"ReLU.*GELU"):
        distill(run(tmp_path), student=Wrapped(net(nn.GELU())), key="mine", **sets())


def test_a_state_is_not_taken_up_with_other_objects(tmp_path: Path) -> None:
    spec, calls = run(tmp_path), []
    context = local_context(spec)
    stop = context.stop.set
    with pytest.raises(Interrupted):
        distill(spec, student=Net(3), key="mine", **sets(), context=context, on_epoch=lambda *_: stop())
    with pytest.raises(UserError, match=r"key 'mine'.*conv\.weight"):
        distill(spec, student=Net(5), key="mine", **sets())
    summary = distill(spec, student=Net(3), key="mine", **sets(), on_epoch=lambda *_: calls.append(1))
    assert summary["status"] == "finished"
    assert len(calls) == spec.training.epochs - 1, "the same objects go on from the state"


def test_what_failed_is_no_reason_against_mended_objects(tmp_path: Path) -> None:
    class Breaks(Net):
        def train(self, mode: bool = True) -> Breaks:
            if not mode:
                raise RuntimeError("not yet written")
            return super().train(mode)

    with pytest.raises(RuntimeError, match="not yet written"):
        distill(run(tmp_path), student=Breaks(3), key="mine", **sets())
    assert distill(run(tmp_path), student=Net(3), key="mine", **sets())["status"] == "finished"


@pytest.mark.parametrize("own", [True, False])
def test_to_start_over_keeps_a_finished_run_until_another_has_finished(tmp_path: Path, own: bool) -> None:
    spec = run(tmp_path)
    objects = {"student": Net(3), "key": "mine", **sets()} if own else {}
    first = distill(spec, **objects)
    folder = folder_of(tmp_path, first)
    before = files(folder)

    def lookup(spec: RunSpec, record: dict[str, Any]) -> None:
        assert {name: before[name] for name in before} == {name: files(folder)[name] for name in before}
        if record["epoch"] == 2:
            raise RuntimeError("the disk was pulled out")

    with pytest.raises(RuntimeError, match="pulled out"):
        distill(spec, fresh=True, **objects, on_epoch=lookup)
    kept = files(folder)
    assert {name: kept[name] for name in before} == before
    assert distill(spec, **objects) == first, "and it is the run that is found"
    context = replace(local_context(spec))
    with pytest.raises(Interrupted):
        distill(spec, fresh=True, **objects, context=context, on_epoch=lambda *_: context.stop.set())
    assert distill(spec, **objects) == first
    second = distill(spec, fresh=True, **({**objects, "student": Net(5)} if own else {}))
    after = files(folder)
    assert after.keys() == before.keys(), "its replacement has its place, and nothing else is left"
    assert json.loads(after["summary.json"]) == second
    assert second["started"] >= first["started"]
    assert len(after["epochs.jsonl"].splitlines()) == spec.training.epochs
    if own:
        assert second["parameters"] > first["parameters"]
        assert distill(spec, **{**objects, "student": Net(5)}) == second


def test_a_replacement_that_was_cut_off_while_it_took_its_place_does_so_next_time(tmp_path: Path) -> None:
    spec = run(tmp_path)
    first = distill(spec)
    folder = folder_of(tmp_path, first)
    (folder / "fresh").mkdir()
    for name in ("summary.json", "epochs.jsonl", "student.safetensors", "spec.yaml"):
        (folder / "fresh" / name).write_bytes((folder / name).read_bytes())
    told = {**first, "seconds": 123.0}
    (folder / "fresh" / "summary.json").write_text(json.dumps(told))
    assert distill(spec) == told
    assert not (folder / "fresh").exists()


def test_no_failure_is_written_over_a_finished_run(tmp_path: Path) -> None:
    spec = run(tmp_path)
    first = distill(spec)
    before = files(folder_of(tmp_path, first))
    late = Training(spec, local_context(spec))
    assert late.fail(RuntimeError("its node died")) == first, "what stands is what it says"
    assert late.stop("a scheduler's late word") == first
    assert files(folder_of(tmp_path, first)) == before


FACTORY = """
from torch import nn

def build(classes, channels):
    body = [nn.Conv2d(channels, {width}, 3), nn.{activation}(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    {comment}
    return nn.Sequential(*body, nn.Linear({width}, classes))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "code").mkdir()

    def write(width: int = 3, activation: str = "ReLU", comment: str = "") -> None:
        text = FACTORY.format(width=width, activation=activation, comment=comment)
        (tmp_path / "code" / "somebodys_nets.py").write_text(text)
        sys.modules.pop("somebodys_nets", None)

    write()
    yield write
    sys.modules.pop("somebodys_nets", None)


MADE = {"name": "factory", "build": "somebodys_nets:build", "image_size": 8}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 4}, r"student.*\[3, .*\[4, "), ({"activation": "GELU"}, r"student.*ReLU.*GELU")],
)
def test_a_factory_whose_code_makes_another_network_is_an_error(
    tmp_path: Path, module: Any, change: dict[str, Any], named: str
) -> None:
    spec = run(tmp_path, student=MADE)
    first = distill(spec)
    module(comment="# nothing that counts")
    assert distill(spec) == first
    module(**change)
    with pytest.raises(UserError, match=named) as caught:
        distill(spec)
    assert "revision" in str(caught.value)
    assert "fresh" in str(caught.value)
    raised = distill(run(tmp_path, student={**MADE, "revision": 2}))
    assert raised["identity"] != first["identity"]
    again = distill(spec, fresh=True)
    assert again["identity"] == first["identity"]
    assert distill(spec) == again


def test_the_same_holds_for_teachers_and_sweeps(tmp_path: Path, module: Any) -> None:
    teacher = {**TINY["teacher"], "model": MADE}
    spec = tiny(tmp_path, teacher=teacher, paths=["soft_target"])
    ensure_teachers(spec, local_context(spec), ProcessCache())
    distill(spec)
    base = {**spec.to_dict(), "paths": []}
    plan = {"name": "s", "base": base, "cells": {"with": {"paths": ["soft_target"]}}, "seeds": [0]}
    sweep = SweepSpec.parse(plan)
    trial = sweep.plan().trials[0].spec
    assert distill(trial)["status"] == "finished"
    module(width=5)
    with pytest.raises(UserError, match=r"\[3, .*\[5, "):
        ensure_teachers(spec, local_context(spec), ProcessCache())
    with pytest.raises(UserError, match=r"\[3, .*\[5, "):
        distill(spec, fresh=True)
    with pytest.raises(UserError, match=r"\[3, .*\[5, "):
        run_sweep(sweep, progress=False)
    with pytest.raises(UserError, match=r"\[3, .*\[5, "):
        plan_table(sweep)
    with pytest.raises(UserError, match=r"\[3, .*\[5, "):
        ProcessCache().teacher(spec, "teacher", local_context(spec).store, torch.device("cpu"))
