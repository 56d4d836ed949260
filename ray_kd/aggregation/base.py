"""The base of all aggregators: how the losses of several paths become one update.

An aggregator sees a task loss and named path losses, never a model. A method that needs only the
values of the losses (tier 1) implements ``factors`` or ``combine``; one that needs their gradients
(tier 2) overrides ``combine`` and reads ``gradients``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ray_kd.aggregation.update import Update
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions
from ray_kd.streams import generator

if TYPE_CHECKING:
    from ray_kd.aggregation.gradients import Gradients


class Aggregator(nn.Module):
    """Turns a task loss and named path losses into one update.

    Args:
        options: the aggregator's own ``Options``.
        names: names of the losses it will be given, ``path`` or ``path/stage``.
        weights: static weight w of each path or loss by name; 1 where absent.
        seed: key of the aggregator's random stream.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tier: ClassVar[int] = 1
    """1: needs loss values; 2: needs gradients of the losses."""
    cost: ClassVar[str] = "1"
    """Backwards per step, K the number of weighted losses."""
    traits: ClassVar[frozenset[str]] = frozenset()
    """Of: stochastic, stateful, signed (weights may be negative), scale_free (weights undo scale)."""
    uses_static_weights: ClassVar[bool] = True
    Options: ClassVar[type[AggregatorOptions]] = AggregatorOptions
    static: Tensor

    def __init__(
        self,
        options: AggregatorOptions,
        names: Sequence[str],
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options: Any = options
        self.losses = tuple(names)
        if len(set(self.losses)) != len(self.losses):
            raise UserError(f"aggregator '{self.name}': loss names must be distinct, got {list(names)}.")
        per_path = options.granularity == "path"
        self.groups: dict[str, list[int]] = {}
        for index, loss in enumerate(self.losses):
            self.groups.setdefault(loss.partition("/")[0] if per_path else loss, []).append(index)
        self.names = tuple(self.groups)
        self._one_to_one = all(len(members) == 1 for members in self.groups.values())
        self.register_buffer("static", self._static(weights or {}), persistent=False)
        self._uniform = bool((self.static == 1).all())
        self.generator = generator(seed, "aggregator")

    def _static(self, weights: Mapping[str, float]) -> Tensor:
        paths = {loss.partition("/")[0] for loss in self.losses}
        for name, weight in weights.items():
            if name not in paths and name not in self.losses:
                raise UserError(f"aggregator '{self.name}': a weight for '{name}', which is none of {sorted(paths)}.")
            if not 0 <= weight < float("inf"):
                raise UserError(f"aggregator '{self.name}': weight of '{name}': expected >= 0, got {weight}.")
        values = [float(weights.get(loss, weights.get(loss.partition("/")[0], 1.0))) for loss in self.losses]
        if not self.uses_static_weights and any(value != 1 for value in values):
            raise UserError(
                f"aggregator '{self.name}' takes no static weights, and a path has one other than 1; "
                "use aggregation: fixed, or drop the path's weight."
            )
        static = torch.ones(len(self.names))
        for row, members in enumerate(self.groups.values()):
            if len({values[index] for index in members}) > 1:
                raise UserError(
                    f"aggregator '{self.name}': stages of one path have different weights; "
                    "that needs granularity: layer."
                )
            static[row] = values[members[0]]
        return static

    def forward(
        self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None = None
    ) -> Update:
        """One step's update.

        Args:
            task_loss: scalar, already times the task's weight.
            losses: scalar of every name the aggregator was made for.
            gradients: computes gradients of losses when touched; tier 2 needs it.

        Raises:
            UserError: a loss is missing or unknown.
        """
        if losses.keys() != set(self.losses):
            raise UserError(
                f"aggregator '{self.name}' was made for the losses {list(self.losses)}, got {list(losses)}."
            )
        return self.combine(task_loss, self.grouped(losses), gradients)

    def grouped(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Raw losses of ``names`` as one tensor (n,), stages summed where a path is the unit."""
        stacked = torch.stack([losses[loss] for loss in self.losses])
        if self._one_to_one:
            return stacked
        return torch.stack([stacked[members].sum() for members in self.groups.values()])

    def combine(self, task_loss: Tensor, raw: Tensor, gradients: Gradients | None) -> Update:
        """The update from the task loss and the raw losses (n,); tier 1: one weighted sum.

        ``total = task_loss + k * (sum_i factors(w * raw)_i * w_i * raw_i)``, factors detached.
        """
        scaled = raw if self._uniform else raw * self.static
        factors = self.factors(scaled.detach())
        effective = factors * self.static * self.options.k
        return Update(self.names, effective, total=task_loss + (effective * raw).sum())

    def factors(self, scaled: Tensor) -> Tensor:
        """The factor on each scaled loss ``w_i L_i`` (n,), detached, before the total strength k."""
        raise TypeError(f"{type(self).__name__} implements neither factors nor combine")

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups for what the aggregator itself learns; keys as in ``torch.optim``.

        The key ``optimizer`` set to ``main`` puts a group under the student's own settings.
        """
        return []

    def begin_epoch(self, means: Mapping[str, float] | None) -> None:  # noqa: B027 (a hook)
        """Called before each epoch with the mean raw loss of each of ``names`` in the last one."""

    def after_step(self, evaluate: Callable[[], Mapping[str, Tensor]]) -> None:  # noqa: B027 (a hook)
        """Called after the optimizer's step; ``evaluate()`` gives the losses on the same batch anew."""

    def optimizer_rule(self) -> Any:
        """How the optimizer is to apply the update, where that is part of the method; default: None."""
        return None

    def get_extra_state(self) -> Any:
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: Any) -> None:
        self.generator.set_state(state["generator"])
