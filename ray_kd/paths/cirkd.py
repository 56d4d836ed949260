"""Cross-image relations: similarities of pixels of different images within a batch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.paths.gather import all_rows


class CirkdOptions(PathOptions):
    """Options of CIRKD within a batch."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau of the softmax over the pixels of an image."""
    pool: Annotated[int, Field(ge=1)] = 1
    """Maps are average-pooled over windows of pool x pool first; the cost falls with its fourth power."""


@PATHS.register("cirkd", source="Yang et al., CVPR 2022 (CIRKD), arXiv 2204.06986")
class Cirkd(FeaturePath):
    r"""CIRKD, mini-batch pixel to pixel, by default on the last stage.

    For every pair of images (i, j) of the batch, i = j included, and every pixel p of i: the KL divergence
    of teacher and student between :math:`softmax_q(\cos(f_{ip}, f_{jq}) / \tau)` over the pixels q of j; mean
    over pairs and pixels. No adapter, any widths, no labels. Target: the teacher's normalised map.

    Source: Yang, Zhou, An, Jiang, Xu, Zhang, CVPR 2022, arXiv 2204.06986 and its code: tau 0.1, static weight
    1. Deviations: with several ranks the pairs are of all ranks' images (in the code of each rank's own);
    a student map of another size is pooled to the teacher's. To save memory, the gradient is computed with
    the loss, image by image.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    published_weight: ClassVar[float] = 1.0
    traits = frozenset({"relational"})
    degree: ClassVar[float | None] = 0
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = CirkdOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        pool: int = self.options.pool
        if pool > 1:
            feature = F.avg_pool2d(feature, pool, ceil_mode=True)
        return F.normalize(feature, dim=1)

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        pool: int = self.options.pool
        if pool > 1:
            feature = F.avg_pool2d(feature, pool, ceil_mode=True)
        student = F.normalize(match_size(feature, target.shape[-2:]), dim=1)
        ours, theirs = (all_rows(maps).flatten(2).mT.contiguous() for maps in (student, target))
        loss: Tensor = _Pairs.apply(ours, theirs, self.options.temperature)  # type: ignore[no-untyped-call]
        return loss


class _Pairs(torch.autograd.Function):
    """The loss of unit vectors (N, P, C_s) against (N, P, C_t), with its gradient in the same pass."""

    @staticmethod
    def forward(context: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        count, positions, _ = student.shape
        everyone, judges = student.flatten(0, 1), teacher.flatten(0, 1)
        wants = context.needs_input_grad[0]
        gradient = torch.zeros_like(everyone) if wants else None
        loss = torch.zeros((), dtype=student.dtype, device=student.device)
        for index in range(count):
            rows = (positions, count, positions)  # pixels of this image, images, their pixels
            ours = (student[index] @ everyone.T / temperature).view(rows).log_softmax(dim=2)
            theirs = (teacher[index] @ judges.T / temperature).view(rows).log_softmax(dim=2)
            loss += F.kl_div(ours, theirs, reduction="sum", log_target=True)
            if gradient is not None:
                slope = (ours.exp_() - theirs.exp_()).view(positions, -1)
                gradient.addmm_(slope.T, student[index])
                gradient[index * positions : (index + 1) * positions].addmm_(slope, everyone)
        scale = 1 / (count * count * positions)
        if gradient is not None:
            context.save_for_backward(gradient.view_as(student) * (scale / temperature))
        return loss * scale

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return gradients[0] * gradient, None, None
