"""What a random search of n candidates finds: closed forms, unbiasedness, coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ray_kd.statistics.budget import expected_best, typical_best

VALUES = [0.71, 0.64, 0.9, 0.64, 0.83, 0.2]


@pytest.mark.parametrize("n", range(1, 7))
def test_it_is_the_mean_best_of_all_choices(n: int) -> None:
    choices = list(itertools.combinations(VALUES, n))
    assert expected_best(VALUES, n) == pytest.approx(np.mean([max(one) for one in choices]))
    assert expected_best(VALUES, n, higher_is_better=False) == pytest.approx(
        np.mean([min(one) for one in choices])
    )


def test_one_candidate_is_the_mean_and_all_of_them_the_best() -> None:
    assert expected_best(VALUES, 1) == pytest.approx(np.mean(VALUES))
    assert expected_best(VALUES, len(VALUES)) == max(VALUES)
    curve = [expected_best(VALUES, n) for n in range(1, 7)]
    assert curve == sorted(curve)


def test_it_is_unbiased_where_drawing_with_replacement_is_not() -> None:
    """The best of n uniform numbers is n / (n + 1) on average."""
    draws, n = np.random.default_rng(0).random((4000, 8)), 6
    found = np.array([expected_best(list(row), n) for row in draws])
    standard_error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - n / (n + 1)) < 4 * standard_error
    ranks = np.arange(1, 9) / 8
    with_replacement = np.sort(draws) @ (ranks**n - (ranks - 1 / 8) ** n)
    assert n / (n + 1) - with_replacement.mean() > 10 * standard_error


@pytest.mark.parametrize(("n", "total"), [(1, 20), (2, 20), (5, 20), (10, 20), (5, 100)])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_interval_holds_the_median_best(n: int, total: int, coarse: bool) -> None:
    """Of uniform numbers; coarse: of a distribution with ties."""
    draws = np.random.default_rng(n + total).random((2000, total))
    median = 0.5 ** (1 / n)
    if coarse:
        draws, median = np.ceil(4 * draws) / 4, math.ceil(4 * median) / 4
    found = [typical_best(list(row), n) for row in draws]
    missed = np.mean([not one.low <= median <= one.high for one in found])
    assert missed <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / len(found))


def test_few_candidates_do_not_bound_how_good_the_best_of_many_may_be() -> None:
    values = list(np.random.default_rng(1).random(20))
    assert math.isfinite(typical_best(values, 2).high)
    assert typical_best(values, 20).high == math.inf
    assert math.isfinite(typical_best(values, 20).low)
    assert typical_best([0.5], 1).low == -math.inf


def test_losses_are_the_mirror_image() -> None:
    one, other = (
        typical_best(VALUES, 2),
        typical_best([-value for value in VALUES], 2, higher_is_better=False),
    )
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))


@pytest.mark.parametrize("n", [0, 7])
def test_more_candidates_than_there_are_cannot_be_asked(n: int) -> None:
    with pytest.raises(ValueError, match="expected a number from 1 to 6"):
        expected_best(VALUES, n)
