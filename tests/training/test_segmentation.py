"""What must hold, always, for segmentation too (rules 1, 3 and 6 of docs/architecture.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from ray_kd.config.spec import RunSpec
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.training.distill import distill
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import TINY_SCENES, tiny
from tests.training.runs import assert_same, bare_training, lines, stop_after_steps, weights

PATHS: list[Any] = [{"name": "attention_transfer", "weight": 10}, "hint"]


def scenes(storage: Path, **changes: Any) -> RunSpec:
    return tiny(storage, **{**TINY_SCENES, **changes})


def bare_loss(outputs: Outputs, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy at the mask's size, a mean over the pixels that count."""
    logits = nn.functional.interpolate(outputs.logits, (24, 24), mode="bilinear")
    total = nn.functional.cross_entropy(logits, batch["mask"], ignore_index=IGNORE, reduction="sum")
    return total / (batch["mask"] != IGNORE).sum().float()


@pytest.mark.parametrize("paths", [[], [{**PATHS[0], "weight": 0}, {"name": "hint", "weight": 0}]])
def test_all_weights_0_is_plain_training_bit_for_bit(tmp_path: Path, paths: list[Any]) -> None:
    spec = scenes(tmp_path, paths=paths)
    expected = bare_training(spec, bare_loss, classes=11, channels=3)
    assert_same(weights(tmp_path, distill(spec)), expected)  # the student alone, and no adapter


@pytest.mark.parametrize("after", [3, 4])
def test_resume_is_uninterrupted_bit_for_bit(tmp_path: Path, after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = distill(scenes(whole, paths=PATHS, aggregation="adaptive"))
    distill(scenes(parts))  # trains the teacher
    spec = scenes(parts, paths=PATHS, aggregation="adaptive")
    training = Training(spec, local_context(spec))
    stop_after_steps(training, after)
    summary = distill(spec)
    assert_same(weights(whole, expected), weights(parts, summary))
    for name in ("test", "val"):
        assert expected["last"][name] == summary["last"][name]
    for name in ("epochs", "paths"):
        assert lines(whole, expected["identity"], name) == lines(parts, summary["identity"], name)


def test_records_hold_the_metrics_of_segmentation(tmp_path: Path) -> None:
    summary = distill(scenes(tmp_path, paths=PATHS))
    test = summary["best"]["test"]
    assert {"miou", "pixel_accuracy", "loss", "iou_class0", "kl", "agreement"} <= test.keys()
    epochs = lines(tmp_path, summary["identity"])
    assert summary["best"]["val"]["miou"] == max(record["val"]["miou"] for record in epochs)
