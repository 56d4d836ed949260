"""Probabilistic knowledge transfer: each sample's similarities to others, as a distribution."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import RelationPath


class PktOptions(PathOptions):
    """Options of PKT."""


@PATHS.register("pkt", source="Passalis & Tefas, ECCV 2018, arXiv 1803.10837")
class Pkt(RelationPath):
    r"""Probabilistic knowledge transfer (PKT) on the pooled features of the last stage.

    :math:`\frac{1}{N^2} \sum_{ij} p_{ij} \log \frac{p_{ij} + \epsilon}{q_{ij} + \epsilon}`, where row i
    of p (teacher) and q (student) is :math:`(1 + \cos(e_i, e_j)) / 2` over its sum, and
    :math:`\epsilon = 10^{-7}`. Target: the teacher's pooled features.

    Source: Passalis, Tefas, ECCV 2018, arXiv 1803.10837, in the form of the authors' code; static
    weight 30000 as in RepDistiller. Deviation: none.
    """

    target_kind: ClassVar[str | None] = "pooled"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 30000.0
    degree: ClassVar[float | None] = 0
    Options = PktOptions

    def relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        wanted, found = _neighbours(teacher), _neighbours(student)
        return (wanted * ((wanted + 1e-7) / (found + 1e-7)).log()).mean()


def _neighbours(embedding: Tensor) -> Tensor:
    unit = F.normalize(embedding, dim=1, eps=1e-7)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)
