"""Verdicts at declared looks: which seeds they take, which stands, and what the answer says of the others."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as reference

from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.contenders import chances
from ray_kd.analysis.headline import headline
from ray_kd.analysis.notes import notes
from ray_kd.analysis.records import read_records
from ray_kd.analysis.tasks import by_task
from ray_kd.analysis.verdicts import sweep_verdicts
from ray_kd.config.errors import UserError
from ray_kd.statistics.looks import Verdict
from ray_kd.trials.design import Schedule, declare
from tests.analysis.make_records import STRATEGIES, make_records, make_tasks
from tests.analysis.test_comparison import compared, pick, short_side

LEVEL = [0.80, 0.81, 0.805, 0.81, 0.80, 0.815, 0.80, 0.81]
"""A student alone, on eight seeds."""


def above(gains: list[float]) -> list[float]:
    return [value + gain for value, gain in zip(LEVEL, gains, strict=True)]


def test_looks_take_their_seeds_and_the_first_verdict_stands(tmp_path: Path) -> None:
    values = {
        "student alone": LEVEL,
        "soft target": above([0.05, 0.051, 0.049, 0.05, -0.2, -0.2, -0.2, -0.2]),
        "logits": above([0.001, -0.001, 0.002, 0.0, 0.001, -0.001, 0.0, 0.001]),
        "NST": above([0.001, 0.06, -0.05, 0.0, 0.07, -0.06, 0.02, 0.0]),
    }
    found = compared(tmp_path, values, looks=(4, 8), margin=1.0)
    spent = {4: 0.25, 8: 0.75}  # of the error: the square of the share of seeds, less what was spent before
    for name, look, verdict in (
        ("soft target", 4, Verdict.BETTER),
        ("logits", 4, Verdict.SAME),
        ("NST", 8, Verdict.OPEN),
    ):
        _, versus = pick(found, name)
        differences = np.array(values[name])[:look] - np.array(LEVEL)[:look]
        error = 0.05 / 3 * spent[look]
        half = reference.t.isf(error / 2, look - 1) * differences.std(ddof=1) / math.sqrt(look)
        assert (versus.verdict, versus.judged.look) == (verdict, look)
        assert versus.difference.mean == pytest.approx(differences.mean())
        assert short_side(versus.difference) == pytest.approx(half)
    assert headline(found) == (
        "1 of 3 strategies is better than “student alone”: “soft target”. 1 is the same within 1 point: "
        "“logits”. 1 is open: “NST”."
    )
    text = " ".join(notes(found))
    assert "the looks at 4, 8 seeds hold together at 95 %, each by itself at 99.58, 98.75 %" in text
    assert "the same: the interval lies within ±1 point" in text


def test_between_looks_the_answer_is_that_of_the_last_one(tmp_path: Path) -> None:
    values = {"student alone": LEVEL, "NST": above([0.001, 0.06, -0.05, 0.0, 0.07, 0.06, 0.06, 0.06])}
    waiting = {(name, seed): "missing" for name in values for seed in (6, 7)}
    found = compared(tmp_path, values, looks=(4, 8), statuses=waiting)
    _, versus = pick(found, "NST")
    assert (versus.judged.look, versus.difference.n, versus.waits) == (4, 4, True)
    assert "This is preliminary: 4 of 16 trials have not ended." in headline(found)


def test_seeds_that_a_decided_strategy_does_not_need_are_no_trouble(tmp_path: Path) -> None:
    values = {"student alone": LEVEL, "soft target": above([0.05, 0.051, 0.049, 0.05, 0, 0, 0, 0])}
    dropped = {("soft target", seed): "missing" for seed in range(4, 8)}
    found = compared(tmp_path, values, looks=(4, 8), statuses=dropped)
    assert headline(found) == "Beside “student alone”, “soft target” is better."
    assert not any("missing" in note for note in notes(found))


def test_seeds_beyond_the_last_look_decide_nothing(tmp_path: Path) -> None:
    values = {"student alone": LEVEL, "NST": above([0.01, 0.06, -0.05, 0.0, 0.09, 0.09, 0.09, 0.09])}
    found = compared(tmp_path, values, looks=(3, 4))
    cell, versus = pick(found, "NST")
    assert (cell.n, versus.difference.n, versus.verdict) == (8, 4, Verdict.OPEN)
    assert any("“NST”: seeds beyond the last look enter the means and no verdict" in n for n in notes(found))


def test_what_was_declared_later_has_an_error_of_its_own(tmp_path: Path) -> None:
    values = {name: above([0.001, 0.06, -0.05, 0.0, 0.07, -0.06, 0.02, 0.0]) for name in ("NST", "logits")}
    root = make_records(
        tmp_path,
        values={
            (c, s): v for c, row in {"student alone": LEVEL, **values}.items() for s, v in enumerate(row)
        },
        strategies={cell: STRATEGIES[cell] for cell in ("student alone", *values)},
        seeds=8,
        epochs=4,
        control=False,
    )
    plan = json.loads((root / "sweeps" / "digits" / "plan.json").read_text())
    first = {**plan, "trials": [trial for trial in plan["trials"] if trial["cell"] != "logits"]}
    schedule = Schedule((4, 8))
    began = declare(first, schedule)
    begun = dataclasses.replace(began, families=(dataclasses.replace(began.families[0], begun=True),))
    design = declare(plan, schedule, begun)
    (root / "sweeps" / "digits" / "design.json").write_text(json.dumps(design.to_json()))
    found = compare_cells(read_records(root, "digits"))
    assert [pick(found, name)[1].later for name in ("NST", "logits")] == [False, True]
    for name in ("NST", "logits"):  # alone in its family, at the second look
        assert pick(found, name)[1].level == pytest.approx(1 - 0.05 * 0.75)
    assert any("declared later (“logits”), with an error of 5 % of its own" in note for note in notes(found))


def test_seeds_that_a_look_did_not_need_are_counted_nowhere(tmp_path: Path) -> None:
    """The driver notes them in its ledger as not needed."""
    values = {"student alone": LEVEL, "soft target": above([0.05, 0.051, 0.049, 0.05, 0, 0, 0, 0])}
    dropped = {(name, seed): "missing" for name in values for seed in range(4, 8)}
    found = compared(tmp_path, values, looks=(4, 8), statuses=dropped)
    trials = tmp_path / "results" / "sweeps" / "digits"
    for trial in json.loads((trials / "plan.json").read_text())["trials"]:
        if trial["seed"] >= 4:
            entry = {**trial, "status": "not needed", "reason": None}
            (trials / "ledger" / f"{trial['identity']}.json").write_text(json.dumps(entry))
    found = compare_cells(read_records(tmp_path / "results", "digits"))
    assert found.unfinished.empty
    assert [cell.needed for cell in found.cells] == [4, 4]
    assert headline(found) == "Beside “student alone”, “soft target” is better."
    assert not any("trials count" in note for note in notes(found))


def test_fixed_seeds_say_which_strategies_may_be_best_and_several_looks_do_not(tmp_path: Path) -> None:
    values = {
        "student alone": LEVEL,
        "soft target": above([0.05, 0.051, 0.049, 0.052, 0.05, 0.048, 0.05, 0.05]),
        "logits": above([0.049, 0.051, 0.05, 0.051, 0.05, 0.049, 0.051, 0.049]),
        "NST": above([-0.05, 0.01, -0.06, 0.0, -0.04, -0.06, -0.02, 0.01]),
    }
    fixed = compared(tmp_path / "fixed", values)
    best = fixed.contenders
    assert best is not None
    assert set(best.may_be_best) == {"soft target", "logits"}
    assert any("May have the best true mean, of all 4" in note for note in notes(fixed))
    shares = chances(fixed)
    assert (shares["soft target"].wins, shares["NST"].wins, shares["NST"].ties) == (8, 2, 1)
    alone = compared(tmp_path / "alone", {name: values[name] for name in ("student alone", "logits")})
    assert any("“logits” has the best true mean of all 2" in note for note in notes(alone))
    several = compared(tmp_path / "several", values, looks=(4, 8))
    assert several.contenders is None
    assert not any("best true mean" in note for note in notes(several))
    running = compared(tmp_path / "running", values, statuses={("NST", 7): "running"})
    assert running.contenders is None


def test_splits_that_overlap_widen_the_interval(tmp_path: Path) -> None:
    """By the root of 1 + n overlap, as plan.json says of the cells (Nadeau and Bengio)."""
    values = {"student alone": LEVEL, "NST": above([0.02, 0.06, -0.05, 0.01, 0.07, -0.06, 0.02, 0.05])}
    plain = compared(tmp_path / "plain", values)
    compared(tmp_path / "apart", values)
    file = tmp_path / "apart" / "results" / "sweeps" / "digits" / "plan.json"
    chance = {"vary": ["student", "split"], "fixed": {}, "overlap": 0.25, "cells": list(values)}
    file.write_text(json.dumps({**json.loads(file.read_text()), "chance": [chance]}))
    apart = compare_cells(read_records(tmp_path / "apart" / "results", "digits"))
    one, other = (short_side(pick(found, "NST")[1].difference) for found in (plain, apart))
    assert other == pytest.approx(one * math.sqrt(1 + 8 * 0.25))
    assert any("(1/n + 0.25)" in note for note in notes(apart))


def test_a_design_that_cannot_be_read_is_refused_and_not_guessed(tmp_path: Path) -> None:
    root = make_records(tmp_path, seeds=4, epochs=2, looks=(2, 4))
    (root / "sweeps" / "digits" / "design.json").write_text('{"families": [')
    with pytest.raises(UserError, match="nobody knows which looks were declared"):
        read_records(root, "digits")


def test_status_and_table_agree_where_each_task_has_a_direction_of_its_own(tmp_path: Path) -> None:
    values = {"student alone": [0.50, 0.51, 0.52], "taught": [0.60, 0.611, 0.622]}
    root = make_tasks(tmp_path, {"classification": values, "detection": values}, epochs=2)
    for file in root.glob("runs/*/summary.json"):
        summary = json.loads(file.read_text())
        if summary["monitor"] == "map":
            file.write_text(json.dumps({**summary, "mode": "min"}))
    records = read_records(root, "tasks")
    said = sweep_verdicts(records)
    for task, verdict in (("classification", Verdict.BETTER), ("detection", Verdict.WORSE)):
        _, versus = pick(compare_cells(by_task(records)[task]), "taught")
        assert versus.verdict is said.of(f"{task}, taught").verdict is verdict
