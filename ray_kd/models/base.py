"""What a student or a teacher offers: a feature map for each stage, and logits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ray_kd.config.options import Options
from ray_kd.outputs import Outputs


class StagedModel(nn.Module):
    """The base of registered models: a stem, stages in sequence, a head on the pooled last stage.

    Attributes:
        stages: modules in sequence; the feature map after each one is a tap.
        stage_channels: channels after each stage.
        head: pooled features (N, C) -> logits (N, K).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Names of the tasks that it has a head for."""
    Options: ClassVar[type[Options]]
    stages: nn.Sequential
    stage_channels: tuple[int, ...]
    head: nn.Module

    def forward(self, image: Tensor) -> Outputs:
        """Outputs for a batch of images (N, C, H, W)."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return Outputs(tuple(features), self.head(image.mean(dim=(2, 3))))
