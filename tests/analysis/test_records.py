"""Reading records: live and finished, both layouts, local and behind a URI."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, read_records
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Lock, Store
from tests.analysis.make_records import STRATEGIES, TROUBLED, make_records
from tests.s3 import S3Server


def same(one: Records, other: Records) -> None:
    for name in ("trials", "epochs", "paths"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert one.plan == other.plan


def small(root: Path, **changes: object) -> Path:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST", "adaptive by layer")}
    options = {"strategies": cells, "seeds": 2, "epochs": 6, **changes}
    return make_records(root, **options)  # type: ignore[arg-type]


def test_every_planned_trial_has_one_row_with_its_status(records: Records) -> None:
    trials = records.trials
    assert dict(trials["phase"].value_counts()) == {"compare": 45, "control": 5, "search": 3, "teacher": 1}
    found = {
        (row.cell, row.seed): row.status
        for row in trials[trials["phase"] == "compare"].itertuples()
        if row.status != "finished"
    }
    assert found == TROUBLED


def test_what_a_row_says_is_what_the_files_say(records: Records, storage: Path) -> None:
    row = records.trials[(records.trials["cell"] == "adaptive by layer")].iloc[1]
    folder = storage / "runs" / row["identity"]
    summary = json.loads((folder / "summary.json").read_text())
    assert row["best_test_top1"] == summary["best"]["test"]["top1"]
    assert row["last_val_loss"] == summary["last"]["val"]["loss"]
    assert row["best_epoch"] == summary["best"]["epoch"]
    assert row["paths"] == "soft_target, logits, attention_transfer, nst"
    assert (row["aggregation"], row["granularity"]) == ("adaptive", "layer")
    assert json.loads(row["axes"])["seed"] == 1
    assert (row["torch"], row["device"], row["precision"]) == ("2.15.0", "cpu", "float32")
    mine = records.epochs[(records.epochs["identity"] == row["identity"]) & (records.epochs["epoch"] == 4)]
    line = json.loads((folder / "epochs.jsonl").read_text().splitlines()[3])
    assert mine.iloc[0]["train_task_loss"] == line["train"]["task_loss"]
    assert mine.iloc[0]["val_top1"] == line["val"]["top1"]


def test_an_epoch_without_evaluation_and_a_student_alone_have_nulls(records: Records) -> None:
    alone = records.trials[records.trials["cell"] == "student alone"].iloc[0]
    assert pd.isna(alone["best_test_agreement"])
    assert pd.isna(alone["aggregation"])
    assert alone["paths"] == ""
    odd = records.epochs[(records.epochs["identity"] == alone["identity"]) & (records.epochs["epoch"] == 3)]
    assert pd.isna(odd.iloc[0]["val_top1"])


def test_a_failed_trial_says_why_and_has_no_figures(records: Records) -> None:
    failed = records.trials[records.trials["status"] == "failed"].iloc[0]
    assert failed["reason"] == "the loss became nan in epoch 7"
    assert pd.isna(failed["best_test_top1"])


def test_a_torn_last_line_is_passed_over(records: Records, storage: Path) -> None:
    running = records.trials[records.trials["status"] == "running"].iloc[0]
    text = (storage / "runs" / running["identity"] / "epochs.jsonl").read_text()
    assert not text.endswith("\n")
    assert running["epochs"] == 15
    assert (records.epochs["identity"] == running["identity"]).sum() == 15


@pytest.mark.parametrize("cut", [1, 7, 30, 60])
def test_wherever_a_file_is_torn_the_whole_lines_are_read(tmp_path: Path, cut: int) -> None:
    root = small(tmp_path / "results")
    file = root / "runs" / f"{0:016x}" / "epochs.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[:-cut])
    epochs = read_records(root, "digits").epochs
    mine = epochs[epochs["identity"] == f"{0:016x}"]
    assert mine["epoch"].tolist() == list(range(1, content[:-cut].count(b"\n") + 1 + (cut == 1)))


def test_a_resumed_run_counts_each_epoch_once_by_its_last_line(tmp_path: Path) -> None:
    root = small(tmp_path / "results")
    file = root / "runs" / f"{0:016x}" / "epochs.jsonl"
    again = json.loads(file.read_text().splitlines()[4])
    again["train"]["loss"] = 123.0
    with file.open("a") as handle:
        handle.write(json.dumps(again) + "\n")
    epochs = read_records(root, "digits").epochs
    mine = epochs[epochs["identity"] == f"{0:016x}"]
    assert mine["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert mine["train_loss"].tolist()[4] == 123.0


def test_both_layouts_read_the_same(tmp_path: Path) -> None:
    lines = read_records(small(tmp_path / "lines"), "digits")
    objects = read_records(small(tmp_path / "objects", objects=True), "digits")
    same(lines, objects)


def test_a_uri_reads_the_same_as_the_directory(tmp_path: Path, s3: S3Server) -> None:
    root = small(tmp_path / "results", objects=True, statuses={("NST", 1): "failed"})
    remote = Store(s3.uri("records"))
    for file in root.rglob("*"):
        if file.is_file():
            remote.write(str(file.relative_to(root)), file.read_bytes())
    assert not remote.is_local
    same(read_records(root, "digits"), read_records(remote, "digits"))
    assert Folder.open(root.as_uri()).path == str(root)
    same(read_records(root, "digits"), read_records(root.as_uri(), "digits"))


def test_without_a_sweep_every_run_is_read(tmp_path: Path) -> None:
    root = small(tmp_path / "results", control=False)
    lonely = root / "runs" / "0123456789abcdef"
    lonely.mkdir()
    (lonely / "spec.yaml").write_text("name: mine\nseed: 3\n")
    everything = read_records(root)
    assert set(everything.trials["identity"]) == {path.name for path in (root / "runs").iterdir()}
    row = everything.trials[everything.trials["identity"] == lonely.name].iloc[0]
    assert (row["name"], row["seed"], row["status"]) == ("mine", 3, "unfinished")
    assert pd.isna(row["sweep"])
    assert everything.plan is None


def test_the_ledger_speaks_for_a_run_that_left_no_summary(tmp_path: Path) -> None:
    root = small(tmp_path / "results", statuses={("NST", 0): "missing", ("NST", 1): "missing"})
    ledger = root / "sweeps" / "digits" / "ledger"
    (ledger / f"{2:016x}.json").write_text(
        json.dumps({"identity": f"{2:016x}", "status": "failed", "reason": "the worker was killed"})
    )
    (ledger / f"{3:016x}.json").write_text(json.dumps({"identity": f"{3:016x}", "status": "finished"}))
    trials = read_records(root, "digits").trials
    nst = trials[trials["cell"] == "NST"]
    assert nst["status"].tolist() == ["failed", "missing"]
    assert nst["reason"].tolist()[0] == "the worker was killed"
    assert "gone" in nst["reason"].tolist()[1]


def test_a_run_that_nobody_trains_is_unfinished_and_not_running(tmp_path: Path) -> None:
    root = small(tmp_path / "results", statuses={("NST", 0): "running", ("NST", 1): "unfinished"})

    def states() -> list[str]:
        trials = read_records(root, "digits").trials
        found: list[str] = trials[trials["cell"] == "NST"]["status"].tolist()
        return found

    assert states() == ["running", "unfinished"]
    lock = root / "runs" / f"{2:016x}" / "lock"
    os.utime(lock, (time.time() - 3600, time.time() - 3600))
    assert states() == ["unfinished", "unfinished"], "nobody has renewed the lock for an hour"
    lock.write_bytes(b"")
    assert states() == ["running", "unfinished"]
    with Lock(Store(root), f"runs/{3:016x}/lock"):
        assert states() == ["running", "running"]
    assert states() == ["running", "unfinished"]


def test_between_its_last_epoch_and_its_summary_a_run_is_running(tmp_path: Path) -> None:
    root = small(tmp_path / "results")
    folder = root / "runs" / f"{2:016x}"
    (folder / "summary.json").unlink()
    (root / "sweeps" / "digits" / "ledger" / f"{2:016x}.json").unlink()
    row = read_records(root, "digits").trials.iloc[2]
    assert (row["cell"], row["status"]) == ("NST", "running")
    os.utime(folder / "epochs.jsonl", (time.time() - 3600, time.time() - 3600))
    assert read_records(root, "digits").trials.iloc[2]["status"] == "unfinished"


def test_the_ledger_says_why_a_trial_is_blocked_or_unfinished(tmp_path: Path) -> None:
    """One written by the version before calls a blocked trial failed."""
    statuses = {("NST", 0): "missing", ("NST", 1): "unfinished"}
    root = small(tmp_path / "results", statuses=statuses)
    ledger = root / "sweeps" / "digits" / "ledger"
    old = {"status": "failed", "reason": "its teacher (small) failed: NaN"}
    new = {"status": "unfinished", "reason": "cannot write x: Read-only file system."}
    for index, entry in ((2, old), (3, new)):
        (ledger / f"{index:016x}.json").write_text(json.dumps({"identity": f"{index:016x}", **entry}))
    trials = read_records(root, "digits").trials
    nst = trials[trials["cell"] == "NST"]
    assert nst["status"].tolist() == ["blocked", "unfinished"]
    assert nst["reason"].tolist() == [old["reason"], new["reason"]]


def test_a_run_that_another_sweep_stopped_is_still_to_come(tmp_path: Path) -> None:
    root = small(tmp_path / "results", statuses={("NST", 0): "stopped"})
    trials = read_records(root, "digits").trials
    assert trials[trials["cell"] == "NST"]["status"].tolist() == ["stopped", "finished"]
    (root / "sweeps" / "digits" / "ledger" / f"{2:016x}.json").unlink()
    trials = read_records(root, "digits").trials
    assert trials[trials["cell"] == "NST"]["status"].tolist() == ["missing", "finished"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    root = small(tmp_path / "results")
    with pytest.raises(UserError, match=r"unknown sweep 'digit'\. Did you mean 'digits'"):
        read_records(root, "digit")
    with pytest.raises(UserError, match="nothing at"):
        read_records(tmp_path / "nowhere")
    with pytest.raises(UserError, match="unknown kind of URI 'no-such-scheme://'"):
        read_records("no-such-scheme://x")
    (root / "sweeps" / "digits" / "plan.json").write_text('{"name": "digits"')
    with pytest.raises(UserError, match=r"plan\.json: not a sweep's plan"):
        read_records(root, "digits")


def test_paths_that_are_spoilt_on_purpose_are_named_whatever_spoils_them(tmp_path: Path) -> None:
    model = {"name": "digits_cnn", "width": 4}
    spec = RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 100},
            "student": {"name": "digits_cnn", "width": 2},
            "teachers": {
                "good": {"model": model},
                "wrong": {"model": model, "training": {"labels": "permuted"}},
                "untrained": {"model": model, "weights": "initial"},
            },
            "paths": [
                {"name": "soft_target", "teacher": "good"},
                {"name": "soft_target", "label": "a", "teacher": "wrong"},
                {"name": "soft_target", "label": "b", "teacher": "untrained"},
                {"name": "soft_target", "label": "c", "teacher": "good", "corrupt": "noise"},
                {"name": "soft_target", "label": "d", "teacher": "wrong", "weight": 0},
            ],
            "aggregation": {"name": "adaptive", "lr": 0.5},
        }
    )
    folder = tmp_path / "runs" / "0"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    trial = read_records(tmp_path).trials.iloc[0]
    assert trial["harmful"] == "a, b, c"
    assert trial["paths"] == "soft_target, a, b, c"
    assert json.loads(trial["student_options"])["width"] == 2
    assert json.loads(trial["aggregation_options"])["lr"] == 0.5
