"""Small convex problems over the Gramian of a handful of gradients, solved exactly, in NumPy and SciPy.

SciPy is imported on first use: the registry of aggregators imports this module.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RIDGE = 1e-6


def root(gramian: Array) -> Array:
    """A (m, m) with ``A^T A = G``, for a positive semidefinite G."""
    values, vectors = np.linalg.eigh(gramian)
    return cast(Array, np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)


def length(weights: Array, gramian: Array) -> float:
    """The norm of the combination of rows with these weights (m,), from their Gramian (m, m)."""
    return float(np.sqrt(max(float(weights @ gramian @ weights), 0.0)))


def min_norm(gramian: Array, cap: float = 1.0) -> Array:
    r"""Weights of the shortest convex combination: min :math:`w^T G w`, sum(w) = 1, 0 <= w <= cap.

    As non-negative least squares: for w = z / sum(z), the smallest :math:`\|A z\|^2 + (1 - sum(z))^2` is
    :math:`w^T G w / (1 + w^T G w)`, which grows with :math:`w^T G w`. A cap enters by slack variables whose
    equations carry a weight of 1e4, so capped weights are right to about 1e-7.

    Args:
        gramian: G (m, m).
        cap: largest weight; raised to 1/m where it is below.
    """
    from scipy.optimize import nnls

    m = len(gramian)
    unit = root(gramian / max(float(np.trace(gramian)) / m, 1e-300))
    if cap >= 1:
        z = nnls(np.vstack([unit, np.ones(m)]), np.append(np.zeros(m), 1.0))[0]
        return cast(Array, z / z.sum())
    cap, heavy, none = max(cap, 1 / m), 1e4 * np.eye(m), np.zeros((m, m))
    system = np.block([[unit, none], [heavy, heavy], [np.full((1, m), 1e4), np.zeros((1, m))]])
    right = np.concatenate([np.zeros(m), np.full(m, 1e4 * cap), [1e4]])
    w = np.minimum(nnls(system, right)[0][:m], cap)
    return cast(Array, w / w.sum())


def dual_cone(gramian: Array, direction: Array) -> Array:
    """Weights v of the projection of ``J^T u`` onto the cone of directions that no row conflicts with.

    The quadratic program min ``v^T G v`` over v >= u (Quinton, Rey, arXiv 2406.16232, proposition 1), as
    non-negative least squares in v - u over rows of length 1.

    Args:
        gramian: G = J J^T (m, m), no row 0.
        direction: u (m,).
    """
    from scipy.optimize import nnls

    lengths = np.sqrt(np.diag(gramian))
    unit = root(gramian / lengths / lengths[:, None])
    added = nnls(unit, -unit @ (direction * lengths))[0]
    weights: Array = direction + added / lengths
    return weights


def conflict_averse(gramian: Array, radius: float) -> Array:
    r"""Weights of CAGrad's inner problem: min over the simplex of :math:`g_w^T g_0 + c \|g_0\| \|g_w\|`.

    Args:
        gramian: G (m, m); g_0 is the mean of its rows.
        radius: c.
    """
    from scipy.optimize import minimize

    m = len(gramian)
    unit = gramian / max(float(np.trace(gramian)) / m, 1e-300)
    mean = unit.mean(1)
    strength = radius * np.sqrt(max(float(mean.mean()), 0.0))

    def objective(w: Array) -> tuple[float, Array]:
        product = unit @ w
        length = np.sqrt(max(float(w @ product), 0.0) + 1e-12)
        return float(mean @ w + strength * length), mean + strength * product / length

    found = minimize(  # type: ignore[call-overload]
        objective,
        np.full(m, 1 / m),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * m,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(m)},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    w = np.maximum(found.x, 0.0)
    return cast(Array, w / w.sum())


def bargain(gramian: Array, power: float) -> Array:
    r"""The positive solution of :math:`(G a)_i = a_i^{-power}`: Nash bargaining (1) and alpha-fairness.

    It is the minimum of the strictly convex :math:`\frac12 a^T G a - \sum_i \phi(a_i)`,
    :math:`\phi'(x) = x^{-power}`, found by damped Newton steps. A ridge of 1e-6 of each squared norm keeps
    the solution finite where gradients cancel exactly.

    Args:
        gramian: G (m, m), no row 0.
        power: > 0.
    """
    lengths = np.sqrt(np.diag(gramian))
    unit = gramian / lengths / lengths[:, None] + RIDGE * np.eye(len(gramian))
    # With a = b / lengths: (unit b)_i = pull_i b_i^-power; scaled so that pull has mean 1.
    pull = lengths ** (power - 1)
    size = float(pull.mean())
    pull = pull / size
    b = pull ** (1 / (1 + power))
    b *= (float(pull @ b ** (1 - power)) / float(b @ unit @ b)) ** (1 / (1 + power))

    def height(b: Array) -> float:
        gain = np.log(b) if power == 1 else b ** (1 - power) / (1 - power)
        return float(b @ unit @ b) / 2 - float(pull @ gain)

    now = height(b)
    for _ in range(100):
        force = pull * b**-power
        slope = unit @ b - force
        step = np.linalg.solve(unit + np.diag(power * force / b), -slope)
        length = min(1.0, 0.95 / max(float((-step / b).max()), 1e-300))
        if float(np.abs(slope / force).max()) < 1e-9:
            break
        fall = float(-slope @ step)
        then = height(b + length * step)
        while fall > 1e-9 * abs(now) and then > now - 0.1 * length * fall and length > 1e-10:
            length /= 2
            then = height(b + length * step)
        b, now = b + length * step, then
    return cast(Array, b * size ** (1 / (1 + power)) / lengths)
