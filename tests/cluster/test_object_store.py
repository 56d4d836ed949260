"""A sweep with streamed targets on S3: throttled, slowed, killed and resumed, it leaves a disk's records."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store, is_held
from ray_kd.training.distill import distill
from tests.cluster.faults import Command, wait_for
from tests.helpers import TINY
from tests.s3 import Fault, S3Server

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": {
        **TINY,
        "training": {"epochs": 8, "batch_size": 30},
        "targets": {"source": "stored", "read": "stream"},
    },
    "seeds": [0],
    "baseline": "plain",
    "cells": {"plain": {"paths": []}, "taught": {"paths": ["soft_target"]}},
}
TROUBLE = (
    Fault("throttle", share=0.1),
    Fault("delay", ("PUT",), share=0.1, seconds=0.5),
    Fault("lose", share=0.02),
    Fault("cut", ("GET",), share=0.02),
)


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


@pytest.fixture(scope="module")
def swept(
    s3_running: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Store, Store, str]]:
    """Runs on a disk, the storage of a sweep of them on S3, and what the sweep said at its end."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "tiny.yaml").write_text(SweepSpec.parse(SWEEP).to_yaml())
    file, disk, far = str(folder / "tiny.yaml"), str(folder / "disk"), s3_running.uri("swept")
    for trial in SweepSpec.parse(SWEEP).plan().trials:  # without Ray
        distill(trial.spec.model_copy(update={"storage": disk}))
    variables, store = s3_running.environment, Store(far)
    os.environ.update(variables)
    try:
        with s3_running.disturbed(*TROUBLE):
            first = Command("sweep", file, "--storage", far, **variables)
            begun = r"/epochs/00000[34]\.json$"
            wait_for(lambda: s3_running.count("PUT", key=begun) or first.process.poll() is not None, 400)
            assert first.process.poll() is None, first.end()
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
            wait_for(lambda: not first.left())
            code, said = Command("sweep", file, "--storage", far, **variables).end(400)
        assert code == 0, said
        yield Store(disk), store, said
    finally:
        for name in variables:
            os.environ.pop(name)


def test_its_records_are_those_of_a_disk(swept: tuple[Store, Store, str]) -> None:
    disk, far, said = swept
    found = results(far)
    assert {status for status, *_ in found.values()} == {"finished"}
    assert found == results(disk)
    assert "2 of 2 trials finished" in said


def test_nothing_is_held_or_left_behind(swept: tuple[Store, Store, str]) -> None:
    _, far, _ = swept
    paths = list(far.sizes())
    assert not [path for path in paths if is_held(far, path) and path.endswith("lock")]
    assert not [path for path in paths if path.startswith((".probe", "targets/work-"))]
    assert not [path for path in paths if path.endswith("state.pt")]


@pytest.mark.parametrize("verb", ["status", "analyze"])
def test_verbs_read_it_and_name_it_by_its_uri(
    swept: tuple[Store, Store, str], verb: str, tmp_path: Path
) -> None:
    _, far, _ = swept
    code, said = Command(verb, far.uri).end()
    assert code == 0, said
    assert "taught" in said
    assert "not-a-secret" not in said


def test_no_record_holds_a_key(swept: tuple[Store, Store, str], s3_running: S3Server) -> None:
    _, far, said = swept
    secrets = {name: value for name, value in s3_running.environment.items() if "KEY" in name}
    assert len(secrets) == 2
    for secret in secrets.values():
        assert secret not in said
        assert not [path for path in far.sizes() if secret.encode() in far.read(path)]
