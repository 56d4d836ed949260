"""Verdicts that grow trial by trial are those that ``judge`` gives of all trials at once."""

from __future__ import annotations

import random

import pytest

from ray_kd.config.ending import Ending
from ray_kd.statistics.looks import judge
from ray_kd.trials.design import Schedule, declare
from ray_kd.trials.verdicts import Verdicts

SEEDS = range(20)
EFFECTS = {"alone": 0.0, "far": 0.3, "alike": 0.0, "worse": -0.05, "near": 0.005}


@pytest.mark.parametrize("looks", [(20,), (2, 5, 9, 13, 20)])
@pytest.mark.parametrize("number", range(6))
def test_any_order_of_endings_gives_what_the_whole_gives(number: int, looks: tuple[int, ...]) -> None:
    draw = random.Random(f"{number} {looks}")
    trials = [
        {"cell": cell, "seed": seed, "phase": "compare", "identity": f"{cell} {seed}"}
        for cell in EFFECTS for seed in SEEDS
    ]  # fmt: skip
    plan = {"baseline": "alone", "metric": "top1", "trials": trials}
    design, higher = declare(plan, Schedule(looks, margin=1.0)), draw.random() < 0.5
    verdicts, (family,) = Verdicts(design, higher), design.families
    values: dict[str, dict[int, float]] = {cell: {} for cell in EFFECTS}
    ended: dict[str, set[int]] = {cell: set() for cell in EFFECTS}
    spread = draw.choice([0.001, 0.01, 0.1])
    lossy = 0.02 if number % 2 else 0.0
    for cell, seed in draw.sample([(cell, seed) for cell in EFFECTS for seed in SEEDS], k=100):
        value = 0.5 + EFFECTS[cell] + draw.gauss(0, spread)
        ending = Ending.FAILED if draw.random() < lossy else Ending.FINISHED
        if draw.random() < 0.1:  # what does not count comes first, and changes nothing
            assert verdicts.note(cell, seed, draw.choice([Ending.UNFINISHED, Ending.NOT_NEEDED]), value) == []
        before = {one: verdicts.passed(one) for one in family.cells}
        reached = verdicts.note(cell, seed, ending, value)
        ended[cell].add(seed)
        if ending is Ending.FINISHED:
            values[cell][seed] = value
        assert reached == [one for one in family.cells if verdicts.passed(one) > before[one]]
        for one in family.cells if cell == "alone" else {cell} & family.cells.keys():
            whole = judge(
                family.judged_by, SEEDS, values[one], values["alone"], ended[one] & ended["alone"], higher
            )
            found = verdicts.of(one)
            assert (found.look, found.verdict) == (whole.look, whole.verdict)
            assert not found.look or repr(found) == repr(whole)
        assert verdicts.closed("alone") == all(verdicts.of(one).settled for one in family.cells)
    assert all(verdicts.closed(one) or verdicts.of(one).look == looks[-1] for one in family.cells)
