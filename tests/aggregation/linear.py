"""Losses that are linear in one parameter vector: their gradients are whatever a test says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_kd.aggregation import Aggregator, Gradients, Update, create_aggregator


@dataclass
class Played:
    """One step of an aggregator on chosen gradients."""

    update: Update
    direction: np.ndarray
    """What it wrote to ``.grad``, (P,)."""

    @property
    def alphas(self) -> np.ndarray:
        """Factors on the task loss and on each path's (1 + n,)."""
        return np.array([self.update.log.get("task_factor", 1.0), *self.update.factors.tolist()])


def aggregator_for(name: str, paths: int, **options: Any) -> Aggregator:
    """An aggregator in double precision for so many paths."""
    return create_aggregator(name, names=[f"p{i}" for i in range(1, paths + 1)], **options).double()


def play(aggregator: Aggregator, rows: np.ndarray, values: Any = None) -> Played:
    """One step: gradients ``rows`` (1 + n, P), the task's first, of losses with ``values`` (1 + n,)."""
    theta = nn.Parameter(torch.zeros(rows.shape[1], dtype=torch.float64))
    given = np.ones(len(rows)) if values is None else np.asarray(values, dtype=float)
    losses = [
        torch.tensor(value, dtype=torch.float64) + torch.from_numpy(row) @ theta
        for row, value in zip(rows, given, strict=True)
    ]
    gradients = Gradients([("theta", theta)])
    gradients.tensors = {"logits": theta}
    update = aggregator(losses[0], dict(zip(aggregator.losses, losses[1:], strict=True)), gradients)
    update.backward()
    assert theta.grad is not None
    return Played(update, theta.grad.numpy().copy())


def once(name: str, rows: np.ndarray, values: Any = None, **options: Any) -> Played:
    """One step of a fresh aggregator."""
    return play(aggregator_for(name, len(rows) - 1, **options), rows, values)


def gradients(seed: int, m: int = 4, size: int = 7) -> np.ndarray:
    """Random gradients of unlike norms (m, P), with conflicts."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(m, size)) * np.exp(draw.normal(size=(m, 1)))
