"""Dual-balancing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.gramian_weighting import GradientAggregator, describe
from ray_kd.aggregation.update import Update
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-8


class DbmtlOptions(AggregatorOptions):
    """Options of dual balancing."""

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of each gradient."""
    beta_power: Annotated[float, Field(ge=0)] = 0.0
    """The decay of step t is beta / t^power."""
    task: Literal["inside", "outside"] = "inside"
    """Whether the task loss is balanced too, or added unchanged."""


@AGGREGATORS.register("dbmtl", source="Lin et al. (DB-MTL), 2023, arXiv 2308.12029")
class Dbmtl(GradientAggregator):
    r"""DB-MTL: running means of the gradients of :math:`\ln L_i`, scaled to the largest norm and summed.

    Logarithms balance the losses, norms the gradients; conflicts are not resolved. The running means take
    the memory of one more gradient for each loss, and are part of the checkpoint. Adapters get their
    path's gradient of this step times its factor :math:`\alpha_i / L_i`.

    Source: Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Kwok, 2023, arXiv 2308.12029 and its code (the means
    start at 0; 1e-8 is added to each loss). A static weight multiplies its path's part.
    """

    Options = DbmtlOptions
    footprint: ClassVar[str] = "2 (K + 1), half of them kept"
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful", "direction"})

    def setup(self) -> None:
        super().setup()
        self.average: Tensor | None = None

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given = self.needed(gradients)
        everything = [task_loss, *self.summed(losses)]
        values = torch.stack([loss.detach() for loss in everything])
        self.refuse_negative(values[1:])
        if self.options.task == "inside" and bool(values[0] < 0):
            raise UserError(
                f"aggregator 'dbmtl' takes logarithms, and the task loss is {float(values[0]):.3g}: use "
                "task: outside."
            )
        jacobian = given.jacobian(everything)
        gramian = jacobian.gramian()
        rows, factors = jacobian.rows, self.effective(np.ones(len(everything)))
        if not np.isfinite(gramian).all():
            return self.combined(jacobian, rows, factors, given)
        outside = int(self.options.task == "outside")
        inverse = (values + TINY).to(rows.dtype).reciprocal()
        inside = self._averaged(rows[outside:], inverse[outside:, None])
        norms = torch.linalg.vector_norm(inside, dim=1)
        alphas = torch.where(norms > 0, norms.max() / norms, 0.0)
        # The mean gradient of the logarithm times L stands in for the gradient; its factor is alpha / L.
        rows[outside:] = inside / inverse[outside:, None]
        factors[outside:] *= (alphas * inverse[outside:]).double().cpu().numpy()
        return describe(self.combined(jacobian, rows, factors, given), gramian)

    def _averaged(self, rows: Tensor, inverse: Tensor) -> Tensor:
        if self.average is None or self.average.shape != rows.shape:
            self.average = torch.zeros_like(rows)
        keep = self.options.beta / self.steps**self.options.beta_power
        self.average = self.average.to(rows).lerp_(rows * inverse, 1 - keep)
        return self.average

    def get_extra_state(self) -> Any:
        return {**super().get_extra_state(), "average": self.average}

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        self.average = None if state["average"] is None else state["average"].clone()
