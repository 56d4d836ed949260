"""Contrastive representation distillation, against a bounded memory of other samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full
from ray_kd.paths.contrast import Contrast
from ray_kd.paths.feature import FeaturePath, pooled
from ray_kd.random_streams import forked


class CrdOptions(PathOptions):
    """Options of CRD."""

    dimensions: Annotated[int, Field(ge=1)] = 128
    """Dimensions of the common space of both embeddings."""
    negatives: Annotated[int, Field(ge=1)] = 16384
    """How many negatives each positive is weighed against (a weight; it does not change the cost)."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Fraction of a remembered embedding that is kept when its sample occurs again."""
    bank: Annotated[int, Field(ge=1)] = 16384
    """Rows of the memory; the source has one for each training sample. Sample i has row i mod bank, so
    with fewer rows than samples the memory holds the most recent ones."""


@PATHS.register("crd", source="Tian et al., ICLR 2020, arXiv 1910.10699")
class Crd(FeaturePath):
    r"""Contrastive representation distillation (CRD) on pooled features, by default of the last stage.

    Student and teacher are embedded linearly into 128 dimensions and normalised, :math:`v_s, v_t`, both
    embeddings learnt. With :math:`h(v, u) = e^{v^T u / \tau} / Z` and m negatives, the loss of an anchor
    v with its own sample's remembered embedding :math:`u_+` of the other side is
    :math:`-\log \frac{h(v, u_+)}{h(v, u_+) + m} - m \, E_u \log \frac{m}{h(v, u) + m}`, u over the remembered
    samples of other classes; student anchors plus teacher anchors, mean over samples. Remembered
    embeddings follow with momentum. Needs label and sample ids. Target: the teacher's pooled features.

    Source: Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699, as in RepDistiller: m 16384, tau 0.07,
    momentum 0.5, static weight 0.8. Deviations: the expectation over negatives is taken over the whole
    memory instead of m draws, so nothing is random; Z is :math:`e^{1/(2 d \tau^2)}`, the value that the
    code measures on its random memory in the first step; a sample's row starts as its first embedding, and
    empty rows are no negatives, where the code starts from random vectors. Where views mix
    samples, the label is the class of the largest share.
    """

    target_kind: ClassVar[str | None] = "pooled"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    published_weight: ClassVar[float] = 0.8
    needs: ClassVar[tuple[str, ...]] = ("label", "sample")
    traits = frozenset({"stateful"})
    zero_at_teacher: ClassVar[bool] = False
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = CrdOptions

    def setup(self) -> None:
        super().setup()
        chosen: Any = self.options
        self.contrasts = nn.ModuleDict()
        for stage in self.stages:
            with forked(self.seed, "adapter", self.label, stage):
                self.contrasts[str(stage)] = Contrast(
                    self.student_channels[stage],
                    self.teacher_channels[stage],
                    chosen.dimensions,
                    chosen.bank,
                    chosen.negatives,
                    chosen.temperature,
                    chosen.momentum,
                )

    def stage_target(self, feature: Tensor) -> Tensor:
        return pooled(feature)

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        sample, label = self.in_batch(batch, "sample"), self.in_batch(batch, "label")
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = feature_of(student, stage, self.label)
            with exact(feature):
                ours = pooled(full(feature))
                theirs = target[key].to(ours.dtype)
                remember = self.remembers(ours, theirs)
                losses[key] = self.contrasts[str(stage)](ours, theirs, sample, label, remember)
        return losses
