"""Intra-class feature variation: the similarity of each pixel to the mean of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths.base import exact, feature_of, full, logits_of
from ray_kd.paths.dense import class_map
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.paths.gather import normaliser


class IfvdOptions(PathOptions):
    """Options of IFVD."""


@PATHS.register("ifvd", source="Wang et al., ECCV 2020 (Intra-class Feature Variation Distillation)")
class Ifvd(FeaturePath):
    r"""Intra-class feature variation (IFVD): MSE of the maps :math:`m_p = \cos(f_p, c_{y_p})`.

    :math:`c_k` is the mean feature of the pixels of class k in the same image, gradients included; mean over
    labelled pixels, by default on the last stage. No adapter, any widths. Needs the mask. Target: the
    teacher's feature map (the map of cosines would be smaller, but the mask that it depends on is not
    part of the teacher's outputs).

    Source: Wang, Zhou, Jiang, Bai, Xu, ECCV 2020, static weight 20 as in CIRKD's code. Deviations: the mean
    is over labelled pixels, in that code over all pixels, where ignored ones count 0; a student map of
    another size is pooled to the teacher's; the mask is read at the centres of the map's cells.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    published_weight: ClassVar[float] = 20.0
    needs: ClassVar[tuple[str, ...]] = ("mask",)
    degree: ClassVar[float | None] = 0
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = IfvdOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        mask, count = self.in_batch(batch, "mask"), logits_of(student, self.label).shape[1]
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = feature_of(student, stage, self.label)
            with exact(feature):
                feature = full(feature)
                wanted = target[key].to(feature.dtype)
                classes = class_map(mask, wanted.shape[-2:]).flatten(1)
                ours = variation(match_size(feature, wanted.shape[-2:]).flatten(2), classes, count)
                theirs = variation(wanted.flatten(2), classes, count)
                known = classes != IGNORE
                errors = (ours - theirs).square() * known
                losses[key] = errors.sum() / normaliser(known.sum()).to(errors.dtype)
        return losses

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        raise TypeError("the loss of a stage needs the mask; see losses")


def variation(feature: Tensor, classes: Tensor, count: int) -> Tensor:
    """The cosine (N, P) of each position's feature (N, C, P) with the mean of its class (N, P) in its image.

    Classes outside 0 .. count - 1 have mean 0 and cosine 0.
    """
    among = torch.arange(count, device=classes.device)
    member = (classes.unsqueeze(1) == among[:, None]).to(feature.dtype)
    sums, sizes = feature @ member.mT, member.sum(dim=2)
    means = (sums / sizes.clamp_min(1).unsqueeze(1)) @ member
    return F.cosine_similarity(feature, means, dim=1)
