"""The base of methods that use the gradients of the losses (tier 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.gradients import Gradients, Jacobian
from ray_kd.aggregation.update import Update
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions

Array = NDArray[np.float64]


class GradientOptions(AggregatorOptions):
    """Options of methods that use gradients."""

    parameters: str = "all"
    """Where gradients are measured: all | last_shared | a prefix of the student's parameter names."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between two measurements; in between, factors are kept and a step costs one backward."""


class GameOptions(GradientOptions):
    """Options of methods that treat the task loss as one of the objectives."""

    task: Literal["inside", "outside"] = "inside"
    """Whether the task loss is one of the weighted objectives, or is added unchanged."""


@dataclass
class Game:
    """The m losses that a method weights; the task loss, if it is one of them, comes first.

    Attributes:
        gramian: products of their gradients, (m, m), of the losses as ``static_weights`` says.
        losses: their values, (m,).
        paths: position of each among the aggregator's ``names``; -1 is the task loss.
        task_norm: norm of the task's gradient, whether it is one of them or not.
        task_products: products of each one's gradient with the task's, (m,).
    """

    gramian: Array
    losses: Array
    paths: list[int]
    task_norm: float
    task_products: Array

    @property
    def norms(self) -> Array:
        """Norm of each gradient, (m,)."""
        norms: Array = np.sqrt(np.diag(self.gramian))
        return norms


class GradientAggregator(Aggregator):
    r"""The update is :math:`\alpha_0 g_{task} + k \sum_i \alpha_i w_i g_i`; a method finds the alphas.

    Common to all of them:

    - The task loss is one of the objectives (``task: inside``, as published for multitask learning) or
      outside, where :math:`\alpha_0 = 1` and only the paths are weighted.
    - A loss whose gradient is exactly 0 is not weighted: its factor is 0.
    - A gradient that is not finite makes the whole update NaN, which the training loop detects.
    - ``parameters`` other than ``all`` measures on a part of the student; ``every: n`` measures on every
      n-th step. In both cases the update is one backward of the weighted sum.
    - Adapters are not shared between paths: each gets its path's gradient times the path's factor; a
      negative factor counts as 0 for them.

    Example:
        >>> from ray_kd.plugin import GradientAggregator, GradientOptions, register_aggregator
        >>> class ExampleOptions(GradientOptions):
        ...     pass
        >>> @register_aggregator("example_lengths")
        ... class Example(GradientAggregator):
        ...     Options = ExampleOptions
        ...     def weigh(self, game):
        ...         return 1 / game.norms.clip(1e-12)
        >>> Example(ExampleOptions(), names=["nst/stage0", "nst/stage1"]).names
        ('nst',)
    """

    tier: ClassVar[int] = 2
    cost: ClassVar[str] = "K + 1"
    footprint: ClassVar[str] = "K + 1"
    weighs_zero_gradients: ClassVar[bool] = False
    """Whether a loss whose gradient is 0 is weighted too (for methods that keep a state for each loss)."""
    Options: ClassVar[type[AggregatorOptions]] = GradientOptions

    def setup(self) -> None:
        self.memory: dict[str, Array] = {}
        """The method's state between steps, on the CPU; part of ``state_dict``."""
        self._scale = np.array([1.0, *self.static.double().tolist()])

    def weigh(self, game: Game) -> Array:
        """The alphas (m,) of a game."""
        raise TypeError(f"{type(self).__name__} implements neither weigh nor decide")

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        everything = [task_loss, *self.summed(losses)]
        given = self.needed(gradients)
        if not self.due():
            return self.one_backward(everything, self.memory["alphas"], given)
        which = self.options.parameters
        given.choose(which, [task_loss, *losses.values()])  # by every tap, whatever is summed
        jacobian = given.jacobian(everything, which, keep=which != "all")
        gramian = jacobian.gramian()
        alphas = self.remember(self.play(gramian, everything))
        if which == "all":
            update = self.combined(jacobian, jacobian.rows, self.effective(alphas), given)
        else:
            update = self.one_backward(everything, alphas, given)
        return describe(update, gramian)

    def due(self) -> bool:
        """Whether this step measures."""
        return "alphas" not in self.memory or (self.steps - 1) % self.options.every == 0

    def remember(self, alphas: Array) -> Array:
        """Keep the alphas for the steps that do not measure."""
        if np.isfinite(alphas).all():
            self.memory["alphas"] = alphas
        return alphas

    def needed(self, gradients: Gradients | None) -> Gradients:
        """The gradients, or an error that says how to pass them."""
        if gradients is None:
            raise UserError(
                f"aggregator '{self.name}' needs gradients: call aggregator(task_loss, losses, gradients), "
                "gradients = Gradients(student.named_parameters(), adapters=...)."
            )
        return gradients

    def summed(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """Raw losses of ``names`` as separate scalars, since stacking would join their graphs."""
        everything = [losses[loss] for loss in self.losses]
        return [
            sum((everything[i] for i in rest), everything[first]) for first, *rest in self.groups.values()
        ]

    def play(self, gramian: Array, losses: Sequence[Tensor]) -> Array:
        """The alphas of task and paths (1 + n,), from the raw losses' Gramian (1 + n, 1 + n)."""
        if not np.isfinite(gramian).all():
            return np.full(len(losses), np.nan)
        scale = self._scale if self.static_weights == "loss" else np.ones(len(losses))
        scaled = gramian * scale * scale[:, None]
        alphas = np.zeros(len(losses))
        outside = getattr(self.options, "task", "outside") == "outside"
        alphas[0] = float(outside)
        inside = [
            i for i in range(int(outside), len(losses)) if scaled[i, i] > 0 or self.weighs_zero_gradients
        ]
        if not any(scaled[i, i] > 0 for i in inside):
            alphas[0] = 1.0
            return alphas
        values = torch.stack([loss.detach().float() for loss in losses]).double().cpu().numpy() * scale
        alphas[inside] = self.weigh(
            Game(
                gramian=scaled[np.ix_(inside, inside)],
                losses=values[inside],
                paths=[i - 1 for i in inside],
                task_norm=float(np.sqrt(scaled[0, 0])),
                task_products=scaled[0, inside],
            )
        )
        return alphas

    def effective(self, alphas: Array) -> Array:
        """Factors on the raw task loss and the raw path losses (1 + n,)."""
        factors: Array = alphas * self._scale
        factors[1:] *= self.options.k
        return factors

    def combined(self, jacobian: Jacobian, rows: Tensor, factors: Array, gradients: Gradients) -> Update:
        """The update that sums rows (1 + n, P), one for each raw loss, without a further backward."""
        listed = factors.tolist()
        vector = torch.tensor(listed, dtype=rows.dtype, device=rows.device) @ rows
        return self.written(listed, lambda: gradients.write(vector, jacobian, listed), rows.device)

    def written(self, factors: list[float], backward: Callable[[], None], device: torch.device) -> Update:
        """An update from its effective factors on task and paths (1 + n) and a function for its gradient."""
        return Update(
            self.names,
            torch.tensor(factors[1:], device=device),
            backward=backward,
            log={"task_factor": factors[0]},
        )

    def one_backward(self, losses: Sequence[Tensor], alphas: Array, gradients: Gradients) -> Update:
        """The update as one backward of the weighted sum."""
        factors = self.effective(alphas).tolist()
        return self.written(factors, lambda: gradients.backward(losses, factors), losses[0].device)

    def get_extra_state(self) -> Any:
        memory = {name: torch.from_numpy(value.copy()) for name, value in self.memory.items()}
        return {**super().get_extra_state(), "memory": memory}

    def set_extra_state(self, state: Any) -> None:
        super().set_extra_state(state)
        self.memory = {name: value.double().cpu().numpy().copy() for name, value in state["memory"].items()}


def describe(update: Update, gramian: Array) -> Update:
    """Add the norm of each raw loss's gradient and its cosine to the task loss's."""
    norms = np.sqrt(np.diag(gramian))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = gramian[0] / (norms[0] * norms)
    cosines[norms * norms[0] == 0] = 0
    like = update.factors
    update.gradient_norms = torch.tensor(norms[1:], dtype=like.dtype, device=like.device)
    update.cosines = torch.tensor(cosines[1:], dtype=like.dtype, device=like.device)
    return update
