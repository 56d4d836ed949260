"""Neuron selectivity transfer, in the Gramian form."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.base import AdaptedOptions, AdaptedPath, match_size


class NstOptions(AdaptedOptions):
    """Options of NST."""


@PATHS.register("nst", source="Huang & Wang, 2017, arXiv 1707.01219 (Gramian form of arXiv 2110.09674)")
class Nst(AdaptedPath):
    r"""Neuron selectivity transfer (NST): MSE between the C x C Gramians of normalised features.

    Features as (C, HW), each channel L2-normalised over HW; :math:`\frac{1}{N C^2} \sum
    (F_s F_s^T - F_t F_t^T)^2`, on adapted student features. The target is the smaller of the teacher's
    normalised features (C * HW numbers) and half of its symmetric Gramian (C (C + 1) / 2).
    Where C > HW no C x C matrix is ever built:
    :math:`\|F_s F_s^T - F_t F_t^T\|^2 = \|F_s^T F_s\|^2 - 2 \|F_s^T F_t\|^2 + \|F_t^T F_t\|^2`.

    Source: Huang, Wang, arXiv 1707.01219, in the form of the published Adaptive Distillation code
    (static weight 10), which is the polynomial-kernel Gramian without the MMD. Deviation: a student
    map of another size is pooled to the teacher's.
    """

    published_weight: ClassVar[float] = 10.0
    Options = NstOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        normalised = F.normalize(feature.flatten(2), dim=2)
        channels, positions = normalised.shape[1:]
        if channels > positions or 2 * positions <= channels + 1:
            return normalised.view_as(feature)
        rows, columns = torch.triu_indices(channels, channels, device=feature.device)
        return (normalised @ normalised.mT)[:, rows, columns]

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        if target.dim() == 4:
            return self._by_positions(match_size(feature, target.shape[-2:]), target)
        normalised = F.normalize(feature.flatten(2), dim=2)
        channels = normalised.shape[1]
        # The target is unfolded rather than the student's Gramian folded: that needs no gradient.
        whole = target.index_select(1, _unfolding(channels, feature.device))
        return F.mse_loss(normalised @ normalised.mT, whole.view(-1, channels, channels))

    @staticmethod
    def _by_positions(feature: Tensor, target: Tensor) -> Tensor:
        student, teacher = F.normalize(feature.flatten(2), dim=2), target.flatten(2)
        count, channels = student.shape[:2]
        own = (student.mT @ student).square().sum()
        cross = (student.mT @ teacher).square().sum()
        theirs = (teacher.mT @ teacher).square().sum()
        return (own - 2 * cross + theirs) / (count * channels**2)


@lru_cache(maxsize=64)
def _unfolding(channels: int, device: torch.device) -> Tensor:
    """Where each entry of a symmetric C x C matrix, row by row, lies in its upper triangle (C * C,)."""
    rows, columns = torch.triu_indices(channels, channels)
    places = torch.empty(channels, channels, dtype=torch.long)
    places[rows, columns] = places[columns, rows] = torch.arange(len(rows))
    return places.flatten().to(device)
