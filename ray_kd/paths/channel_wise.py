"""Channel-wise distillation: compares each channel's distribution over positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths.base import exact, full, logits_of
from ray_kd.paths.dense import class_map, resized
from ray_kd.paths.feature import FeaturePath, Pointwise, match_size
from ray_kd.paths.gather import normaliser


class ChannelWiseOptions(PathOptions):
    """Options of channel-wise distillation."""

    on: Literal["logits", "features"] = "logits"
    """What is compared: the logits, or feature maps (``stages``; default: the last)."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """T: every channel is softmax(values / T) over positions."""
    adapter: Literal["conv"] | None = "conv"
    """For features: 1x1 convolution without bias where widths differ; None: widths are equal."""


@PATHS.register("channel_wise", source="Shu et al., ICCV 2021 (CWD), arXiv 2011.13256")
class ChannelWise(FeaturePath):
    r"""Channel-wise distillation (CWD): :math:`\frac{T^2}{N C} \sum_{nc} KL(\phi(t_{nc}) \| \phi(s_{nc}))`.

    :math:`\phi` is the softmax over positions of a channel, over T. On the logits, where channels are classes
    (the default), or on features. Target: the teacher's logits or feature maps.

    Source: Shu, Liu, Gao, Yan, Shen, ICCV 2021, arXiv 2011.13256: T 4; static weights 3 on logits and 50 on
    features, and the adapter, as in CIRKD's code (Yang et al., CVPR 2022). Deviations: on logits, positions
    that the batch's mask ignores are left out of the distributions, and images without any other out of
    the mean; a student's logits of another size are resized (bilinear), its features pooled.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    published_weight: ClassVar[float] = 3.0
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = ChannelWiseOptions

    def setup(self) -> None:
        if self.options.on == "logits":
            self.stages, self.stage_keys = (), ()
            return
        super().setup()
        self.published_weight = 50.0  # type: ignore[misc]
        self.make_adapters(
            lambda into, out: Pointwise(into, out, kernel_size=1, bias=False), where_equal=False
        )

    @property
    def keys(self) -> tuple[str, ...]:
        return self.stage_keys or (self.label,)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        if self.stages:
            return super().target(teacher)
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.stages:
            return super().losses(student, target, batch)
        logits = logits_of(student, self.label)
        with exact(logits):
            logits = full(logits)
            teacher = target[self.label].to(logits.dtype)
            size = teacher.shape[-2:]
            ignored = class_map(batch["mask"], size) == IGNORE if "mask" in batch else None
            return {self.label: self.divergence(resized(logits, size), teacher, ignored)}

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return self.divergence(match_size(feature, target.shape[-2:]), target, None)

    def divergence(self, student: Tensor, teacher: Tensor, ignored: Tensor | None) -> Tensor:
        """The loss of maps (N, C, H, W) against maps of the same shape, positions (N, H, W) left out."""
        temperature = self.options.temperature
        ours, theirs = (values.flatten(2) / temperature for values in (student, teacher))
        if ignored is None:
            ours, theirs = ours.log_softmax(dim=2), theirs.log_softmax(dim=2)
            found = F.kl_div(ours, theirs, reduction="sum", log_target=True)
            return found * (temperature**2 / (len(ours) * ours.shape[1]))
        left_out = ignored.flatten(1).unsqueeze(1)
        # The lowest number instead of -inf, so that an image with only ignored positions has a softmax.
        lowest = torch.finfo(ours.dtype).min
        ours, theirs = (values.masked_fill(left_out, lowest).log_softmax(dim=2) for values in (ours, theirs))
        found = (theirs.exp() * (theirs - ours).masked_fill(left_out, 0)).sum()
        images = normaliser((~left_out).any(dim=2).sum()).to(found.dtype)
        return found * temperature**2 / (images * ours.shape[1])
