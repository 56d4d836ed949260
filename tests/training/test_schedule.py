"""The learning rate as a function of the step."""

from __future__ import annotations

import math

import pytest

from ray_kd.config.spec import Schedule
from ray_kd.training.schedule import learning_rate


def test_the_published_recipe() -> None:
    """SGD 0.1, times 0.2 after 60, 120 and 160 of 200 epochs, no warm-up (arXiv 2110.09674's code)."""
    schedule = Schedule(name="step", milestones=(60, 120, 160), gamma=0.2)
    rates = [learning_rate(schedule, 0.1, epoch * 10, 10, 200) for epoch in (0, 59, 60, 119, 120, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.0008, 0.0008])


def test_warm_up_rises_then_cosine_falls() -> None:
    schedule = Schedule(name="cosine", warmup_epochs=2)
    rates = [learning_rate(schedule, 1.0, step, 5, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])
    assert learning_rate(Schedule(name="constant"), 0.3, 7, 5, 10) == 0.3
