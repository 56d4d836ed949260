"""The learning rate as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from ray_kd.config.training import Schedule


def learning_rate(schedule: Schedule, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimizer step ``step`` (0-based).

    Warm-up rises linearly over the first ``warmup_epochs`` (step i of n uses (i + 1) / n); cosine
    falls from ``base`` to 0 over what follows, poly with (1 - share of it that passed) ** power; step
    multiplies by gamma after each milestone epoch.
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule.name == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
        return float(base * schedule.gamma**passed)
    total = max(1, epochs * steps_per_epoch - warmup)
    if schedule.name == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / total))
    if schedule.name == "poly":
        return float(base * (1 - (step - warmup) / total) ** schedule.power)
    return base
