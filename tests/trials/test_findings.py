"""What a plan says of its design's power: in line with the arithmetic, and with the records there are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ray_kd.statistics.looks import Looks
from ray_kd.statistics.power import least_effect, power_same
from ray_kd.trials.design import Design, Schedule, declare
from ray_kd.trials.findings import ASSUMED, can_find, spread_of


def design(
    strategies: int,
    seeds: int,
    looks: tuple[int, ...] | None = None,
    margin: float | None = None,
    metric: str = "top1",
) -> Design:
    cells = ["alone", *(f"s{index}" for index in range(strategies))]
    trials = [
        {"cell": cell, "seed": seed, "phase": "compare", "identity": f"{cell}{seed}"}
        for cell in cells for seed in range(seeds)
    ]  # fmt: skip
    plan = {"baseline": "alone", "metric": metric, "trials": trials}
    return declare(plan, Schedule(looks, margin))


def number(pattern: str, lines: list[str]) -> float:
    found = re.search(pattern, " ".join(lines))
    assert found is not None, lines
    return float(found[1])


@pytest.mark.parametrize("looks", [None, (5, 10, 16, 25, 40)])
def test_the_least_difference_counts_strategies_and_looks(looks: tuple[int, ...] | None) -> None:
    for strategies in (1, 8):
        lines = can_find(design(strategies, 40, looks), {}, given=1.55)
        least = least_effect(Looks(looks or (40,), strategies), 1.55)
        assert number(r"a difference of ([\d.]+) point", lines) == pytest.approx(least, rel=0.01)
        assert "1.55 points, as the sweep file says" in lines[0]


def test_what_a_margin_needs_is_said() -> None:
    looks = (5, 10, 16, 25, 40)
    narrow = can_find(design(8, 40, looks, margin=0.5), {}, given=1.55)
    assert "'The same' within 0.5 is out of reach" in narrow[0]
    wide = can_find(design(8, 40, looks, margin=1.5), {}, given=1.55)
    chance = power_same(Looks(looks, 8, 1.5), 1.55)
    assert number(r"within 1.5 with probability ([\d.]+)\.", wide[-1:]) == pytest.approx(chance, rel=0.05)


def test_the_spread_is_that_of_the_records_where_there_are_enough() -> None:
    draw = np.random.default_rng(0)
    family = design(4, 200).families[0]
    alone = dict(enumerate(draw.normal(0.9, 0.02, 200)))
    values = {"alone": alone}
    for index in range(4):
        differences = draw.normal(0.01 * index, 0.015, 200)
        values[f"s{index}"] = {seed: alone[seed] + differences[seed] for seed in range(200)}
    known = spread_of(family, values)
    assert known is not None
    assert known.value == pytest.approx(1.5, rel=0.1), "points, of differences and not of values"
    said = can_find(design(4, 200), values, given=9.0)
    assert "measured on 200 seeds of 4 strategies" in said[0], "what was measured, not what the file says"

    few = {cell: {seed: found[seed] for seed in (0, 1)} for cell, found in values.items()}
    assert spread_of(family, few) is None
    assert f"{ASSUMED:g} point, assumed" in can_find(design(4, 200), few)[0]


def test_designs_that_decide_nothing_say_so() -> None:
    assert can_find(design(3, 1), {}) == ["What it can find: nothing. A single seed decides no difference."]
    assert can_find(Design(), {}) == [], "no baseline, no comparison"


def test_two_seeds_and_many_strategies_find_nothing_and_say_so() -> None:
    assert "no difference that a rate can have" in can_find(design(70, 2), {})[0]


def test_a_loss_has_no_points() -> None:
    assert "point" not in " ".join(can_find(design(3, 10, metric="loss"), {}))
