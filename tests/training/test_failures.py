"""Runs that go wrong say so, in their record, and leave nothing half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.outputs import Outputs
from ray_kd.training.checkpoints import StoreCheckpoints
from ray_kd.training.distill import begin_anew, distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import ALL_PATHS, shifted, tiny


@pytest.mark.outcome
def test_nan_ends_the_run_with_its_reason(tmp_path: Path, seed_shift: int) -> None:
    spec = shifted(tiny(tmp_path, paths=["logits"], optimizer={"lr": 1e20}), seed_shift)
    with pytest.raises(TrainingFailed, match=r"NaN or infinite in epoch \d"):
        distill(spec)
    folder = tmp_path / "runs" / spec.identity()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "became NaN" in summary["reason"]
    assert "TrainingFailed" in (folder / "error.txt").read_text()
    assert not (folder / "student.safetensors").exists()
    # It is tried again when asked again, and fails alike.
    with pytest.raises(TrainingFailed):
        distill(spec)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_corrupt_checkpoint_is_no_end_of_the_run(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny(tmp_path, paths=["logits"])
    ensure_teachers(spec, local_context(spec), ProcessCache())
    training = Training(spec, local_context(spec))
    epochs = training.epochs()
    next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    file = tmp_path / "runs" / spec.identity() / "checkpoints" / "last.pt"
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert distill(spec)["status"] == "finished"
    assert [text for text in caplog.messages if "last.pt is damaged" in text and "starts over" in text]


def test_a_run_that_another_process_ends_meanwhile_is_not_trained_again(tmp_path: Path) -> None:
    """The lock is free between the last epoch and the summary, and the summary drops the state."""
    spec = tiny(tmp_path, paths=[], teacher=None)
    context = local_context(spec)
    first = Training(spec, context)
    list(first.epochs())

    class Meanwhile(StoreCheckpoints):
        def load(self) -> dict[str, Any] | None:
            first.finish()
            return super().load()

    second = Training(spec, replace(context, checkpoints=Meanwhile(context.store, first.directory)))
    assert list(second.epochs()) == []
    assert second.finish() == json.loads((tmp_path / first.directory / "summary.json").read_text())
    assert len(first.records.epochs()) == spec.training.epochs, "the records stay as they were"


def test_what_several_workers_left_one_goes_on_from(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=[], teacher=None)
    training = Training(spec, local_context(spec))
    epochs = training.epochs()
    next(epochs), next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    folder = tmp_path / training.directory
    before = (folder / "epochs.jsonl").read_text()
    for name in ("checkpoint_1", "checkpoint_2"):
        (folder / "checkpoints" / "train" / name).mkdir(parents=True)
    # The second one was torn by a kill.
    kept = (folder / "checkpoints" / "last.pt").rename(folder / "checkpoints/train/checkpoint_1/state.pt")
    (folder / "checkpoints/train/checkpoint_2/state.pt").write_bytes(
        kept.read_bytes()[:500]
    )  # torn by a kill
    assert distill(spec)["status"] == "finished"
    after = (folder / "epochs.jsonl").read_text()
    assert after.startswith(before), "seconds are part of a line: nothing was trained anew"
    assert after.count("\n") == spec.training.epochs


def test_to_start_over_waits_for_who_trains_the_run(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=[], teacher=None)
    context = local_context(spec)
    first = Training(spec, context)
    epochs = first.epochs()
    next(epochs)
    told: list[str] = []
    waits = threading.Event()

    def on_wait(text: str) -> None:
        told.append(text)
        waits.set()

    second = threading.Thread(target=begin_anew, args=(context.store, first.identity, True, on_wait))
    second.start()
    assert waits.wait(60)
    assert first.checkpoints.load() is not None, "the state of a run that trains is not taken from it"
    list(epochs)
    second.join()
    assert "waiting for" in told[0]
    assert first.checkpoints.load() is None
    assert distill(spec)["status"] == "finished"


def test_stage_that_does_not_exist(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=[{"name": "nst", "stages": [7]}])
    with pytest.raises(UserError, match=r"stage 7 does not exist.*0 to 3"):
        distill(spec)


def test_storage_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="A file lies where a folder is needed"):
        distill(tiny(tmp_path / "file", paths=[]))


def test_teacher_weights_that_do_not_fit(tmp_path: Path) -> None:
    summary = distill(tiny(tmp_path, paths=["logits"]))
    weights = str(tmp_path / "runs" / summary["identity"] / "student.safetensors")
    teacher = {"model": {"name": "digits_cnn", "width": 4}, "weights": weights}
    with pytest.raises(UserError, match=r"do not fit DigitsCnn.*of another shape"):
        distill(tiny(tmp_path, paths=["logits"], teacher=teacher))
    own = {"model": {"name": "digits_cnn", "width": 2}, "weights": weights, "at_chance": "go_on"}
    assert distill(tiny(tmp_path, paths=["logits"], teacher=own))["status"] == "finished"
    Path(weights).write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged, or no file of weights"):
        distill(tiny(tmp_path, paths=["logits"], teacher=own, seed=5))


@pytest.mark.slow
def test_kill_9_then_the_same_command_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """Rule 3 for one process, killed for real in mid-training."""
    changes: dict[str, Any] = {
        "paths": ALL_PATHS,
        "aggregation": "adaptive",
        "training": {"epochs": 40, "batch_size": 30},
        "checkpoints": {"every_epochs": 1, "every_steps": 3},
    }
    whole, killed = tiny(tmp_path / "whole", **changes), tiny(tmp_path / "killed", **changes)
    expected = distill(whole)
    ensure_teachers(killed, local_context(killed), ProcessCache())
    file = tmp_path / "run.yaml"
    file.write_text(killed.to_yaml())
    folder = tmp_path / "killed" / "runs" / killed.identity()
    code = "import sys, torch; torch.set_num_threads(1)\nfrom ray_kd import distill\ndistill(sys.argv[1])"
    for after in (3, 12):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)])
        wait_for_epochs(folder, after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "summary.json").exists(), "killed too late to show anything"
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert done.returncode == 0
    first = load_file(tmp_path / "whole" / "runs" / whole.identity() / "student.safetensors")
    second = load_file(folder / "student.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 41))
    assert json.loads((folder / "summary.json").read_text())["best"] == expected["best"]


def wait_for_epochs(folder: Path, count: int) -> None:
    file, end = folder / "epochs.jsonl", time.monotonic() + 60
    while time.monotonic() < end:
        if file.exists() and len(file.read_text().splitlines()) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"{file} has no {count} epochs after a minute; {os.listdir(folder)}")


class OwnStudent(nn.Module):
    """Somebody's network: Outputs, and the widths of its stages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, 10)
        self.stage_channels = (width,)

    def forward(self, image: torch.Tensor) -> Outputs:
        feature = self.conv(image).relu()
        return Outputs((feature,), self.head(feature.mean((2, 3))))


def own_pairs(count: int) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(count)
    return [(torch.randn(1, 8, 8, generator=generator), index % 10) for index in range(count)]


def test_ones_own_objects(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=["soft_target", "attention_transfer"])
    sets = {"train": own_pairs(60), "validation": own_pairs(20), "test": own_pairs(30)}
    student, teacher = OwnStudent(3), OwnStudent(6)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    summary = distill(spec, student=student, teacher=teacher, **sets)
    assert summary["status"] == "finished"
    assert summary["steps"] == 3 * 2
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    kept = load_file(tmp_path / "runs" / summary["identity"] / "student.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in student.state_dict().items())
    # Without a key it is never taken for an earlier run; with one it is found again.
    calls: list[int] = []
    for expected in (3, 3):
        distill(spec, student=OwnStudent(3), teacher=teacher, **sets, on_epoch=lambda s, r: calls.append(1))
        assert len(calls) == expected
        calls.clear()
    for expected in (3, 0):
        distill(
            spec,
            student=OwnStudent(3),
            teacher=teacher,
            **sets,
            key="mine",
            on_epoch=lambda s, r: calls.append(1),
        )
        assert len(calls) == expected
        calls.clear()
    with pytest.raises(UserError, match="validation and test"):
        distill(spec, train=sets["train"])
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UserError, match=r"'attention_transfer' compares features.*student.*stage_channels"):
        distill(spec, student=bare, teacher=teacher, **sets)


class Tapless(nn.Module):
    """Somebody's network that shows no feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> Outputs:
        return Outputs(logits=self.head(image.flatten(1)))


def test_paths_between_logits_need_no_taps(tmp_path: Path) -> None:
    sets = {"train": own_pairs(60), "validation": own_pairs(20), "test": own_pairs(30)}
    spec = tiny(tmp_path, paths=["soft_target", "logits", "dkd", "dist"])
    summary = distill(spec, student=Tapless(), teacher=Tapless(), **sets)
    assert summary["status"] == "finished"
