"""What the seeds of a sweep redraw: each source changes its own draws and no others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.chance import SOURCES, Source, redrawn
from ray_kd.config.errors import UserError
from ray_kd.config.plan import Trial
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.data.base import Dataset
from ray_kd.data.create import create_dataset
from tests.helpers import TINY

SEEDS = [0, 1, 2, 3]
CELLS: dict[str, Any] = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
TEACHERS: dict[str, Any] = {
    "one": {**TINY["teacher"], "views": {"name": "affine"}},  # trained on 200 labels of its own
    "other": {**TINY["teacher"], "seed": 5, "dataset": {}},
    "untrained": {"model": {"name": "digits_cnn", "width": 4}, "weights": "initial"},
}
PATHS = [{"name": "soft_target", "label": name, "teacher": name} for name in TEACHERS]
BASE = {key: value for key, value in TINY.items() if key != "teacher"}
SEVERAL: dict[str, Any] = {
    "base": {**BASE, "teachers": TEACHERS},
    "cells": {"alone": {"paths": []}, "taught": {"paths": PATHS}},
}


def sweep(vary: list[str] | None = None, **changes: Any) -> SweepSpec:
    data = {"name": "tiny", "base": TINY, "seeds": SEEDS, "baseline": "alone", "cells": CELLS}
    return SweepSpec.parse({**data, **({} if vary is None else {"vary": vary}), **changes})


def by_cell(spec: SweepSpec) -> dict[tuple[str, int], Trial]:
    return {(trial.cell, trial.seed): trial for trial in spec.plan().trials}


def draws(spec: RunSpec) -> dict[str, Any]:
    """What each source of chance decides: everything in a run that is drawn."""
    dataset: Dataset = create_dataset(spec.dataset)
    teachers = {}
    for name, teacher in spec.teachers.items():
        trained = teacher.weights is None
        teachers[name] = spec.teacher_run(name).identity() if trained else spec.essence()["teachers"][name]
    return {
        "student": spec.seed,
        "teacher": str(teachers),
        "labels": tuple(dataset.train.ids.tolist()),
        "split": tuple(map(tuple, (dataset.validation.ids.tolist(), dataset.test.ids.tolist()))),
        "views": spec.views.seed,
    }


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_alone_changes_exactly_its_own_draws(source: Source) -> None:
    found = [draws(by_cell(sweep([source], **SEVERAL))["taught", seed].spec) for seed in SEEDS]
    changed = {name for name in found[0] if len({one[name] for one in found}) > 1}
    # Samples of another split are other samples to keep, and teachers must not have seen those that test.
    assert changed == ({"split", "labels", "teacher"} if source == "split" else {source})
    assert len({one[source] for one in found}) == len(SEEDS)


def test_all_teachers_of_a_seed_are_its_own(tmp_path: Path) -> None:
    """Those that train, on a subset of their own or on all labels, and one that is untrained."""
    trials = by_cell(sweep(["teacher", "labels", "views"], **SEVERAL))
    of_seed = {seed: trials["taught", seed].spec for seed in SEEDS}
    for name in TEACHERS:
        assert len({str(spec.essence()["teachers"][name]) for spec in of_seed.values()}) == len(SEEDS), name
        assert len({spec.teachers[name].seed for spec in of_seed.values()}) == len(SEEDS), name
    kept = {seed: create_dataset(spec.teacher_run("one").dataset).train.ids for seed, spec in of_seed.items()}
    assert all(len(ids) == 200 for ids in kept.values())
    assert all(not torch.equal(kept[a], kept[b]) for a, b in itertools.combinations(SEEDS, 2))
    for spec in of_seed.values():  # as without a sweep, a student's labels are part of its teacher's
        student = set(create_dataset(spec.dataset).train.ids.tolist())
        assert student <= set(create_dataset(spec.teacher_run("one").dataset).train.ids.tolist())
    views = {spec.teachers["one"].views.seed for spec in of_seed.values()}
    assert len(views) == len(SEEDS)


def test_teachers_of_two_keys_share_no_draw() -> None:
    keys = {redrawn(own, seed, "teacher") for own in range(20) for seed in range(1, 20)}
    assert len(keys) == 20 * 19
    assert redrawn(7, 3, "teacher") != redrawn(7, 3, "labels")


def test_cells_of_one_seed_share_everything_that_is_drawn() -> None:
    trials = by_cell(sweep(list(SOURCES)))
    for seed in SEEDS:
        one, other = (draws(trials[cell, seed].spec) for cell in CELLS)
        assert one == other


def test_seed_0_is_the_run_of_the_file() -> None:
    """Its trials and its teacher are those that the file alone trains."""
    alone = RunSpec.parse({**TINY, "paths": ["soft_target"], "seed": 0})
    trial = by_cell(sweep(list(SOURCES)))["taught", 0]
    assert trial.identity == alone.identity()
    assert list(trial.teachers) == [alone.teacher_run("teacher").identity()]


def test_only_the_student_is_redrawn_as_it_always_was() -> None:
    for seed in SEEDS:
        alone = RunSpec.parse({**TINY, "paths": ["soft_target"], "seed": seed})
        assert by_cell(sweep(["student"]))["taught", seed].identity == alone.identity()


def test_by_default_student_teacher_and_labels_are_redrawn() -> None:
    assert sweep().vary == ("student", "teacher", "labels")
    assert {trial.identity for trial in sweep().plan().trials} == {
        trial.identity for trial in sweep(["labels", "student", "teacher"]).plan().trials
    }


def test_a_teacher_of_each_seed_is_planned_once() -> None:
    search = {"method": "random", "trials": 2, "space": {"optimizer.lr": {"uniform": [0.01, 0.1]}}}
    plan = sweep(search={**search, "seeds": [0, 1], "cells": ["taught"]}).plan()
    assert len(plan.teachers) == len({run.identity() for run in plan.teachers}) == len(SEEDS)
    assert len(sweep(["student"]).plan().teachers) == 1
    of_seed: dict[int, set[str]] = {}
    for trial in plan.trials:  # candidates of a search too
        of_seed.setdefault(trial.seed, set()).update(trial.teachers)
    assert all(len(teachers) == 1 for teachers in of_seed.values())
    assert len(set().union(*of_seed.values())) == len(SEEDS)


def test_a_cell_may_vary_something_of_its_own() -> None:
    trials = by_cell(sweep(["student"], cells={**CELLS, "labels alone": {"vary": ["labels"], "paths": []}}))
    mine = [trials["labels alone", seed] for seed in SEEDS]
    assert {trial.spec.seed for trial in mine} == {0}
    assert [trial.seed for trial in mine] == SEEDS
    assert len({trial.identity for trial in mine}) == len(SEEDS)


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        (["teachers"], "unknown source 'teachers'. Did you mean 'teacher'"),
        ([], "at least one of student, teacher, labels, split, views"),
        ("student", "expected a list"),
        (["labels", "labels"], "'labels' twice"),
    ],
)
def test_a_wrong_source_is_named(vary: Any, says: str) -> None:
    with pytest.raises(UserError, match="vary") as of_sweep:
        sweep(vary)
    with pytest.raises(UserError, match="cell 'alone': vary") as of_cell:
        sweep(cells={"alone": {"vary": vary}}).plan()
    for error in (of_sweep, of_cell):
        assert says in str(error.value)


def test_what_cannot_be_redrawn_is_said_and_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(b"weights")
    base = {**TINY, "dataset": "digits", "views": "none"}
    base["teacher"] = {"model": {"name": "digits_cnn", "width": 4}, "weights": str(file)}
    plan = sweep(["student", "teacher", "labels", "views"], base=base).plan()
    (entry,) = plan.to_json()["chance"]
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()
    assert list(entry["fixed"]) == ["teacher", "labels", "views"]
    assert "teacher.safetensors" in entry["fixed"]["teacher"]
    assert str(tmp_path) not in entry["fixed"]["teacher"]
    assert plan.teachers == []


def test_a_disturbed_run_has_another_identity_and_an_undisturbed_one_its_own() -> None:
    run = RunSpec.parse(TINY)
    same = RunSpec.parse({**TINY, "training": {**TINY["training"], "disturb": 0.0}})
    other = RunSpec.parse({**TINY, "training": {**TINY["training"], "disturb": 1e-7}})
    assert same.identity() == run.identity() != other.identity()


def test_the_teachers_of_a_seed_s_teacher_are_of_that_seed_too() -> None:
    """Each trains once; the one that teaches the other comes before it."""
    big = {**TINY["teacher"], "model": {"name": "digits_cnn", "width": 6}}
    chain = {
        "assistant": {**TINY["teacher"], "paths": [{"name": "soft_target", "teacher": "big"}]},
        "big": big,
    }
    changes: dict[str, Any] = {"base": {**BASE, "teachers": chain}, "cells": {"taught": {"paths": PATHS[:1]}}}
    changes["cells"]["taught"]["paths"] = [{"name": "soft_target", "teacher": "assistant"}]
    plan = sweep(["teacher"], **changes, baseline="taught").plan()
    assert len(plan.teachers) == len({run.identity() for run in plan.teachers}) == 2 * len(SEEDS)
    for trial in plan.trials:
        first, second = trial.teachers.values()
        assert (first.student.width, second.student.width) == (6, 4)  # type: ignore[attr-defined]
        assert second.teacher_run("big").identity() == first.identity()
    assert len(sweep(["student"], **changes, baseline="taught").plan().teachers) == 2
