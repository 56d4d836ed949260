"""Pictures of predictions: real runs, whose exported weights give the figures that are on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_kd.analysis.plot_predictions import predictions_picture
from ray_kd.analysis.plot_style import style
from ray_kd.analysis.predictions import Predictions, predict
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.sweep_results import SweepResults, sweep_results
from ray_kd.cli.main import main
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import ProcessCache

SCENES = {"name": "scenes", "train": 40, "labels": 40, "validation": 8, "test": 12, "size": 24}
SCENES |= {"objects": [1, 2], "scale": [0.5, 0.8], "ink": "light"}
OPTIMIZER = {"name": "adamw", "lr": 0.01}
TAUGHT: dict[str, Any] = {
    "model": {"name": "scenes_segnet", "width": 4},
    "training": {"epochs": 1, "batch_size": 8},
    "at_chance": "go_on",
}
TASKS: dict[str, Any] = {
    "segmentation": {
        "task": "segmentation",
        "student": {"name": "scenes_segnet", "width": 4},
        "teachers": {
            "big": TAUGHT,
            "assistant": {**TAUGHT, "paths": ["soft_target"]},  # whose pictures and figure are shown
        },
        "paths": [{"name": "soft_target", "teacher": "assistant"}],
    },
    "detection": {
        "task": "detection",
        "student": {"name": "scenes_detector", "width": 4},
        "teacher": {"model": {"name": "scenes_detector", "width": 4}, "weights": "initial"},
        "paths": ["class_logit"],
    },
}
SWEEP = {
    "name": "pictures",
    "base": {"dataset": SCENES, "optimizer": OPTIMIZER, "training": {"epochs": 2, "batch_size": 8}},
    "seeds": [0],
    "baseline": "student alone",
    "metric": "monitor",
    "axes": {"task": TASKS, "strategy": {"student alone": {"paths": []}, "taught": {}}},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    data: dict[str, Any] = {**SWEEP, "base": {**SWEEP["base"], "storage": str(root)}}  # type: ignore[dict-item]
    plan = SweepSpec.parse(data).plan()
    cache = ProcessCache()
    for trial in plan.trials:
        assert distill(trial.spec, cache=cache)["status"] == "finished"
    folder = root / "sweeps" / "pictures"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    return root


@pytest.fixture(scope="module")
def found(storage: Path) -> SweepResults:
    return sweep_results(read_records(storage, "pictures"))


def look(found: SweepResults, storage: Path, task: str, **options: Any) -> Predictions:
    return predict(found.parts[task], found.comparisons[task], Folder.open(storage), **options)


def test_the_masks_shown_give_the_miou_on_record(found: SweepResults, storage: Path) -> None:
    seen = look(found, storage, "segmentation", count=12)
    truth = seen.truth.mask
    assert truth is not None
    valid = (truth != 255).numpy()
    assert [column.title for column in seen.columns] == ["teacher", "student alone", "taught"]
    for column in seen.columns:
        assert column.mask is not None
        said, right = column.mask.numpy()[valid], truth.numpy()[valid]
        unions = {k: np.sum((said == k) | (right == k)) for k in range(11)}
        shares = [np.sum((said == k) & (right == k)) / union for k, union in unions.items() if union]
        assert np.mean(shares) == pytest.approx(column.figure, abs=1e-6)
    assert seen.background == 1
    assert 0 <= float(seen.images.min()) < float(seen.images.max()) <= 1


def test_boxes_are_those_of_the_images_in_front(found: SweepResults, storage: Path) -> None:
    few, more = (look(found, storage, "detection", count=count) for count in (2, 5))
    assert (len(few.images), len(more.images), len(more.columns[1].boxes)) == (2, 5, 5)
    for short, long in zip(few.columns, more.columns, strict=True):
        for one, other in zip(short.boxes, long.boxes, strict=False):
            np.testing.assert_allclose(one["boxes"], other["boxes"], atol=1e-3)
            assert bool((one["scores"].diff() <= 0).all())
    assert sum(len(rows["labels"]) for rows in more.truth.boxes) >= 5


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_picture_is_the_same_each_time_and_another_for_other_images(
    found: SweepResults, storage: Path, task: str
) -> None:
    with style():
        first, again, fewer = (
            predictions_picture(look(found, storage, task, count=count)) for count in (2, 2, 1)
        )
    assert first.png == again.png != fewer.png
    assert first.name == f"predictions_{task}"


def test_an_unknown_strategy_and_missing_weights_are_named(found: SweepResults, storage: Path) -> None:
    with pytest.raises(UserError, match=r"tought.*taught"):
        look(found, storage, "detection", strategy="tought")
    trials = found.parts["detection"].trials
    gone = trials[trials["cell"] == "taught"].iloc[0]["identity"]
    (storage / "runs" / gone / "best.safetensors").rename(storage / "kept")
    with pytest.raises(UserError, match=r"best\.safetensors is missing"):
        look(found, storage, "detection")
    (storage / "kept").rename(storage / "runs" / gone / "best.safetensors")


def test_the_verb_draws_the_pictures_of_every_dense_task_and_nothing_else(
    storage: Path, tmp_path: Path
) -> None:
    arguments = ["--only", "pictures", "--strategy", "taught", "--images", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["analyze", str(storage), *arguments])
    assert ended.value.code == 0
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
        f"plots/predictions_{task}.{kind}" for task in TASKS for kind in ("png", "svg")
    }
