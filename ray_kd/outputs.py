"""Outputs: what a student or a teacher says about a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Outputs:
    """What a network returns for a batch; the one vocabulary that paths, tasks and models share.

    Attributes:
        features: the feature map after each stage, shallow to deep, each (N, C, H, W).
        logits: untempered scores, (N, K) for classification, (N, K, H, W) for dense tasks.
        extra: whatever else a task's model gives, by name (a detector's boxes, say).
    """

    features: tuple[Tensor, ...] = ()
    logits: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def detach(self) -> Outputs:
        """The same values without gradients."""
        return Outputs(
            tuple(feature.detach() for feature in self.features),
            None if self.logits is None else self.logits.detach(),
            {name: value.detach() for name, value in self.extra.items()},
        )
