"""The learning rate as a function of the step."""

from __future__ import annotations

import math

import pytest

from ray_kd.config.training import Schedule
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


def test_poly_falls_to_nothing_as_published() -> None:
    """0.02 (1 - i / 40000)^0.9 over 40,000 steps (CIRKD's code)."""
    schedule = Schedule(name="poly")
    rates = [learning_rate(schedule, 0.02, step, 185, 200) for step in (0, 18500, 36999)]
    assert rates == pytest.approx([0.02, 0.02 * 0.5**0.9, 0.02 * 37000**-0.9])
    late = Schedule(name="poly", power=1.0, warmup_epochs=1)
    assert [learning_rate(late, 1.0, step, 2, 3) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
