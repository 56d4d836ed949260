"""DIST: correlations of predictions within a sample and within a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.logit import LogitOptions, LogitPath


class DistOptions(LogitOptions):
    """Options of DIST."""

    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the correlation over classes, within each sample."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the correlation over samples, within each class."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T; its source uses 1 on ImageNet and 4 on CIFAR-100."""


@PATHS.register("dist", source="Huang et al., NeurIPS 2022, arXiv 2205.10536")
class Dist(LogitPath):
    r"""DIST: :math:`T^2 [\beta (1 - \rho_{rows}) + \gamma (1 - \rho_{columns})]` of tempered softmax.

    :math:`\rho` is the mean Pearson correlation of student and teacher over the rows (samples) or the
    columns (classes) of the (N, K) probabilities. Target: the teacher's logits.

    Source: Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536: beta = gamma = 1, T 1, static
    weight 2. Deviations: :math:`1 - \rho` is computed as half the squared distance of the unit vectors,
    never negative; a constant row or column counts 1/2 instead of 1. For segmentation, rows are
    pixels, as in its source's code, but ignored ones are left out.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    published_weight: ClassVar[float] = 2.0
    traits = frozenset({"relational"})
    Options = DistOptions

    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        temperature = self.options.temperature
        ours, theirs = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
        rows, columns = _apart(ours, theirs, 1), _apart(ours, theirs, 0)
        return (self.options.beta * rows + self.options.gamma * columns) * temperature**2


def _apart(ours: Tensor, theirs: Tensor, dim: int) -> Tensor:
    """The mean of 1 - Pearson's correlation along ``dim``."""
    one, other = (
        F.normalize(values - values.mean(dim=dim, keepdim=True), dim=dim) for values in (ours, theirs)
    )
    return (one - other).square().sum(dim=dim).mean() / 2
