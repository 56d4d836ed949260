"""Nodes that join, die or are not there yet: probes in mid-sweep, and an autoscaler without a node."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from ray_kd.cluster.connect import connect  # noqa: F401 (sets Ray's switches before it is imported)
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.training.distill import distill
from tests.cluster.faults import (
    MARK,
    Command,
    another_torch,
    cut_off,
    left_of,
    lines,
    losses,
    new_node,
    records,
    wait_for,
)
from tests.cluster.test_nodes import cluster, sweep  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive, pytest.mark.usefixtures("no_ray")]


def test_a_node_that_joins_and_is_not_ready_is_left_out_and_its_trial_trains_elsewhere(
    cluster: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before that, a node dies while it is probed: its raylet is stopped, so that it cannot respond.

    Of the nodes one alone can hold a trial. It dies too, so that the next one that can is the one that is not
    ready; after it joins one that is.
    """
    monkeypatch.setattr("ray_kd.cluster.execute.COUNT_EVERY", 0.5)
    storage = tmp_path / "results"
    storage.mkdir()
    spec = sweep(150, base={"checkpoints": {"every_epochs": 1}}, resources={"cpus": 2})
    trials = {trial.identity: trial.spec for trial in spec.plan().trials}
    old = another_torch(tmp_path / "old")
    path = os.pathsep.join([str(old), os.environ.get("PYTHONPATH", "")])
    roomy, doomed = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=1)
    raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
    raylet.suspend()
    joined: list[str] = []
    screen, over = io.StringIO(), threading.Event()

    def change() -> None:
        wait_for(lambda: list((storage / ".probe").glob("*/*")))
        raylet.kill()
        wait_for(lambda: any(lines(storage / "runs" / identity) for identity in trials))
        cluster.remove_node(roomy, allow_graceful=False)
        with new_node(cluster, 2, [*cut_off(storage), "env", f"PYTHONPATH={path}"]) as lacking:
            joined.append(lacking)
            wait_for(lambda: "left out" in screen.getvalue())
            with new_node(cluster, 2):
                over.wait()

    changes = threading.Thread(target=change)
    changes.start()
    monkeypatch.setattr("ray_kd.cluster.progress.LINE_EVERY", 0.5)
    console = Console(file=screen, width=500)
    try:
        result = run_sweep(spec, address=cluster.address, storage=str(storage), console=console)
    finally:
        over.set()
    changes.join()
    cluster.remove_node(doomed, allow_graceful=False)
    assert (result.finished, result.failed, result.started) == (3, 0, 4), result.message()
    (line,) = result.left_out
    _names(line, joined[0], storage)
    assert f"left out: {line}" in result.message()
    for identity in trials:
        assert [record["epoch"] for record in records(storage / "runs" / identity)] == list(range(1, 151))
        assert not (storage / "runs" / identity / "error.txt").exists()
    one = next(iter(trials))
    distill(trials[one].model_copy(update={"storage": str(tmp_path / "bare")}))
    assert losses(storage / "runs" / one) == losses(tmp_path / "bare" / "runs" / one)
    assert not (storage / ".probe").exists(), "the probes cleaned up"
    assert run_sweep(spec, storage=str(storage), progress=False).left_out == ()


def _names(line: str, node: str, storage: Path) -> None:
    """A line names a node and what it lacks, and ``status`` prints it."""
    assert node[:8] in line
    assert "is not the storage that the driver sees there" in line
    assert "torch 1.13.0, the driver has" in line
    code, said = Command("status", str(storage)).end()
    assert code == 0
    assert f"left out: {line}" in " ".join(said.split())


HEAD, HEAD_KIND = "f" * 51 + "00000", "ray.head.default"
"""What Ray's provider for tests calls the head."""


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head without CPUs whose autoscaler adds up to two nodes of one CPU.

    The nodes are raylets on this machine, which Ray's provider for tests starts. Ray's own ``fake_multinode``
    type reads a file that its wheel lacks, so the provider is named as an external one.
    """
    folder = tmp_path_factory.mktemp("growing")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"{socket.gethostbyname(socket.gethostname())}:{port}"
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
    config: dict[str, Any] = {
        **{f"{one}_commands": [] for one in commands},
        **{one: {} for one in ("auth", "docker", "file_mounts")},
        "cluster_synced_files": [],
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": address,
            "head_node_id": HEAD,
            "launch_multiple": True,
        },
        "head_node_type": HEAD_KIND,
        "available_node_types": {
            HEAD_KIND: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    mark = uuid.uuid4().hex
    told = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    ids = {
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_NODE_TYPE_NAME": "head",
    }
    head = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--block"),
            f"--autoscaling-config={folder / 'config.json'}",
        ],
        env={**os.environ, **told, **ids, "RAY_AUTH_MODE": "disabled", MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
        for process in left_of(mark):  # nodes that the autoscaler started
            process.kill()


def test_a_sweep_grows_a_cluster_from_no_node_and_is_refused_what_its_autoscaler_cannot_add(
    growing: str, tmp_path: Path
) -> None:
    (tmp_path / "large.yaml").write_text(sweep(1, name="large", resources={"cpus": 2}).to_yaml())
    (tmp_path / "small.yaml").write_text(sweep(1, name="small").to_yaml())
    wait_for(lambda: _listens(growing))
    where = (f"--storage={tmp_path}", f"--address={growing}")
    code, said = Command("sweep", str(tmp_path / "large.yaml"), *where).end()
    assert code == 2, said
    assert "no slot could ever hold this trial: it asks for 2 CPUs" in said
    assert "the cluster's autoscaler says that it can add none that does" in said
    code, said = Command("sweep", str(tmp_path / "small.yaml"), *where).end()
    assert code == 0, said
    assert "3 of 3 trials finished" in said


def test_a_trial_of_two_workers_waits_for_the_nodes_that_an_autoscaler_adds(
    growing: str, tmp_path: Path
) -> None:
    spec = sweep(1, seeds=[0], base={"resources": {"cpus": 1, "workers": 2}})
    (tmp_path / "two.yaml").write_text(spec.to_yaml())
    wait_for(lambda: _listens(growing))
    code, said = Command(
        "sweep", str(tmp_path / "two.yaml"), f"--storage={tmp_path}", f"--address={growing}"
    ).end()
    assert code == 0, said
    assert "1 of 1 trials finished" in said


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as found:
        return found.connect_ex((host, int(port))) == 0


def test_a_trial_that_no_node_can_hold_is_refused_at_once_without_an_autoscaler(
    cluster: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="no slot could ever hold this trial: it asks for 64 CPUs") as caught:
        run_sweep(
            sweep(1, resources={"cpus": 64}), address=cluster.address, storage=str(tmp_path), progress=False
        )
    assert "autoscaler" not in str(caught.value)
