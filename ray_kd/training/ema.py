"""The moving average of a student's weights over its optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ray_kd.config.training import Ema
from ray_kd.models.compiled import load_own_state, own_state


class AveragedStudent:
    """The exponential moving average of a student's state, as timm's ``ModelEmaV3`` keeps it.

    Parameters and buffers (BatchNorm's statistics) are averaged, buffers of whole numbers are copied. The
    average begins as a copy of the student after its first step. ``torch.optim.swa_utils.AveragedModel``
    would copy the network itself, and networks that are observed by hooks or compiled do not survive a copy.

    Args:
        options: the decay and its warm-up.
        student: what is averaged; it is changed only within ``shown``.

    Attributes:
        state: the average, by the student's own names.
    """

    def __init__(self, options: Ema, student: nn.Module) -> None:
        self.options, self.student = options, student
        self.state = _copy(student)

    def decay(self, step: int) -> float:
        """The share of the average that step ``step`` (from 1) keeps."""
        options = self.options
        if step == 1 or not options.warmup:
            return 0.0 if step == 1 else options.decay
        rising = 1 - float(1 + (step - 1) / options.warmup_gamma) ** -options.warmup_power
        return min(rising, options.decay)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the student's weights into the average after optimizer step ``step`` (from 1)."""
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for name, value in own_state(self.student).items():
            if value.is_floating_point():
                averaged.append(self.state[name])
                current.append(value)
            else:
                self.state[name].copy_(value)
        get_ema_multi_avg_fn(self.decay(step))(averaged, current, step)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block the student has the averaged weights."""
        kept = _copy(self.student)
        load_own_state(self.student, self.state)
        try:
            yield
        finally:
            load_own_state(self.student, kept)


def _copy(student: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in own_state(student).items()}
