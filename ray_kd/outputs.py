"""Outputs: what a student or a teacher returns for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ray_kd.config.errors import UserError

IGNORE = 255
"""The class of an unlabelled pixel; every loss and metric ignores it."""


def main_class(label: Tensor) -> Tensor:
    """Classes (N,) of labels: the labels (N,) themselves or, where views mix samples and labels are shares of
    classes (N, K), the class with the largest share."""
    return label if label.dim() == 1 else label.argmax(dim=1)


class DetectionHead(Protocol):
    """How to read a detector's predictions, beside the tensors in ``Outputs``.

    A detector predicts at L positions over all levels, shallow to deep, row by row; a position is a point
    or, where a point has several anchors, one of them. Boxes are (x1, y1, x2, y2) in pixels.
    """

    level_sizes: tuple[tuple[int, int], ...]
    """Height and width of each level, in the order of ``Outputs.features``."""
    priors: Tensor
    """The prior box (L, 4) of each position: its anchor, or a square around its point."""

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The terms of the loss by name, each as this batch's sum and the count to divide it by."""
        ...

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        """The detector's own training loss; its normalisers are global over ranks."""
        ...

    def detections(self, outputs: Outputs) -> dict[str, Tensor]:
        """boxes (N, M, 4), scores (N, M), labels (N, M), best first; label -1 is padding."""
        ...

    def positives(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        """Whether each position (N, L) is trained to find an object in the batch's images."""
        ...

    def boxes(self, outputs: Outputs) -> Tensor:
        """The boxes (N, L, 4) that all positions predict, differentiable."""
        ...


@dataclass
class Outputs:
    """What a network returns for a batch; paths, tasks and models all read it.

    Attributes:
        features: the feature map after each stage, shallow to deep, each (N, C, H, W); a detector's are
            its pyramid's levels.
        logits: untempered scores: (N, K) for classification, (N, K, H, W) for segmentation, at the
            network's own resolution, (N, L, K) for dense detection.
        extra: other tensors by name, such as a detector's regression; rows are samples.
        head: how to read a detector's tensors; None for other networks.

    Example:
        >>> import torch
        >>> outputs = Outputs(logits=torch.zeros(2, 10, requires_grad=True))
        >>> outputs.detach().logits.requires_grad
        False
    """

    features: tuple[Tensor, ...] = ()
    logits: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    head: DetectionHead | None = None

    def detach(self) -> Outputs:
        """The same values without gradients."""
        return Outputs(
            tuple(feature.detach() for feature in self.features),
            None if self.logits is None else self.logits.detach(),
            {name: value.detach() for name, value in self.extra.items()},
            self.head,
        )


LOGITS = ("out", "logits")
"""Keys of the logits in a mapping that a network returns."""


def as_outputs(found: Any, where: str) -> Outputs:
    """What a network returned as Outputs: logits alone, a mapping that holds them, or Outputs as they are.

    Raises:
        UserError: anything else, above all a tuple, since it is unknown which of its parts are the logits.
    """
    if isinstance(found, Outputs):
        return found
    expected = "expected a network that returns logits, a mapping with 'out' or 'logits', or ray_kd.Outputs"
    if isinstance(found, Mapping):
        named = next((found[name] for name in LOGITS if isinstance(found.get(name), Tensor)), None)
        if named is None:
            keys = ", ".join(map(str, found)) or "nothing"
            raise UserError(f"{where}: {expected}; got a mapping with {keys}.")
        return Outputs(logits=named)
    named = found if isinstance(found, Tensor) else getattr(found, "logits", None)
    if not isinstance(named, Tensor):
        parts = f" of {len(found)}: wrap it, and return Outputs" if isinstance(found, (tuple, list)) else ""
        raise UserError(f"{where}: {expected}; got {type(found).__name__}{parts}.")
    return Outputs(logits=named)
