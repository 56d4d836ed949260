"""Means over the steps of an epoch, which the records hold, and the check that they are finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ray_kd.config.errors import TrainingFailed
from ray_kd.training.engine import Engine

CHECK_EVERY = 200
"""Steps between two checks that the losses are finite; each check waits for the device."""


def epoch_means(engine: Engine, epoch: int, steps: int) -> tuple[list[float], list[dict[str, Any]]]:
    """The mean of every running sum over an epoch's steps (epochs count from 1), and a row for each path."""
    aggregator = engine.aggregator
    means = [value / steps for value in engine.sums.tolist()]
    losses, weights, *measured = _parts(means[1:], len(engine.names), len(aggregator.names))
    figures = aggregator.figures()
    rows = []
    for position, (name, members) in enumerate(aggregator.groups.items()):
        row = {
            "epoch": epoch,
            "path": name,
            "loss": sum(losses[member] for member in members),
            "weight": weights[position],
            "gradient_norm": None,
            "cosine": None,
            **{figure: values[position] for figure, values in figures.items()},
        }
        if measured and measured[2][position] > 0:  # the share of steps that measured
            row["gradient_norm"] = measured[0][position] / measured[2][position]
            row["cosine"] = measured[1][position] / measured[2][position]
        rows.append(row)
    return means, rows


def validated(record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures on validation in an epoch's record: of the weights that count, and of the raw ones."""
    return {"val": record.get("val"), **{key: record[key] for key in ("val_raw",) if key in record}}


def require_finite(engine: Engine, epoch: int) -> None:
    """End the training if a loss, a weight or a gradient is no longer finite."""
    if bool(torch.isfinite(engine.sums).all()):
        return
    names = ["the task loss", *(f"the loss of path '{name}'" for name in engine.names)]
    for what in ("weight", "gradient norm", "cosine"):  # the last two where gradients are measured
        names += [f"the {what} of path '{name}'" for name in engine.aggregator.names]
    broken = [name for name, value in zip(names, engine.sums.tolist(), strict=False) if value - value != 0]
    raise TrainingFailed(
        f"{', '.join(broken)} became NaN or infinite in epoch {epoch + 1} (by step {engine.taken}). "
        "A smaller learning rate, gradient clipping (optimizer.clip; clip= of a Distiller) or a smaller "
        "weight may help."
    )


def _parts(values: list[float], losses: int, names: int) -> list[list[float]]:
    """The first ``losses`` values, and the others in rows of ``names`` values."""
    rest = values[losses:]
    return [
        values[:losses],
        *(rest[start : start + names] for start in range(0, max(1, len(rest)), max(1, names))),
    ]
