"""Who may be best: properties of the set, and the chance of one strategy to beat another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics import skewness
from ray_kd.statistics.best import beats, best
from ray_kd.statistics.looks import Looks

NAMES = ("a", "b", "c", "d")


def _cells(
    seed: int, n: int = 8, gaps: tuple[float, ...] = (0.0, 0.0, 0.3, 5.0)
) -> dict[str, dict[int, float]]:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    return {
        name: dict(enumerate((shared + generator.normal(0, 0.5, n) - gap).tolist()))
        for name, gap in zip(NAMES, gaps, strict=True)
    }


def _looks(n: int = 8) -> Looks:
    return Looks((n,), strategies=3)


@pytest.mark.parametrize("seed", range(5))
def test_the_greatest_mean_may_be_best_and_a_far_one_may_not(seed: int) -> None:
    found = best(_looks(), range(8), _cells(seed))
    assert next(iter(found.contenders)) in found.may_be_best
    assert "d" not in found.may_be_best
    means = [contender.mean for contender in found.contenders.values()]
    assert means == sorted(means, reverse=True)
    for contender in found.contenders.values():
        assert contender.low <= 0 <= contender.high


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_bounds_are_those_of_the_paired_differences(overlap: float) -> None:
    cells = _cells(3)
    found = best(Looks((8,), strategies=3, overlap=overlap), range(8), cells)
    for name in NAMES:
        pairs = [
            skewness.interval([cells[name][s] - cells[other][s] for s in range(8)], 2 * 0.05 / 3, overlap)
            for other in NAMES
            if other != name
        ]
        assert found.contenders[name].high == pytest.approx(max(0, min(pair.high for pair in pairs)))


def test_a_single_best_one_is_known_by_its_lower_bound() -> None:
    found = best(_looks(), range(8), _cells(0, gaps=(0.0, 4.0, 4.0, 5.0)))
    assert found.may_be_best == ("a",)
    assert found.contenders["a"].low == 0
    assert found.contenders["a"].high > 2
    assert all(found.contenders[name].low < -2 for name in "bcd")


def test_the_set_does_not_depend_on_order_shift_scale_or_direction() -> None:
    cells = _cells(2)
    names = set(best(_looks(), range(8), cells).may_be_best)
    backwards = dict(reversed(cells.items()))
    assert set(best(_looks(), range(7, -1, -1), backwards).may_be_best) == names
    moved = {name: {s: 7 + 3 * v for s, v in cell.items()} for name, cell in cells.items()}
    assert set(best(_looks(), range(8), moved).may_be_best) == names
    losses = {name: {s: -v for s, v in cell.items()} for name, cell in cells.items()}
    found = best(_looks(), range(8), losses, higher_is_better=False)
    assert set(found.may_be_best) == names
    assert found.contenders["a"].mean == pytest.approx(np.mean(list(losses["a"].values())))


def test_who_lost_a_seed_is_not_compared_and_named() -> None:
    cells = _cells(1)
    del cells["a"][3]
    found = best(_looks(), range(8), cells)
    assert found.lost == ("a",)
    assert "a" not in found.contenders


def test_equal_differences_exclude_nobody() -> None:
    cell = dict(enumerate([0.5, 0.6, 0.4]))
    lower = {seed: value - 0.25 for seed, value in cell.items()}
    assert set(best(_looks(3), range(3), {"a": cell, "b": lower}).may_be_best) == {"a", "b"}


def test_several_looks_are_refused() -> None:
    with pytest.raises(ValueError, match="a design of one look"):
        best(Looks((4, 8), strategies=3), range(8), _cells(0))
    with pytest.raises(ValueError, match="at least two seeds"):
        best(_looks(1), range(1), _cells(0))


def test_beats_counts_seeds_and_leaves_ties_out_of_the_wins() -> None:
    one, other = dict(enumerate([3.0, 2.0, 1.0, 5.0, 2.0])), dict(enumerate([1.0, 2.0, 0.0, 6.0, 1.0]))
    found = beats(one, other)
    assert (found.wins, found.ties, found.n) == (3, 1, 5)
    # Clopper and Pearson's ends: the chances at which 3 or more, and 3 or fewer, have a probability of 2.5 %
    assert stats.binom.sf(2, 5, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 5, found.high) == pytest.approx(0.025)
    back = beats(one, other, higher_is_better=False)
    assert (back.wins, back.ties) == (1, 1)
    assert (beats({}, {}).low, beats({}, {}).high) == (0, 1)
