"""Adaptive Distillation against its published recursion and its fixed point, both worked out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_kd import create_aggregator


def losses_of(values: np.ndarray) -> dict[str, torch.Tensor]:
    return {f"p{i}": torch.tensor(float(v), requires_grad=True) for i, v in enumerate(values)}


def test_verbatim_is_the_published_recursion() -> None:
    """SGD (lr 0.1, momentum 0.9, weight decay 1e-4) on a, whose gradient is k (1 - w L e^-a)."""
    draw = np.random.default_rng(0)
    sequence = np.exp(draw.normal(size=(60, 3)) + np.log([1e-3, 1.0, 20.0]))
    weights, k = np.array([2.0, 1.0, 0.5]), 0.7
    aggregator = create_aggregator(
        "adaptive",
        names=["p0", "p1", "p2"],
        weights=dict(zip(["p0", "p1", "p2"], weights, strict=True)),
        verbatim=True,
        k=k,
    )
    (group,) = aggregator.param_groups()
    assert group.pop("optimizer") == "main"
    optimizer = torch.optim.SGD([group], lr=0.1, momentum=0.9, weight_decay=1e-4)
    alpha, velocity = np.zeros(3), np.zeros(3)
    for losses in sequence:
        optimizer.zero_grad()
        update = aggregator(torch.tensor(2.0), losses_of(losses))
        expected = 2.0 + k * (np.exp(-alpha) * weights * losses + alpha).sum()
        assert update.total.item() == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(update.factors.numpy(), k * weights * np.exp(-alpha), rtol=1e-3)
        update.backward()
        optimizer.step()
        slope = k * (1 - weights * losses * np.exp(-alpha)) + 1e-4 * alpha
        velocity = 0.9 * velocity + slope
        alpha = alpha - 0.1 * velocity
    np.testing.assert_allclose(aggregator.alpha.detach().numpy(), alpha, rtol=1e-3)


def test_default_is_its_stated_recursion() -> None:
    draw = np.random.default_rng(1)
    sequence = np.exp(draw.normal(size=(50, 2)) + np.log([1e-2, 50.0]))
    aggregator = create_aggregator("adaptive", names=["p0", "p1"], weights={"p1": 3.0}, k=5.0)
    alpha, mean, weights = np.zeros(2), np.zeros(2), np.array([1.0, 3.0])
    for step, losses in enumerate(sequence, start=1):
        update = aggregator(torch.tensor(0.0), losses_of(losses))
        np.testing.assert_allclose(update.factors.numpy(), 5 * weights * np.exp(-alpha), rtol=1e-4)
        mean = 0.9 * mean + 0.1 * weights * losses
        slope = 1 - np.exp(-alpha) * mean / (1 - 0.9**step)
        alpha = np.clip(alpha - 0.1 * np.clip(slope, -1, 1), -7, 7)


@pytest.mark.parametrize("loss", [1e-3, 1e-2, 1.0, 30.0, 100.0])
@pytest.mark.parametrize("k", [0.1, 1.0, 50.0])
def test_default_reaches_the_fixed_point_without_overshoot(loss: float, k: float) -> None:
    """From losses of 1e-3 to 1e2, and whatever the strength: a -> ln(w L), monotonically."""
    aggregator = create_aggregator("adaptive", names=["p0"], weights={"p0": 1.0}, k=k)
    path = []
    for _ in range(400):
        aggregator(torch.tensor(0.0), losses_of(np.array([loss])))
        path.append(float(aggregator.alpha))
    goal = np.log(loss)
    assert path[-1] == pytest.approx(goal, abs=0.01)
    steps = np.diff([0.0, *path]) * np.sign(goal)
    assert (steps >= -1e-6).all()
    assert np.abs(steps).max() <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("adaptive", lambda loss: 1 / loss),
        ("imtl_l", lambda loss: 1 / loss),
        ("uncertainty", lambda loss: 0.5 / loss),
        # u with L / (2u) + ln(1 + u) smallest: 2u^2 = L (1 + u)
        ("uncertainty_revised", lambda loss: 2 / (loss + np.sqrt(loss**2 + 8 * loss))),
    ],
)
@pytest.mark.parametrize("loss", [0.01, 0.5, 40.0])
def test_stationary_factor_of_each_learned_method(name: str, factor: object, loss: float) -> None:
    aggregator = create_aggregator(name, names=["p0"])
    for _ in range(600):
        update = aggregator(torch.tensor(0.0), losses_of(np.array([loss])))
    assert float(update.factors) == pytest.approx(factor(loss), rel=0.02)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("adaptive", lambda a, loss: torch.exp(-a) * loss + a),
        ("imtl_l", lambda a, loss: torch.exp(a) * loss - a),
        ("uncertainty", lambda a, loss: loss / (2 * torch.exp(a)) + a / 2),
        ("uncertainty_revised", lambda a, loss: loss / (2 * torch.exp(a)) + torch.log(1 + torch.exp(a))),
    ],
)
def test_verbatim_objectives(name: str, objective: object) -> None:
    aggregator = create_aggregator(name, names=["p0", "p1"], verbatim=True)
    with torch.no_grad():
        aggregator.alpha.copy_(torch.tensor([0.3, -1.2]))
    losses, alpha = torch.tensor([2.0, 0.7]), torch.tensor([0.3, -1.2], requires_grad=True)
    wanted = objective(alpha, losses).sum()  # type: ignore[operator]
    update = aggregator(torch.tensor(1.0), losses_of(losses.numpy()))
    update.backward()
    torch.testing.assert_close(update.total, 1 + wanted)
    torch.testing.assert_close(aggregator.alpha.grad, torch.autograd.grad(wanted, alpha)[0])
