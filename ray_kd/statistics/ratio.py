"""The interval of a ratio of two means, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ray_kd.statistics import skewness
from ray_kd.statistics.intervals import ROUNDING, Interval


def ratio(above: Sequence[float], below: Sequence[float], error: float, overlap: float = 0.0) -> Interval:
    """mean(above) / mean(below) of paired values, with the interval of Fieller's kind at a two-sided error.

    The ratio may be r if the interval of the mean of ``above - r * below`` holds 0 (Fieller, "Some problems
    in interval estimation", JRSS B 16, 1954, 175-185), so that both means are uncertain, and correlated as
    the values are. Deviation: that interval is ``skewness.interval``, the one that carries verdicts, instead
    of Student's; the ratio's then excludes 0 exactly where the interval of ``above`` does.

    Without bounds where the interval of ``below`` at this error holds 0 (the ratio could be anything), for
    fewer than two pairs, and where values do not vary.

    >>> found = ratio([0.9, 1.1, 1.0, 1.0], [2.1, 1.9, 2.0, 2.1], error=0.05)
    >>> round(found.mean, 2), found.low < 0.5 < found.high
    (0.49, True)
    """
    over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    n = len(over)
    centre = float(over.mean() / under.mean()) if n and under.mean() else math.nan
    unknown = Interval(centre, math.nan, math.nan, n)

    def excluded(values: np.ndarray) -> bool:
        if np.ptp(values) <= ROUNDING * max(1.0, float(np.abs(values).max())):
            return float(values.mean()) != 0.0
        found = skewness.interval(values, error, overlap)
        return found.low > 0 or found.high < 0

    if n < 2 or math.isnan(centre) or np.ptp(over) == 0 or not excluded(under):
        return unknown
    ends = []
    for direction in (-1.0, 1.0):
        inside, step = centre, max(abs(centre), 1e-3) / 64 * direction
        while not excluded(over - (inside + step) * under):
            inside, step = inside + step, 2 * step
            if not math.isfinite(inside):
                return unknown
        for _ in range(30):
            step /= 2
            if not excluded(over - (inside + step) * under):
                inside += step
        ends.append(inside)
    return Interval(centre, ends[0], ends[1], n)
