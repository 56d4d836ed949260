"""What a sweep runs next, what it makes of how runs end, and what it finds when it is run again. No Ray."""

from __future__ import annotations

import math
from typing import Any

from ray_kd.cluster.progress import snapshot
from ray_kd.config.ending import Ending
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.trials.job import RETRIES, Job
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.trial_queue import TrialQueue
from tests.helpers import TINY, TINY_SCENES

CELLS: dict[str, Any] = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
RATES = {"optimizer.lr": {"log_uniform": [0.01, 1.0]}}


def sweep(**changes: Any) -> SweepSpec:
    base = {key: value for key, value in TINY.items() if key != "teacher"} | {"teacher": TINY["teacher"]}
    data = {"name": "tiny", "base": base, "seeds": [0, 1], "baseline": "alone", "cells": CELLS}
    data["vary"] = ["student"]
    return SweepSpec.parse({**data, **changes})


def queue(store: Store, spec: SweepSpec | None = None, slots: int = 100, **options: Any) -> TrialQueue:
    spec = spec or sweep()
    ledger = Ledger(store, spec.name)
    ledger.load()
    return TrialQueue(spec, spec.plan(), ledger, slots=slots, **options)


def end(
    on: TrialQueue, job: Job, value: float = 0.5, status: str = "finished", reason: str | None = None
) -> None:
    """End a run as its trainer would: summary first, then the driver's note."""
    best = {"epoch": 3, "val": {"top1": value}} if status != "failed" else None
    summary = {"identity": job.identity, "status": status, "reason": reason, "epochs": 3, "seconds": 1.5}
    on.ledger.store.write_json(f"runs/{job.identity}/summary.json", {**summary, "best": best})
    on.end(job.identity, Outcome.of({**summary, "best": best}))


def drain(on: TrialQueue, values: dict[float, float] | None = None) -> list[Job]:
    """Run everything, one after another; a run's value is that of the nearest learning rate."""
    done = []
    while (job := on.next()) is not None:
        rate = job.spec.optimizer.lr
        known = values or {rate: 0.5}
        end(on, job, known[min(known, key=lambda one: abs(one - rate))])
        done.append(job)
    assert on.over
    return done


def test_teachers_come_first_and_students_wait_for_them(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    assert teacher.trial is None
    assert on.next() is None
    assert not on.over
    assert not on.ready
    end(on, teacher)
    students = [on.next() for _ in range(4)]
    assert [(job.cell, job.trial.seed) for job in students if job and job.trial] == [
        ("alone", 0),
        ("taught", 0),
        ("alone", 1),
        ("taught", 1),
    ]
    assert on.next() is None


def test_no_more_runs_are_out_than_there_are_places(store: Store) -> None:
    on = queue(store, sweep(base={key: TINY[key] for key in TINY if key != "teacher"}, cells={"alone": {}}))
    on.slots = 1
    first = on.next()
    assert first is not None
    assert on.next() is None
    assert on.ready is True
    end(on, first)
    assert on.next() is not None


def test_run_again_it_starts_nothing(store: Store) -> None:
    assert len(drain(queue(store))) == 5
    again = queue(store)
    assert again.over
    assert again.next() is None
    assert snapshot(again).endings == {Ending.FINISHED: 4}


def test_run_again_it_starts_what_is_missing(store: Store) -> None:
    on = queue(store)
    ended = set()
    for _ in range(3):  # the teacher and two students
        job = on.next()
        assert job is not None
        end(on, job)
        ended.add(job.identity)
    rest = {job.identity for job in drain(queue(store))}
    assert len(rest) == 2
    assert not rest & ended


def test_what_another_sweep_trained_is_found_but_noted_in_our_ledger(store: Store) -> None:
    drain(queue(store))
    other = queue(store, sweep(name="other"))
    assert other.over
    assert len(store.names("sweeps/other/ledger")) == 4


def test_a_teacher_that_all_students_outlived_is_not_trained_again(store: Store) -> None:
    (teacher,) = [job for job in drain(queue(store)) if job.trial is None]
    store.delete(f"runs/{teacher.identity}/summary.json")
    assert queue(store).over


def test_two_cells_of_one_identity_train_once(store: Store) -> None:
    cells = {**CELLS, "weight 0": {"paths": [{"name": "logits", "weight": 0}]}}
    trained = [job for job in drain(queue(store, sweep(cells=cells))) if job.trial is not None]
    assert len(trained) == 4


def test_a_failed_trial_stays_failed_until_told_otherwise(store: Store) -> None:
    on = queue(store)
    jobs = []
    while (job := on.next()) is not None:
        jobs.append(job)
        failed = job.cell == "taught" and job.trial is not None and job.trial.seed == 1
        end(on, job, status="failed" if failed else "finished", reason="NaN" if failed else None)
    store.write(f"runs/{jobs[-1].identity}/checkpoints/last.pt", b"a state that leads to NaN")
    assert queue(store).over
    retried = drain(queue(store, retry_failed=True))
    assert [job.identity for job in retried] == [jobs[-1].identity]
    assert not store.exists(f"runs/{jobs[-1].identity}/checkpoints/last.pt")


def test_a_dead_worker_s_trial_is_retried_a_bounded_number_of_times(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    end(on, teacher)
    unlucky = on.next()
    assert unlucky is not None
    for _ in range(RETRIES):
        assert on.crashed(unlucky.identity, "The actor died: SIGKILL") is True
        assert on.next() is unlucky
    assert on.crashed(unlucky.identity, "line\nThe actor died: SIGKILL") is False
    entry = store.read_json(f"sweeps/tiny/ledger/{unlucky.identity}.json")
    assert entry["status"] == "failed"
    assert f"died {RETRIES + 1} times" in entry["reason"]
    assert "SIGKILL" in store.read(entry["error"]).decode()
    assert not on.over


def test_a_worker_that_dies_after_its_run_ended_costs_nothing(store: Store) -> None:
    on = queue(store)
    teacher = on.next()
    assert teacher is not None
    summary = {"identity": teacher.identity, "status": "finished", "reason": None, "seconds": 1.0}
    store.write_json(f"runs/{teacher.identity}/summary.json", summary)
    assert on.crashed(teacher.identity, "SIGKILL") is False
    assert on.ready


def test_a_trial_that_another_sweep_s_scheduler_stopped_trains_here(store: Store) -> None:
    on = queue(store, sweep(name="other"))
    teacher = on.next()
    assert teacher is not None
    end(on, teacher)
    first = on.next()
    assert first is not None
    end(on, first, status="stopped", reason="asha")
    assert first.identity not in {job.identity for job in drain(queue(store, sweep(name="other")))}
    assert first.identity in {job.identity for job in drain(queue(store))}


def test_a_halted_agenda_hands_out_nothing(store: Store) -> None:
    on = queue(store)
    on.halted = True
    assert on.next() is None
    assert on.over


def test_the_winner_of_a_search_runs_on_all_seeds(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2, 0.4]}, "cells": ["taught"]}
    spec = sweep(search=search)
    done = drain(queue(store, spec), values={0.05: 0.6, 0.2: 0.9, 0.4: 0.7})
    searched = [job for job in done if job.trial is not None and job.trial.cell == "taught (searched)"]
    assert {(job.spec.optimizer.lr, job.spec.seed) for job in searched} == {(0.2, 1)}
    plan = store.read_json("sweeps/tiny/plan.json")
    winners = [trial for trial in plan["trials"] if trial["cell"] == "taught (searched)"]
    assert [(trial["seed"], trial["phase"], trial["overrides"]["optimizer.lr"]) for trial in winners] == [
        (0, "compare", 0.2),  # trained as a candidate: seed 0 serves both
        (1, "compare", 0.2),
    ]
    again = queue(store, spec)
    assert again.over
    assert again.plan.size == len(again.jobs) - 1


def test_less_is_better_where_the_metric_says_so(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2]}, "cells": ["taught"]}
    spec = sweep(search=search, metric={"name": "top1", "mode": "min"})
    on = queue(store, spec)
    drain(on, values={0.05: 0.6, 0.2: 0.9})
    assert on.searches[0].winner() is on.searches[0].candidates[0]


def test_a_search_whose_candidates_all_failed_has_no_winner_and_says_so(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2]}, "cells": ["taught"]}
    on = queue(store, sweep(search=search))
    while (job := on.next()) is not None:
        lost = job.phase == "search"
        end(on, job, status="failed" if lost else "finished", reason="NaN" if lost else None)
    assert on.over
    assert any("none of its candidates finished" in note for note in on.plan.notes)
    assert queue(store, sweep(search=search)).over


def test_a_metric_that_is_no_number_wins_no_search_and_no_panel(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2]}, "cells": ["taught"], "seeds": [0]}
    on = queue(store, sweep(search=search))
    drain(on, values={0.05: math.nan, 0.2: 0.1})
    winner = next(job for job in on.jobs.values() if job.cell == "taught (searched)")
    assert winner.spec.optimizer.lr == 0.2
    best = snapshot(on).best
    assert best is not None
    assert "0.1000" in best


def test_no_time_is_said_before_a_trial_of_each_task_has_ended(store: Store) -> None:
    """An epoch of segmentation takes ten times as long as one of digits, say: neither tells of the other."""
    cells = {"digits": {"paths": []}, "scenes": {**TINY_SCENES, "paths": []}}
    spec = sweep(cells=cells, baseline=None, seeds=[0], metric={"name": "monitor"})
    on = queue(store, spec)
    while (job := on.next()) is not None:
        end(on, job)
        assert (snapshot(on).left is None) is not on.over, f"after a run of {job.cell}"

    alike = queue(store, sweep(name="alike", seeds=[1, 2]))
    end(alike, next(job for job in iter(alike.next, None) if job.cell == "alone"))
    assert snapshot(alike).left is not None


def optuna_sweep(trials: int = 12) -> SweepSpec:
    search = {"method": "optuna", "trials": trials, "space": RATES, "cells": ["taught"], "seeds": [0]}
    return sweep(search=search, seeds=[0])


def test_optuna_learns_and_keeps_to_its_budget(store: Store) -> None:
    on = queue(store, optuna_sweep(), slots=2)
    drain(on, values={0.03: 0.9, 0.5: 0.1})
    candidates = on.searches[0].candidates
    assert len(candidates) == 12
    assert len({job.identity for job in on.jobs.values() if job.phase == "search"}) == 12
    late = [one.overrides["optimizer.lr"] for one in candidates[8:]]
    assert sum(rate < 0.27 for rate in late) >= 3


def test_optuna_goes_on_where_it_was_left(store: Store) -> None:
    on = queue(store, optuna_sweep(), slots=2)
    ended: list[str] = []
    while len(ended) < 6:
        job = on.next()
        assert job is not None
        end(on, job, 0.5)
        ended.append(job.identity)
    left_open = on.next()
    assert on.remarks() == []
    again = queue(store, optuna_sweep(), slots=2)
    (said,) = again.remarks()
    assert said.startswith(
        "6 candidates of an earlier call are kept, and 6 are still to be proposed. These, and "
    )
    kept = [one.identities[0] for one in again.searches[0].candidates]
    assert set(ended) & {job.identity for job in again.jobs.values() if job.phase == "search"} <= set(kept)
    more = drain(again)
    assert not {job.identity for job in more} & set(ended)
    assert left_open is not None
    assert left_open.identity in {job.identity for job in more}
    assert len(again.searches[0].candidates) == 12
    over = queue(store, optuna_sweep(), slots=2)
    assert over.over
    assert over.remarks() == []


def test_optuna_candidates_of_another_space_do_not_count(store: Store) -> None:
    drain(queue(store, optuna_sweep(4), slots=2))
    search = {
        "method": "optuna",
        "trials": 4,
        "space": {"optimizer.lr": {"uniform": [2, 3]}},
        "cells": ["taught"],
    }
    on = queue(store, sweep(search=search, seeds=[0]), slots=2)
    assert on.searches[0].candidates == []
    assert len([job for job in drain(on) if job.phase == "search"]) == 4


def test_candidates_that_make_no_valid_run_are_failures_not_the_end(store: Store) -> None:
    space = {"training.batch_size": [30, 31], "resources.workers": [2]}
    search = {"method": "optuna", "trials": 4, "space": space, "cells": ["taught"]}
    on = queue(store, sweep(search=search, seeds=[0]), slots=2)
    drain(on)
    assert on.searches[0].complete
    winner = on.searches[0].winner()
    assert winner is None or winner.overrides["training.batch_size"] == 30


def test_a_damaged_ledger_entry_counts_as_absent(store: Store) -> None:
    drain(queue(store))
    name = store.names("sweeps/tiny/ledger")[0]
    store.write(f"sweeps/tiny/ledger/{name}", b"")
    assert queue(store).over
    assert store.read_json(f"sweeps/tiny/ledger/{name}")["status"] == "finished"


def test_each_seed_s_teacher_comes_once_and_right_before_its_students(store: Store) -> None:
    on = queue(store, sweep(vary=["student", "teacher", "labels"], seeds=[0, 1, 2]))
    order = [(job.cell, job.trial.seed if job.trial else None) for job in drain(on)]
    assert order == [
        entry for seed in (0, 1, 2) for entry in (("teacher", None), ("alone", seed), ("taught", seed))
    ]
    assert len(on.plan.teachers) == 3


def test_a_failed_teacher_blocks_the_students_of_its_seed_alone(store: Store) -> None:
    on = queue(store, sweep(vary=["student", "teacher"]))
    first = on.next()
    assert first is not None
    end(on, first, status="failed", reason="NaN")
    drain(on)
    blocked = [job for job in on.jobs.values() if job.outcome and job.outcome.status is Ending.BLOCKED]
    assert [job.seed for job in blocked] == [0, 0]
    assert snapshot(on).endings == {Ending.FINISHED: 2, Ending.BLOCKED: 2}


def test_the_ledger_has_the_sweep_s_seed_where_the_run_s_does_not_change(store: Store) -> None:
    on = queue(store, sweep(vary=["teacher"]))
    drain(on)
    noted = sorted(entry["seed"] for entry in on.ledger.entries.values())
    assert noted == [0, 0, 1, 1]
    assert {job.spec.seed for job in on.jobs.values() if job.trial} == {0}
