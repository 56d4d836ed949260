"""Two-stage box distillation: the student's head imitates the teacher's box corrections of its proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.boxes import area
from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full
from ray_kd.paths.detectors import PredictionPath, extra_of, head_of, two_stage, weighted_mean
from ray_kd.paths.roi_logit import PROPOSALS


class RoiBoxOptions(PathOptions):
    """Options of two-stage box distillation."""


@PATHS.register("roi_box", source="Chen et al., NeurIPS 2017 (Learning efficient object detection models)")
class RoiBox(PredictionPath):
    r"""Two-stage box distillation: smooth L1 of the student's deltas against the teacher's, mean over the
    four and over the teacher's proposals, weighted by the teacher's probability of an object.

    Deltas are those of the teacher's most probable class other than the background (class 0); the weight
    is its probability, and weights are summed over all ranks. Both heads predict for the teacher's best n
    proposals. Target: the proposals (N, n, 4), the teacher's class logits (N, n, K + 1),
    that class (N, n) and its deltas (N, n, 4).

    Source: the regression part of Chen, Choi, Yu, Han, Chandraker, NeurIPS 2017. Deviations: theirs
    pulls the student only where it is further from the object than the teacher by a margin, which
    makes the teacher an upper bound and not a target; its weight does not carry over, and is 1 here.
    """

    published_weight: ClassVar[float] = 1.0
    reads: ClassVar[tuple[str, ...]] = ("features",)
    Options = RoiBoxOptions

    @torch.no_grad()
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        proposals = extra_of(teacher, "proposals", self.label, PROPOSALS).detach()
        logits, deltas = two_stage(head_of(teacher, self.label), self.label).roi(teacher, proposals)
        chosen = likeliest(logits)
        return {
            f"{self.label}/proposals": proposals,
            f"{self.label}/logits": logits.detach(),
            f"{self.label}/class": chosen,  # two close ones would swap if logits were rounded
            f"{self.label}/deltas": of_class(deltas, chosen).detach(),
        }

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        proposals, logits, chosen, wanted = (
            target[f"{self.label}/{name}"] for name in ("proposals", "logits", "class", "deltas")
        )
        _, deltas = two_stage(head_of(student, self.label), self.label).roi(student, proposals)
        with exact(deltas):
            deltas = of_class(full(deltas), chosen)
            teacher = self.like(wanted, deltas)
            sure = full(logits).softmax(dim=-1)[..., 1:].amax(dim=-1) * (area(proposals) > 0)
            error = F.smooth_l1_loss(deltas, teacher, reduction="none").mean(dim=-1)
            return {self.label: weighted_mean(error, sure.to(error.dtype))}


def likeliest(logits: Tensor) -> Tensor:
    """The most probable class other than the background (N, n) of logits (N, n, K + 1)."""
    return logits[..., 1:].argmax(dim=-1) + 1


def of_class(deltas: Tensor, chosen: Tensor) -> Tensor:
    """The deltas (N, n, 4) of each proposal's class (N, n), from deltas (N, n, K + 1, 4)."""
    return deltas.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
