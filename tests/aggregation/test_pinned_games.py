"""Games over gradients against their published definitions: derived again in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares, minimize
from sklearn.svm import OneClassSVM

from ray_kd.aggregation import Gradients
from tests.aggregation.linear import aggregator_for, gradients, once, play

SEEDS = range(6)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shortest(rows: np.ndarray) -> np.ndarray:
    """Weights of the shortest convex combination, by trying every set of positive weights."""
    m, best, found = len(rows), np.inf, np.zeros(len(rows))
    for count in range(1, m + 1):
        for support in map(list, itertools.combinations(range(m), count)):
            g = rows[support] @ rows[support].T
            w = np.linalg.solve(g, np.ones(count))
            w /= w.sum()
            if (w >= 0).all() and w @ g @ w < best:
                best, found = w @ g @ w, np.zeros(m)
                found[support] = w
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_mgda(seed: int) -> None:
    rows, values = gradients(seed), np.array([0.5, 2.0, 1e-2, 7.0])
    norms = np.linalg.norm(rows, axis=1)
    for kind, divisor in {
        "none": np.ones(4),
        "l2": norms,
        "loss": values,
        "loss+": norms * values,
    }.items():
        wanted = shortest(rows / divisor[:, None])
        played = once("mgda", rows, values, normalise=kind)
        np.testing.assert_allclose(played.alphas, wanted, atol=1e-6)
        np.testing.assert_allclose(played.direction, wanted @ rows, atol=1e-5)
    assert (rows @ once("mgda", rows).direction >= -1e-6).all(), "no loss rises"


def test_mgda_by_fixed_numbers() -> None:
    """Worked out by hand: (3, 0) and (0, 4) are nearest to 0 at 16/25 and 9/25."""
    played = once("mgda", np.array([[3.0, 0.0], [0.0, 4.0]]))
    np.testing.assert_allclose(played.alphas, [0.64, 0.36], atol=1e-9)
    np.testing.assert_allclose(played.direction, [1.92, 1.44], atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [0.3, 0.5, 0.9])
def test_cagrad_has_no_duality_gap(seed: int, c: float) -> None:
    """It maximises the least <d, g_i> over the ball |d - g_0| <= c |g_0|; its dual is over the simplex."""
    rows = gradients(seed, m=3)
    d, g0 = once("cagrad", rows, c=c).direction / 3, rows.mean(0)
    assert np.linalg.norm(d - g0) == pytest.approx(c * np.linalg.norm(g0), rel=1e-5)
    grid = np.array([(i, j, 200 - i - j) for i in range(201) for j in range(201 - i)]) / 200
    combined = grid @ rows
    dual = combined @ g0 + c * np.linalg.norm(g0) * np.linalg.norm(combined, axis=1)
    primal = (rows @ d).min()
    assert primal <= dual.min() + 1e-6
    assert primal == pytest.approx(dual.min(), abs=2e-3 * np.abs(dual).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_upgrad(seed: int) -> None:
    """The sum of the projections on {x: J x >= 0}, found over x itself."""
    rows = gradients(seed)
    wanted = np.zeros(rows.shape[1])
    for row in rows:
        wanted += minimize(
            lambda x, row=row: ((x - row) @ (x - row) / 2, x - row),
            np.zeros_like(row),
            jac=True,
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda x: rows @ x, "jac": lambda x: rows},
            options={"ftol": 1e-14, "maxiter": 500},
        ).x
    np.testing.assert_allclose(once("upgrad", rows).direction, wanted, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_nash(seed: int) -> None:
    rows = gradients(seed)
    g = rows @ rows.T
    a = once("nash", rows, max_norm=0).alphas
    assert (a > 0).all()
    np.testing.assert_allclose(g @ a, 1 / a, rtol=1e-4)
    assert np.linalg.norm(a @ rows) == pytest.approx(2, rel=1e-4), "the root of the number of losses"
    limited = once("nash", rows, max_norm=0.1)
    assert np.linalg.norm(limited.direction) == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_allclose(limited.alphas / limited.alphas.sum(), a / a.sum(), rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_the_size_of_all_gradients_changes_nothing(name: str, size: float, seed: int) -> None:
    """The published code of both clips what it found to a norm of 1, which small gradients always reach."""
    rows = gradients(seed)
    plain, scaled = once(name, rows), once(name, size * rows)
    assert np.linalg.norm(plain.direction) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scaled.direction, plain.direction, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["nash", "fairgrad"])
def test_gradients_that_cancel_leave_nothing(name: str) -> None:
    rows = np.array([[1e-3, 0.0], [-1e-3, 0.0]])
    played = once(name, rows)
    assert np.isfinite(played.alphas).all()
    np.testing.assert_allclose(played.direction, 0, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_fairgrad(seed: int, alpha: float) -> None:
    rows = gradients(seed)
    g = rows @ rows.T
    a = once("fairgrad", rows, alpha=alpha, normalise=False).alphas
    np.testing.assert_allclose(g @ a, a ** (-1 / alpha), rtol=1e-4)
    limited = once("fairgrad", rows, alpha=alpha)
    assert np.linalg.norm(limited.direction) == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(limited.alphas / limited.alphas.sum(), a / a.sum(), rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_fairgrad_of_small_gradients_is_the_published_code(seed: int) -> None:
    """Least squares on the equation, times the number of losses, clipped to a norm of 1."""
    rows = 1e-2 * gradients(seed)
    g = rows @ rows.T
    start = np.diag(g) ** (-2 / 3)
    found = least_squares(
        lambda a: g @ a - a**-0.5, start, bounds=(0, np.inf), x_scale=start, xtol=1e-15, gtol=1e-15
    )
    wanted = len(rows) * found.x @ rows
    wanted *= min(1.0, 1 / np.linalg.norm(wanted))
    np.testing.assert_allclose(once("fairgrad", rows).direction, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_config(seed: int) -> None:
    rows = gradients(seed)
    best = np.linalg.pinv(unit(rows)) @ np.ones(4)
    best /= np.linalg.norm(best)
    played = once("config", rows)
    np.testing.assert_allclose(played.direction, (rows @ best).sum() * best, rtol=1e-6)
    np.testing.assert_allclose(played.alphas @ rows, played.direction, rtol=1e-5, atol=1e-7)
    cosines = unit(rows) @ played.direction
    np.testing.assert_allclose(cosines, cosines[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_imtl_g(seed: int) -> None:
    """Weights that sum to 1 and whose combination projects alike on every gradient, as one system."""
    pytest.importorskip("torchjd")
    rows = gradients(seed)
    projections = unit(rows) @ rows.T
    system = np.vstack([projections[:1] - projections[1:], np.ones(4)])
    wanted = np.linalg.solve(system, [0, 0, 0, 1])
    np.testing.assert_allclose(once("imtl_g", rows).alphas, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_aligned(seed: int) -> None:
    pytest.importorskip("torchjd")
    rows = gradients(seed)
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    for scale, size in {
        "min": values[-1],
        "rmse": np.sqrt((values**2).mean()),
        # torchjd's median of an even number is the lower one, as torch.median's
        "median": np.sort(values)[1],
    }.items():
        wanted = (size * left @ right).sum(0)
        np.testing.assert_allclose(once("aligned", rows, scale=scale).direction, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_is_one_of_the_orders(seed: int) -> None:
    pytest.importorskip("torchjd")
    rows = gradients(seed, m=3)
    possible = []
    for i in range(3):
        ends = []
        for order in itertools.permutations([j for j in range(3) if j != i]):
            g = rows[i].copy()
            for j in order:
                if g @ rows[j] < 0:
                    g -= (g @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
            ends.append(g)
        possible.append(ends)
    got = once("pcgrad", rows).direction
    sums = [sum(choice) for choice in itertools.product(*possible)]
    assert min(np.abs(got - wanted).max() for wanted in sums) < 1e-5


def test_pcgrad_by_fixed_numbers() -> None:
    """Worked out by hand: (1, 0) and (-1, 1) lose their conflict to (1/2, 1/2) and (0, 1)."""
    pytest.importorskip("torchjd")
    played = once("pcgrad", np.array([[1.0, 0.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(played.direction, [0.5, 1.5], atol=1e-7)


def test_gradvac_brings_each_pair_to_its_running_cosine() -> None:
    """Two losses, so no order: the law of sines of the publication, on vectors, over steps."""
    pytest.importorskip("torchjd")
    beta, target = 0.3, np.zeros((2, 2))
    aggregator = aggregator_for("gradvac", 1, beta=beta)
    for step in range(8):
        rows = gradients(step, m=2, size=3)
        wanted = np.zeros(3)
        for i, j in ((0, 1), (1, 0)):
            g, other = rows[i].copy(), rows[j]
            cosine = g @ other / np.linalg.norm(g) / np.linalg.norm(other)
            if cosine < target[i, j]:
                # Add w >= 0 of the other gradient until the cosine is the target: found by bisection.
                low, high = 0.0, 1e6
                for _ in range(200):
                    w = (low + high) / 2
                    moved = g + w * other
                    angle = moved @ other / np.linalg.norm(moved) / np.linalg.norm(other)
                    low, high = (w, high) if angle < target[i, j] else (low, w)
                g = moved
            target[i, j] = (1 - beta) * target[i, j] + beta * cosine
            wanted += g
        np.testing.assert_allclose(play(aggregator, rows).direction, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cap", [0.3, 0.6])
def test_ae_kd_is_the_published_one_class_svm(seed: int, cap: float) -> None:
    rows = gradients(seed, m=5)
    weights = dict(zip(["p1", "p2", "p3", "p4"], [1.0, 2.0, 0.5, 1.0], strict=True))
    # The logits of a batch of one: the gradient's mean over the batch is the sum over its first axis.
    theta = torch.zeros(1, rows.shape[1], dtype=torch.float64, requires_grad=True)
    losses = [1 + (torch.from_numpy(row) * theta).sum() for row in rows]
    given = Gradients([("theta", theta)])
    given.tensors = {"logits": theta}
    aggregator = aggregator_for("ae_kd", 4, cap=cap, weights=weights)
    update = aggregator(losses[0], dict(zip(aggregator.losses, losses[1:], strict=True)), given)
    seen = rows[1:] * np.array(list(weights.values()))[:, None]
    svm = OneClassSVM(kernel="precomputed", nu=1 / (cap * 4), tol=1e-10).fit(seen @ seen.T)
    wanted = np.zeros(4)
    wanted[svm.support_] = svm.dual_coef_[0]
    wanted /= wanted.sum()
    np.testing.assert_allclose(update.factors.numpy(), wanted * list(weights.values()), atol=1e-4)
    assert wanted.max() <= cap + 1e-6
