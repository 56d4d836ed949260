"""How trials end: finished, failed, blocked, unfinished; what the same command makes of it. No Ray."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ray_kd.cluster.progress import snapshot
from ray_kd.config.ending import Ending
from ray_kd.config.faults import EnvironmentFault
from ray_kd.storage import Store
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.trial_queue import TrialQueue
from tests.cluster.faults import full_disk
from tests.helpers import tiny
from tests.trials.test_trial_queue import drain, end, queue, sweep


def test_when_a_teacher_fails_its_students_are_blocked_with_the_reason(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    end(on, teacher, status="failed", reason="the task loss became NaN")
    assert on.over
    ledger = Ledger(store, "tiny")
    ledger.load()
    entries = [entry for entry in ledger.entries.values() if entry["phase"] != "teacher"]
    assert len(entries) == 4
    assert all(entry["status"] == "blocked" for entry in entries)
    assert all("teacher" in entry["reason"] and "NaN" in entry["reason"] for entry in entries)
    assert ledger.outcomes(entry["identity"] for entry in entries) == {}, "no end of their own"
    again = queue(store)
    assert again.over
    assert snapshot(again).endings == {Ending.BLOCKED: 4}
    assert queue(store, retry_failed=True).next() is not None

    # Trained elsewhere meanwhile, the teacher blocks nobody any more.
    finished = {"identity": teacher.identity, "status": "finished", "reason": None, "seconds": 1.0}
    store.write_json(f"runs/{teacher.identity}/summary.json", finished)
    assert len(drain(queue(store))) == 4


def test_a_ledger_of_the_version_before_is_read(store: Store) -> None:
    """There a student whose teacher failed was itself failed."""
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    students = [job for job in on.jobs.values() if job.trial is not None]
    old = {"status": "failed", "reason": "its teacher (tiny-teacher) failed: NaN", "seconds": 0.0}
    for job in students:
        store.write_json(f"sweeps/tiny/ledger/{job.identity}.json", {"identity": job.identity, **old})
    own = {"identity": students[0].identity, "status": "failed", "reason": "NaN", "seconds": 1.0}
    store.write_json(f"sweeps/tiny/ledger/{students[0].identity}.json", own)
    again = queue(store)
    assert len(drain(again)) == 1 + 3, "the teacher left no record: it is tried, and its students with it"
    assert snapshot(again).endings == {Ending.FINISHED: 3, Ending.FAILED: 1}


def fault(on: TrialQueue, job: Job) -> None:
    """The machine fails a run: no summary is written."""
    why = "cannot write x: Read-only file system."
    on.end(job.identity, Outcome.of({"identity": job.identity, "status": "unfinished", "reason": why}))


def test_what_the_machine_failed_is_unfinished_and_taken_up_again(store: Store) -> None:
    on = queue(store)
    teacher, lost = on.next(), None
    assert teacher is not None
    end(on, teacher)
    while (job := on.next()) is not None:
        if lost is None:
            lost = job
            fault(on, job)
        else:
            end(on, job)
    assert lost is not None
    assert on.over
    assert snapshot(on).endings == {Ending.FINISHED: 3, Ending.UNFINISHED: 1}
    assert (snapshot(on).ended, snapshot(on).waiting) == (3, 0)
    assert [job.identity for job in drain(queue(store))] == [lost.identity]
    assert store.read_json(f"sweeps/tiny/ledger/{lost.identity}.json")["status"] == "finished"


def test_students_of_an_unfinished_teacher_are_not_started_without_it(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    fault(on, teacher)
    assert on.next() is None
    assert on.over
    assert snapshot(on).endings == {Ending.UNFINISHED: 4}
    assert len(drain(queue(store))) == 5


def test_a_ledger_that_cannot_be_written_stops_nothing(store: Store) -> None:
    """What it would have noted is written once there is room."""
    on = queue(store)
    first = on.next()
    assert first is not None
    with full_disk():
        fault(on, first)
        assert on.over
        assert not store.names("sweeps/tiny/ledger")
        with pytest.raises(EnvironmentFault):
            on.ledger.flush()
    on.ledger.flush()
    assert len(store.names("sweeps/tiny/ledger")) == 5


def test_a_process_that_the_machine_ended_leaves_its_run_unfinished(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    assert not on.crashed(teacher.identity, "Traceback:\nOSError: [Errno 116] Stale file handle")
    assert on.over
    assert snapshot(on).endings == {Ending.UNFINISHED: 4}
    assert not store.exists(f"runs/{teacher.identity}/error.txt")
    assert len(drain(queue(store))) == 5


def test_a_search_with_unfinished_candidates_waits_for_them(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2]}, "cells": ["taught"]}
    spec, lost = sweep(search=search), None
    on = queue(store, spec)
    while (job := on.next()) is not None:
        if job.phase == "search" and lost is None:
            lost = job
            fault(on, job)
        else:
            end(on, job)
    assert lost is not None
    assert on.over, "nothing more can be done now"
    assert on.searches[0].winner() is None or not on.searches[0].complete
    assert not [job for job in on.jobs.values() if job.cell == "taught (searched)"]
    again = queue(store, spec)
    cells = [job.cell for job in drain(again)]
    assert lost.cell in cells
    assert "taught (searched)" in cells


def test_a_scheduler_may_stop_others_after_an_interruption(store: Store) -> None:
    spec = sweep(scheduler={"name": "asha", "grace_epochs": 1})
    on = queue(store, spec)
    assert on.remarks() == []
    for _ in range(2):  # the teacher and a student
        job = on.next()
        assert job is not None
        end(on, job)
    (said,) = queue(store, spec).remarks()
    assert said.startswith("asha compares a trial with those that ended before it: ")
    drain(queue(store, spec))
    assert queue(store, spec).remarks() == []


def test_a_trial_that_waits_for_a_lock_tells_the_sweep(tmp_path: Path) -> None:
    """It comes back to its driver meanwhile: it can be stopped, and what it waits for is shown."""
    from ray_kd.cluster.runners import LocalRunner

    spec = tiny(tmp_path, paths=[], teacher=None)
    context = local_context(spec)
    lock = f"runs/{spec.identity()}/lock"
    context.store.write(lock, b"another-host:17:0123abcd 1.000")
    run = LocalRunner(Training(spec, context))
    assert run.next_record(time.monotonic() + 0.3) is None
    assert not run.ended
    assert run.waits is not None
    assert "waiting for run 'tiny'" in run.waits
    assert "process 17 on another-host" in run.waits
    run.leave(None)
    assert context.store.exists(lock), "it is the other one's"

    on = queue(Store(tmp_path / "sweep"))
    teacher = on.next()
    assert teacher is not None
    on.running(teacher.identity)
    on.progress(teacher.identity, 0, None, run.waits)
    assert snapshot(on).waits == (run.waits,)
    on.progress(teacher.identity, 1, None)
    assert snapshot(on).waits == ()

    run = LocalRunner(Training(spec, context))
    assert run.next_record(time.monotonic() + 0.3) is None
    context.store.delete(lock)
    while not run.ended:
        run.next_record(time.monotonic() + 5)
    assert run.waits is None
    assert run.finish()["status"] == "finished"
    assert not context.store.exists(lock)
