"""Cross-image relations with a memory: similarities of pixels to pixels and regions of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full, logits_of
from ray_kd.paths.dense import class_map, pixel_rows
from ray_kd.paths.feature import FeaturePath, Pointwise, adapter, match_size
from ray_kd.paths.gather import all_rows, normaliser
from ray_kd.paths.queues import Queues, regions_and_pixels


class CirkdMemoryOptions(PathOptions):
    """Options of CIRKD through a memory."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """tau of the softmax over the memory."""
    pixels: Annotated[int, Field(ge=256)] = 4096
    """Number of remembered pixels, over all classes."""
    regions: Annotated[int, Field(ge=256)] = 1024
    """Number of remembered regions, over all classes."""
    per_class: Annotated[int, Field(ge=1)] = 16
    """The most pixels of one class that an image adds to the memory."""
    region: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the term of regions relative to that of pixels."""
    adapter: Literal["projector"] | None = "projector"
    """1x1 convolution + BatchNorm + ReLU + 1x1 convolution, student channels -> teacher channels; None:
    widths are equal."""


@PATHS.register("cirkd_memory", source="Yang et al., CVPR 2022 (CIRKD), arXiv 2204.06986")
class CirkdMemory(FeaturePath):
    r"""CIRKD, memory-based pixel to pixel and pixel to region, by default on the last stage.

    For every labelled pixel p the KL divergence of teacher and student between
    :math:`softmax_m(\cos(f_p, v_m) / \tau)` over remembered teacher embeddings :math:`v_m`: of pixels, plus
    the same of regions (the mean embedding of a class in an image); mean over labelled pixels. The student
    goes through a projector. Each class has its own queue; a batch is added before its loss, image by
    image in the order of sample ids. Needs mask and sample ids. Target: the teacher's normalised map.

    Source: Yang, Zhou, An, Jiang, Xu, Zhang, CVPR 2022, arXiv 2204.06986 and its code: tau 0.1, 16 pixels of
    a class and image, static weight 0.1 of both terms. Deviations: the memory holds as many embeddings
    as the code contrasts with (4096 pixels, 1024 regions), and all of them are used (the code draws them
    from up to 20000 and 2000 for each class), so nothing is random; empty rows are not used, where the
    code starts from random vectors; pixels to remember are evenly spaced over those of a class (the code
    draws them, by indices that miss the class); a student map of another size is pooled to the teacher's.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    published_weight: ClassVar[float] = 0.1
    needs: ClassVar[tuple[str, ...]] = ("mask", "sample")
    traits = frozenset({"stateful"})
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = CirkdMemoryOptions

    def setup(self) -> None:
        super().setup()
        chosen: Any = self.options
        self.make_adapters(projector, where_equal=True)
        self.pixels, self.regions = nn.ModuleDict(), nn.ModuleDict()
        for stage in self.stages:
            width = self.teacher_channels[stage]
            self.pixels[str(stage)] = Queues(chosen.pixels, width)
            self.regions[str(stage)] = Queues(chosen.regions, width)

    def stage_target(self, feature: Tensor) -> Tensor:
        return F.normalize(feature, dim=1)

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        mask, sample = self.in_batch(batch, "mask"), self.in_batch(batch, "sample")
        count = logits_of(student, self.label).shape[1]
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            with exact(feature):
                feature = full(feature)
                theirs = target[key].to(feature.dtype)
                classes = class_map(mask, theirs.shape[-2:])
                if self.remembers(feature, theirs):
                    self._remember(theirs, classes, sample, stage, count)
                ours = F.normalize(match_size(feature, theirs.shape[-2:]), dim=1)
                rows = pixel_rows(ours, classes), pixel_rows(theirs, classes)
                whole = normaliser(torch.tensor(float(len(rows[0])), device=ours.device))
                apart = ours.sum() * 0
                for memory, weight in ((self.pixels, 1.0), (self.regions, self.options.region)):
                    remembered = memory[str(stage)].filled(count)  # type: ignore[operator]
                    if len(remembered) and weight:
                        apart = apart + weight * self._apart(*rows, remembered.to(ours.dtype))
                losses[key] = apart / whole
        return losses

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        raise TypeError("the loss of a stage needs the mask and the memory; see losses")

    def _apart(self, student: Tensor, teacher: Tensor, remembered: Tensor) -> Tensor:
        """The sum over rows (M, D) of the divergence between their similarities to the memory."""
        ours, theirs = (
            (rows @ remembered.T / self.options.temperature).log_softmax(dim=1) for rows in (student, teacher)
        )
        return F.kl_div(ours, theirs, reduction="sum", log_target=True)

    @torch.no_grad()
    def _remember(self, maps: Tensor, classes: Tensor, sample: Tensor, stage: int, count: int) -> None:
        """Add the pixels and regions of all ranks' images to the memory."""
        order = all_rows(sample).argsort()
        maps, classes = all_rows(maps)[order], all_rows(classes)[order]
        regions, pixels = regions_and_pixels(maps, classes, count, self.options.per_class)
        for memory, (values, labels) in ((self.pixels, pixels), (self.regions, regions)):
            memory[str(stage)].push(F.normalize(values, dim=1), labels, count)  # type: ignore[operator]


def projector(into: int, out: int) -> nn.Sequential:
    """1x1 convolution + BatchNorm + ReLU + 1x1 convolution."""
    last = Pointwise(out, out, kernel_size=1, bias=False)
    return nn.Sequential(*adapter(into, out, relu=True), last)
