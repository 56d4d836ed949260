"""W&B offline: a run below the storage with a stable id; nothing it does breaks a training."""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.spec import RunSpec
from ray_kd.tracking.wandb import make_tracker
from ray_kd.training.distill import distill
from ray_kd.training.run_context import local_context
from tests.helpers import tiny

pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _neither_key_nor_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def records(file: Path) -> Iterator[Any]:
    """The records of an offline run's file: protocol buffers in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 2**15 - at % 2**15
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def offline_runs(storage: Path) -> dict[str, list[Any]]:
    """What each offline run below a storage recorded, by its id.

    W&B's own process writes the last records a moment after ``finish`` has returned, later on a busy machine.
    """
    files = sorted(storage.glob("wandb/offline-run-*/run-*.wandb"))
    until = time.monotonic() + 60
    while True:
        found = {file.stem.removeprefix("run-"): list(records(file)) for file in files}
        ended = all(any(record.HasField("exit") for record in run) for run in found.values())
        if ended or time.monotonic() > until:
            return found
        time.sleep(0.05)


def items(entries: Any) -> dict[str, Any]:
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def history(run: list[Any]) -> list[dict[str, Any]]:
    return [items(record.history.item) for record in run if record.HasField("history")]


def tracked(spec: RunSpec, group: str | None = None) -> dict[str, Any]:
    context = local_context(spec)
    context.track = make_tracker(spec, group)
    return distill(spec, context=context)


def test_a_run_is_tracked_offline_under_its_identity(tmp_path: Path) -> None:
    told = {"wandb": "offline", "project": "kd"}
    spec = tiny(tmp_path, paths=["soft_target"], tracking=told, name="safe\u202egpj.exe")
    summary = tracked(spec, "a-sweep")
    (only,) = offline_runs(tmp_path).items()  # the teacher has trained too, and is no run of its own
    assert only[0] == spec.identity()
    (begin,) = [record.run for record in only[1] if record.HasField("run")]
    assert (begin.run_id, begin.run_group, begin.project) == (spec.identity(), "a-sweep", "kd")
    config = items(begin.config.update)
    assert begin.display_name == config["name"] == config["cell"] == r"safe\u202egpj.exe"
    rows = history(only[1])
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"val/top1", "train/loss", "learning_rate", "loss/soft_target", "weight/soft_target"} <= rows[
        0
    ].keys()
    assert rows[-1]["val/top1"] == summary["last"]["val"]["top1"]
    final: dict[str, Any] = {}
    for record in only[1]:
        final |= items(record.summary.update)
    assert final["best/test/top1"] == summary["best"]["test"]["top1"]
    assert final["status"] == "finished"
    assert tracked(spec, "a-sweep") == summary, "the run is found again"
    assert len(offline_runs(tmp_path)) == 1, "and W&B is left alone"


def test_online_without_a_key_is_offline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = tiny(tmp_path, paths=[], tracking={"wandb": "online"})
    assert tracked(spec)["status"] == "finished"
    assert [record.message for record in caplog.records if "no key" in record.message]
    assert list(offline_runs(tmp_path)) == [spec.identity()]


def test_a_failing_wandb_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = distill(tiny(tmp_path / "plain", paths=[]))
    refused = tiny(tmp_path / "refused", paths=[], tracking={"wandb": "offline", "project": "no/such:name"})
    with caplog.at_level(logging.WARNING):
        summary = tracked(refused)
    assert (summary["last"], summary["best"]) == (plain["last"], plain["best"])
    (warning,) = [record.message for record in caplog.records if record.name.startswith("ray_kd")]
    assert "no/such:name" in warning
    assert "training continues" in warning


def test_a_run_that_ends_in_between_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = tiny(tmp_path, paths=[], tracking={"wandb": "offline"})
    context = local_context(spec)
    tracker = context.track = make_tracker(spec)
    assert tracker is not None
    summary = distill(
        spec, context=context, on_epoch=lambda spec, record: tracker._run and tracker._run.finish()
    )
    assert summary["status"] == "finished"
    warnings = [record.message for record in caplog.records if record.name.startswith("ray_kd")]
    assert len(warnings) == 1
    assert len(history(offline_runs(tmp_path)[spec.identity()])) == 1
