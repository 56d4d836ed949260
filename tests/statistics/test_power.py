"""Design arithmetic against simulation, closed forms and itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics.looks import Looks
from ray_kd.statistics.power import (
    TIMES,
    after_pilot,
    derived,
    least_effect,
    power_same,
    seeds_needed,
    widest_spread,
)


def test_seeds_needed_are_about_those_of_a_t_test_at_the_corrected_error() -> None:
    assert 35 <= seeds_needed(1.0, 1.55, 8) <= 38  # 35 by Student's interval, which is a little shorter
    assert 127 <= seeds_needed(0.5, 1.55, 8) <= 131  # 127
    normal = (stats.norm.isf(0.05 / 16) + stats.norm.isf(0.2)) ** 2 * 1.55**2 / 0.1**2
    assert seeds_needed(0.1, 1.55, 8) == pytest.approx(normal, rel=0.01)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("looks", [1, 3, 5])
def test_seeds_needed_are_the_fewest(looks: int, same: bool) -> None:
    n = seeds_needed(1.0, 1.5, 6, looks, same=same)
    more = [seeds_needed(1.0, 1.5, 6, looks, power=p, same=same) for p in (0.5, 0.7, 0.8, 0.9)]
    assert more == sorted(more)
    assert more[2] == n
    assert seeds_needed(1.0, 1.5, 12, looks, same=same) >= n
    assert seeds_needed(1.2, 1.5, 6, looks, same=same) <= n


def test_power_is_what_simulated_sweeps_find() -> None:
    looks = Looks((20,), strategies=4, margin=1.5)
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1.5, (4000, 20))
    half = stats.t.isf(looks.error(20) / 2, 19) * values.std(axis=1, ddof=1) / math.sqrt(20)
    found = float((values.mean(axis=1) + 1.2 > half).mean())
    same = float((np.abs(values.mean(axis=1)) + half < 1.5).mean())
    # Student's intervals, which are a little shorter than the rule's
    assert least_effect(looks, 1.5, found - 0.06) <= 1.2 <= least_effect(looks, 1.5, found + 0.03)
    assert same - 0.12 <= power_same(looks, 1.5) <= same + 0.03


def test_a_margin_below_the_half_width_cannot_be_reached() -> None:
    looks = Looks((5, 10, 16, 25, 40), strategies=8, margin=0.5)
    assert looks.half_width(40, 1.55) > 0.5
    assert power_same(looks, 1.55) < 1e-3
    assert power_same(Looks((40,), 8), 1.55) == 0
    assert least_effect(Looks((1,), 8), 1.55) == math.inf


@pytest.mark.parametrize(("margin", "spread", "strategies"), [(1.0, 1.5, 8), (2.0, 1.0, 2), (1.0, 1.5, 72)])
def test_derived_looks_reach_their_power(margin: float, spread: float, strategies: int) -> None:
    looks = derived(margin, spread, strategies)
    assert least_effect(looks, spread) <= margin * (1 + 1e-9)
    assert power_same(looks, spread) >= 0.8
    assert looks.margin == margin
    assert looks.at[0] >= min(5, looks.at[-1])
    assert derived(margin * 10, spread * 10, strategies).at == looks.at


def test_what_no_design_can_find_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 10000 seeds"):
        seeds_needed(0.001, 1.5, 8)
    with pytest.raises(ValueError, match="spread 0"):
        seeds_needed(1.0, 0, 8)


@pytest.mark.parametrize(("n", "strategies", "most"), [(5, 1, 40), (8, 8, 60), (8, 40, 200)])
def test_looks_after_a_pilot_have_the_power_up_to_the_widest_spread(
    n: int, strategies: int, most: int
) -> None:
    pilot = Looks((n,), strategies, 1.0, pilot=True)
    widest = widest_spread(pilot, most)
    for spread in (0.01 * widest, 0.4 * widest, 0.99 * widest, 2 * widest):
        looks = after_pilot(pilot, spread, most)
        assert looks.at[0] == n
        assert all(TIMES * n <= later <= most for later in looks.at[1:])
        assert sum(looks.error(one) for one in looks.at) == pytest.approx(0.05 / strategies)
        assert looks.error(n) == pilot.error(n), "declared before the others were chosen"
        if spread < widest:
            assert least_effect(looks, spread) <= 1 + 1e-9
            assert power_same(looks, spread) >= 0.8 - 1e-9
        else:
            assert looks.at[-1] == most
    assert derived(1.0, 9.0, strategies, most=most).at[-1] == most
