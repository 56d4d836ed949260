"""The short form of benchmarks/coverage.py: levels that hold on every seed but for one in a million."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import DEMO, LOOKS, MANY, NOTHING, may_be_best, until_significant, wrong
from benchmarks.synthetic import KINDS, Outcome, random_loss, simulate, simulate_pilot, worst_loss
from ray_kd.statistics.intervals import ALPHA
from ray_kd.statistics.looks import Looks

pytestmark = pytest.mark.outcome
SWEEPS = 600
MOST = int(stats.binom.isf(1e-6, SWEEPS, ALPHA))
"""Sweeps in error: a level of 5 % exceeds it once in a million."""


def _errors(found: Outcome, effects: np.ndarray, margin: float = 1.0) -> int:
    return int((wrong(found, effects, margin) | ~found.covered.all(axis=1)).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_without_effect_have_few_false_alarms_and_intervals_that_hold_together(
    kind: str, seed_shift: int
) -> None:
    generator = np.random.default_rng(seed_shift)
    for at in ((5,), (20,), LOOKS):
        assert _errors(simulate(Looks(at, 8, 1.0), kind, NOTHING, SWEEPS, generator), NOTHING) <= MOST
    assert may_be_best(kind, SWEEPS, generator).wrong <= MOST


def test_many_strategies_with_skewed_differences_keep_the_level(seed_shift: int) -> None:
    generator = np.random.default_rng(seed_shift)
    found = simulate(Looks(LOOKS, 35, 1.0), "skewed differences", MANY, SWEEPS, generator)
    assert _errors(found, MANY) <= MOST


@pytest.mark.parametrize(("strategies", "n", "margin"), [(1, 5, 1.5), (8, 8, 2.0)])
@pytest.mark.parametrize("kind", ["normal", "skewed differences"])
def test_looks_that_a_pilot_sets_keep_the_level(
    kind: str, strategies: int, n: int, margin: float, seed_shift: int
) -> None:
    pilot, effects = Looks((n,), strategies, margin, pilot=True), np.zeros(strategies)
    found = simulate_pilot(pilot, 60, kind, effects, SWEEPS, np.random.default_rng(seed_shift))
    assert len(np.unique(found.stops)) > 3, "the looks differ from sweep to sweep"
    assert _errors(found, effects, margin) <= MOST


@pytest.mark.parametrize("loss", [random_loss, worst_loss])
def test_lost_trials_add_no_false_alarms(loss: object, seed_shift: int) -> None:
    generator = np.random.default_rng(seed_shift)
    found = simulate(Looks(LOOKS, 8, 1.0), "normal", NOTHING, SWEEPS, generator, loss)  # type: ignore[arg-type]
    assert _errors(found, NOTHING) <= MOST


def test_demo_like_sweeps_are_right_and_stop_early(seed_shift: int) -> None:
    found = simulate(Looks(LOOKS, 8, 1.0), "normal", DEMO, SWEEPS, np.random.default_rng(seed_shift))
    assert _errors(found, DEMO) <= MOST
    assert found.trials < 9 * 40 / 1.5
    assert found.decided > 0.8


def test_the_measure_finds_what_does_not_hold(seed_shift: int) -> None:
    """Looking at every seed until something is significant is far beyond 5 %."""
    assert until_significant(SWEEPS, np.random.default_rng(seed_shift)).wrong > MOST
