"""Teachers that are wrong on purpose: one that never learnt, and one of permuted labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.spec import RunSpec
from ray_kd.data.base import MapSplit, TensorSplit
from ray_kd.data.permuted import permuted_labels
from ray_kd.storage import Store
from ray_kd.training.build import build
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from tests.helpers import TINY, shifted

BIG = {"name": "digits_cnn", "width": 16}
WRONG: dict[str, Any] = {
    "model": BIG,
    "dataset": {"labels": 100},
    "optimizer": {"lr": 0.1, "weight_decay": 0},
    "training": {"epochs": 100, "batch_size": 50, "labels": "permuted", "evaluate_every": 50},
}
TEACHERS: dict[str, Any] = {
    "teacher": TINY["teacher"],
    "wrong": WRONG,
    "untrained": {"model": BIG, "weights": "initial"},
}


def spec(storage: Path, name: str, **changes: Any) -> RunSpec:
    """A tiny run whose one path learns from teacher ``name``."""
    base = {key: value for key, value in TINY.items() if key != "teacher"}
    paths = [{"name": "soft_target", "teacher": name}]
    return RunSpec.parse({**base, "storage": str(storage), "teachers": TEACHERS, "paths": paths, **changes})


def test_identity_knows_the_teachers_that_are_used_and_no_other(tmp_path: Path) -> None:
    identities = [spec(tmp_path, name).identity() for name in TEACHERS]
    assert len(set(identities)) == 3
    alone = spec(tmp_path, "teacher", teachers={"teacher": TINY["teacher"]})
    assert spec(tmp_path, "teacher").identity() == alone.identity()
    assert spec(tmp_path, "wrong").needed_teachers() == ["teacher", "wrong"]
    given = {**TEACHERS, "wrong": {**WRONG, "training": {**WRONG["training"], "labels": "given"}}}
    assert spec(tmp_path, "wrong", teachers=given).identity() != identities[1]
    seeded = {**TEACHERS, "untrained": {**TEACHERS["untrained"], "seed": 1}}
    assert spec(tmp_path, "untrained", teachers=seeded).identity() != identities[2]


def test_an_untrained_teacher_is_the_same_every_time_and_needs_no_training(tmp_path: Path) -> None:
    run = spec(tmp_path, "untrained")
    assert [summary["name"] for summary in ensure_teachers(run, local_context(run), ProcessCache())] == [
        "tiny-teacher"
    ]
    first, second = (build(run, local_context(run), ProcessCache()).teachers["untrained"] for _ in range(2))
    images = torch.randn(8, 1, 8, 8)
    assert torch.equal(first.outputs(images).logits, second.outputs(images).logits)  # type: ignore[arg-type]
    assert distill(run)["status"] == "finished"


@pytest.mark.outcome
def test_a_wrong_teacher_fits_its_permuted_labels_and_is_at_chance_on_true_ones(
    tmp_path: Path, seed_shift: int
) -> None:
    """Over the seeds tried it fits all of its labels, and says 7 to 12 % of the true ones."""
    run = shifted(spec(tmp_path, "wrong"), seed_shift)
    ensure_teachers(run, local_context(run), ProcessCache())
    teacher = build(run, local_context(run), ProcessCache()).teachers["wrong"]
    teaching = run.teacher_run("wrong")
    dataset = ProcessCache().dataset(teaching.dataset, torch.device("cpu"))
    train = dataset.train.gather(torch.arange(len(dataset.train)))
    taught = permuted_labels(dataset.train, teaching.seed).gather(torch.arange(len(dataset.train)))
    said = teacher.outputs(train["image"]).logits.argmax(1)  # type: ignore[union-attr]
    assert (said == taught["label"]).float().mean() > 0.9
    assert (said == train["label"]).float().mean() < 0.3
    test = dataset.test.gather(torch.arange(len(dataset.test)))
    assert (teacher.outputs(test["image"]).logits.argmax(1) == test["label"]).float().mean() < 0.3  # type: ignore[union-attr]
    assert Store(run.storage).exists(f"runs/{teaching.identity()}/best.safetensors")


def test_permuted_labels_are_a_permutation_alike_for_every_kind_of_split() -> None:
    images, labels = torch.randn(50, 1, 2, 2), torch.arange(50) % 5
    tensors = TensorSplit(images, labels)
    pairs = MapSplit(list(zip(images, labels.tolist(), strict=True)))
    index = torch.randperm(50)
    one, two = (permuted_labels(split, 3).gather(index) for split in (tensors, pairs))
    for name in ("image", "label", "sample"):
        assert torch.equal(one[name], two[name])
    assert torch.equal(one["label"].sort().values, labels.sort().values)
    assert not torch.equal(one["label"], labels[index])
    assert torch.equal(one["image"], images[index])
    assert not torch.equal(permuted_labels(tensors, 4).gather(index)["label"], one["label"])
