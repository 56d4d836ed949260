"""What must hold, always, for segmentation too (rules 1, 3 and 6 of docs/architecture.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_kd.config.registry import DATASETS, VIEWS
from ray_kd.config.spec import RunSpec
from ray_kd.data.order import epoch_order
from ray_kd.models import create_model
from ray_kd.outputs import IGNORE
from ray_kd.training.distill import distill
from ray_kd.training.run import Interrupted, Training
from ray_kd.training.schedule import learning_rate
from ray_kd.training.setting import local_setting
from ray_kd.training.step import Step
from tests.helpers import TINY_SCENES, tiny

PATHS: list[Any] = [{"name": "attention_transfer", "weight": 10}, "hint"]


def scenes(storage: Path, **changes: Any) -> RunSpec:
    return tiny(storage, **{**TINY_SCENES, **changes})


def student(storage: Path, summary: dict[str, Any]) -> dict[str, Tensor]:
    return load_file(storage / "runs" / summary["identity"] / "student.safetensors")


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def bare_training(spec: RunSpec) -> dict[str, Tensor]:
    """The plain baseline, written as anybody would: no path, no aggregator, no teacher."""
    data = DATASETS.get("scenes")(spec.dataset)
    views = VIEWS.get(spec.views.component_name)(spec.views)
    model = create_model(spec.student, classes=11, channels=3, seed=spec.seed)
    options = spec.optimizer
    sgd = torch.optim.SGD(
        model.parameters(),
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        fused=True,
    )
    step = 0
    for epoch in range(spec.training.epochs):
        order = epoch_order(len(data.train), spec.training.batch_size, spec.seed, epoch)
        for index in order:
            batch = views(data.train.gather(index), views.of_epoch(epoch), data.train)
            sgd.param_groups[0]["lr"] = learning_rate(
                spec.schedule, options.lr, step, len(order), spec.training.epochs
            )
            sgd.zero_grad()
            logits = nn.functional.interpolate(model(batch["image"]).logits, (24, 24), mode="bilinear")
            total = nn.functional.cross_entropy(logits, batch["mask"], ignore_index=IGNORE, reduction="sum")
            (total / (batch["mask"] != IGNORE).sum().float()).backward()
            sgd.step()
            step += 1
    return model.state_dict()


@pytest.mark.parametrize("paths", [[], [{**PATHS[0], "weight": 0}, {"name": "hint", "weight": 0}]])
def test_all_weights_0_is_plain_training_bit_for_bit(tmp_path: Path, paths: list[Any]) -> None:
    spec = scenes(tmp_path, paths=paths)
    assert_same(student(tmp_path, distill(spec)), bare_training(spec))  # the student alone, and no adapter


@pytest.mark.parametrize("after", [3, 4])
def test_resume_is_uninterrupted_bit_for_bit(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = distill(scenes(whole, paths=PATHS, aggregation="adaptive"))
    distill(scenes(parts))  # trains the teacher
    spec = scenes(parts, paths=PATHS, aggregation="adaptive")
    training = Training(spec, local_setting(spec))
    original = Step.__call__

    def counted(self: Step, batch: Any, targets: Any) -> None:
        original(self, batch, targets)
        if self.taken == after:
            training.stop_requested.set()

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", counted)
        with pytest.raises(Interrupted):
            list(training.epochs())
    summary = distill(spec)
    assert_same(student(whole, expected), student(parts, summary))
    for name in ("test", "val"):
        assert expected["last"][name] == summary["last"][name]
    for name in ("epochs", "paths"):
        rows = []
        for storage in (whole, parts):
            lines = (storage / "runs" / summary["identity"] / f"{name}.jsonl").read_text().splitlines()
            rows.append([{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines])
        assert rows[0] == rows[1]


def test_records_hold_the_metrics_of_segmentation(tmp_path: Path) -> None:
    summary = distill(scenes(tmp_path, paths=PATHS))
    test = summary["best"]["test"]
    assert {"miou", "pixel_accuracy", "loss", "iou_class0", "kl", "agreement"} <= test.keys()
    epochs = (tmp_path / "runs" / summary["identity"] / "epochs.jsonl").read_text().splitlines()
    assert summary["best"]["val"]["miou"] == max(json.loads(line)["val"]["miou"] for line in epochs)
