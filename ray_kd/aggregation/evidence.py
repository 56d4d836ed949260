"""Evidence on each path: a running mean with its standard error, and the gate that follows from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LIMIT = 100.0
"""The largest size of a t-statistic: what does not vary at all would have an infinite one."""


def empty(count: int) -> Array:
    """Evidence (4, n) before the first observation: sums of w, w^2, w u and w u^2."""
    return np.zeros((4, count))


def observed(evidence: Array, values: Array, memory: float) -> Array:
    """The evidence after one more observation of each path (n,); what is not finite is left out.

    Args:
        evidence: (4, n).
        values: the observations u (n,).
        memory: observations after which an old one counts 1/e.
    """
    seen = np.isfinite(values)
    u, w = np.where(seen, values, 0.0), seen.astype(np.float64)
    keep = np.where(seen, np.exp(-1.0 / memory), 1.0)
    added: Array = np.stack([w, w, w * u, w * u * u])
    return added + evidence * np.stack([keep, keep * keep, keep, keep])


def statistic(evidence: Array) -> Array:
    """The t-statistic (n,) of each running mean: mean / standard error; 0 before two observations.

    The number of observations is the effective one, (sum w)^2 / sum w^2.
    """
    total, squares, first, second = evidence
    with np.errstate(divide="ignore", invalid="ignore"):
        count, mean = total * total / squares, first / total
        spread = np.maximum(second / total - mean * mean, 0.0) * count / (count - 1)
        t = mean / np.sqrt(spread / count)
    t = np.where((total > 0) & (mean == 0), 0.0, t)
    t = np.where(count > 1.5, t, 0.0)
    return np.clip(np.nan_to_num(t, nan=0.0, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT)


def gates(before: Array, t: Array, off: float, on: float) -> Array:
    """Gates (n,) in [0, 1] after a look at the t-statistics, with hysteresis.

    A gate falls along the line from 1 at t = ``on`` to 0 at t = ``off``, and rises along the same line
    moved up by half its width; between the two lines it stays where it is.
    """
    width = on - off
    falling = np.clip((t - off) / width, 0.0, 1.0)
    rising = np.clip((t - off - width / 2) / width, 0.0, 1.0)
    return np.maximum(rising, np.minimum(before, falling))
