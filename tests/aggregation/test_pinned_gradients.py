"""Methods that scale, vote on, remember or part gradients, against derivations of their own in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ray_kd.aggregation import Gradients
from ray_kd.config.errors import UserError
from ray_kd.training.step import make_optimizers
from tests.aggregation.linear import aggregator_for, gradients, once, play
from tests.helpers import TINY, RunSpec

SEEDS = range(4)
WEIGHTS = {"p1": 2.0, "p2": 1.0, "p3": 0.5}
W = np.array([2.0, 1.0, 0.5])


def cosines_to_task(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    return rows[1:] @ rows[0] / norms[0] / norms[1:]


def test_equal_norm() -> None:
    """Every path's part of the update is as long as the reference, times its weight and k."""
    aggregator = aggregator_for("equal_norm", 3, weights=WEIGHTS, k=0.5)
    seen = []
    for seed in range(5):
        rows = gradients(seed)
        norms = np.linalg.norm(rows, axis=1)
        seen.append(norms[0])
        for played, reference in (
            (play(aggregator, rows), np.mean(seen)),
            (once("equal_norm", rows, reference="task", weights=WEIGHTS, k=0.5), norms[0]),
            (once("equal_norm", rows, reference="mean", weights=WEIGHTS, k=0.5), norms[1:].mean()),
        ):
            wanted = rows[0] + 0.5 * reference * (W / norms[1:]) @ rows[1:]
            np.testing.assert_allclose(played.direction, wanted, rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_gcs(seed: int) -> None:
    rows = gradients(seed)
    cosines, norms = cosines_to_task(rows), np.linalg.norm(rows, axis=1)
    for options, factors in (
        ({}, np.maximum(cosines, 0)),
        ({"form": "sign"}, np.where(cosines > 0, 1.0, 0.0)),
        ({"normalise": True}, np.maximum(cosines, 0) * norms[0] / norms[1:]),
    ):
        played = once("gcs", rows, weights=WEIGHTS, k=2.0, **options)
        np.testing.assert_allclose(played.direction, rows[0] + 2 * (factors * W) @ rows[1:], rtol=1e-5)


def test_olaux_moves_at_the_end_of_each_round() -> None:
    aggregator = aggregator_for("olaux", 3, lr=0.4, horizon=3)
    weights, seen = np.ones(3), []
    for step in range(12):
        rows = gradients(step)
        np.testing.assert_allclose(play(aggregator, rows).alphas, [1, *weights], rtol=1e-6)
        seen.append(cosines_to_task(rows))
        if len(seen) == 3:
            weights, seen = np.maximum(weights + 0.4 * np.mean(seen, axis=0), 0), []
    assert (weights != 1).all()


def test_gradnorm_is_adam_on_the_published_objective() -> None:
    """The objective's gradient by autograd, the step by torch.optim.Adam, then back to a sum of m."""
    aggregator = aggregator_for("gradnorm", 3, parameters="all", lr=0.05, alpha=1.2)
    draw = np.random.default_rng(0)
    v = nn.Parameter(torch.ones(4, dtype=torch.float64))
    adam, first = torch.optim.Adam([v], lr=0.05), None
    for step in range(25):
        rows, values = gradients(step), draw.uniform(0.2, 3, size=4)
        np.testing.assert_allclose(play(aggregator, rows, values).alphas, v.detach().numpy(), rtol=1e-5)
        first = values if first is None else first
        rates = torch.from_numpy(values / first / (values / first).mean())
        pulls = v * torch.from_numpy(np.linalg.norm(rows, axis=1))
        adam.zero_grad()
        (pulls - (pulls.mean() * rates**1.2).detach()).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            v.clamp_(min=1e-3)
            v.mul_(4 / v.sum())


def test_graddrop_keeps_one_sign_with_the_published_probability() -> None:
    rows, leak = gradients(3, size=3), 0.2
    positive, negative = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
    purity = positive / (positive - negative)  # (1 + sum / sum of sizes) / 2, simplified
    aggregator = aggregator_for("graddrop", 3, seed=5, leak=leak)
    drawn = np.stack([play(aggregator, rows).direction for _ in range(4000)])
    both = rows.sum(0)
    kept = (drawn - leak * both) / (1 - leak)
    is_positive = np.isclose(kept, positive, atol=1e-6)
    assert (is_positive | np.isclose(kept, negative, atol=1e-6)).all()
    np.testing.assert_allclose(is_positive.mean(0), purity, atol=0.03)
    joint = (is_positive[:, 0] & is_positive[:, 1]).mean()
    assert joint == pytest.approx(purity[0] * purity[1], abs=0.03), "parameters are drawn independently"
    # Outside the game the task's gradient passes whole.
    alone = once("graddrop", rows[:2], task="outside").direction
    np.testing.assert_allclose(alone, rows[:2].sum(0))


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_dbmtl(power: float) -> None:
    """Buffers of the gradients of log losses, from 0; each brought to the largest norm."""
    aggregator = aggregator_for("dbmtl", 3, beta=0.8, beta_power=power, weights=WEIGHTS, k=0.5)
    buffer = np.zeros((4, 7))
    for step in range(6):
        rows, values = gradients(step), np.random.default_rng(step).uniform(0.05, 4, size=4)
        logs = rows / values[:, None]
        beta = 0.8 / (step + 1) ** power
        buffer = logs + beta * (buffer - logs)
        norms = np.linalg.norm(buffer, axis=1)
        parts = norms.max() / norms * np.array([1.0, *0.5 * W])
        np.testing.assert_allclose(play(aggregator, rows, values).direction, parts @ buffer, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_mokd(seed: int) -> None:
    """The shortest of many convex combinations of the two gradients of logarithms, within the clip."""
    rows, values = gradients(seed), np.random.default_rng(seed).uniform(0.1, 3, size=4)
    task = rows[0] / values[0]
    distillation = W @ rows[1:] / (W @ values[1:])
    shares = np.linspace(0.1, 0.9, 80001)
    lengths = np.linalg.norm(shares[:, None] * task + (1 - shares[:, None]) * distillation, axis=1)
    gamma = shares[lengths.argmin()]
    wanted = gamma * task + 0.5 * (1 - gamma) * distillation
    played = once("mokd", rows, values, weights=WEIGHTS, k=0.5)
    np.testing.assert_allclose(played.direction, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(played.alphas @ rows, played.direction, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_dot_keeps_two_momenta(clip: float | None) -> None:
    """Two heavy balls in NumPy; weight decay is the task's; clipping scales both parts alike."""
    lr, momentum, decay, delta = 0.1, 0.9, 0.01, 0.075
    aggregator = aggregator_for("dot", 2, delta=delta, weights={"p1": 2.0}, k=0.5)
    theta = nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = aggregator.optimizer_rule()([theta], lr=lr, momentum=momentum, weight_decay=decay, fused=True)
    p, v_task, v_kd = np.ones(5), np.zeros(5), np.zeros(5)
    for step in range(8):
        rows = gradients(step, m=3, size=5)
        losses = [torch.from_numpy(row) @ theta for row in rows]
        optimizer.zero_grad()
        aggregator(losses[0], {"p1": losses[1], "p2": losses[2]}, Gradients([("theta", theta)])).backward()
        task, kd = rows[0], 0.5 * (2 * rows[1] + rows[2])
        if clip is not None:
            nn.utils.clip_grad_norm_([theta], clip)
            scale = min(1.0, clip / (np.linalg.norm(task + kd) + 1e-6))
            task, kd = task * scale, kd * scale
        optimizer.step()
        v_task = (momentum - delta) * v_task + task + decay * p
        v_kd = (momentum + delta) * v_kd + kd
        p = p - lr * (v_task + v_kd)
        np.testing.assert_allclose(theta.detach().numpy(), p, rtol=1e-6)
    assert not aggregator.parts, "nothing is left for a step without a backward"


def test_dot_refuses_what_it_is_not() -> None:
    trained = [nn.Parameter(torch.zeros(3))]
    dot = aggregator_for("dot", 2)
    for optimizer, named in (
        ({"name": "adamw"}, "expected sgd"),
        ({"nesterov": True}, "nesterov"),
        ({"momentum": 0.95}, "momentum"),
    ):
        options = RunSpec.parse({**TINY, "optimizer": optimizer}).optimizer
        with pytest.raises(UserError, match=named):
            make_optimizers(options, trained, dot)
