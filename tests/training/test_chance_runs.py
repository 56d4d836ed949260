"""Runs whose sources of chance were redrawn: what they share, what differs, and disturbed weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.training.build import build
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import KEPT, ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.trial_queue import TrialQueue
from tests.helpers import TINY, tiny
from tests.training.runs import assert_resumes, weights

CELLS: dict[str, Any] = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
DISTURBED = {**TINY["training"], "disturb": 1e-7}


def trained(tmp_path: Path, **changes: Any) -> TrialQueue:
    """A sweep of two seeds whose jobs are trained here, as the queue hands them out."""
    data = {"name": "tiny", "base": {**TINY, "storage": str(tmp_path)}, "seeds": [0, 1], "cells": CELLS}
    spec = SweepSpec.parse({**data, **changes})
    queue = TrialQueue(spec, spec.plan(), Ledger(Store(tmp_path), spec.name))
    while (job := queue.next()) is not None:
        summary = distill(job.spec)
        assert summary["status"] == "finished", summary
        queue.end(job.identity, Outcome.of(summary))
    assert queue.over
    return queue


def teachers(queue: TrialQueue, tmp_path: Path) -> dict[int, dict[str, torch.Tensor]]:
    """The weights of the one teacher that both cells of a seed have, by seed."""
    found = {}
    for seed in queue.sweep.seeds:
        (identity,) = {
            need for job in queue.jobs.values() if job.trial and job.seed == seed for need in job.needs
        }
        found[seed] = load_file(tmp_path / "runs" / identity / "best.safetensors")
    return found


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_seed_s_teacher_trains_once_and_stores_targets_of_its_own(tmp_path: Path) -> None:
    base = {**TINY, "storage": str(tmp_path), "targets": "stored"}
    queue = trained(tmp_path, base=base)
    assert queue.started == 2 * (1 + len(CELLS))
    of_seed = teachers(queue, tmp_path)
    assert not alike(of_seed[0], of_seed[1])
    assert len([name for name in Store(tmp_path).names("targets") if "work" not in name]) >= 2


def test_without_teacher_all_seeds_have_the_file_s_teacher(tmp_path: Path) -> None:
    queue = trained(tmp_path, vary=["student", "labels", "views"])
    of_seed = teachers(queue, tmp_path)
    assert alike(of_seed[0], of_seed[1])
    alone = RunSpec.parse({**TINY, "storage": str(tmp_path)}).teacher_run("teacher")
    assert alike(of_seed[0], load_file(tmp_path / "runs" / alone.identity() / "best.safetensors"))


def test_a_run_with_redrawn_labels_resumes_bit_for_bit(tmp_path: Path) -> None:
    assert_resumes(tmp_path, 1, paths=["soft_target"], dataset={**TINY["dataset"], "label_seed": 5})


def test_disturbed_weights_differ_in_their_last_bits(tmp_path: Path) -> None:
    one, other = (
        build(spec, local_context(spec), ProcessCache())
        for spec in (tiny(tmp_path, teacher=None), tiny(tmp_path, teacher=None, training=DISTURBED))
    )
    pairs = list(zip(one.student.parameters(), other.student.parameters(), strict=True))
    for plain, moved in pairs:
        torch.testing.assert_close(plain, moved, rtol=1e-6, atol=0)
    differ = sum(int((plain != moved).sum()) for plain, moved in pairs)
    assert differ > 0.1 * sum(plain.numel() for plain, _ in pairs)
    for plain, moved in zip(one.student.buffers(), other.student.buffers(), strict=True):
        assert torch.equal(plain, moved)


def test_a_disturbed_repeat_ends_with_other_bits_and_resumes(tmp_path: Path) -> None:
    plain = distill(tiny(tmp_path / "plain", paths=[]))
    moved = distill(tiny(tmp_path / "moved", paths=[], training=DISTURBED))
    assert plain["identity"] != moved["identity"]
    assert not alike(weights(tmp_path / "plain", plain), weights(tmp_path / "moved", moved))
    assert_resumes(tmp_path / "again", 1, paths=["soft_target"], training=DISTURBED)


def test_a_process_forgets_what_seeds_of_long_ago_needed() -> None:
    cache, made = ProcessCache(), list[int]()
    for seed in range(KEPT + 2):
        cache.once(("teacher", seed), lambda seed=seed: made.append(seed))
        cache.once(("teacher", 0), lambda: made.append(0))  # used again and again, so it stays
        cache.once(("dataset", 0), lambda: made.append(-1))
    assert made == [0, -1, *range(1, KEPT + 2)]
    cache.once(("teacher", 1), lambda: made.append(1))
    assert made[-1] == 1
    cache.once(("teacher", KEPT + 1), lambda: made.append(-2))
    assert made[-1] == 1
