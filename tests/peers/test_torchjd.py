"""Every aggregator that torchjd has too, beside it: the same direction, or the same factors over steps.

The differences, and who is right, stand in docs/weights.md; the tests below hold what it says.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torchjd import aggregation as theirs
from torchjd import scalarization
from torchjd.linalg import QuadprogProjector

from ray_kd import create_aggregator
from tests.aggregation.linear import aggregator_for, gradients, once, play

SEEDS = range(6)
HAS_ECOS = sys.version_info < (3, 13) and platform.machine() == "x86_64"
"""Where requirements.lock has it: it has no wheels elsewhere."""

DIRECTIONS: dict[str, tuple[str, dict[str, Any], Any, int]] = {
    "AlignedMTL": ("aligned", {}, theirs.AlignedMTL(), 4),
    "CAGrad": ("cagrad", {"c": 0.5}, theirs.CAGrad(c=0.5), 4),
    "ConFIG": ("config", {}, theirs.ConFIG(), 1),
    "FairGrad": ("fairgrad", {"normalise": False}, theirs.FairGrad(alpha=2.0), 1),
    "IMTLG": ("imtl_g", {}, theirs.IMTLG(), 1),
    "MGDA": ("mgda", {}, theirs.MGDA(epsilon=1e-10, max_iters=50000), 1),
    "Mean": ("equal", {}, theirs.Mean(), 4),
    "Sum": ("equal", {}, theirs.Sum(), 1),
    "UPGrad": ("upgrad", {}, theirs.UPGrad(projector=QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)), 4),
}
"""Theirs by name: ours, our options, theirs, and what theirs is times: it takes means where we take sums."""


NOT_OURS = {"Constant", "DualProj", "ExcessMTL", "Krum", "PCD", "TrimmedMean"}
ON_THEIR_OWN = {"GradDrop", "GradVac", "NashMTL", "PCGrad"}
"""Compared below; ``Random`` draws what ``random`` draws by another stream."""


def test_every_method_of_torchjd_has_a_peer_or_is_not_ours() -> None:
    bases = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Random"}
    there = {name for name in theirs.__all__ if not name.endswith("Weighting")} - bases
    assert there == DIRECTIONS.keys() | NOT_OURS | ON_THEIR_OWN
    scalars = set(scalarization.__all__) - {
        "Scalarizer",
        "Random",
        "Constant",
        "Mean",
        "Sum",
        "COSMOS",
        "PBI",
    }
    assert scalars == SCALARS.keys()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_torchjds(name: str, seed: int) -> None:
    ours, options, aggregate, times = DIRECTIONS[name]
    rows = gradients(seed)
    found = once(ours, rows, **options).direction
    wanted = times * aggregate(torch.from_numpy(rows)).numpy()
    exact = name not in ("MGDA", "CAGrad")  # theirs are found by iteration
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=(1e-5 if exact else 2e-2) * np.abs(rows).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_pcgrad_and_gradvac_of_two_losses_are_torchjds(seed: int) -> None:
    """Two losses have no order to draw; the running cosine of gradvac goes on from step to step."""
    rows = gradients(seed, m=2)
    np.testing.assert_allclose(
        once("pcgrad", rows).direction, theirs.PCGrad()(torch.from_numpy(rows)), atol=1e-5
    )
    aggregator, peer = aggregator_for("gradvac", 1, beta=0.3), theirs.GradVac(beta=0.3)
    for step in range(5):
        rows = gradients(10 * seed + step, m=2)
        np.testing.assert_allclose(play(aggregator, rows).direction, peer(torch.from_numpy(rows)), atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_graddrop_keeps_one_sign_of_each_parameter_as_torchjds(seed: int) -> None:
    """What is kept is drawn, by streams of our own: both give one of the same two sums for each parameter,
    and over draws in the same shares."""
    rows = gradients(seed)
    one, other = np.where(rows > 0, rows, 0).sum(0), np.where(rows < 0, rows, 0).sum(0)
    aggregator, peer = aggregator_for("graddrop", 3), theirs.GradDrop()
    ours = np.stack([play(aggregator, rows).direction for _ in range(400)])
    same = np.stack([peer(torch.from_numpy(rows)).numpy() for _ in range(400)])
    for found in (ours, same):
        assert np.minimum(np.abs(found - one), np.abs(found - other)).max() < 1e-5
    mixed = (
        one - other > 1e-3
    )  # a share of 400 draws has a deviation of at most 0.025, the difference of 0.036
    shares = [np.abs(found - one) < np.abs(found - other) for found in (ours, same)]
    assert np.abs(shares[0].mean(0) - shares[1].mean(0))[mixed].max() < 0.2


@pytest.mark.skipif(not HAS_ECOS, reason="the lock has no ECOS for this Python or machine: it has no wheels")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1, 1.0])
def test_nash_is_torchjds_whatever_the_size_of_the_gradients(size: float, seed: int) -> None:
    """Both have norm 1. Theirs approximates G a = 1/a by convex programs, which end too early where
    gradients are small; elsewhere the directions are one. Ours solves the equation everywhere."""
    rows = size * gradients(seed)
    g = rows @ rows.T
    peer = theirs.NashMTL(n_tasks=4, max_norm=1.0, update_weights_every=1, optim_niter=20)
    wanted = peer(torch.from_numpy(rows)).numpy()
    found = once("nash", rows)
    for direction in (wanted, found.direction):
        assert np.linalg.norm(direction) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(found.alphas * (g @ found.alphas), 1 / 4, rtol=1e-4)
    if size >= 1e-2:
        np.testing.assert_allclose(found.direction, wanted, atol=1e-3)


NAMES = ["a", "b", "c"]
SCALARS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "DWA": ("dwa", {}, lambda: scalarization.DWA(2.0)),
    "FAMO": ("famo", {}, lambda: scalarization.FAMO(3)),
    "GeometricMean": ("geometric", {}, scalarization.GeometricMean),
    "IMTLL": ("imtl_l", {"verbatim": True}, lambda: scalarization.IMTLL(3)),
    "STCH": ("stch", {"mu": 0.5}, lambda: scalarization.STCH(0.5, torch.ones(3))),
    "UW": ("uncertainty", {"verbatim": True}, lambda: scalarization.UW(3)),
}
"""Theirs by name: ours, our options, theirs."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SCALARS)
def test_factors_are_the_gradients_of_torchjds_scalars_over_steps(name: str, seed: int) -> None:
    ours, options, make = SCALARS[name]
    aggregator, peer = create_aggregator(ours, names=NAMES, **options), make()
    draw = np.random.default_rng(seed)
    learnt = [list(module.parameters()) for module in (aggregator, peer)]
    optimizers = [torch.optim.SGD(own, lr=0.1) if own else None for own in learnt]
    if name == "FAMO":
        optimizers = [None, None]  # it steps by itself
    means = None
    for _ in range(8):
        aggregator.begin_epoch(means)
        losses = draw.uniform(0.1, 4, size=3)
        values = [torch.tensor(losses, dtype=torch.float32, requires_grad=True) for _ in range(2)]
        for optimizer in filter(None, optimizers):
            optimizer.zero_grad()
        update = aggregator(torch.zeros(()), dict(zip(NAMES, values[0].unbind(), strict=True)))
        update.backward()
        peer(values[1]).backward()
        torch.testing.assert_close(values[0].grad, values[1].grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(update.factors, values[1].grad, rtol=1e-4, atol=1e-6)
        for optimizer in filter(None, optimizers):
            optimizer.step()
        after = torch.tensor(losses * draw.uniform(0.8, 1.1, size=3), dtype=torch.float32)
        if name == "FAMO":
            aggregator.after_step(lambda after=after: dict(zip(NAMES, after.unbind(), strict=True)))
            peer.update(after)
        if name == "DWA":
            peer.step()
        means = dict(zip(NAMES, losses.tolist(), strict=True))
