"""Stored targets streamed by a real Ray Data: the mapped run bit for bit, whatever happens to a reader."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from ray_kd.training.run import Interrupted
from ray_kd.training.run_context import RunContext, local_context
from tests.cluster.faults import losses
from tests.data.formats import make_folder
from tests.helpers import TINY

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_cpus")]

UNTAUGHT = {"model": {"name": "digits_cnn", "width": 4}, "weights": "initial"}


def files(root: Path, **changes: Any) -> dict[str, Any]:
    """A run on files, whose images are read and viewed where their targets are read."""
    if not root.exists():
        make_folder(root, 20)
    return {
        **TINY,
        "dataset": {"name": "image_folder", "root": str(root), "size": 8, "validation": 0.2},
        "views": {"name": "pad_crop", "count": 3},
        "teacher": UNTAUGHT,
        "paths": ["soft_target", "attention_transfer"],
        "training": {"epochs": 4, "batch_size": 4},
        **changes,
    }


def targets(read: str) -> dict[str, Any]:
    return {"source": "stored", "read": read}


def weights(storage: Path, summary: dict[str, Any]) -> bytes:
    return (storage / "runs" / summary["identity"] / "student.safetensors").read_bytes()


def reading() -> list[psutil.Process]:
    """Processes of this one that answer requests."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if "ReaderActor" in " ".join(process.cmdline())]


class Faulty:
    """A stream that kills a reader, and has its run stop, in the middle of epochs."""

    def __init__(self, context: RunContext) -> None:
        self.context, self.killed, self.taken = context, 0, 0

    def __call__(self, what: Any, requests: Any, readers: int = 1) -> Iterator[Any]:
        from ray_kd.cluster.stream import stream

        loaded = stream(what, requests, readers)
        try:
            for rows in loaded:
                self.taken += 1
                if self.taken == 3:
                    for process in reading():
                        os.kill(process.pid, signal.SIGKILL)
                        self.killed += 1
                if self.taken == 9:
                    self.context.stop.set()
                yield rows
        finally:
            loaded.close()  # type: ignore[attr-defined]


def test_it_is_the_mapped_run_though_a_reader_is_killed_and_it_stops_in_an_epoch(tmp_path: Path) -> None:
    run = files(tmp_path / "images", checkpoints={"every_epochs": 1})
    mapped = distill(RunSpec.parse({**run, "targets": targets("mapped"), "storage": str(tmp_path / "m")}))
    spec = RunSpec.parse({**run, "targets": targets("stream"), "storage": str(tmp_path / "s")})
    context = local_context(spec)
    faulty = context.stream = Faulty(context)
    with pytest.raises(Interrupted, match="in epoch 2 after 9 steps"):
        distill(spec, context=context)
    assert faulty.killed, "no reader to kill"
    context.stop = threading.Event()
    summary = distill(spec, context=context)
    assert faulty.taken == 4 * 8, "it went on where it stopped, and every batch came out of the stream"
    assert weights(tmp_path / "s", summary) == weights(tmp_path / "m", mapped)
    assert {**summary["last"], "epoch": 4} == {**mapped["last"], "epoch": 4}
    assert not (tmp_path / "s" / "targets" / "mapped").exists()

    shard = sorted((tmp_path / "s").glob("targets/*/*/v001-p000.parquet"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    other = context.stream = Faulty(context)
    with pytest.raises(UserError, match=rf"{shard.name} is damaged.*precompute"):
        distill(spec.model_copy(update={"seed": 1}), context=context)
    assert other.taken >= 8, "the first view's shard is whole"


@pytest.mark.exhaustive
def test_two_ranks_are_the_mapped_ones(tmp_path: Path) -> None:
    """Whose files a process beside each rank reads."""
    from ray_kd.cluster.train import run_distributed

    found = []
    for read in ("mapped", "stream"):
        run = files(tmp_path / "images", targets=targets(read), resources={"workers": 2, "loaders": 1})
        spec = RunSpec.parse({**run, "storage": str(tmp_path / read)})
        summary = run_distributed(spec)
        found.append((weights(tmp_path / read, summary), losses(tmp_path / read / "runs" / spec.identity())))
    assert found[0] == found[1]
    assert not (tmp_path / "stream" / "targets" / "mapped").exists()


@pytest.mark.exhaustive
def test_trials_of_a_sweep_are_the_mapped_ones(tmp_path: Path) -> None:
    run = files(tmp_path / "images", targets=targets("stream"))
    cells: dict[str, Any] = {"both": {}, "one": {"paths": ["soft_target"]}}
    data = {"name": "tiny", "base": run, "seeds": [0], "baseline": "one", "cells": cells}
    done = run_sweep(SweepSpec.parse(data), storage=str(tmp_path / "sweep"), progress=False)
    assert (done.finished, done.failed) == (2, 0), done.message()
    assert not (tmp_path / "sweep" / "targets" / "mapped").exists()

    mapped = distill(RunSpec.parse({**run, "targets": targets("mapped"), "storage": str(tmp_path / "m")}))
    streamed = tmp_path / "sweep" / "runs" / str(mapped["identity"]) / "student.safetensors"
    assert streamed.read_bytes() == weights(tmp_path / "m", mapped)
