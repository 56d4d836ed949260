"""What must hold, always (rules 1, 3, 5 and 6 of docs/architecture.md), for one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ray_kd.config.registry import DATASETS
from ray_kd.training.build import build
from ray_kd.training.distill import distill
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import ALL_PATHS, tiny
from tests.training.runs import assert_resumes, assert_same, bare_digits, lines, weights


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": []},
        {"paths": [{"name": name, "weight": 0} for name in ("soft_target", "nst")]},
        {"paths": [{"name": "logits", "weight": 0}], "aggregation": "adaptive"},
    ],
)
def test_all_weights_0_is_plain_training_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = tiny(tmp_path, **changes)
    summary = distill(spec)
    expected = bare_digits(spec)
    # The fused kernel of the loop and PyTorch's plain one round alike, or this fails.
    assert_same(weights(tmp_path, summary), expected)


def test_weight_0_and_no_path_are_one_run(tmp_path: Path) -> None:
    with_zero = tiny(tmp_path, paths=[{"name": "nst", "weight": 0}], aggregation="equal")
    assert with_zero.identity() == tiny(tmp_path, paths=[]).identity()


@pytest.mark.parametrize("aggregation", ["fixed", "adaptive", {"name": "adaptive", "verbatim": True}])
def test_same_spec_same_numbers(tmp_path: Path, aggregation: Any) -> None:
    runs = []
    for name in ("one", "two"):
        summary = distill(tiny(tmp_path / name, paths=ALL_PATHS, aggregation=aggregation))
        runs.append((weights(tmp_path / name, summary), lines(tmp_path / name, summary["identity"], "paths")))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_a_global_draw_by_somebody_else_changes_nothing(tmp_path: Path) -> None:
    first = distill(tiny(tmp_path / "one", paths=ALL_PATHS))
    torch.rand(5)
    state = torch.get_rng_state()
    second = distill(tiny(tmp_path / "two", paths=ALL_PATHS))
    assert torch.equal(state, torch.get_rng_state()), "a run leaves the caller's generator as it was"
    assert_same(weights(tmp_path / "one", first), weights(tmp_path / "two", second))


def test_students_of_one_seed_start_alike(tmp_path: Path) -> None:
    """Runs are paired: initial weights and order do not depend on the paths."""
    states = []
    for paths in ([], ALL_PATHS):
        spec = tiny(tmp_path, paths=paths)
        distill(spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": 1})}))
        training = Training(spec, local_context(spec))
        states.append(build(spec, training.context, training.cache).student.state_dict())
    assert_same(states[0], states[1])


# Measures at steps 2, 4, 6 ..., judges from step 8 on, and looks at the batch of the step before.
UTILITY = {"name": "utility", "dense_every": 2, "burn_in": 4}


@pytest.mark.parametrize("after", [1, 5, 6, 8])
@pytest.mark.parametrize("aggregation", ["adaptive", "fixed", UTILITY])
def test_resume_is_uninterrupted_bit_for_bit(tmp_path: Path, after: int, aggregation: Any) -> None:
    assert_resumes(tmp_path, after, paths=ALL_PATHS, aggregation=aggregation)


def test_the_export_is_the_student_alone(tmp_path: Path) -> None:
    """Loadable with torch and safetensors into the same architecture written without ray-kd."""
    summary = distill(tiny(tmp_path, paths=ALL_PATHS))

    def block(before: int, after: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.Sequential(block(1, 2, 1), block(2, 3, 1), block(3, 4, 2), block(4, 6, 2))
            self.head = nn.Linear(6, 10)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.stages(image).mean((2, 3)))

    plain = Plain()
    plain.load_state_dict(weights(tmp_path, summary))  # strict: nothing missing, nothing more
    plain.eval()
    digits = load_digits()
    test = DATASETS.get("digits")(tiny(tmp_path).dataset).test
    images = torch.from_numpy(digits.images).float()[test.ids] / 8 - 1
    with torch.no_grad():
        right = (plain(images.unsqueeze(1)).argmax(1) == torch.from_numpy(digits.target)[test.ids]).float()
    assert right.mean().item() == pytest.approx(summary["last"]["test"]["top1"], abs=1e-6)


def test_test_is_read_once_at_the_end(tmp_path: Path) -> None:
    summary = distill(tiny(tmp_path, paths=["soft_target"]))
    assert all("test" not in record for record in lines(tmp_path, summary["identity"]))
    assert summary["last"]["test"]["top1"] >= 0
    assert summary["best"]["test"]["top1"] >= 0
    best = max(record["val"]["top1"] for record in lines(tmp_path, summary["identity"]))
    assert summary["best"]["val"]["top1"] == best


def test_a_finished_run_is_found_not_repeated(tmp_path: Path) -> None:
    epochs: list[str] = []
    distill(tiny(tmp_path, paths=["logits"]), on_epoch=lambda spec, _: epochs.append(spec.name))
    assert epochs == ["tiny-teacher"] * 2 + ["tiny"] * 3
    distill(tiny(tmp_path, paths=["logits"]), on_epoch=lambda spec, _: epochs.append(spec.name))
    assert len(epochs) == 5
