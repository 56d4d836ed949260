"""Sweeps on S3: throttled, slowed, killed, resumed, they leave the records that a disk would have."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cli.main import main
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store, is_held
from ray_kd.training.distill import distill
from tests.cluster.faults import Command, wait_for
from tests.helpers import TINY
from tests.s3 import BUCKET, Fault, S3Server

pytestmark = [pytest.mark.ray]

CELLS: dict[str, Any] = {"plain": {"paths": []}, "taught": {"paths": ["soft_target"]}}
STREAMED = {"targets": {"source": "stored", "read": "stream"}}
TROUBLE = (
    Fault("throttle", share=0.1),
    Fault("delay", ("PUT",), share=0.1, seconds=0.5),
    Fault("lose", share=0.02),
    Fault("cut", ("GET",), share=0.02),
)


def sweep(epochs: int = 8, **changes: Any) -> SweepSpec:
    base = {**TINY, "training": {"epochs": epochs, "batch_size": 30}, **changes}
    return SweepSpec.parse({"name": "tiny", "base": base, "seeds": [0], "baseline": "plain", "cells": CELLS})


def on_disk(spec: SweepSpec, folder: Path) -> Store:
    """The sweep's runs, trained on a disk and without Ray."""
    for trial in spec.plan().trials:
        distill(trial.spec.model_copy(update={"storage": str(folder)}))
    return Store(folder)


def results(store: Store) -> dict[str, Any]:
    """What training came to, by run: weights, curves and metrics, without times."""
    found = {}
    for identity in store.names("runs"):
        place = f"runs/{identity}"
        if store.is_local:
            rows = [json.loads(line) for line in store.read(f"{place}/epochs.jsonl").splitlines()]
        else:
            rows = [store.read_json(f"{place}/epochs/{name}") for name in store.names(f"{place}/epochs")]
        curve = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        summary = store.read_json(f"{place}/summary.json")
        weights = store.read(f"{place}/student.safetensors"), store.read(f"{place}/best.safetensors")
        found[identity] = (summary["status"], summary["last"], summary["best"], curve, weights)
    return found


def left(store: Store) -> list[str]:
    """What a sweep that is over should have deleted or given up."""
    paths = list(store.sizes())
    held = [path for path in paths if path.endswith("lock") and is_held(store, path)]
    return (
        held
        + [path for path in paths if "/.writing-" in path or path.startswith(".probe")]
        + [path for path in paths if "/checkpoints/" in path]
    )


def test_a_throttled_sweep_leaves_what_a_disk_would_have_and_verbs_read_it(
    two_cpus: None, s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, far = sweep(epochs=3), Store(s3.uri("throttled"))
    with s3.disturbed(Fault("throttle", share=0.1), Fault("delay", ("PUT",), share=0.1, seconds=0.3)):
        assert run_sweep(spec, storage=far.uri, progress=False).finished == 2
    assert results(far) == results(on_disk(spec, tmp_path / "disk"))
    assert left(far) == []
    assert "throttle" in {seen.fault for seen in s3.seen}
    for verb in ("status", "analyze"):
        with pytest.raises(SystemExit) as ended:
            main([verb, far.uri])
        assert ended.value.code == 0
        assert "taught" in capsys.readouterr().out
    report = far.read("sweeps/tiny/report.html").decode()
    assert f"copy of s3://{BUCKET}/throttled/sweeps/tiny/sweep.yaml" in report


@pytest.fixture(scope="module")
def far_variables(s3_running: S3Server) -> Iterator[dict[str, str]]:
    """Keys for the server, in this process's environment too."""
    before = dict(os.environ)
    os.environ.update(s3_running.environment)
    yield s3_running.environment
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def swept(
    s3_running: S3Server, far_variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Store, str]:
    """Runs on a disk, the storage of a sweep of them on S3, and what the sweep said at its end."""
    folder, spec = tmp_path_factory.mktemp("objects"), sweep(**STREAMED)
    (folder / "tiny.yaml").write_text(spec.to_yaml())
    file, far = str(folder / "tiny.yaml"), s3_running.uri("swept")
    disk = on_disk(spec, folder / "disk")
    begun = r"^swept/runs/.*/epochs/00000[34]\.json$"
    with s3_running.disturbed(*TROUBLE):
        first = Command("sweep", file, "--storage", far, **far_variables)
        wait_for(lambda: s3_running.count("PUT", key=begun) or first.process.poll() is not None, 400)
        assert first.process.poll() is None, first.end()
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        wait_for(lambda: not first.left())
        code, said = Command("sweep", file, "--storage", far, **far_variables).end(400)
    assert code == 0, said
    return disk, Store(far), said


@pytest.mark.exhaustive
def test_streamed_killed_and_resumed_its_records_are_those_of_a_disk(swept: tuple[Store, Store, str]) -> None:
    disk, far, said = swept
    found = results(far)
    assert {status for status, *_ in found.values()} == {"finished"}
    assert found == results(disk)
    assert left(far) == []
    assert "2 of 2 trials finished" in said
    assert f"tables, plots and report: s3://{BUCKET}/swept/sweeps/tiny\n" in said


@pytest.mark.exhaustive
def test_no_record_holds_a_key(swept: tuple[Store, Store, str], s3_running: S3Server) -> None:
    _, far, said = swept
    secrets = {name: value for name, value in s3_running.environment.items() if "KEY" in name}
    assert len(secrets) == 2
    for secret in secrets.values():
        assert secret not in said
        assert not [path for path in far.sizes() if secret.encode() in far.read(path)]


@pytest.mark.exhaustive
def test_a_sweep_waits_for_a_store_that_is_away_and_loses_nothing(
    s3_running: S3Server, far_variables: dict[str, str], tmp_path: Path
) -> None:
    """It is away until clients no longer repeat their requests, and the locks have expired."""
    spec, far = sweep(epochs=20), s3_running.uri("away")
    (tmp_path / "tiny.yaml").write_text(spec.to_yaml())
    disk = on_disk(spec, tmp_path / "disk")
    command = Command("sweep", str(tmp_path / "tiny.yaml"), "--storage", far, **far_variables)
    begun = r"^away/runs/.*/epochs/000005\.json$"
    wait_for(lambda: s3_running.count("PUT", key=begun) or command.process.poll() is not None)
    with s3_running.disturbed(Fault("throttle", key="^away/"), Fault("throttle", ("GET",), key="^$")):
        command.wait_for("the storage does not answer")
    code, said = command.end(400)
    assert code == 0, said
    assert "the storage answers again, after " in said
    assert results(Store(far)) == results(disk)
    assert left(Store(far)) == []


@pytest.mark.exhaustive
def test_several_workers_keep_their_states_there(
    s3_running: S3Server, far_variables: dict[str, str], tmp_path: Path
) -> None:
    spec, far = sweep(resources={"workers": 2}), s3_running.uri("several")
    (tmp_path / "tiny.yaml").write_text(spec.to_yaml())
    with s3_running.disturbed(*TROUBLE):
        command = Command("sweep", str(tmp_path / "tiny.yaml"), "--storage", far, **far_variables)
        code, said = command.end(500)
    assert code == 0, said
    assert s3_running.count("PUT", key=r"^several/runs/.*/checkpoints/train/.*/state\.pt$")
    assert left(Store(far)) == []
    found, alone = results(Store(far)), results(on_disk(spec, tmp_path / "disk"))
    assert found.keys() == alone.keys()
    for identity, (status, _, _, curve, _) in found.items():
        assert status == "finished"
        losses = [record["train"]["loss"] for record in curve]
        assert losses == pytest.approx([record["train"]["loss"] for record in alone[identity][3]], rel=1e-3)
