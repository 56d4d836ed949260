"""A sweep with looks: which seeds are trained, in which order, and what is dropped. No Ray."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cluster.progress import snapshot
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import SweepSpec
from ray_kd.statistics.looks import Verdict
from ray_kd.storage import Store
from ray_kd.trials.design import Design
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Outcome
from ray_kd.trials.trial_queue import TrialQueue
from tests.trials.test_trial_queue import queue, sweep

CELLS: dict[str, Any] = {
    "alone": {"paths": [], "teacher": None},
    "ahead": {"paths": [], "teacher": None, "optimizer.lr": 0.11},
    "noisy": {"paths": [], "teacher": None, "optimizer.lr": 0.12},
    "same": {"paths": [], "teacher": None, "optimizer.lr": 0.13},
    "taught": {"paths": ["soft_target"]},
}
LOOKS: dict[str, Any] = {"looks": [4, 7, 12], "margin": 2.0}
Value = Callable[[Job], float | None]


def looked(**changes: Any) -> SweepSpec:
    return sweep(**{"seeds": LOOKS, "cells": CELLS, **changes})


def value(job: Job) -> float:
    """Synthetic test metrics: ``ahead`` gains 20 points, ``same`` nothing, the others spread widely."""
    assert job.trial is not None
    draw = random.Random(f"{job.trial.seed}").gauss(0, 0.01)
    own = random.Random(f"{job.cell} {job.trial.seed}")
    spread = {"ahead": 0.01, "same": 0.001, "noisy": 0.2, "taught": 0.2}
    return 0.5 + draw + (0.2 if job.cell == "ahead" else 0.0) + own.gauss(0, spread.get(job.cell, 0.0))


def end(on: TrialQueue, job: Job, status: str = "finished", of: Value = value) -> None:
    """End a run as its trainer would; its test metric is the synthetic one."""
    test = of(job) if job.trial is not None else 0.9
    best = {"epoch": 3, "val": {"top1": 0.5}, "test": {"top1": test}} if status == "finished" else None
    summary = {"identity": job.identity, "status": status, "reason": "NaN", "epochs": 3, "seconds": 1.5}
    on.ledger.store.write_json(f"runs/{job.identity}/summary.json", {**summary, "best": best})
    on.end(job.identity, Outcome.of({**summary, "best": best}))


def simulate(
    on: TrialQueue, slots: int, order: random.Random, stop_after: int | None = None, failing: str = ""
) -> list[Job]:
    """Train with so many slots; running trials end in random order. Returns what was handed out, in order."""
    given: list[Job] = []
    running: list[Job] = []
    on.slots = slots
    while True:
        while (job := on.next()) is not None:
            running.append(job)
            given.append(job)
        if len(running) < slots and not all(job.trial is None for job in running):
            assert not waits(on), "a slot is idle while an open strategy has seeds left"
        if not running or (stop_after is not None and len(given) >= stop_after):
            return given
        job = running.pop(order.randrange(len(running)))
        end(on, job, "failed" if job.cell == failing and job.spec.seed == 2 else "finished")


def waits(on: TrialQueue) -> list[str]:
    """Trials that wait, and lack no teacher."""
    ready = [job for job in on.jobs.values() if job.state == "waiting" and job.trial is not None]
    return [
        f"{job.cell} {job.spec.seed}"
        for job in ready
        if all((outcome := on.jobs[need].outcome) and outcome.status == "finished" for need in job.needs)
    ]


def seeds_of(on: TrialQueue, cell: str, ending: Ending) -> set[int]:
    return {
        job.spec.seed
        for job in on.jobs.values()
        if job.cell == cell and job.outcome is not None and job.outcome.status is ending
    }


@pytest.mark.parametrize("slots", [1, 3, 40])
def test_decided_strategies_get_no_more_seeds_and_no_slot_is_idle(store: Store, slots: int) -> None:
    on = queue(store, looked())
    given = simulate(on, slots, random.Random(slots))
    assert on.over
    verdicts = on.looks.verdicts
    assert verdicts.of("ahead").verdict is Verdict.BETTER
    assert verdicts.of("same").verdict is Verdict.SAME
    for cell in ("ahead", "same"):
        look = verdicts.of(cell).look
        done, dropped = seeds_of(on, cell, Ending.FINISHED), seeds_of(on, cell, Ending.NOT_NEEDED)
        assert set(range(look)) <= done, "the look that decided it has all of its seeds"
        assert done | dropped == set(range(12))
    if slots == 1:
        assert seeds_of(on, "ahead", Ending.FINISHED) == set(range(verdicts.of("ahead").look))
    for cell in ("noisy", "taught"):
        if not verdicts.closed(cell):
            assert seeds_of(on, cell, Ending.FINISHED) == set(range(12))
            assert seeds_of(on, "alone", Ending.FINISHED) == set(range(12)), "its reference went on with it"
    assert len({job.identity for job in given}) == len(given)


def test_seeds_of_the_first_look_come_before_those_of_the_second(store: Store) -> None:
    on = queue(store, looked())
    given = [job for job in simulate(on, 1, random.Random(0)) if job.trial is not None]
    stages = [0 if job.spec.seed < 4 else 1 if job.spec.seed < 7 else 2 for job in given]
    assert stages == sorted(stages)
    first = [(job.spec.seed, job.cell) for job in given if job.spec.seed < 4]
    assert [seed for seed, _ in first] == sorted(seed for seed, _ in first), "seed by seed: complete pairs"


def test_seeds_run_ahead_of_a_look_only_where_nothing_else_is_ready(store: Store) -> None:
    on = queue(store, looked(cells={name: CELLS[name] for name in ("alone", "noisy")}), slots=10)
    given = [on.next() for _ in range(10)]
    assert [job.spec.seed for job in given if job is not None] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_verdicts_and_dropped_trials_do_not_depend_on_the_order_in_which_trials_end(tmp_path: Path) -> None:
    found = []
    for number in range(6):
        on = queue(Store(tmp_path / str(number)), looked())
        simulate(on, 1 + 3 * number, random.Random(number), failing="taught")
        assert on.over
        verdicts = on.looks.verdicts
        found.append({cell: verdicts.of(cell) for cell in on.looks.design.current})
        assert verdicts.of("taught").verdict is Verdict.NONE
        assert verdicts.of("taught").lost == 1
    assert all(repr(one) == repr(found[0]) for one in found)


@pytest.mark.parametrize("slots", [1, 4, 9])
def test_killed_anywhere_and_resumed_the_same_is_decided_and_dropped(tmp_path: Path, slots: int) -> None:
    """A function of the records: what had ended when the driver died is all that the next one knows."""
    undisturbed = queue(Store(tmp_path / "whole"), looked())
    simulate(undisturbed, slots, random.Random(0))
    for stop in range(2, 40, 9):
        store = Store(tmp_path / f"{stop}")
        first = queue(store, looked())
        write(first)
        simulate(first, slots, random.Random(stop), stop_after=stop)
        again, twice = queue(store, looked()), queue(store, looked())
        state = {job.identity: job.outcome and job.outcome.status for job in again.jobs.values()}
        assert state == {job.identity: job.outcome and job.outcome.status for job in twice.jobs.values()}
        known = {one: job.outcome.status for one, job in first.jobs.items() if job.outcome is not None}
        assert {one: state[one] for one in known} == known
        assert again.looks.design == first.looks.design
        simulate(again, slots, random.Random(stop + 1))
        assert again.over
        for cell in undisturbed.looks.design.current:
            assert repr(again.looks.verdicts.of(cell)) == repr(undisturbed.looks.verdicts.of(cell))


def write(on: TrialQueue) -> None:
    """What the driver writes before the first trial."""
    on.ledger.write_design(on.looks.design)
    on.ledger.write_plan(on.plan.to_json())


def test_a_teacher_whose_students_are_all_dropped_is_not_trained(store: Store) -> None:
    cells = {"alone": CELLS["alone"], "ahead": {"paths": ["soft_target"]}}
    on = queue(store, looked(cells=cells, seeds={"looks": [4, 8]}), slots=1)
    assert sum(job.trial is None for job in on.jobs.values()) == 1
    for job in on.jobs.values():
        if job.trial is not None and job.cell == "ahead":
            end_now = {"identity": job.identity, "status": "finished", "reason": None, "epochs": 3}
            best = {"val": {"top1": 0.5}, "test": {"top1": value(job)}}
            if job.spec.seed < 4:
                store.write_json(f"runs/{job.identity}/summary.json", {**end_now, "seconds": 1, "best": best})
    again = queue(store, looked(cells=cells, seeds={"looks": [4, 8]}))
    given = simulate(again, 1, random.Random(0))
    assert again.over
    assert {job.cell for job in given} == {"alone"}, "no student of the teacher needs to be trained"


def test_the_reference_goes_on_as_long_as_any_strategy_of_it_is_open(store: Store) -> None:
    cells = {name: CELLS[name] for name in ("alone", "ahead")}
    on = queue(store, looked(cells=cells))
    simulate(on, 1, random.Random(0))
    look = on.looks.verdicts.of("ahead").look
    assert seeds_of(on, "alone", Ending.NOT_NEEDED) == set(range(look, 12))
    state = snapshot(on)
    assert state.ended == state.needed == 2 * look
    assert state.counts().startswith(f"{2 * look} of {2 * look} trials done")
    assert f"{2 * (12 - look)} not needed" in state.counts()
    again = queue(store, looked(cells=cells))
    assert again.over, "the same command starts nothing"


def test_a_list_of_seeds_is_trained_as_it_stands(store: Store) -> None:
    on = queue(store, looked(seeds=list(range(12))))
    simulate(on, 5, random.Random(0))
    assert not seeds_of(on, "ahead", Ending.NOT_NEEDED)
    assert snapshot(on).endings == {Ending.FINISHED: 60}
    assert on.looks.design.families[0].looks == (12,)


def test_failed_seeds_that_are_trained_again_open_their_strategy_again(store: Store) -> None:
    on = queue(store, looked())
    simulate(on, 2, random.Random(0), failing="same")
    assert on.looks.verdicts.of("same").verdict is Verdict.NONE
    assert seeds_of(on, "same", Ending.NOT_NEEDED)
    again = queue(store, looked(), retry_failed=True)
    assert not seeds_of(again, "same", Ending.NOT_NEEDED)
    simulate(again, 2, random.Random(0))
    assert again.looks.verdicts.of("same").verdict is Verdict.SAME


# What is declared


def test_before_a_look_is_complete_an_edited_file_replaces_the_design(store: Store) -> None:
    on = queue(store, looked())
    write(on)
    simulate(on, 1, random.Random(0), stop_after=6)
    again = queue(store, looked(seeds={"looks": [5, 9], "margin": 1.0}))
    (family,) = again.looks.design.families
    assert (family.looks, family.margin, family.begun) == ((5, 9), 1.0, False)
    assert not again.looks.remarks()


def test_after_a_look_another_schedule_does_not_change_what_was_declared(store: Store) -> None:
    on = queue(store, looked())
    write(on)
    simulate(on, 1, random.Random(0))
    (before,) = on.looks.design.families
    again = queue(store, looked(seeds={"looks": [4, 7, 12, 20], "margin": 5.0}))
    (family,) = again.looks.design.families
    assert family == before
    assert family.begun
    (remark,) = again.looks.remarks()
    for word in ("4 strategies", "4, 7, 12 seeds", "margin 2", "descriptive"):
        assert word in remark
    open_now = [cell for cell in family.cells if not again.looks.verdicts.closed(cell)]
    wanted = {job.cell for job in again.jobs.values() if job.state == "waiting" and job.trial is not None}
    assert wanted == ({"alone", *open_now} if open_now else set())
    assert {job.spec.seed for job in again.jobs.values() if job.state == "waiting" and job.trial} <= set(
        range(12, 20)
    )


def test_strategies_that_are_added_or_changed_after_a_look_are_a_family_of_their_own(store: Store) -> None:
    on = queue(store, looked())
    write(on)
    simulate(on, 1, random.Random(0))
    cells = {**CELLS, "late": {"paths": [], "optimizer.lr": 0.3}, "same": {"paths": [], "optimizer.lr": 0.2}}
    again = queue(store, looked(cells=cells))
    first, second = again.looks.design.families
    assert (set(first.cells), set(second.cells)) == ({"ahead", "noisy", "same", "taught"}, {"late", "same"})
    assert [again.looks.design.family_of(cell) for cell in ("late", "ahead")] == [second, first]
    assert (first.judged_by.strategies, second.judged_by.strategies) == (4, 2)
    assert any("2 strategies joined or changed" in remark for remark in again.looks.remarks())
    write(again)
    simulate(again, 1, random.Random(0))
    back = queue(store, looked())
    assert back.looks.design.family_of("same") == first, "as it was, it is judged as it was declared"
    assert Design.from_json(store.read_json("sweeps/tiny/design.json")).families[1].begun


def test_a_family_stands_although_its_cells_left_the_file(store: Store) -> None:
    on = queue(store, looked())
    write(on)
    simulate(on, 1, random.Random(0))
    fewer = {name: CELLS[name] for name in ("alone", "same")}
    write(queue(store, looked(cells=fewer)))
    again = queue(store, looked())
    assert len(again.looks.design.families) == 1
    assert again.looks.design.families[0].judged_by.strategies == 4


def test_a_seed_whose_metric_is_no_number_is_lost(store: Store) -> None:
    on = queue(store, looked(cells={name: CELLS[name] for name in ("alone", "ahead")}))
    while (job := on.next()) is not None:
        end(on, job, of=lambda job: math.nan if (job.cell, job.seed) == ("ahead", 1) else value(job))
    found = on.looks.verdicts.of("ahead")
    assert (found.verdict, found.lost) == (Verdict.NONE, 1)


def test_a_cell_that_varies_something_of_its_own_is_known_by_it(store: Store) -> None:
    """Its seed 0 is the run of another cell, its seed 3 is not."""
    cells = {"alone": CELLS["alone"], "labels": {**CELLS["alone"], "vary": ["labels"]}}
    on = queue(store, looked(cells=cells, seeds=[3, 4, 5]))
    write(on)
    simulate(on, 1, random.Random(0))
    again = queue(store, looked(cells=cells, seeds=[0, 1]))
    assert again.looks.design == on.looks.design


def test_another_baseline_asks_other_questions(store: Store) -> None:
    on = queue(store, looked())
    write(on)
    simulate(on, 1, random.Random(0))
    again = queue(store, looked(baseline="same"))
    assert len(again.looks.design.families) == 2
    assert set(again.looks.design.families[1].cells) == {"alone", "ahead", "noisy", "taught"}


def test_a_damaged_design_is_not_guessed(store: Store) -> None:
    store.write("sweeps/tiny/design.json", b"{")
    with pytest.raises(UserError, match=r"design\.json.*which looks were declared"):
        queue(store, looked())


def test_winners_of_searches_are_declared_before_they_are_known(store: Store) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.05, 0.2]}, "cells": ["alone", "taught"]}
    cells = {name: CELLS[name] for name in ("alone", "taught")}
    spec = looked(cells=cells, search=search)
    on = queue(store, spec)
    write(on)
    (family,) = on.looks.design.families
    assert family.references.keys() == {"alone", "alone (searched)"}
    assert family.cells.keys() == {"taught", "taught (searched)"}
    assert family.cells["taught (searched)"] is None
    simulate(on, 3, random.Random(0))
    (family,) = on.looks.design.families
    winner = next(job for job in on.jobs.values() if job.cell == "taught (searched)")
    assert family.cells["taught (searched)"] is not None
    assert on.looks.design.reference_of(winner.cell) == "alone (searched)"
    assert on.looks.verdicts.passed("taught (searched)") > 0
    again = queue(store, spec)
    assert again.over
    assert again.looks.design == on.looks.design
