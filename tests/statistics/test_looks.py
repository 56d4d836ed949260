"""Repeated intervals: the declared looks, what each allows, and which verdict stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics.looks import Looks, Verdict, conditional_power, judge

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


def test_errors_of_all_looks_and_strategies_are_five_percent_together() -> None:
    looks = Looks(at=(5, 10, 16, 25, 40), strategies=8)
    assert 8 * sum(looks.error(n) for n in looks.at) == pytest.approx(0.05)
    spent = np.cumsum([8 * looks.error(n) for n in looks.at])
    assert spent == pytest.approx([0.05 * (n / 40) ** 2 for n in looks.at])  # Kim and DeMets, power 2
    assert Looks(at=(7,), strategies=4).error(7) == 0.05 / 4
    with pytest.raises(ValueError, match="no look at 7 seeds: there are looks at 5, 10, 16, 25, 40"):
        looks.error(7)


@pytest.mark.parametrize("at", [(), (0, 4), (4, 4), (8, 4)])
def test_looks_that_do_not_increase_are_refused(at: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="numbers of seeds that increase"):
        Looks(at=at, strategies=3)


def test_a_margin_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="margin 0"):
        Looks(at=(4,), strategies=3, margin=0.0)


def _drawn(seed: int, effect: float, n: int = 40) -> tuple[dict[int, float], dict[int, float]]:
    generator = np.random.default_rng(seed)
    reference = 0.9 + 0.01 * generator.standard_normal(n)
    values = reference + 0.01 * (effect + generator.standard_normal(n))
    return _seeds(values.tolist()), _seeds(reference.tolist())


FIVE = Looks(at=(5, 10, 16, 25, 40), strategies=8, margin=0.01)
EFFECTS = [-2.0, 0.0, 0.05, 0.5, 1.0, 30.0]


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_verdicts_shift_and_scale_with_the_metric_and_mirror_with_its_direction(
    seed: int, effect: float
) -> None:
    values, reference = _drawn(seed, effect)
    found = judge(FIVE, range(40), values, reference, range(40))
    percent = Looks(FIVE.at, 8, margin=1.0)
    scaled = judge(
        percent,
        range(40),
        {s: 100 * v - 3 for s, v in values.items()},
        {s: 100 * v - 3 for s, v in reference.items()},
        range(40),
    )
    assert (scaled.verdict, scaled.look, scaled.hopeless) == (found.verdict, found.look, found.hopeless)
    assert scaled.difference.low == pytest.approx(100 * found.difference.low)
    swapped = judge(FIVE, range(40), reference, values, range(40), higher_is_better=False)
    assert (swapped.verdict, swapped.look, swapped.p) == (found.verdict, found.look, pytest.approx(found.p))
    assert swapped.difference.high == pytest.approx(-found.difference.low)


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_order_of_seeds_inside_a_look_does_not_matter(effect: float) -> None:
    values, reference = _drawn(5, effect)
    generator = np.random.default_rng(1)
    parts = [range(5), range(5, 10), range(10, 16), range(16, 25), range(25, 40)]
    order = [int(seed) for part in parts for seed in generator.permutation(list(part))]
    straight = judge(FIVE, range(40), values, reference, range(40))
    assert judge(FIVE, order, values, reference, range(40)) == straight


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_what_a_look_says_stands_whatever_has_ended_since(seed: int, effect: float) -> None:
    values, reference = _drawn(seed, effect)
    whole = judge(FIVE, range(40), values, reference, range(40))
    for ended in range(41):
        found = judge(FIVE, range(40), values, reference, range(ended))
        if found.settled:
            assert found == whole
        assert found.look == max((n for n in FIVE.at if n <= min(ended, whole.look)), default=0)


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_interval_verdict_and_p_never_disagree(seed: int, effect: float) -> None:
    values, reference = _drawn(seed, effect)
    for ended in FIVE.at:
        found = judge(FIVE, range(40), values, reference, range(ended))
        beyond = found.difference.low > 0 or found.difference.high < 0
        assert beyond == (found.verdict in (Verdict.BETTER, Verdict.WORSE)) == (found.p < 0.05)
        within = found.difference.low > -0.01 and found.difference.high < 0.01
        assert (found.verdict is Verdict.SAME) == (within and not beyond)


def test_one_look_has_the_verdict_of_any_wider_margin_too() -> None:
    values, reference = _drawn(3, 0.0)
    found = [
        judge(Looks((40,), 8, margin), range(40), values, reference, range(40)).verdict
        for margin in (0.002, 0.004, 0.008, 0.016, 0.03)
    ]
    assert found[0] is Verdict.OPEN
    assert found[-1] is Verdict.SAME
    assert found == sorted(found, key=lambda verdict: verdict is Verdict.SAME)


def test_a_strategy_without_a_prospect_stops_as_open_from_the_third_look() -> None:
    alternating = [0.02 * (-1) ** seed for seed in range(40)]
    values, reference = _seeds(alternating), _seeds([0.0] * 40)
    looks = Looks(FIVE.at, 8)
    found = judge(looks, range(40), values, reference, range(40))
    assert (found.verdict, found.look, found.hopeless, found.settled) == (Verdict.OPEN, 16, True, True)
    assert not judge(looks, range(40), values, reference, range(15)).hopeless
    wide = judge(Looks(FIVE.at, 8, margin=0.04), range(40), values, reference, range(40))
    assert (wide.verdict, wide.hopeless) == (Verdict.SAME, False)


def test_conditional_power_is_the_share_of_last_looks_that_decide() -> None:
    looks, generator = Looks((10, 20, 30, 50), 4, margin=1.0), np.random.default_rng(0)
    for mean, spread in ((0.3, 1.5), (0.0, 1.5), (-0.9, 1.5)):
        last = (30 * mean + generator.normal(mean, spread, (20_000, 20)).sum(axis=1)) / 50
        half = looks.half_width(50, spread)
        share = float(((np.abs(last) > half) | (np.abs(last) < 1 - half)).mean())
        assert conditional_power(looks, 30, mean, spread) == pytest.approx(share, abs=0.02)


def test_a_lost_seed_ends_verdicts_and_leaves_earlier_ones() -> None:
    values, reference = _drawn(0, 30.0)
    del values[12]
    assert judge(FIVE, range(40), values, reference, range(40)).verdict is Verdict.BETTER  # by 10 seeds
    values, reference = _drawn(0, 0.0)
    del values[12]
    found = judge(FIVE, range(40), values, reference, range(40))
    assert (found.verdict, found.look, found.lost, found.settled) == (Verdict.NONE, 16, 1, True)
    assert judge(FIVE, range(40), values, reference, range(12)).verdict is Verdict.OPEN


def test_equal_differences_have_no_verdict_and_no_spread() -> None:
    found = judge(Looks((4,), 1, 0.5), range(4), _seeds([0.5] * 4), _seeds([0.25] * 4), range(4))
    assert (found.verdict, found.constant, found.p) == (Verdict.OPEN, True, 1.0)
    assert math.isnan(found.difference.low)


def test_skewed_differences_are_noticed() -> None:
    outlier = [0.01 * (-1) ** seed for seed in range(15)] + [3.0]
    found = judge(Looks((16,), 1), range(16), _seeds(outlier), _seeds([0.0] * 16), range(16))
    assert found.skewed
    assert found.difference.high - found.difference.mean > found.difference.mean - found.difference.low
    even = [0.01 * (-1) ** seed for seed in range(16)]
    assert not judge(Looks((16,), 1), range(16), _seeds(even), _seeds([0.0] * 16), range(16)).skewed
