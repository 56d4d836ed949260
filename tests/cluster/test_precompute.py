"""Stored targets by a pool of teachers on a real Ray: kills, a sweep, a full disk."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from ray_kd.cluster.precompute import precompute_cluster
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.training.precompute import gather_work
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext
from ray_kd.training.verify import verify
from tests.cluster.faults import REPOSITORY, Command, wait_for
from tests.helpers import TINY, TINY_SCENES

VIEWS = 40
RUN: dict[str, Any] = {
    **TINY,
    "dataset": {"name": "digits", "labels": 400},
    "views": {"name": "shift", "count": VIEWS},
    "teacher": {"model": {"name": "digits_cnn", "width": 96}, "weights": "initial"},
    "training": {"epochs": VIEWS, "batch_size": 30},
    "paths": ["soft_target", "hint"],
}


def shards(storage: Path) -> dict[str, int]:
    """Whole shards of the training split, and when each was written."""
    return {
        file.name: file.stat().st_mtime_ns
        for file in storage.glob("targets/*/*/v*.json")
        if len(list(file.parent.glob("v*.json"))) > 1
    }


def actors(command: Command) -> list[psutil.Process]:
    return [process for process in command.left() if "TeacherActor" in " ".join(process.cmdline())]


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_killed_teacher_and_a_killed_driver_cost_the_shards_they_were_at(tmp_path: Path) -> None:
    file, storage = tmp_path / "run.yaml", tmp_path / "results"
    file.write_text(yaml.safe_dump(RUN))
    command = Command("precompute", str(file), "--storage", str(storage))
    wait_for(lambda: len(shards(storage)) >= 5 or command.process.poll() is not None)
    assert command.process.poll() is None, command.end()
    victims = actors(command)
    assert victims, "no teacher to kill"
    victims[0].kill()
    killed = len(shards(storage))
    wait_for(lambda: len(shards(storage)) >= killed + 10 or command.process.poll() is not None)
    assert command.process.poll() is None, command.end()
    os.kill(command.process.pid, signal.SIGKILL)
    for process in command.left():
        process.kill()
    wait_for(lambda: not command.left())
    before = shards(storage)
    assert 15 <= len(before) < VIEWS

    code, said = Command("precompute", str(file), "--storage", str(storage)).end()
    assert code == 0, said
    ours = r"tiny: (stored targets|waiting for)\b.*|\d+ shards stored\.|  .*targets/\w+|  check it: .*"
    assert not [line for line in said.splitlines() if not re.fullmatch(ours, line)], "Ray's own lines"
    assert (
        f"{VIEWS - len(before)} shards stored" in said or f"{VIEWS - len(before) + 2} shards stored" in said
    )
    after = shards(storage)
    assert len(after) == VIEWS
    assert {name: after[name] for name in before} == before, "what was there is not computed again"
    assert not list(storage.rglob(".writing*"))
    (identity,) = (path.parent.name for path in storage.glob("targets/*/store.json"))
    context = RunContext(Store(str(storage)), torch.device("cpu"))
    assert all(one.ok for one in verify(context.store, identity, context))


@pytest.mark.ray
@pytest.mark.usefixtures("two_cpus")
def test_a_sweep_over_two_tasks_computes_its_teachers_predictions_once(tmp_path: Path) -> None:
    cells: dict[str, Any] = {
        "alone": {"paths": []},
        "soft": {"paths": ["soft_target"]},
        "both": {"paths": ["logits", "nst"], "aggregation": "adaptive"},
        "scenes": {**TINY_SCENES, "paths": ["soft_target", "attention_transfer"]},
    }
    base = {**TINY, "targets": "stored"}
    data = {"name": "tiny", "base": base, "seeds": [0, 1], "metric": "monitor", "cells": cells}
    spec = SweepSpec.parse({**data, "vary": ["student"]})
    first = run_sweep(spec, storage=str(tmp_path), progress=False)
    assert (first.finished, first.failed) == (8, 0), first.message()
    groups = {path.parent.name for path in tmp_path.glob("targets/*/*/group.json")}
    assert len(groups) == 2 * 3, (
        "of each task one for the union of all paths; validation's and test's predictions"
    )
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("targets/*/*/*.parquet")}
    assert len(written) == (3 + 2) + (2 + 2)
    again = run_sweep(spec, storage=str(tmp_path), progress=False)
    assert again.started == 0
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("targets/*/*/*.parquet")}

    # One more path adds that path alone. What a teacher cannot write is the user's to mend: one message.
    run = RunSpec.parse({**base, "paths": ["logits", "hint"], "storage": str(tmp_path)})
    context = RunContext(Store(str(tmp_path)), torch.device("cpu"))
    (work,) = [work for work in gather_work([run], context, ProcessCache()) if work.source.missing()]
    ((group, missing),) = work.source.missing()
    assert [name.partition("/")[0] for name in group.columns] == ["feature"] * len(group.columns)
    where = Path(work.source.store.files.path(group.identity)) / f"{missing[1].name}.parquet"
    (where / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^cannot write .*{where.name}"):
        precompute_cluster([run])
    (where / "in the way").rmdir()
    where.rmdir()
    assert precompute_cluster([run]) >= 1
    assert precompute_cluster([run]) == 0
    assert (
        written.items()
        <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("targets/*/*/*.parquet")}.items()
    )


@pytest.mark.slow
def test_a_full_disk_while_targets_are_stored(tmp_path: Path) -> None:
    file, storage = tmp_path / "run.yaml", tmp_path / "results"
    file.write_text(yaml.safe_dump({**RUN, "paths": ["hint"], "training": {"epochs": 2, "batch_size": 30}}))
    code = (
        "import sys; from ray_kd import RunSpec, distill; from ray_kd.config.errors import UserError\n"
        "try: distill(RunSpec.load(sys.argv[1], 'targets=stored', f'storage={sys.argv[2]}'))\n"
        "except UserError as error: print(error); sys.exit(2)\n"
    )
    limit = 1 << 20
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(storage)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("cannot write")
    assert "File too large" in done.stdout
    assert not list(storage.rglob(".writing*"))
    assert not list(storage.rglob("v*.json")), "a shard that could not be written is not there"
