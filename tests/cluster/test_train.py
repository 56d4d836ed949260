"""Runs of several workers under Ray Train: the same numbers as one, a killed worker, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cli.main import main
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store
from ray_kd.training.checkpoints import StoreCheckpoints
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.cluster.faults import REPOSITORY, Command, holder, lines, losses, records, wait_for
from tests.helpers import tiny

pytestmark = pytest.mark.ray

FILE = str(REPOSITORY / "sweeps" / "runs" / "digits.yaml")
EPOCHS = 40
"""So many that a run is still under way when Ctrl-C, sent in its third epoch, has reached all workers."""
SHORT = ("teacher.training.epochs=2", f"training.epochs={EPOCHS}", "views.count=4", "optimizer.lr=0.01")


def command(storage: Path, *changes: str, epochs: int = EPOCHS) -> tuple[tuple[str, ...], Path]:
    """Training on two workers as it is typed, and where its records go."""
    changes = (*SHORT, f"training.epochs={epochs}", *changes)
    folder = storage / "runs" / RunSpec.load(FILE, *changes).identity()
    return ("train", FILE, *changes, "--workers", "2", "--storage", str(storage)), folder


@pytest.mark.outcome
@pytest.mark.usefixtures("two_cpus")
def test_two_workers_go_on_after_ctrl_c_and_train_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed_shift: int
) -> None:
    seed = f"seed={seed_shift}"
    words, folder = command(tmp_path / "two", seed)
    first = Command(*words)
    wait_for(lambda: len(lines(folder)) >= 3 or first.process.poll() is not None)
    first.process.send_signal(signal.SIGINT)
    code, said = first.end()
    assert code == 130, said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    before = lines(folder)
    assert 3 <= len(before) < EPOCHS
    wait_for(lambda: not first.left(), 30)
    state = StoreCheckpoints(Store(tmp_path / "two"), f"runs/{folder.name}").load()
    assert state is not None
    assert state["epoch"] == len(before), "whatever number of workers goes on finds where it stopped"

    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code
    assert f"last (epoch {EPOCHS})" in capsys.readouterr().out
    # Seconds are part of a line: it went on from where it had stopped, and trained none of them anew.
    assert lines(folder)[: len(before)] == before
    assert [record["epoch"] for record in records(folder)] == list(range(1, EPOCHS + 1))
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "environment.json").read_text())["workers"] == 2

    one = distill(RunSpec.load(FILE, *SHORT, seed, f"storage={tmp_path / 'one'}"))
    assert one["identity"] == folder.name
    # One worker whose initial weights all differ by 1e-7 (four draws) stays as near as 4e-6 for three epochs.
    # Later ones part further, as any two orders of addition do. Other data, or a sum for a mean, differ by
    # percents.
    curves = [losses(where) for where in (folder, tmp_path / "one" / "runs" / folder.name)]
    assert curves[0][:3] == pytest.approx(curves[1][:3], rel=1e-3)


@pytest.mark.exhaustive
def test_to_start_over_keeps_what_finished_until_the_workers_have_finished(tmp_path: Path) -> None:
    words, folder = command(tmp_path, epochs=24)
    code, said = Command(*words).end()
    assert code == 0, said
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    again = Command(*words, "--fresh")
    wait_for(lambda: len(lines(folder / "fresh")) >= 2 or again.process.poll() is not None)
    again.process.send_signal(signal.SIGINT)
    code, said = again.end()
    assert code == 130, said
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    code, said = Command(*words, "--fresh").end()
    assert code == 0, said
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert after.keys() == before.keys(), "nothing is left of what it took the place of"
    assert after["summary.json"] != before["summary.json"]
    assert [record["epoch"] for record in records(folder)] == list(range(1, 25))


@pytest.mark.outcome
@pytest.mark.usefixtures("two_cpus")
def test_a_killed_worker_restarts_from_the_checkpoint_that_ray_keeps(tmp_path: Path, seed_shift: int) -> None:
    from ray_kd.cluster.train import run_distributed

    changes: dict[str, Any] = {
        "paths": ["soft_target", {"name": "attention_transfer", "weight": 10}],
        "aggregation": "adaptive",
        "optimizer": {"lr": 0.02},
        "training": {"epochs": 24, "batch_size": 30},
        "checkpoints": {"every_epochs": 5},
        "seed": seed_shift,
    }
    bare = distill(tiny(tmp_path / "bare", **changes))
    spec = tiny(tmp_path / "spread", resources={"workers": 2}, **changes)
    folder = tmp_path / "spread" / "runs" / spec.identity()

    # It begins with one worker; two go on from there, and lose one.
    ensure_teachers(spec, local_context(spec), ProcessCache())
    epochs = Training(spec, local_context(spec)).epochs()
    for _ in range(5):
        next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    begun = lines(folder)
    torn: list[dict[str, Any]] = []
    kept: list[str] = []

    def kill() -> None:
        wait_for(lambda: len(lines(folder)) >= 13)
        kept.extend(path.name for path in (folder / "checkpoints" / "train").iterdir())
        os.kill(holder(folder), signal.SIGKILL)
        torn.extend(records(folder))

    killer = threading.Thread(target=kill)
    killer.start()
    seen: list[int] = []
    summary = run_distributed(spec, lambda record: seen.append(record["epoch"]))
    killer.join()

    assert "checkpoint_manager_snapshot.json" in kept
    assert any(name.startswith("checkpoint_") for name in kept)
    assert [record["epoch"] for record in records(folder)] == list(range(1, 25))
    assert seen == list(range(6, 25))
    assert lines(folder)[:5] == begun[:5]
    # What it trained twice, it trained alike to the last bit; the rest is one worker's up to float order.
    again = records(folder)[: len(torn)]
    assert [record["train"] for record in again] == [record["train"] for record in torn]
    assert again[-1]["seconds"] != torn[-1]["seconds"], "killed on a checkpoint: nothing was trained twice"
    # Epochs 6 and 7 are the first of two workers; later ones part from one worker's, as any two orders of
    # addition do.
    alone = losses(tmp_path / "bare" / "runs" / bare["identity"])
    assert losses(folder)[:7] == pytest.approx(alone[:7], rel=5e-3)
    assert summary["epochs"] == 24
