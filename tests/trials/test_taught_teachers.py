"""Teachers that other teachers train, in a sweep's trial queue. No Ray."""

from __future__ import annotations

from typing import Any

import pytest

from ray_kd.analysis.records import read_records
from ray_kd.cluster.progress import snapshot
from ray_kd.config.ending import Ending
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from tests.helpers import TINY
from tests.trials.test_trial_queue import drain, end, queue, sweep


def chained(**assistant: Any) -> SweepSpec:
    """Cells without and with an assistant, which a teacher trains."""
    base = {key: value for key, value in TINY.items() if key != "teacher"}
    learns = {"model": {"name": "digits_cnn", "width": 3}, "paths": ["soft_target"], **assistant}
    cells = {
        "alone": {"paths": []},
        "from big": {"paths": [{"name": "soft_target", "teacher": "big"}]},
        "from assistant": {"paths": [{"name": "soft_target", "teacher": "assistant"}]},
    }
    return sweep(base={**base, "teachers": {"assistant": learns, "big": TINY["teacher"]}}, cells=cells)


def test_a_teacher_trains_before_its_assistant_and_both_once(store: Store) -> None:
    """Though the file names the assistant first."""
    on = queue(store, chained())
    big = on.next()
    assert big is not None
    assert big.spec.name.endswith("-big")
    assert on.next() is None, "all others wait: the assistant for its teacher, students for both"
    end(on, big)
    assistant = on.next()
    assert assistant is not None
    assert assistant.trial is None
    assert assistant.needs == (big.identity,)
    assert assistant.spec.name.endswith("-assistant")
    assert on.next() is None
    end(on, assistant)
    assert len(drain(on)) == 6
    assert on.plan.to_json()["teachers"] == [big.identity, assistant.identity]
    assert queue(store, chained()).over


@pytest.mark.parametrize("fails", ["big", "assistant"])
def test_who_learns_from_a_failed_teacher_is_blocked_with_its_reason(store: Store, fails: str) -> None:
    on = queue(store, chained())
    while (job := on.next()) is not None and job.trial is None:
        failed = job.spec.name.endswith(f"-{fails}")
        end(on, job, status="failed" if failed else "finished", reason="a loss is NaN" if failed else None)
    ended = {job.cell: job.outcome for job in on.jobs.values() if job.outcome is not None and job.trial}
    blocked = {cell for cell, outcome in ended.items() if outcome.status is Ending.BLOCKED}
    assert blocked == {"alone", "from big", "from assistant"}, "agreement is with the first, the assistant"
    how = {"big": "is blocked: its teacher (", "assistant": "failed: a loss is NaN"}[fails]
    for outcome in ended.values():
        assert outcome.reason is not None
        assert f"-assistant) {how}" in outcome.reason
        assert outcome.reason.endswith(f"-{fails}) failed: a loss is NaN")
        assert outcome.error is not None
        assert outcome.error.endswith("error.txt")
    assert on.over
    on.ledger.write_plan(on.plan.to_json())
    rows = read_records(store, "tiny").trials
    assistant = rows[rows["phase"] == "teacher"].iloc[-1]
    assert (assistant["status"], assistant["seed"]) == ("blocked" if fails == "big" else "failed", 0)
    again = queue(store, chained(), retry_failed=True)
    assert len(drain(again)) == (8 if fails == "big" else 7)


def test_a_trained_assistant_does_not_need_its_teacher(store: Store) -> None:
    spec = chained()
    trained = {job.spec.name.rpartition("-")[2]: job.identity for job in drain(queue(store, spec))}
    store.delete(f"runs/{trained['big']}/summary.json")
    more = sweep(base=spec.base, seeds=[0, 1, 2], cells={"alone": {"paths": []}})
    assert [job.cell for job in drain(queue(store, more))] == ["alone"]
    store.delete(f"runs/{trained['assistant']}/summary.json")
    more = sweep(base=spec.base, seeds=[0, 1, 2, 3], cells={"alone": {"paths": []}})
    assert [job.cell for job in drain(queue(store, more))] == ["teacher", "teacher", "alone"]


# A teacher whose run is a trial too: the student alone, beside self-distillation


def born_again(*order: str, **changes: Any) -> SweepSpec:
    """Teacher and student are alike, so that the trial of seed 0 without paths is the teacher's own run."""
    base = {key: value for key, value in TINY.items() if key != "teacher"} | {"dataset": "digits"}
    base["teacher"] = {"model": base["student"], **{key: base[key] for key in ("views", "training")}}
    known = {"alone": {"paths": [], "teacher": None}, "taught": {"paths": ["soft_target"]}}
    cells = {name: known[name] for name in order}
    return sweep(**{"base": base, "cells": cells, "vary": ["student", "teacher"], **changes})


@pytest.mark.parametrize("order", [("alone", "taught"), ("taught", "alone")])
def test_a_run_that_is_a_trial_and_a_teacher_trains_once_and_counts_as_both(
    store: Store, order: tuple[str, str]
) -> None:
    on = queue(store, born_again(*order))
    first = on.next()
    assert first is not None
    assert (first.cell, first.seed, first.teaches) == ("alone", 0, True)
    end(on, first)
    rest = drain(on)
    assert sorted((job.cell, job.seed) for job in rest if job.trial) == [
        ("alone", 1), ("taught", 0), ("taught", 1)
    ]  # fmt: skip
    assert sum(job.trial is None for job in rest) == 1, "the teacher of seed 1"
    assert snapshot(on).endings == {Ending.FINISHED: 4}
    assert on.looks.verdicts.passed("taught") == 1
    assert queue(store, born_again(*order)).over


def test_its_failure_counts_and_blocks_its_students(store: Store) -> None:
    on = queue(store, born_again("taught", "alone"))
    first = on.next()
    assert first is not None
    end(on, first, status="failed", reason="a loss is NaN")
    drain(on)
    assert snapshot(on).endings == {Ending.FINISHED: 2, Ending.FAILED: 1, Ending.BLOCKED: 1}


def test_targets_that_are_stored_first_wait_for_it(store: Store) -> None:
    on = queue(store, born_again("alone", "taught"))
    on.teachers_only = True
    assert [(job.cell, job.teaches) for job in (on.next(), on.next()) if job] == [
        ("alone", True), ("teacher", True)
    ]  # fmt: skip
    assert on.next() is None


def test_a_teacher_becomes_a_trial_when_a_search_proposes_it(store: Store) -> None:
    search = {"method": "optuna", "trials": 1, "space": {"optimizer.lr": {"choice": [0.05]}}, "seeds": [0]}
    own = born_again("taught", "alone")
    cells = {**own.cells, "other": {"paths": [], "teacher": None, "optimizer.lr": 0.2}}
    same = own.base["teacher"] | {"optimizer": {"lr": 0.05}}
    spec = born_again("taught", "alone", base={**own.base, "teacher": same}, cells=cells,
                      search={**search, "cells": ["other"]})  # fmt: skip
    on = queue(store, spec)
    done = drain(on)
    joined = [job for job in done if job.teaches and job.trial is not None]
    assert [(job.phase, job.seed) for job in joined] == [("search", 0)]
    assert snapshot(on).total == snapshot(on).endings[Ending.FINISHED] == len(on.plan.trials) - 1
