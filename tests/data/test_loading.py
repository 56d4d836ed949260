"""Batches that other processes read: the same ones, whoever reads them and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS, VIEWS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, MapSplit
from ray_kd.data.batches import Batches, in_order
from ray_kd.data.loading import Loader, default_processes
from ray_kd.data.views import Views
from ray_kd.training.distill import distill
from ray_kd.training.run import Interrupted
from ray_kd.training.run_context import local_context
from tests.data.formats import make_folder
from tests.helpers import on_files

CPU = torch.device("cpu")


def folder(root: Path, **options: Any) -> Dataset:
    make_folder(root / "pets", 10)
    options = {"name": "image_folder", "root": str(root / "pets"), "size": 16, "validation": 0.2, **options}
    made: Dataset = DATASETS.get("image_folder")(parse_component(DATASETS, options))
    return made


def views(name: str, data: Dataset, **options: Any) -> Views:
    made: Views = VIEWS.get(name)(parse_component(VIEWS, {"name": name, **options}))
    made.bind(data, "classification")
    return made


def loader(data: Dataset, policy: Views, processes: int) -> Loader:
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return Loader(splits, policy, CPU, processes)


def readers() -> list[psutil.Process]:
    """The processes that read: grandchildren, children of the fork server."""
    return [child for child in psutil.Process().children(recursive=True) if child.ppid() != os.getpid()]


def assert_same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_batches(tmp_path: Path) -> None:
    data = folder(tmp_path)
    policy = views("photo", data)

    def epochs(processes: int) -> list[dict[str, Tensor]]:
        reads = loader(data, policy, processes)
        batches = Batches(data.train, policy, 5, 0, CPU, loader=reads)
        state = torch.get_rng_state()
        found = [batch for epoch in range(2) for batch in batches.epoch(epoch)]
        found += [*batches.epoch(2, start=2), batches.before(2, 2)]
        found += in_order(data.test, CPU, size=7, loader=reads)
        assert torch.equal(torch.get_rng_state(), state)
        assert len(readers()) == processes
        reads.close()
        assert not readers()
        return found

    here = epochs(0)
    assert here[0].keys() == {"image", "label", "sample", "view"}
    assert not torch.equal(here[0]["image"], here[3]["image"])
    for processes in (2, 8):
        assert_same(here, epochs(processes))


@pytest.mark.slow
def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    data = folder(tmp_path)
    policy = views("none", data)
    reads = loader(data, policy, 2)
    batches = Batches(data.train, policy, 1, 0, CPU, loader=reads).epoch(0)
    found = [next(batches)]
    readers()[0].kill()
    found += batches
    assert len(readers()) == 2
    reads.close()
    assert_same(found, list(Batches(data.train, policy, 1, 0, CPU).epoch(0)))


@pytest.mark.slow
def test_what_a_process_finds_wrong_is_said_in_one_message(tmp_path: Path) -> None:
    data = folder(tmp_path)
    policy = views("none", data)
    source: Any = data.train.source  # type: ignore[attr-defined]
    file = source.files[int(data.train.ids[5])]
    Path(file).write_bytes(b"no image")
    reads = loader(data, policy, 1)
    with pytest.raises(UserError) as caught:
        list(Batches(data.train, policy, 4, 0, CPU, loader=reads).epoch(0))
    assert len(str(caught.value).splitlines()) == 1
    assert f"'{file}' cannot be read as an image" in str(caught.value)
    reads.close()

    class Local:
        def __len__(self) -> int:
            return 3

    reads = Loader({"train": MapSplit(Local())}, policy, CPU, 1)
    with pytest.raises(UserError, match=r"resources\.loaders: 1: .* cannot be handed to other processes"):
        list(Batches(MapSplit(Local()), policy, 1, 0, CPU, loader=reads).epoch(0))


def run(root: Path, storage: str, loaders: int, **training: Any) -> RunSpec:
    """A student alone, so that no other run reads beside it."""
    changes = on_files(root, loaders)
    del changes["teacher"]
    return RunSpec.parse(
        {
            **changes,
            "student": {"name": "digits_cnn", "width": 2},
            "training": {**changes["training"], **training},
            "storage": str(root / storage),
        }
    )


@pytest.mark.slow
def test_a_run_does_not_depend_on_who_reads_and_leaves_nobody_behind(tmp_path: Path) -> None:
    alone, helped = run(tmp_path, "a", 0), run(tmp_path, "b", 2)
    assert alone.identity() == helped.identity()
    summary = distill(alone)
    seen = []

    def note(spec: RunSpec, record: dict[str, Any]) -> None:
        seen.append(len(readers()))

    assert distill(helped, on_epoch=note)["best"] == summary["best"]
    assert seen == [2, 2]
    assert not readers()

    spec, context = run(tmp_path, "c", 2), local_context(helped)
    context.store = local_context(spec).store
    with pytest.raises(Interrupted):
        distill(spec, context=context, on_epoch=lambda *_: context.stop.set())
    assert not readers()
    context.stop.clear()
    assert distill(spec, context=context)["best"] == summary["best"]


RUN = """
import sys
from ray_kd import RunSpec, distill

if __name__ == "__main__":
    distill(RunSpec.load(sys.argv[1]), on_epoch=lambda spec, record: print(record["epoch"], flush=True))
"""


@pytest.mark.slow
def test_processes_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(run(tmp_path, "a", 2, epochs=10000).to_yaml())
    (tmp_path / "train.py").write_text(RUN)
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "run.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3  # the server and two readers
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


def test_views_of_raw_samples_need_files() -> None:
    data = DATASETS.get("digits")(parse_component(DATASETS, "digits"))
    with pytest.raises(UserError, match=r"views: 'photo' reads raw samples .* lies in memory"):
        Batches(data.train, VIEWS.get("photo")(parse_component(VIEWS, "photo")), 4, 0, CPU)


def test_how_many_processes_a_run_gets() -> None:
    assert default_processes(None, 4.0, CPU) == 0
    assert default_processes(3, 1.0, CPU) == 3
    assert default_processes(None, 4.0, torch.device("cuda")) == 4
    assert default_processes(None, 0.5, torch.device("cuda")) == 1
    assert default_processes(None, 64.0, torch.device("cuda")) == 8
    assert default_processes(0, 4.0, torch.device("cuda")) == 0
