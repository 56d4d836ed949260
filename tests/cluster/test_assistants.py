"""A sweep whose students learn from an assistant, on a real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.cluster.sweep import SweepResult, run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.storage.prune import removable
from ray_kd.training.distill import ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from tests.helpers import TINY
from tests.training.runs import assert_same, lines, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_cpus")]


def sweep(seeds: list[int]) -> SweepSpec:
    teachers = {
        "big": TINY["teacher"],
        "assistant": {
            **TINY["teacher"],
            "model": {"name": "digits_cnn", "width": 3},
            "paths": ["soft_target"],
        },
    }
    base: dict[str, Any] = {key: value for key, value in TINY.items() if key != "teacher"}
    cells = {
        "alone": {"paths": []},
        "taught": {},
        "untaught": {"teachers.assistant.optimizer.lr": 1e25},  # its assistant's loss becomes NaN
    }
    run = {**base, "teachers": teachers, "paths": [{"name": "soft_target", "teacher": "assistant"}]}
    return SweepSpec.parse(
        {
            "name": "chain",
            "base": run,
            "cells": cells,
            "seeds": seeds,
            "vary": ["student"],  # one assistant for all seeds
            "baseline": "alone",
        }
    )


def train(spec: SweepSpec, storage: Path) -> SweepResult:
    return run_sweep(spec, storage=str(storage), progress=False)


def test_an_assistant_trains_once_for_all_cells_and_blocks_those_of_a_failed_one(tmp_path: Path) -> None:
    spec, storage = sweep([0, 1]), tmp_path / "swept"
    first = train(spec, storage)
    assert (first.total, first.finished, first.blocked, first.started) == (6, 4, 2, 7), first.message()
    for failure in first.failures:
        assert failure["cell"] == "untaught"
        assert "-assistant) failed: " in failure["reason"]
        assert "NaN" in failure["reason"]
        assert "TrainingFailed" in (storage / failure["error"]).read_text()

    # Each actor's assistant is the one of a bare process.
    taught = next(trial.spec for trial in spec.plan().trials if trial.cell == "taught")
    bare = taught.model_copy(update={"storage": str(tmp_path / "bare")})
    ensure_teachers(bare, local_context(bare), ProcessCache())
    ours = {"identity": taught.teacher_run("assistant").identity()}
    assert_same(weights(storage, ours, "best"), weights(tmp_path / "bare", ours, "best"))
    for name in ("epochs", "paths"):
        assert lines(storage, ours["identity"], name) == lines(tmp_path / "bare", ours["identity"], name)

    # What a sweep's assistant learnt from is in use.
    store = Store(storage)
    for run in taught.teacher_runs().values():
        with pytest.raises(UserError, match="part of the sweep 'chain'"):
            removable(store, store.sizes(), [run.identity()])

    # Where its weights and its teacher's are gone, both train again before the one student that is new.
    for run in taught.teacher_runs().values():
        store.write(f"runs/{run.identity()}/best.safetensors", b"damaged")
    again = train(sweep([0, 1, 2]), storage)
    assert (again.finished, again.blocked, again.started) == (6, 3, 4), again.message()
    assert_same(weights(storage, ours, "best"), weights(tmp_path / "bare", ours, "best"))
