"""The small convex problems, by the conditions that only their solutions meet."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kd.aggregation.solvers import bargain, conflict_averse, dual_cone, min_norm, root

SHAPES = ["full", "deficient", "parallel", "opposed", "scales", "zero row"]


def rows(kind: str, seed: int, m: int = 4) -> np.ndarray:
    """Gradients (m, P) of a difficult kind."""
    draw = np.random.default_rng([SHAPES.index(kind), seed])
    found = draw.normal(size=(m, 9))
    if kind == "deficient":
        found = draw.normal(size=(m, 2)) @ draw.normal(size=(2, 9))
    elif kind == "parallel":
        found[1] = 3 * found[0]
    elif kind == "opposed":
        found[1] = -0.5 * found[0]
    elif kind == "scales":
        found *= np.geomspace(1e-4, 1e3, m)[:, None]
    elif kind == "zero row":
        found[2] = 0
    return found


def gramian(kind: str, seed: int, m: int = 4) -> np.ndarray:
    found = rows(kind, seed, m)
    return found @ found.T


@pytest.mark.parametrize("kind", SHAPES)
def test_root(kind: str) -> None:
    for seed in range(5):
        g = gramian(kind, seed)
        a = root(g)
        np.testing.assert_allclose(a.T @ a, g, atol=1e-12 * np.trace(g))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("cap", [1.0, 0.6, 0.3, 0.1])
def test_min_norm_is_optimal(kind: str, cap: float) -> None:
    """On the capped simplex the gradient G w is equal where 0 < w < C, larger at 0, smaller at C."""
    for seed in range(25):
        g = gramian(kind, seed, m=2 + seed % 5 if kind != "zero row" else 4)
        m = len(g)
        limit = max(cap, 1 / m)
        w = min_norm(g, cap)
        assert w.sum() == pytest.approx(1, abs=1e-9)
        assert w.min() >= -1e-12
        assert w.max() <= limit + 1e-6
        # The Frank-Wolfe gap bounds how far w G w is from its minimum.
        slope = g @ w
        order, left, best = np.argsort(slope), 1.0, 0.0
        for index in order:
            share = min(limit, left)
            best, left = best + share * slope[index], left - share
        assert w @ slope - best <= 3e-3 * (w @ slope) + 1e-9 * np.trace(g)


def test_min_norm_of_two_is_the_closed_form() -> None:
    for seed in range(50):
        g = gramian("full", seed, m=2)
        gamma = np.clip((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1]), 0, 1)
        np.testing.assert_allclose(min_norm(g), [gamma, 1 - gamma], atol=1e-7)


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "zero row"])
def test_dual_cone_is_the_projection(kind: str) -> None:
    """v >= u, G v >= 0, and v_i = u_i wherever the projection leaves some room to row i."""
    for seed in range(25):
        g = gramian(kind, seed)
        size = np.sqrt(np.diag(g))
        for u in np.eye(len(g)):
            v = dual_cone(g, u)
            assert (v - u >= -1e-12).all()
            room = (g @ v) / size / size.max()
            assert room.min() >= -1e-7
            assert np.abs((v - u) * size * room).max() <= 1e-6 * size.max()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("radius", [0.2, 0.5, 1.5])
def test_conflict_averse_is_optimal(kind: str, radius: float) -> None:
    """The slope of a convex function on the simplex: smallest where w > 0, up to the solver's precision."""
    for seed in range(15):
        g = gramian(kind, seed)
        w = conflict_averse(g, radius)
        assert w.sum() == pytest.approx(1)
        assert w.min() >= 0
        mean, unit = g.mean(1), np.trace(g) / len(g)
        length = np.sqrt(max(w @ g @ w, 0))
        if length < 1e-4 * np.sqrt(unit):  # at its kink: the gradients balance
            continue
        slope = mean + radius * np.sqrt(mean.mean()) * (g @ w) / length
        assert w @ slope - slope.min() <= 2e-3 * np.abs(slope).max()


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind not in ("zero row", "opposed")])
@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_bargain_solves_its_equation(kind: str, power: float) -> None:
    """(G + 1e-6 diag G) a = a^-power with a > 0."""
    for seed in range(25):
        g = gramian(kind, seed)
        g = g + 1e-6 * np.diag(np.diag(g))
        a = bargain(gramian(kind, seed), power)
        assert (a > 0).all()
        np.testing.assert_allclose(g @ a, a**-power, rtol=1e-5)


def test_bargain_of_one_and_of_orthogonal_gradients() -> None:
    np.testing.assert_allclose(bargain(np.array([[4.0]]), 1.0), [0.5], rtol=1e-5)
    g = np.diag([1.0, 16.0, 1e-4])
    np.testing.assert_allclose(bargain(g, 1.0), np.diag(g) ** -0.5, rtol=1e-5)
    np.testing.assert_allclose(bargain(g, 0.5), np.diag(g) ** (-1 / 1.5), rtol=1e-5)
    # Exactly opposed gradients have no finite solution; the ridge gives a large, balanced one.
    a = bargain(np.array([[1.0, -1.0], [-1.0, 1.0]]), 1.0)
    assert np.isfinite(a).all()
    assert a[0] == pytest.approx(a[1], rel=1e-3)
