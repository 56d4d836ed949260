"""RunSpec: strict, located errors, overrides, identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.yamlio import apply_overrides, parse_yaml
from tests.helpers import TINY

BASE: dict[str, Any] = {**TINY, "paths": ["soft_target"]}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimiser.lr=1", ["'optimiser'", "'optimizer'"]),
        ("optimizer.learning_rate=1", ["'optimizer.learning_rate'", "lr"]),
        ("optimizer.lr=-1", ["'optimizer.lr'", "greater than 0", "-1"]),
        ("optimizer.lr=.nan", ["'optimizer.lr'", "finite"]),
        ("optimizer.lr=fast", ["'optimizer.lr'", "number", "'fast'"]),
        ("optimizer.name=sdg", ["'optimizer.name'", "'sgd'"]),
        ("optimizer.name=lbfgs", ["'optimizer.name'", "several times in a step", "sgd"]),
        ("optimizer={name: rmsprop, options: {alhpa: 0.9}}", ["'optimizer'", "'alhpa'", "'alpha'"]),
        ("optimizer.options={lr: 1}", ["'optimizer'", "optimizer.lr"]),
        ("optimizer={name: adam, options: {eps: -1}}", ["'optimizer'", "adam", "epsilon", "-1"]),
        ("optimizer={name: adam, options: {eps: true}}", ["'optimizer'", "number", "true"]),
        ("optimizer={name: adagrad, momentum: 0.5}", ["'optimizer'", "momentum", "0.5", "adagrad"]),
        ("optimizer={name: adamw, nesterov: true}", ["'optimizer'", "nesterov", "adamw"]),
        ("schedule.name=cosin", ["'schedule.name'", "'cosine'"]),
        ("training.epochs=0", ["'training.epochs'", "greater than or equal to 1", "0"]),
        ("paths=[soft_targets]", ["paths.0", "'soft_targets'", "'soft_target'"]),
        ("paths=[{name: soft_target, temprature: 2}]", ["paths.0", "'temprature'", "'temperature'"]),
        ("paths=[{name: soft_target, weight: -1}]", ["paths.0", "'weight'", ">= 0", "-1"]),
        ("paths=[{name: soft_target, weight: .nan}]", ["paths.0", "'weight'", "finite", "nan"]),
        ("paths=[{name: soft_target, teacher: bert}]", ["paths.0.teacher", "'bert'", "teacher"]),
        ("paths=[soft_target, soft_target]", ["two paths", "'soft_target'", "label"]),
        ("aggregation=adaptve", ["aggregation", "'adaptve'", "'adaptive'"]),
        ("aggregation={name: fixed, k: -1}", ["aggregation", "'k'", "-1"]),
        ("dataset=digit", ["dataset", "'digit'", "'digits'"]),
        ("dataset.lables=3", ["dataset", "'lables'", "'labels'"]),
        ("student=digits_cn", ["student", "'digits_cn'", "'digits_cnn'"]),
        ("views.count=x", ["views", "'count'"]),
        ("resources.workers=7", ["training.batch_size", "30", "7"]),
        ("teacher.trainng.epochs=3", ["trainng", "'training'"]),
        ("plugins=[no_such_package]", ["plugins", "no_such_package"]),
        ("paths=7", ["'paths'", "a list, got 7"]),
        (
            "teacher=digits_cnn",
            ["'teachers.teacher'", "a mapping", "Did you mean {model: digits_cnn}?", "weights"],
        ),
        ("optimizer=sgd", ["'optimizer'", "a mapping", "Did you mean {name: sgd}?"]),
        ("training=5", ["'training'", "a mapping, got 5", "epochs"]),
        ("optimizer", ["key=value", "'optimizer'"]),
        ("optimizer.lr.x=1", ["optimizer.lr"]),
        ("paths.3.weight=1", ["paths.3"]),
        ("optimizer.lr=[1", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_the_nearest_choice(
    tmp_path: Path, override: str, says: list[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(BASE))
    with pytest.raises(UserError) as error:
        RunSpec.load(file, override)
    for word in says:
        assert word in str(error.value), str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2", "- a list", "a: 1\na: 2", "\x00"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml"):
        RunSpec.load(file)
    with pytest.raises(UserError, match="cannot read"):
        RunSpec.load(tmp_path / "missing.yaml")


def test_overrides_set_nested_keys_and_components() -> None:
    data = apply_overrides(
        {"aggregation": "adaptive", "paths": [{"name": "nst"}]},
        ["aggregation.k=2", "paths.0.weight=3", "a.b.c=[1, x]", "lr=1e-3"],
    )
    assert data == {
        "aggregation": {"name": "adaptive", "k": 2},
        "paths": [{"name": "nst", "weight": 3}],
        "a": {"b": {"c": [1, "x"]}},
        "lr": 1e-3,
    }


def test_exponents_are_numbers() -> None:
    assert parse_yaml("[1e-3, 5E2, -1e+1, 1.5e3, 1e]", "here") == [1e-3, 500.0, -10.0, 1500.0, "1e"]


def test_keys_are_read_as_they_are_written() -> None:
    assert parse_yaml("{on: features, no: false}", "here") == {"on": "features", "no": False}
    assert parse_yaml("{1: a, ~: b, 010: c}", "here") == {"1": "a", "~": "b", "010": "c"}


def test_resolved_spec_reads_back_to_the_same() -> None:
    spec = RunSpec.parse(BASE)
    again = RunSpec.parse(yaml.safe_load(spec.to_yaml()))
    assert again == spec
    assert again.identity() == spec.identity()


SAME = [
    {"name": "other"},
    {"storage": "elsewhere"},
    {"resources": {"workers": 2, "cpus": 2}},
    {"tracking": {"wandb": "offline"}},
    {"checkpoints": {"every_epochs": 7}},
    {"optimizer": {"lr": 0.1}},
    {"optimizer": {"options": {}, "decay_norms": True}},
    {"paths": [{"name": "soft_target", "temperature": 4}]},
    {"paths": ["soft_target", {"name": "nst", "weight": 0}]},
]
OTHER = [
    {"seed": 1},
    {"optimizer": {"lr": 0.2}},
    {"optimizer": {"options": {"dampening": 0.1}}},
    {"optimizer": {"decay_norms": False}},
    {"paths": [{"name": "soft_target", "temperature": 3}]},
    {"paths": [{"name": "soft_target", "weight": 2}]},
    {"paths": []},
    {"aggregation": "adaptive"},
    {"training": {"epochs": 4, "batch_size": 30}},
    {"training": {"epochs": 3, "batch_size": 30, "threads": 2}},
    {"training": {"epochs": 3, "batch_size": 30, "channels_last": True}},
    {"training": {"epochs": 3, "batch_size": 30, "compile": True}},
    {"training": {"epochs": 3, "batch_size": 30, "ema": {}}},
    {"training": {"epochs": 3, "batch_size": 30, "accumulate": 2}},
    {"training": {"epochs": 3, "batch_size": 30, "sync_batchnorm": False}},
    {"views": {"name": "shift", "count": 4}},
    {"dataset": {"name": "digits", "labels": 121}},
    {"student": {"name": "digits_cnn", "width": 3}},
    {"teacher": {**TINY["teacher"], "seed": 1}},
]


@pytest.mark.parametrize("change", SAME)
def test_identity_ignores_where_a_run_runs(change: dict[str, Any]) -> None:
    assert RunSpec.parse({**BASE, **change}).identity() == RunSpec.parse(BASE).identity()


@pytest.mark.parametrize("change", OTHER)
def test_identity_changes_with_what_changes_the_result(change: dict[str, Any]) -> None:
    assert RunSpec.parse({**BASE, **change}).identity() != RunSpec.parse(BASE).identity()


def test_identities_are_pinned() -> None:
    """A change here makes everybody's finished runs unfindable: raise a component's version instead."""
    assert RunSpec.parse(BASE).identity() == "94250935208829f1"
    adaptive = {**BASE, "aggregation": "adaptive", "paths": ["soft_target", "attention_transfer", "nst"]}
    assert RunSpec.parse(adaptive).identity() == "7339a38fe5e51927"


def test_a_teachers_file_is_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    teacher = {"model": {"name": "digits_cnn"}, "weights": str(file)}
    file.write_bytes(b"one")
    first = RunSpec.parse({**BASE, "teacher": teacher}).identity()
    file.write_bytes(b"two")
    assert RunSpec.parse({**BASE, "teacher": teacher}).identity() != first
    file.unlink()
    with pytest.raises(UserError, match=r"teachers\.teacher\.weights"):
        RunSpec.parse({**BASE, "teacher": teacher}).identity()


def test_the_teacher_is_a_run_that_sees_every_label() -> None:
    run = RunSpec.parse(BASE).teacher_run("teacher")
    assert run.dataset.labels == 200  # type: ignore[attr-defined]
    without = RunSpec.parse({**BASE, "teacher": {"model": "digits_cnn"}}).teacher_run("teacher")
    assert without.dataset.labels is None  # type: ignore[attr-defined]
    assert run.paths == ()
    assert run.teachers == {}


ASSISTANTS: dict[str, Any] = {
    "big": TINY["teacher"],
    "assistant": {"model": "digits_cnn", "paths": ["soft_target"]},
}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("teachers.big.paths=[{name: nst, teacher: assistant}]", ["'big' learns from 'assistant'", "circle"]),
        ("teachers.assistant.paths.0.teacher=assistant", ["teachers.assistant.paths.0.teacher", "itself"]),
        ("teachers.assistant.paths.0.teacher=bgi", ["teachers.assistant.paths.0.teacher", "'bgi'", "'big'"]),
        ("teachers.assistant.paths=[soft_targets]", ["teachers.assistant.paths.0", "'soft_target'"]),
        ("teachers.assistant.paths=[nst, nst]", ["teachers.assistant.paths.1", "two paths", "label"]),
        ("teachers.assistant.aggregation=eqal", ["teachers.assistant.aggregation", "'equal'"]),
        ("teachers.assistant.targets={precisions: {x: int8}}", ["teachers.assistant.targets", "'x'"]),
        ("teachers.assistant.weights=initial", ["teachers.assistant", "paths", "weights ('initial')"]),
        ("teachers={only: {model: digits_cnn, paths: [nst]}}", ["teachers.only.paths.0", "another teacher"]),
        ("teachers.third={model: digits_cnn}", ["teachers.assistant.paths.0", "one of big, third"]),
    ],
)
def test_a_teacher_that_cannot_be_taught_is_named(tmp_path: Path, override: str, says: list[str]) -> None:
    base = {key: value for key, value in BASE.items() if key not in ("teacher", "paths")}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**base, "teachers": ASSISTANTS}))
    with pytest.raises(UserError) as error:
        RunSpec.load(file, override)
    for word in says:
        assert word in str(error.value), str(error.value)


def test_a_circle_of_any_length_is_refused_and_spelt_out() -> None:
    base = {key: value for key, value in BASE.items() if key not in ("teacher", "paths")}
    names = ["a", "b", "c", "d"]
    circle = {
        name: {"model": "digits_cnn", "paths": [{"name": "nst", "teacher": after}]}
        for name, after in zip(names, ["b", "c", "d", "b"], strict=True)
    }
    with pytest.raises(UserError) as error:
        RunSpec.parse({**base, "teachers": {**circle, "big": TINY["teacher"]}})
    for step in ("'b' learns from 'c'", "'c' learns from 'd'", "'d' learns from 'b'"):
        assert step in str(error.value)
    assert "'a'" not in str(error.value), "it only learns from one of them"


def test_a_teachers_mistake_that_makes_no_run_is_named() -> None:
    for change, says in (
        ({"dataset": {"lables": 3}}, r"teachers\.teacher: .*'lables'\. Did you mean 'labels'"),
        ({"training": {"batch_size": 50, "accumulate": 3}}, r"teachers\.teacher: training\.batch_size: 50"),
    ):
        with pytest.raises(UserError, match=says):
            RunSpec.parse({**BASE, "teacher": {**TINY["teacher"], **change}}).identity()


def test_several_teachers_must_be_named() -> None:
    teachers = {"big": TINY["teacher"], "other": {**TINY["teacher"], "seed": 1}}
    base = {key: value for key, value in BASE.items() if key != "teacher"}
    with pytest.raises(UserError, match="one of big, other"):
        RunSpec.parse({**base, "teachers": teachers})
    spec = RunSpec.parse({**base, "teachers": teachers, "paths": [{"name": "nst", "teacher": "other"}]})
    assert spec.teacher_of(spec.paths[0]) == "other"
    with pytest.raises(UserError, match="not both"):
        RunSpec.parse({**BASE, "teachers": teachers})
    with pytest.raises(UserError, match="'teacher' section"):
        RunSpec.parse(base)
