"""Evidence that a path helps: running moments of real and placebo slopes, their t, the gate that follows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Placebo = Literal["scaled", "plain", "none"]
LIMIT = 100.0
"""The largest absolute t-statistic; that of constant values would be infinite."""


def empty(count: int) -> Array:
    """Evidence (7, n) before the first observation: sums of w, w^2 and w times r, p, r^2, p^2, r p."""
    return np.zeros((7, count))


def observed(evidence: Array, real: Array, placebo: Array, memory: float) -> Array:
    """The evidence after one more observation of each path; values that are not finite are left out.

    Args:
        evidence: (7, n).
        real: slopes r (n,).
        placebo: slopes p (n,) with exchanged targets.
        memory: observations after which an old one counts 1/e.
    """
    seen = np.isfinite(real) & np.isfinite(placebo)
    r, p, w = np.where(seen, real, 0.0), np.where(seen, placebo, 0.0), seen.astype(np.float64)
    keep = np.where(seen, np.exp(-1.0 / memory), 1.0)
    kept = evidence * keep
    kept[1] *= keep
    added: Array = np.stack([w, w, r, p, r * r, p * p, r * p])
    return kept + added


def statistic(evidence: Array, placebo: Placebo) -> Array:
    r"""The t-statistic (n,) of "the path helps"; 0 before two observations.

    ``none``: mean of r over its standard error. ``plain``: of r - p. ``scaled``: of
    :math:`r / \sigma_r - p / \sigma_p`, whose variance is :math:`2 - 2 \rho`: a placebo's slope is much
    noisier than the real one, and unscaled its noise would hide the difference. The number of observations is
    the effective one, :math:`(\sum w)^2 / \sum w^2`.
    """
    total, squares, *sums = evidence
    with np.errstate(divide="ignore", invalid="ignore"):
        count = total * total / squares
        mean_r, mean_p, square_r, square_p, product = (part / total for part in sums)
        unbiased = count / (count - 1)
        var_r = np.maximum(square_r - mean_r * mean_r, 0.0) * unbiased
        var_p = np.maximum(square_p - mean_p * mean_p, 0.0) * unbiased
        both = (product - mean_r * mean_p) * unbiased
        if placebo == "none":
            mean, variance = mean_r, var_r
        elif placebo == "plain":
            mean, variance = mean_r - mean_p, var_r + var_p - 2 * both
        else:
            sd_r, sd_p = np.sqrt(var_r), np.sqrt(var_p)
            mean, variance = mean_r / sd_r - mean_p / sd_p, 2 - 2 * both / (sd_r * sd_p)
        t = mean / np.sqrt(np.maximum(variance, 0.0) / count)
        constant = (mean_r - mean_p if placebo != "none" else mean_r) * np.inf  # all values are equal
    t = np.where(np.isnan(t), constant, t)
    t = np.where(count > 1.5, t, 0.0)
    return np.clip(np.nan_to_num(t, nan=0.0, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT)


def gates(before: Array, t: Array, off: float, on: float) -> Array:
    """Gates (n,) in [0, 1] from the t-statistics, with hysteresis.

    A gate falls along the line from 1 at t = ``on`` to 0 at t = ``off``, and rises along the same line
    moved up by half its width; between the two lines it stays where it is.
    """
    width = on - off
    falling = np.clip((t - off) / width, 0.0, 1.0)
    rising = np.clip((t - off - width / 2) / width, 0.0, 1.0)
    return np.maximum(rising, np.minimum(before, falling))


def guilty(before: Array, t: Array, harm: float, on: float) -> Array:
    """Gates (n,) while there is little evidence: 0 from t <= ``harm`` until t > ``on``, else unchanged."""
    return np.where(t <= harm, 0.0, np.where(t > on, 1.0, before))
