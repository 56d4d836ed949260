"""Outputs: what a student or a teacher returns for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from ray_kd.config.errors import UserError

IGNORE = 255
"""The class of an unlabelled pixel; every loss and metric ignores it."""
Layout = Literal["NCHW", "NHWC", "NLC", "NCL"]
WORDS: dict[str, str] = {
    "NCHW": "a feature map (N, C, H, W)",
    "NHWC": "(N, H, W, C), its channels last as Swin's are",
    "NLC": "(N, L, C), tokens as a ViT's are",
    "NCL": "(N, C, L), without height and width",
}


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
    """What a network returned as Outputs.

    Taken are Outputs as they are; logits alone; a mapping or an object with ``out`` or ``logits`` (those of
    torchvision, ``ModelOutput`` of transformers), whose auxiliary scores nobody reads; a tuple that holds one
    tensor, the logits, and at most one list of tensors, the features; feature maps alone (a list of them, as
    timm's ``features_only`` gives, not all of the same channels).

    Raises:
        UserError: anything else, such as a tuple of several tensors: it is unknown which are the logits.
    """
    if isinstance(found, Outputs):
        return found
    expected = "expected a network that returns logits, a mapping with 'out' or 'logits', or ray_kd.Outputs"
    if isinstance(found, Tensor):
        return Outputs(logits=found)
    if isinstance(found, Mapping):
        named = next((found[name] for name in LOGITS if isinstance(found.get(name), Tensor)), None)
        got = f"a mapping with {', '.join(map(str, found)) or 'nothing'}"
    else:
        named, got = getattr(found, "logits", None), type(found).__name__
    if isinstance(named, Tensor):
        return Outputs(logits=named)
    if isinstance(found, (tuple, list)):
        taken = _parts(found)
        if taken is not None:
            return taken
        got += f" of {len(found)} ({', '.join(map(_told, found))}): wrap it, and return Outputs"
    raise UserError(f"{where}: {expected}; got {got}.")


def _parts(found: Sequence[Any]) -> Outputs | None:
    """A tuple or list as Outputs, where only one reading is possible."""
    single = [part for part in found if isinstance(part, Tensor)]
    several = [part for part in found if isinstance(part, (tuple, list)) and part]
    if any(not isinstance(part, Tensor) for parts in several for part in parts):
        return None
    if len(single) + len(several) != len(found):
        return None
    maps = isinstance(found, list) and not several and all(part.dim() == 4 for part in single)
    if maps:  # scores of several heads all have one channel for each class; feature maps differ
        return Outputs(tuple(single)) if len({part.shape[1] for part in single}) > 1 else None
    if len(single) == 1 and len(several) <= 1:
        return Outputs(tuple(several[0]) if several else (), single[0])
    return None


def _told(part: Any) -> str:
    return str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__


def as_map(
    feature: Tensor, layout: Layout = "NLC", prefix: int = 0, grid: Sequence[int] | None = None
) -> Tensor:
    """A feature as the map (N, C, H, W) that paths compare: tokens in their places, channels second.

    Args:
        feature: (N, L, C) tokens row by row, (N, H, W, C), (N, C, L), or a map as it is.
        layout: which of these it is.
        prefix: tokens before those of the grid (class token, distillation token, registers); left out.
        grid: height and width; None: of tokens, a square.

    Raises:
        UserError: the feature has another number of dimensions, or the tokens do not fill the grid.

    Example:
        >>> import torch
        >>> tokens = torch.zeros(2, 1 + 14 * 14, 192)  # of a ViT, with a class token
        >>> as_map(tokens, prefix=1).shape
        torch.Size([2, 192, 14, 14])
    """
    if feature.dim() != len(layout):
        raise UserError(f"as_map: expected {WORDS[layout]}, got {tuple(feature.shape)}.")
    if layout == "NCHW":
        return feature
    if layout == "NHWC":
        return feature.permute(0, 3, 1, 2)
    tokens = (feature.mT if layout == "NLC" else feature)[:, :, prefix:]
    count = tokens.shape[2]
    height, width = (round(count**0.5),) * 2 if grid is None else grid
    if height * width != count or not count:
        raise UserError(
            f"as_map: expected {height} x {width} tokens after prefix {prefix}, got {count}: say how many "
            "come before those of the grid (prefix), and its height and width (grid)."
        )
    return tokens.unflatten(2, (height, width))
