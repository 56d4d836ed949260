"""Repeated intervals: the declared looks, what each allows, and which verdict stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics.looks import Looks, Verdict, judge

LOOKS = Looks(at=(4, 8), strategies=3, margin=0.5)


def _seeds(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_an_interval_of_symmetric_differences_is_the_t_interval_at_the_error_of_its_look() -> None:
    values = [0.3, 0.1, 0.4, 0.2]
    found = judge(LOOKS, range(8), _seeds(values), _seeds([0.0] * 4), range(4))
    error = 0.05 / 3 * (4 / 8) ** 2
    half = stats.t.ppf(1 - error / 2, 3) * np.std(values, ddof=1) / 2
    assert found.look == 4
    assert found.difference.low == pytest.approx(np.mean(values) - half)
    assert found.difference.high == pytest.approx(np.mean(values) + half)
    assert found.p == pytest.approx(min(1, 12 * stats.ttest_1samp(values, 0).pvalue))
    assert found.difference.half_width == pytest.approx(LOOKS.half_width(4, np.std(values, ddof=1)))


def test_before_the_first_look_there_is_no_interval() -> None:
    found = judge(LOOKS, range(8), _seeds([0.3, 0.1, 0.4]), _seeds([0.0] * 3), range(3))
    assert (found.verdict, found.look) == (Verdict.OPEN, 0)
    assert math.isnan(found.difference.low)
    assert math.isnan(found.p)


def test_the_first_verdict_stands_whatever_later_seeds_say() -> None:
    first = [1.0, 1.01, 0.99, 1.02]
    later = [-5.0, -5.1, -4.9, -5.2]
    found = judge(LOOKS, range(8), _seeds(first + later), _seeds([0.0] * 8), range(8))
    assert (found.verdict, found.look) == (Verdict.BETTER, 4)
    lower = judge(LOOKS, range(8), _seeds(first + later), _seeds([0.0] * 8), range(8), higher_is_better=False)
    assert lower.verdict is Verdict.WORSE
