"""What the record of a run of one's own objects says of them, and of the weights that they came with."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ray_kd.analysis.run_list import list_runs
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.training.distill import distill
from ray_kd.training.preflight import check_run
from ray_kd.training.run import Interrupted
from ray_kd.training.run_context import local_context
from tests.helpers import TINY
from tests.training.test_own_objects import Net, folder_of, pairs, sets


def spec_of(storage: Path, **changes: Any) -> RunSpec:
    """A run that names neither dataset nor networks."""
    short = {"training": {"epochs": 3, "batch_size": 20}, "checkpoints": {"every_epochs": 1}}
    return RunSpec.parse({"name": "mine", **short, "storage": str(storage), **changes})


def net(seed: int, width: int = 3) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def recorded(storage: Path, summary: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder_of(storage, summary) / "spec.yaml").read_text())
    return found


def test_the_recorded_spec_says_what_the_objects_are(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, teacher={"at_chance": "go_on"}, paths=["soft_target"])
    summary = distill(spec, student=net(1), teacher=net(2, 4), key="one", **sets())
    found = recorded(tmp_path, summary)
    where = "tests.training.test_own_objects.Net"
    assert found["student"]["name"] == "own"
    assert found["student"]["object"] == where
    assert found["student"]["parameters"] == summary["parameters"]
    assert found["teachers"]["teacher"]["model"]["object"] == where
    assert found["teachers"]["teacher"]["model"]["shapes"] != found["student"]["shapes"]
    assert found["dataset"] == {
        "name": "own",
        "objects": {"train": "list", "validation": "list", "test": "list"},
        "samples": {"train": 60, "validation": 20, "test": 30},
        "classes": 10,
        "image": [1, 8, 8],
    }
    assert json.loads((folder_of(tmp_path, summary) / "objects.json").read_text())["key"] == "one"


def test_what_an_object_took_the_place_of_is_not_in_the_record_and_makes_no_other_run(tmp_path: Path) -> None:
    named = {**TINY, "teacher": None, "views": "none", "storage": str(tmp_path)}
    first = distill(RunSpec.parse(named), student=net(1), key="mine", **sets())
    assert recorded(tmp_path, first)["student"]["name"] == "own"
    assert "digits" not in (folder_of(tmp_path, first) / "spec.yaml").read_text()
    rest = {key: value for key, value in named.items() if key not in ("student", "dataset")}
    assert distill(RunSpec.parse(rest), student=net(1), key="mine", **sets()) == first


def test_no_command_builds_the_objects_of_a_record(tmp_path: Path) -> None:
    summary = distill(spec_of(tmp_path), student=net(1), **sets())
    file = folder_of(tmp_path, summary) / "spec.yaml"
    again = RunSpec.load(file)
    with pytest.raises(UserError, match=r"dataset \(list, 60 \+ 20 \+ 30 samples\), student \(.*Net, "):
        check_run(again)
    with pytest.raises(UserError, match=r"In Python distill\(spec, train=\.\.\., .*student=\.\.\.\)"):
        distill(again)
    with pytest.raises(UserError, match=r"student \(.*Net"):
        distill(again, **sets())
    assert distill(again, student=net(1), **sets())["best"] == summary["best"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"dataset": "digits"}, "no 'student' .*distill\\(spec, student="),
        ({"student": "digits_cnn"}, "no 'dataset' .*distill\\(spec, train="),
        ({"dataset": "digits", "student": "digits_cnn", "teacher": {}}, "no 'teachers.teacher.model'"),
    ],
)
def test_what_nobody_names_nor_hands_over_is_an_error_that_names_both_ways(
    given: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        check_run(RunSpec.parse(given))


def test_a_teacher_of_ones_own_takes_one_teachers_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing in the spec would ask it"):
        distill(spec_of(tmp_path), student=net(1), teacher=net(2), **sets())
    two = {
        "teachers": {"a": {}, "b": {}},
        "paths": [
            {"name": "soft_target", "teacher": "a"},
            {"name": "logits", "teacher": "b"},
        ],
    }
    with pytest.raises(UserError, match=r"2 teachers \(a, b\)"):
        distill(spec_of(tmp_path, **two), student=net(1), teacher=net(2), **sets())
    told = {"teacher": {"dataset": {"mean": [0.5], "std": [0.5]}}, "paths": ["soft_target"]}
    with pytest.raises(UserError, match=r"teachers\.teacher\.normalise"):
        distill(spec_of(tmp_path, **told), student=net(1), teacher=net(2), **sets())


def test_a_teacher_of_the_spec_learns_from_the_spec_s_dataset_beside_own_sets(tmp_path: Path) -> None:
    parts = {"teacher": TINY["teacher"], "paths": ["soft_target"]}
    with pytest.raises(UserError, match=r"'name' in teachers\.teacher\.dataset"):
        distill(spec_of(tmp_path, **parts), student=net(1), **sets())
    spec = spec_of(tmp_path, dataset="digits", **parts)
    summary = distill(spec, student=net(1), **sets())
    found = recorded(tmp_path, summary)
    assert found["dataset"]["name"] == "own"
    assert found["teachers"]["teacher"]["dataset"]["name"] == "digits"
    theirs = spec.teacher_run("teacher").identity()
    assert (tmp_path / "runs" / theirs / "summary.json").is_file()
    assert RunSpec.parse(found).teacher_run("teacher").identity() == theirs


def test_an_assistant_beside_own_sets_is_the_run_that_it_is_without_them(tmp_path: Path) -> None:
    short = {**TINY["teacher"], "at_chance": "go_on"}
    chain = {
        "teachers": {"big": short, "assistant": {**short, "paths": ["soft_target"]}},
        "paths": [{"name": "soft_target", "teacher": "assistant"}],
    }
    with pytest.raises(UserError, match=r"'name' in teachers\.big\.dataset"):
        distill(spec_of(tmp_path, **chain), student=net(1), **sets())
    spec = spec_of(tmp_path, dataset="digits", **chain)
    summary = distill(spec, student=net(1), **sets())
    theirs = {name: run.identity() for name, run in spec.teacher_runs().items()}
    runs = {folder.name for folder in (tmp_path / "runs").iterdir()}
    assert runs == {summary["identity"], *theirs.values()}
    again = RunSpec.parse(recorded(tmp_path, summary)).teacher_runs()
    assert {name: run.identity() for name, run in again.items()} == theirs


def test_an_own_teacher_takes_an_assistant_s_place_where_nothing_else_is_asked(tmp_path: Path) -> None:
    assistant = {**TINY["teacher"], "at_chance": "go_on", "paths": ["soft_target"]}
    chain = {"assistant": assistant, "big": TINY["teacher"]}
    given = {"dataset": "digits", "student": TINY["student"]}
    given["paths"] = [{"name": "soft_target", "teacher": "assistant"}]
    trained = set[str]()
    spec = spec_of(tmp_path, **given, teachers=chain)
    summary = distill(spec, teacher=net(2), on_epoch=lambda run, _: trained.add(run.name))
    assert trained == {"mine"}, "neither the assistant, nor what it would have learnt from"
    assert recorded(tmp_path, summary)["teachers"]["assistant"]["paths"] == []
    both = spec_of(tmp_path, **given, teachers={"big": TINY["teacher"], "assistant": assistant})
    with pytest.raises(UserError, match=r"2 teachers \(big, assistant\)"):  # agreement asks the first one
        distill(both, teacher=net(2))


def test_a_teacher_without_paths_is_asked_for_agreement_alone(tmp_path: Path) -> None:
    parts = {"dataset": "digits", "student": TINY["student"], "teacher": {"at_chance": "go_on"}}
    with pytest.raises(UserError, match=r"no 'teachers\.teacher\.model'.*distill\(spec, teacher="):
        distill(spec_of(tmp_path, **parts))
    summary = distill(spec_of(tmp_path, **parts), teacher=net(2))
    assert "agreement" in summary["best"]["test"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if "handed over" in record.getMessage()]
    caplog.clear()
    return found


def test_a_run_that_is_found_leaves_its_last_weights_in_the_student(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    spec, trained = spec_of(tmp_path), net(1)
    first = distill(spec, student=trained, key="mine", **sets())
    last = load_file(folder_of(tmp_path, first) / "student.safetensors")
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in last.items())
    for given in (net(1), trained):  # the weights that it began with, and those that training left
        assert distill(spec, student=given, key="mine", **sets()) == first
        assert all(torch.equal(given.state_dict()[name], value) for name, value in last.items())
        assert not told(caplog)
    other = net(5)
    assert distill(spec, student=other, key="mine", **sets()) == first
    assert all(torch.equal(other.state_dict()[name], value) for name, value in last.items())
    (line,) = told(caplog)
    assert "key 'mine'" in line
    assert "other weights" in line


def test_a_run_goes_on_from_its_state_and_says_whose_weights_it_began_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    whole = distill(spec_of(tmp_path / "whole"), student=net(1), key="mine", **sets())
    spec = spec_of(tmp_path)
    for seed, said in ((1, 0), (5, 1)):
        context = local_context(spec)
        stop = context.stop.set
        key = {"student": net(1), "key": f"stopped {seed}", **sets()}
        with pytest.raises(Interrupted):
            distill(spec, **key, context=context, on_epoch=lambda *_, stop=stop: stop())
        (began,) = {_began(folder) for folder in (tmp_path / "runs").iterdir()}
        caplog.clear()
        summary = distill(spec, **{**key, "student": net(seed)})
        assert summary["best"] == whole["best"], "the state has the weights, not the object"
        assert len(told(caplog)) == said
        assert _began(folder_of(tmp_path, summary)) == began


def _began(folder: Path) -> str:
    return str(json.loads((folder / "objects.json").read_text())["student"]["began"])


def test_ctrl_c_saves_the_state_and_the_same_call_goes_on(tmp_path: Path) -> None:
    whole = distill(spec_of(tmp_path / "whole"), student=net(1), key="mine", **sets())
    spec = spec_of(tmp_path, checkpoints={"every_epochs": None})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls: list[int] = []

    def pressed(spec: RunSpec, record: dict[str, Any]) -> None:
        calls.append(record["epoch"])
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(Interrupted):
            distill(spec, student=net(1), key="mine", **sets(), on_epoch=pressed)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        summary = distill(spec, student=net(1), key="mine", **sets(), on_epoch=pressed)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [1, 2, 3]
    assert summary["best"] == whole["best"]
    assert summary["last"]["test"] == whole["last"]["test"]


def test_an_own_set_without_a_name_keeps_a_spec_s_student(tmp_path: Path) -> None:
    summary = distill(
        spec_of(tmp_path, student={"name": "digits_cnn", "width": 2}),
        train=pairs(40),
        validation=pairs(20),
        test=pairs(20),
    )
    assert recorded(tmp_path, summary)["student"]["name"] == "digits_cnn"
    assert recorded(tmp_path, summary)["dataset"]["name"] == "own"


def test_an_interrupted_run_without_a_key_says_that_no_call_finds_it_again(tmp_path: Path) -> None:
    for key, named in ((None, "without a key no call finds it again"), ("mine", "same call with key 'mine'")):
        spec = spec_of(tmp_path)
        context = local_context(spec)
        stop = context.stop.set
        with pytest.raises(Interrupted, match=named):
            distill(spec, student=net(1), key=key, **sets(), context=context, on_epoch=lambda *_, s=stop: s())


def test_a_list_of_runs_says_what_own_objects_they_were_made_of(tmp_path: Path) -> None:
    summary = distill(spec_of(tmp_path), student=net(1), **sets())
    (run,) = list_runs(tmp_path)
    assert (run.identity, run.name, run.state, run.epoch) == (summary["identity"], "mine", "finished", 3)
    assert (run.student, run.dataset) == ("own: Net", "own: list")
    assert run.figure == f"top1 {summary['best']['test']['top1']:.4f}"


def test_an_own_teacher_s_normalisation_makes_another_run(tmp_path: Path) -> None:
    given = {"at_chance": "go_on", "normalise": {"mean": [0.5], "std": [0.5]}}
    plain, told = ({"teacher": teacher, "paths": ["soft_target"]} for teacher in ({}, given))
    assert spec_of(tmp_path, **plain).identity() != spec_of(tmp_path, **told).identity()
