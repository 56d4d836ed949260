"""Methods that need loss values alone, against NumPy derivations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_kd import create_aggregator
from ray_kd.config.errors import UserError

NAMES = ["a", "b", "c"]
LOSSES = np.array([0.02, 1.5, 40.0])


def factors(name: str, losses: np.ndarray = LOSSES, task: float = 2.0, **options: Any) -> np.ndarray:
    aggregator = create_aggregator(name, names=NAMES, **options)
    return aggregator(torch.tensor(task), named(losses)).factors.numpy()


def named(losses: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(float(loss), dtype=torch.float64) for name, loss in zip(NAMES, losses, strict=True)
    }


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_single_step_formulas() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 0.5}
    w = np.array([1.0, 2.0, 0.5])
    close = np.testing.assert_allclose
    close(factors("equal"), [1, 1, 1])
    close(factors("fixed", weights=weights, k=2.0), 2 * w)
    close(factors("inverse", weights=weights), w / LOSSES, rtol=1e-6)
    close(factors("inverse_softmax", temperature=0.5), softmax(1 / LOSSES / 0.5), rtol=1e-6, atol=1e-12)
    close(factors("magnitude", weights=weights), w * 2.0 / LOSSES, rtol=1e-6)
    close(factors("magnitude", reference="mean"), LOSSES.mean() / LOSSES, rtol=1e-6)
    close(factors("geometric"), np.cbrt(LOSSES.prod()) / (3 * LOSSES), rtol=1e-6)
    close(
        factors("stch", weights=weights, mu=5.0, ideal=0.01),
        w * softmax(w * (LOSSES - 0.01) / 5.0),
        rtol=1e-6,
        atol=1e-9,
    )


def test_gradients_of_the_published_objectives() -> None:
    """The factors are the gradients of the published scalars, worked out by autograd."""
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def gradient(objective: Any) -> np.ndarray:
        losses = torch.tensor(LOSSES, requires_grad=True)
        return torch.autograd.grad(objective(losses), losses)[0].numpy()

    wanted = gradient(lambda losses: losses.prod() ** (1 / 3))
    np.testing.assert_allclose(factors("geometric"), wanted, rtol=1e-6)
    wanted = gradient(lambda losses: 5 * torch.logsumexp(weights * losses / 5, 0))
    got = factors("stch", mu=5.0, weights={"a": 1.0, "b": 2.0, "c": 0.5})
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
    z = softmax(np.zeros(3))
    scale = 1 / (z / LOSSES).sum()
    wanted = gradient(lambda losses: scale * (torch.tensor(z) * losses.log()).sum())
    np.testing.assert_allclose(factors("famo"), wanted, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 2])
def test_stch_in_the_form_of_the_published_code(warmup: int) -> None:
    """Logarithms of losses over the nadir, the mean of an epoch; their plain sum until it is known."""
    aggregator = create_aggregator("stch", names=NAMES, form="code", mu=0.5, warmup_epochs=warmup)
    history = [LOSSES * (1 + epoch) for epoch in range(4)]
    for epoch in range(5):
        given = dict(zip(NAMES, history[epoch - 1].tolist(), strict=True)) if epoch else None
        aggregator.begin_epoch(given)
        aggregator.begin_epoch(given)  # a run that resumed within the epoch
        losses = torch.tensor(LOSSES * [0.3, 2.0, 1.1], requires_grad=True)
        if epoch <= warmup:
            wanted = losses.log().sum()
        else:
            ratios = (losses / torch.from_numpy(history[warmup])).log()
            wanted = 3 * 0.5 * torch.logsumexp(ratios / 0.5, 0)
        wanted.backward()
        assert losses.grad is not None
        got = aggregator(torch.tensor(1.0), named(losses.detach().numpy())).factors.numpy()
        np.testing.assert_allclose(got, losses.grad.numpy(), rtol=1e-5)


def test_stch_in_the_form_of_the_code_refuses_what_it_cannot_take() -> None:
    with pytest.raises(UserError, match="ideal"):
        create_aggregator("stch", names=NAMES, form="code", ideal=0.1)
    aggregator = create_aggregator("stch", names=NAMES, form="code")
    with pytest.raises(UserError, match="'b' is -1"):
        aggregator(torch.tensor(1.0), named(np.array([0.1, -1.0, 2.0])))


def test_dwa_follows_two_epochs_of_means() -> None:
    aggregator = create_aggregator("dwa", names=NAMES)
    history = [np.array([4.0, 1.0, 9.0]), np.array([2.0, 0.9, 9.0]), np.array([1.9, 0.3, 9.9])]
    seen = []
    for means in [None, *history]:
        given = None if means is None else dict(zip(NAMES, means.tolist(), strict=True))
        aggregator.begin_epoch(given)
        aggregator.begin_epoch(given)  # a run that resumed within the epoch
        seen.append(aggregator(torch.tensor(1.0), named(LOSSES)).factors.numpy())
    np.testing.assert_allclose(seen[0], 1)
    np.testing.assert_allclose(seen[1], 1)
    np.testing.assert_allclose(seen[2], 3 * softmax(history[1] / history[0] / 2), rtol=1e-6)
    np.testing.assert_allclose(seen[3], 3 * softmax(history[2] / history[1] / 2), rtol=1e-6)


def test_random_draws_from_its_own_stream() -> None:
    aggregator = create_aggregator("random", names=NAMES, seed=3)
    steps = np.stack([aggregator(torch.tensor(0.0), named(LOSSES)).factors.numpy() for _ in range(3000)])
    np.testing.assert_allclose(steps.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(steps.mean(0), 1 / 3, atol=0.02)
    logs = np.log(steps) - np.log(steps).mean(1, keepdims=True)
    # Centred logarithms of a softmax of standard normals have variance 1 - 1/3.
    np.testing.assert_allclose(logs.var(0), 2 / 3, rtol=0.1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_cov_from_the_whole_history(scale: float) -> None:
    """Welford's recursion equals mean and variance recomputed from every ratio so far."""
    aggregator = create_aggregator("cov", names=NAMES).double()
    draw = np.random.default_rng(2)
    history = np.exp(draw.normal(size=(40, 3)) * [0.1, 0.5, 1.0]) * [1, scale, 5]
    ratios: list[np.ndarray] = []
    for step, losses in enumerate(history):
        got = aggregator(torch.tensor(0.0), named(losses)).factors.numpy()
        if step <= 1:
            np.testing.assert_allclose(got, 1 / 3)
        else:
            past = np.stack(ratios)
            variation = np.sqrt(past.var(0) + 1e-8) / past.mean(0)
            np.testing.assert_allclose(got, variation / variation.sum(), rtol=1e-6)
        ratios.append(losses / (history[:step].mean(0) if step else losses))


def test_cov_with_decaying_means() -> None:
    aggregator = create_aggregator("cov", names=NAMES, decay=0.8).double()
    history = np.random.default_rng(5).uniform(0.5, 2, size=(10, 3))
    loss_mean = ratio_mean = deviations = np.zeros(3)
    for step, losses in enumerate(history):
        got = aggregator(torch.tensor(0.0), named(losses)).factors.numpy()
        if step > 1:
            variation = np.sqrt(deviations / step + 1e-8) / ratio_mean
            np.testing.assert_allclose(got, variation / variation.sum(), rtol=1e-6)
        ratio = losses / loss_mean if step else np.ones(3)
        keep = 0.8 if step else 0.0
        moved = keep * ratio_mean + (1 - keep) * ratio
        deviations = deviations + (ratio - ratio_mean) * (ratio - moved)
        ratio_mean, loss_mean = moved, keep * loss_mean + (1 - keep) * losses


@pytest.mark.parametrize("name", ["geometric", "famo"])
def test_logarithms_refuse_a_negative_loss_by_name(name: str) -> None:
    with pytest.raises(UserError, match=r"'b' is -0\.1"):
        factors(name, np.array([1.0, -0.1, 2.0]))


def test_stages_of_a_path_are_summed_or_weighed_apart() -> None:
    losses = {"at/stage0": torch.tensor(1.0), "kd": torch.tensor(5.0), "at/stage1": torch.tensor(3.0)}
    joint = create_aggregator("inverse", names=list(losses))
    apart = create_aggregator("inverse", names=list(losses), granularity="layer")
    assert joint(torch.tensor(0.0), losses).weights == pytest.approx({"at": 0.25, "kd": 0.2})
    assert apart(torch.tensor(0.0), losses).weights == pytest.approx(
        {"at/stage0": 1.0, "kd": 0.2, "at/stage1": 1 / 3}
    )


def test_weights_of_stages_need_layer_granularity() -> None:
    weights = {"at/stage0": 2.0, "kd": 0.1}
    names = ["at/stage0", "at/stage1", "kd"]
    with pytest.raises(UserError, match="granularity: layer"):
        create_aggregator("fixed", names=names, weights=weights)
    update = create_aggregator("fixed", names=names, weights=weights, granularity="layer")(
        torch.tensor(0.0), {name: torch.tensor(1.0) for name in names}
    )
    assert update.weights == pytest.approx({"at/stage0": 2.0, "at/stage1": 1.0, "kd": 0.1})
    with pytest.raises(UserError, match="'fm'"):
        create_aggregator("fixed", names=names, weights={"fm": 1.0})
