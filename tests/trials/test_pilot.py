"""Looks that are chosen once, from the spread at the first one: an internal pilot. No Ray."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cluster.plan_runs import planned_runs
from ray_kd.config.ending import Ending
from ray_kd.config.sweep import SweepSpec
from ray_kd.statistics.looks import Looks, Verdict
from ray_kd.statistics.power import TIMES, after_pilot
from ray_kd.storage import Store
from ray_kd.trials.design import Design
from ray_kd.trials.findings import can_find
from ray_kd.trials.job import Job
from ray_kd.trials.trial_queue import TrialQueue
from tests.trials.test_looks import CELLS, end, looked, seeds_of, simulate, write
from tests.trials.test_trial_queue import queue

PILOT: dict[str, Any] = {"margin": 2.0, "power": 0.8, "pilot": 5, "most": 30}
WIDTH = {"ahead": 0.001, "noisy": 0.02, "same": 0.015, "taught": 0.02}


def piloted(**changes: Any) -> SweepSpec:
    return looked(**{"seeds": PILOT, **changes})


def metric(job: Job) -> float:
    """``ahead`` gains 20 points, the others nothing; all but ``ahead`` spread by two points."""
    own = random.Random(f"{job.cell} {job.spec.seed}")
    draw = random.Random(f"{job.spec.seed}").gauss(0, 0.01)
    return 0.5 + draw + (0.2 if job.cell == "ahead" else 0.0) + own.gauss(0, WIDTH.get(job.cell, 0.0))


def train(on: TrialQueue, slots: int, order: random.Random, stop_after: int | None = None) -> int:
    """Train as ``simulate`` does, with these metrics; returns how many were handed out."""
    running: list[Job] = []
    given, on.slots = 0, slots
    while True:
        while (job := on.next()) is not None:
            running.append(job)
            given += 1
        if not running or (stop_after is not None and given >= stop_after):
            return given
        end(on, running.pop(order.randrange(len(running))), of=metric)


@pytest.mark.parametrize("slots", [1, 40])
def test_the_pilots_spread_sets_the_later_looks_once_for_all_strategies(store: Store, slots: int) -> None:
    on = queue(store, piloted())
    (family,) = on.looks.design.families
    assert (family.looks, family.unmeasured, len(family.seeds)) == ((5,), True, 30)
    train(on, slots, random.Random(slots))
    (family,) = on.looks.design.families
    assert on.over
    assert family.sizing is not None
    assert family.sizing.spread is not None
    assert family.looks[0] == 5
    assert all(TIMES * 5 <= n <= 30 for n in family.looks[1:])
    pilot = Looks((5,), 4, 2.0, pilot=True)
    assert family.looks == after_pilot(pilot, family.sizing.spread, 30, 0.8).at
    assert 1.2 < family.sizing.spread < 3.5, "points; of the open strategies, whatever the others' is"
    assert family.seeds == tuple(range(family.looks[-1]))
    assert Design.from_json(store.read_json("sweeps/tiny/design.json")) == on.looks.design
    verdicts = on.looks.verdicts
    assert verdicts.of("ahead").verdict is Verdict.BETTER
    for cell in CELLS:
        done, dropped = seeds_of(on, cell, Ending.FINISHED), seeds_of(on, cell, Ending.NOT_NEEDED)
        assert done | dropped == set(range(30))
        if slots == 1:
            assert max(done) < family.looks[-1], "nothing beyond the last look is trained"
    assert on.looks.remarks() == []
    assert queue(store, piloted()).over


@pytest.mark.parametrize("slots", [1, 7])
def test_killed_anywhere_and_resumed_the_looks_are_the_same(tmp_path: Path, slots: int) -> None:
    whole = queue(Store(tmp_path / "whole"), piloted())
    train(whole, 1, random.Random(0))
    (known,) = whole.looks.design.families
    for stop in range(3, 60, 8):
        store = Store(tmp_path / f"{stop}")
        first = queue(store, piloted())
        write(first)
        train(first, slots, random.Random(stop), stop_after=stop)
        again = queue(store, piloted())
        assert again.looks.design == first.looks.design
        write(again)
        train(again, slots, random.Random(stop + 1))
        assert again.over
        (family,) = again.looks.design.families
        assert (family.looks, family.sizing) == (known.looks, known.sizing)
        for cell in again.looks.design.current:
            assert repr(again.looks.verdicts.of(cell)) == repr(whole.looks.verdicts.of(cell))


def earlier(store: Store, seeds: list[int], **changes: Any) -> None:
    """Another sweep of the storage."""
    before = queue(store, looked(name="before", seeds=seeds, **changes))
    write(before)
    train(before, 4, random.Random(0))


def test_other_seeds_of_the_same_cells_tell_the_spread_before_any_of_the_new_ones(store: Store) -> None:
    earlier(store, list(range(100, 106)))
    on = queue(store, piloted())
    (family,) = on.looks.design.families
    assert family.sizing is not None
    assert family.sizing.earlier
    assert not family.judged_by.pilot
    assert family.sizing.spread == pytest.approx(1.6, rel=0.5)
    assert max(family.looks) <= 30
    asked = on.looks.design.asked("alone")
    assert asked == frozenset(family.seeds)
    write(on)
    train(on, 3, random.Random(1), stop_after=6)
    earlier(store, list(range(100, 130)))
    again = queue(store, piloted())
    assert again.looks.design.families[0].looks == family.looks, "records of today change no declaration"
    train(again, 3, random.Random(1))
    assert again.over


def test_too_few_seeds_or_those_of_other_cells_tell_nothing(store: Store) -> None:
    earlier(store, [100, 101])
    assert queue(store, piloted()).looks.design.families[0].unmeasured
    changed = {name: {**given, "training.epochs": 7} for name, given in CELLS.items()}
    earlier(store, list(range(100, 106)), cells=changed)
    assert queue(store, piloted()).looks.design.families[0].unmeasured


def test_a_strategy_that_lost_seeds_sets_no_look(store: Store) -> None:
    on = queue(store, piloted())
    simulate(on, 2, random.Random(0), failing="noisy")
    (family,) = on.looks.design.families
    assert on.over
    assert on.looks.verdicts.of("noisy").verdict is Verdict.NONE
    assert family.sizing is not None
    assert family.sizing.spread is not None


def test_where_differences_do_not_vary_the_pilot_is_the_only_look(store: Store) -> None:
    cells = {name: CELLS[name] for name in ("alone", "same")}
    on = queue(store, piloted(cells=cells))
    while (job := on.next()) is not None:
        end(on, job, of=lambda job: 0.5 + (0.0 if job.cell == "same" else 0.1))
    (family,) = on.looks.design.families
    assert (on.over, family.looks, on.looks.verdicts.of("same").constant) == (True, (5,), True)


def test_after_the_pilot_began_to_tell_another_file_changes_nothing(store: Store) -> None:
    on = queue(store, piloted())
    write(on)
    train(on, 1, random.Random(0))
    again = queue(store, piloted(seeds={**PILOT, "margin": 3.0}))
    assert again.looks.design.families == on.looks.design.families
    (remark,) = again.looks.remarks()
    assert "margin 2" in remark


def test_a_plan_says_what_depends_on_the_pilot(store: Store) -> None:
    spec = piloted()
    on = queue(store, spec)
    (said,) = can_find(on.looks.design, {})
    for part in ("2 points", "probability 0.8", "at most 30", "assumed"):
        assert part in said
    runs = planned_runs(spec, spec.plan())
    trials = sum(len(one.runs) for one in runs.alike if not one.teacher)
    assert (runs.fewest, trials) == (5 * len(CELLS), 30 * len(CELLS))
