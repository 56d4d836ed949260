"""What tests of training share: what a run left, stopping it in mid-epoch, and the loop written bare."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from ray_kd.outputs import Outputs
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Interrupted, Training
from ray_kd.training.run_context import local_context
from ray_kd.training.schedule import learning_rate
from ray_kd.training.step import Step
from tests.helpers import tiny


def weights(storage: Path, summary: dict[str, Any], file: str = "student") -> dict[str, Tensor]:
    return load_file(storage / "runs" / summary["identity"] / f"{file}.safetensors")


def lines(storage: Path, identity: str, name: str = "epochs") -> list[dict[str, Any]]:
    rows = [
        json.loads(line) for line in (storage / "runs" / identity / f"{name}.jsonl").read_text().splitlines()
    ]
    for row in rows:
        row.pop("seconds", None)
    return rows


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def stop_after_steps(training: Training, steps: int) -> None:
    """Train until ``steps`` optimizer steps were taken, and stop there as a signal handler would."""
    original = Step.__call__

    def counted(self: Step, batch: Any, targets: Any) -> None:
        original(self, batch, targets)
        if self.taken == steps:
            training.stop_requested.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", counted)
        with pytest.raises(Interrupted):
            list(training.epochs())


def assert_resumes(tmp_path: Path, after: int, **changes: Any) -> dict[str, Any]:
    """Stop a tiny run at a step, in mid-epoch too: going on gives the same weights and the same records.

    Returns:
        The summary of the run that was not interrupted; it lies in ``whole``, the other one in ``parts``.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = distill(tiny(whole, **changes))
    spec = tiny(parts, **changes)
    ensure_teachers(spec, local_context(spec), ProcessCache())
    training = Training(spec, local_context(spec))
    stop_after_steps(training, after)
    state = training.checkpoints.load()
    assert state is not None
    assert state["seconds"] > training.seconds or after % 4 == 0, "the time of the epoch so far counts"
    summary = distill(spec)
    for file in ("student", "best"):
        assert_same(weights(whole, expected, file), weights(parts, summary, file))
    for name in ("epochs", "paths"):
        assert lines(whole, expected["identity"], name) == lines(parts, summary["identity"], name)
    for key in ("last", "best", "epochs", "steps"):
        assert expected[key] == summary[key]
    return expected


def bare_training(
    spec: RunSpec, loss: Callable[[Outputs, dict[str, Tensor]], Tensor], classes: int, channels: int
) -> dict[str, Tensor]:
    """The plain baseline, written as anybody would: no path, no aggregator, no teacher."""
    data = DATASETS.get(spec.dataset.component_name)(spec.dataset)
    views = VIEWS.get(spec.views.component_name)(spec.views)
    model = create_model(spec.student, classes=classes, channels=channels, seed=spec.seed)
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
            loss(model(batch["image"]), batch).backward()
            sgd.step()
            step += 1
    return model.state_dict()


def bare_digits(spec: RunSpec) -> dict[str, Tensor]:
    """Of the tiny run on digits."""
    return bare_training(spec, lambda out, b: nn.functional.cross_entropy(out.logits, b["label"]), 10, 1)
