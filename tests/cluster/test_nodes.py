"""A cluster of several nodes on one machine: nodes that are not ready, a node that dies, two sweeps."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from ray_kd.cluster.connect import connect  # noqa: F401 (sets Ray's switches before it is imported)
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from tests.cluster.faults import (
    Command,
    another_torch,
    cut_off,
    holder,
    lines,
    losses,
    new_node,
    records,
    wait_for,
)
from tests.helpers import TINY

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_ray")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and one node with one, which ask for no token.

    The Ray of earlier tests has left its token's mode in this process. The head would take it over, and nodes
    that are added after a sweep has joined, which takes the mode back, could not reach it.
    """
    import ray.cluster_utils

    from ray_kd.cluster.authentication import AUTH_MODE, Config

    ray.shutdown()
    os.environ.pop(AUTH_MODE, None)
    Config.initialize("")  # Ray reads its environment again
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def sweep(epochs: int, **changes: Any) -> SweepSpec:
    base = {**TINY, "training": {"epochs": epochs, "batch_size": 30}, **changes.pop("base", {})}
    data = {"name": "nodes", "base": base, "seeds": [0, 1, 2], "baseline": "alone"}
    data["vary"] = ["student"]
    return SweepSpec.parse({**data, "cells": {"alone": {"paths": []}}, **changes})


ROOTED = '''
"""Somebody's data set: the digits, if a folder is there."""
from ray_kd.config.registry import DATASETS
from ray_kd.data.digits import Digits, DigitsOptions

class RootedOptions(DigitsOptions):
    root: str

@DATASETS.register("rooted", source="a test")
class Rooted(Digits):
    Options = RootedOptions
'''


@pytest.mark.exhaustive
def test_nodes_that_are_not_ready_are_named_before_the_first_trial(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rooted_plugin.py").write_text(ROOTED)
    monkeypatch.syspath_prepend(tmp_path)
    storage, disk = tmp_path / "results", tmp_path / "disk"
    root = disk / "data"
    storage.mkdir()
    root.mkdir(parents=True)
    data = {"name": "rooted", "labels": 120}
    base = {"plugins": ["rooted_plugin"], "dataset": {**data, "root": str(tmp_path)}}
    cells = {"alone": {"paths": []}, "other data": {"paths": [], "dataset": {**data, "root": str(root)}}}
    spec = sweep(2, seeds=[0], base=base, cells=cells)
    old = another_torch(tmp_path / "old")
    path = os.pathsep.join([str(old), os.environ.get("PYTHONPATH", "")])
    with new_node(cluster, 1, cut_off(storage, disk)) as lacking:
        other = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
        try:
            with pytest.raises(UserError, match="the cluster is not ready") as caught:
                run_sweep(spec, address=cluster.address, storage=str(storage), progress=False)
            (tmp_path / "run.yaml").write_text(spec.plan().trials[1].spec.to_yaml())
            doctor = Command(
                "doctor",
                f"--address={cluster.address}",
                f"--run={tmp_path / 'run.yaml'}",
                f"--storage={storage}",
                PYTHONPATH=str(tmp_path),
            )
            code, said = doctor.end()
        finally:
            cluster.remove_node(other)
    told = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(told) == 3, told
    here = [line for line in told if lacking[:8] in line]
    assert any(f"{storage} is not the storage that the driver sees" in line for line in here)
    assert any("Mount the storage at the same path on every node" in line for line in here)
    assert any(f"dataset root {root} is missing there" in line for line in here)
    (version,) = [line for line in told if other.node_id[:8] in line]
    assert "torch 1.13.0, the driver has" in version
    assert "Install torch" in version
    left = [file for file in storage.rglob("*") if file.is_file()]
    assert not left, "nothing was started, and the probes cleaned up"

    assert code == 1, said
    assert said.count("MISSING") == 3, said
    for line in told:
        for part in line.split(". ", 1):
            assert part.removesuffix(".") in said


BLOCKS = "from torch import nn\n\ndef last(a, b):\n    return nn.Linear(a, b)\n"
NETS = """
from torch import nn
from blocks_far import last

def build(classes, channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), last(4 * channels, classes))
"""


@pytest.mark.exhaustive
def test_code_beside_a_sweep_file_reaches_a_node_that_lacks_its_folder(cluster: Any, tmp_path: Path) -> None:
    storage, far = tmp_path / "results", tmp_path / "far"
    storage.mkdir()
    far.mkdir()
    (far / "nets_far.py").write_text(NETS)
    (far / "blocks_far.py").write_text(BLOCKS)
    mine = {"name": "factory", "build": "nets_far:build", "image_size": 8}
    spec = sweep(2, seeds=[0], base={"student": mine}, resources={"cpus": 2})
    (far / "sweep.yaml").write_text(spec.to_yaml())
    with new_node(cluster, 2, cut_off(far)):  # the only one that has room
        result = run_sweep(
            str(far / "sweep.yaml"), address=cluster.address, storage=str(storage), progress=False
        )
    assert (result.finished, result.failed) == (1, 0), result.message()


def test_the_trial_of_a_dead_node_goes_on_on_another(cluster: Any, tmp_path: Path) -> None:
    spec = sweep(60, base={"checkpoints": {"every_epochs": 1}}, resources={"cpus": 2})
    trials = {trial.identity: trial.spec for trial in spec.plan().trials}
    folders = {identity: tmp_path / "runs" / identity for identity in trials}
    doomed = cluster.add_node(num_cpus=2)
    screen = io.StringIO()
    before: dict[str, list[str]] = {}

    def ended() -> dict[str, int]:
        files = {identity: folder / "summary.json" for identity, folder in folders.items()}
        return {identity: file.stat().st_mtime_ns for identity, file in files.items() if file.exists()}

    def half_way() -> str | None:
        here = [one for one in folders.keys() - ended().keys() if len(lines(folders[one])) >= 20]
        return here[0] if ended() and here else None

    def kill() -> None:
        """Of three nodes one alone can hold a trial; it dies while the second of them trains."""
        identity = wait_for(half_way)
        before[identity] = lines(folders[identity])[:19]
        finished.update(ended())
        cluster.remove_node(doomed, allow_graceful=False)
        wait_for(lambda: "waiting for a node" in screen.getvalue())
        with new_node(cluster, 2):
            over.wait()

    finished: dict[str, int] = {}
    over = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    console = Console(file=screen, width=300)
    try:
        result = run_sweep(spec, address=cluster.address, storage=str(tmp_path), console=console)
    finally:
        over.set()
    killer.join()
    assert (result.finished, result.failed, result.started) == (3, 0, 4), result.message()
    assert len(finished) == 1
    assert ended().items() >= finished.items()
    ((identity, kept),) = before.items()
    assert lines(folders[identity])[:19] == kept, "it went on from its checkpoint"
    for folder in folders.values():
        assert [record["epoch"] for record in records(folder)] == list(range(1, 61))
    distill(trials[identity].model_copy(update={"storage": str(tmp_path / "bare")}))
    assert losses(folders[identity]) == losses(tmp_path / "bare" / "runs" / identity)


@pytest.mark.exhaustive
def test_two_sweeps_train_their_teacher_once_though_its_trainer_dies(cluster: Any, tmp_path: Path) -> None:
    teacher = {**TINY["teacher"], "training": {"epochs": 150, "batch_size": 50}}
    base = {"teacher": teacher, "checkpoints": {"every_epochs": 1}}
    cells = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
    spec = sweep(2, seeds=[0], base=base, cells=cells)
    (run,) = spec.plan().teachers
    folder = tmp_path / "runs" / run.identity()
    (tmp_path / "other.yaml").write_text(sweep(2, name="other", seeds=[1], base=base, cells=cells).to_yaml())
    second = cluster.add_node(num_cpus=1)
    before: list[str] = []
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: len(lines(folder)) >= 20)
        killed.append(holder(folder))
        before.extend(lines(folder)[:19])
        psutil.Process(killed[0]).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    other = Command(
        "sweep", str(tmp_path / "other.yaml"), f"--storage={tmp_path}", f"--address={cluster.address}"
    )
    result = run_sweep(spec, address=cluster.address, storage=str(tmp_path), progress=False)
    code, said = other.end()
    killer.join()
    cluster.remove_node(second)
    assert code == 0, said
    assert (result.finished, result.failed) == (2, 0), result.message()
    assert killed
    assert lines(folder)[:19] == before
    assert [record["epoch"] for record in records(folder)] == list(range(1, 151))
    written = (folder / "summary.json").stat().st_mtime_ns
    assert run_sweep(spec, storage=str(tmp_path), progress=False).started == 0
    assert (folder / "summary.json").stat().st_mtime_ns == written
