"""Shared by paths between detectors: levels of a pyramid, predictions at positions, ground-truth boxes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.boxes import pairwise_iou
from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs
from ray_kd.paths.base import Path, exact, feature_of, full
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.paths.gather import normaliser


class LevelOptions(PathOptions):
    """Options of a path between the levels of two pyramids."""

    adapter: Literal["conv"] | None = "conv"
    """A 1x1 convolution with bias where student and teacher differ in width; None: widths are equal."""


class LevelPath(FeaturePath):
    """A path between the levels of two detectors' pyramids, one loss for each level.

    Most pyramids have equal widths, and published code compares them directly. If widths differ, the
    student's level goes through a 1x1 convolution with bias, as in FGD and MGD.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    Options: ClassVar[type[PathOptions]] = LevelOptions

    def setup(self) -> None:
        super().setup()
        self.make_adapters(lambda into, out: nn.Conv2d(into, out, kernel_size=1), where_equal=False)

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature


class MaskedPath(LevelPath):
    """A level path whose loss is the squared error on chosen positions, mean over them and channels."""

    needs: ClassVar[tuple[str, ...]] = ("image", "boxes", "box_label")

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        masks = self.masks(student, batch)
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            with exact(feature):
                feature = full(feature)
                wanted = target[key].to(feature.dtype)
                size = wanted.shape[-2:]
                error = (match_size(feature, size) - wanted).square().mean(dim=1)
                mask = F.adaptive_max_pool2d(masks[stage].to(error.dtype), (size[0], size[1]))
                losses[key] = (error * mask).sum() / normaliser(mask.sum())
        return losses

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        raise TypeError("the loss of a masked path needs the batch")

    @abstractmethod
    def masks(self, student: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Whether each position of each of the student's levels counts, (N, H, W) bool."""


class PredictionPath(Path):
    """A path between the predictions of two detectors at the same positions, or for the same proposals."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    def like(self, target: Tensor, prediction: Tensor) -> Tensor:
        """The teacher's predictions in the student's dtype."""
        if target.shape[1:] != prediction.shape[1:]:
            raise UserError(
                f"path '{self.label}': student and teacher have different positions or classes: "
                f"{tuple(prediction.shape[1:])} and {tuple(target.shape[1:])}. Both need the same levels, "
                "anchors, classes and bins, and images of one size."
            )
        return target.to(prediction.dtype)


def head_of(outputs: Outputs, label: str) -> Any:
    """The detection head, or a UserError that names the path that needs it."""
    if outputs.head is None:
        raise UserError(f"path '{label}' needs a detector, and the outputs hold no head.")
    return outputs.head


def two_stage(head: Any, label: str) -> Any:
    """The head, or a UserError if it has no second stage."""
    if not hasattr(head, "roi"):
        raise UserError(f"path '{label}' needs two-stage detectors, and {type(head).__name__} is none.")
    return head


def extra_of(outputs: Outputs, name: str, label: str, hint: str) -> Tensor:
    """An entry of ``extra``, or a UserError that names the path that needs it."""
    if name not in outputs.extra:
        raise UserError(
            f"path '{label}' needs '{name}' ({hint}), and the outputs hold {sorted(outputs.extra)}."
        )
    return outputs.extra[name]


def objects(path: Path, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (N, M, 4), and whether each is an object (N, M): no padding, no crowd."""
    boxes, label = path.in_batch(batch, "boxes"), path.in_batch(batch, "box_label")
    there = label >= 0
    return boxes, there & ~batch["crowd"].bool() if "crowd" in batch else there


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of values times weights over the global sum of weights; 0 with a graph if there are none."""
    return (values * weight).sum() / normaliser(weight.sum())


def level_masks(mask: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """A mask of all positions (N, L) as masks of the levels (N, H, W); a point with several anchors is in the
    mask if one of them is."""
    count = [height * width for height, width in sizes]
    anchors = mask.shape[1] // sum(count)
    parts = mask.split([places * anchors for places in count], dim=1)
    return [part.unflatten(1, (*size, anchors)).any(dim=-1) for part, size in zip(parts, sizes, strict=True)]


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of Bernoulli distributions with these logits, elementwise."""
    yes, no = F.logsigmoid(teacher), F.logsigmoid(-teacher)
    return yes.exp() * (yes - F.logsigmoid(student)) + no.exp() * (no - F.logsigmoid(-student))


def tempered_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis, which it sums."""
    found, wanted = ((z / temperature).log_softmax(dim=-1) for z in (student, teacher))
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1)
    return divergence * temperature**2


def distance_iou(priors: Tensor, boxes: Tensor) -> Tensor:
    """DIoU (L, M) of boxes (L, 4) and (M, 4): IoU - the squared distance of centres over the squared
    diagonal of the smallest box around both (Zheng et al., AAAI 2020, arXiv 1911.08287)."""
    one, other = priors.unsqueeze(1), boxes.unsqueeze(0)
    apart = ((one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]) / 2).square().sum(-1)
    corner = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    return pairwise_iou(priors, boxes) - apart / corner.square().sum(-1).clamp_min(1e-7)
