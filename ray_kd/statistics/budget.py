"""What a random search of n candidates finds, from the candidates of one search: on plain numbers.

The candidates' values must be independent draws from one distribution, as in a random search; those of a grid
or of a search that learns are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ray_kd.statistics.intervals import ALPHA, Interval


def expected_best(values: Sequence[float], n: int, higher_is_better: bool = True) -> float:
    """The mean over all choices of n of the values of the best among them.

    The unbiased estimate of what a search of n candidates finds on average (Tang et al., "Showing your work
    doesn't always work", ACL 2020, arXiv 2004.13705). That of Dodge et al. ("Show your work", EMNLP 2019,
    arXiv 1909.03004) draws the n with replacement, and is too low.

    Raises:
        ValueError: n is not between 1 and the number of values.

    >>> expected_best([0.5, 0.7, 0.9], 2)
    0.8333333333333334
    """
    if not 1 <= n <= len(values):
        raise ValueError(
            f"a search of {n} candidates: expected a number from 1 to {len(values)}, those there are"
        )
    worst_first = sorted(values, reverse=not higher_is_better)
    choices = [math.comb(rank, n - 1) for rank in range(len(values))]
    return math.fsum(c * value for c, value in zip(choices, worst_first, strict=True)) / math.comb(
        len(values), n
    )


def typical_best(
    values: Sequence[float], n: int, higher_is_better: bool = True, error: float = ALPHA
) -> Interval:
    """An interval for the median best of searches of n candidates, and their mean as in ``expected_best``.

    The best of n is below a value with the n-th power of the chance that one candidate is. So its median is
    the quantile 0.5^(1/n) of the candidates, and two order statistics enclose it, whatever their distribution
    (Lourie, Cho and He, "Show your work with confidence", arXiv 2311.09480, who show that intervals of the
    bootstrap are too short; their bands hold for all n at once, these intervals each by itself). An end is
    infinite where no value bounds it: many candidates are needed to know how good the best of n may be.

    Args:
        error: two-sided error of the interval, half of it on each side.

    Raises:
        ValueError: as ``expected_best``.
    """
    mean, total = expected_best(values, n, higher_is_better), len(values)
    sign = 1.0 if higher_is_better else -1.0
    ordered = [-math.inf, *sorted(sign * value for value in values), math.inf]
    below = stats.binom(total, 0.5 ** (1 / n))  # how many of the values lie below the quantile
    ranks = np.arange(total + 2)
    lower = int(ranks[below.cdf(ranks - 1) <= error / 2].max())
    upper = int(ranks[below.sf(ranks - 1) <= error / 2].min())
    ends = sorted((sign * ordered[lower], sign * ordered[upper]))
    return Interval(mean, ends[0], ends[1], total)
