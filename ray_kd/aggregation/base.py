"""The base of all aggregators: how the losses of several paths become one update.

An aggregator sees a task loss and named path losses, never a model. A method that needs only the
values of the losses (tier 1) implements ``factors`` or ``combine``; one that needs their gradients
(tier 2) builds on ``GradientAggregator``.

Total strength: whatever the method, the update is its task part plus ``k`` times its distillation
part, ``k = 1`` being the published method. ``k`` never enters what the method looks at, so a method
that undoes the scale of a loss does not undo ``k``.

Static weights: for most methods a weight w is part of the loss, ``w L`` is what the method sees and
scales. Methods that would cancel such a rescaling (inverse, RLW, ...) see the raw losses and multiply
the factor they find by w: a preference. Some refuse weights other than 1. The update's ``factors``
always are the effective factors on the raw losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ray_kd.aggregation.update import Update
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions
from ray_kd.random_streams import generator

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
    footprint: ClassVar[str] = "none"
    """What a step holds beyond a plain one's, in gradients of the student."""
    traits: ClassVar[frozenset[str]] = frozenset()
    """Of: stochastic, stateful, signed (factors may be negative), scale_free (factors undo a loss's
    scale, once settled), direction (the update is no weighted sum of the losses' gradients)."""
    probes: ClassVar[bool] = False
    """Whether it looks at losses at moved parameters, through ``gradients.evaluate``."""
    looks_again: ClassVar[bool] = False
    """Whether it wants the losses of a step's batch again after the step, in ``look_again``."""
    tensor: ClassVar[str | None] = None
    """The named tensor that every path must be computed from, where the method needs one."""
    static_weights: ClassVar[Literal["loss", "preference", "refused"]] = "loss"
    """How a static weight w enters: part of the loss, factor on the method's own factor, or not at all."""
    Options: ClassVar[type[AggregatorOptions]] = AggregatorOptions
    static: Tensor
    strength: Tensor
    positions: Tensor

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
        self._known = frozenset(self.losses)
        self._one_to_one = len(self.names) == len(self.losses)
        row_of = {index: row for row, members in enumerate(self.groups.values()) for index in members}
        positions = [row_of[index] for index in range(len(self.losses))]
        self.register_buffer("positions", torch.tensor(positions, dtype=torch.long), persistent=False)
        self.register_buffer("static", self._static(weights or {}), persistent=False)
        self.register_buffer("strength", self.static * options.k, persistent=False)
        self._uniform = bool((self.static == 1).all())
        self.generator = generator(seed, "aggregator")
        self.steps = 0
        """Steps that the method has learnt from; counted where it ``keeps`` anything."""
        self.learns = True
        """Whether the losses of the last step were finite."""
        self.setup()

    def setup(self) -> None:
        """Make what the method keeps (buffers, a memory); called once, at the end of construction."""

    def _static(self, weights: Mapping[str, float]) -> Tensor:
        paths = {loss.partition("/")[0] for loss in self.losses}
        for name, weight in weights.items():
            if name not in paths and name not in self.losses:
                raise UserError(
                    f"aggregator '{self.name}': a weight for '{name}', which is none of {sorted(paths)}."
                )
            if not 0 <= weight < float("inf"):
                raise UserError(f"aggregator '{self.name}': weight of '{name}': expected >= 0, got {weight}.")
        values = [float(weights.get(loss, weights.get(loss.partition("/")[0], 1.0))) for loss in self.losses]
        if self.static_weights == "refused" and any(value != 1 for value in values):
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
        if losses.keys() != self._known:
            raise UserError(
                f"aggregator '{self.name}' was made for the losses {list(self.losses)}, got {list(losses)}."
            )
        if not self.losses:
            return Update((), task_loss.detach().new_empty(0), total=task_loss)
        if self.keeps:
            self.learns = finite([task_loss, *losses.values()])
            if not self.learns:
                raw = self.grouped(losses)
                return self.weighted_sum(task_loss, raw, torch.full_like(raw.detach(), torch.nan))
            self.steps += 1
        return self.decide(task_loss, losses, gradients)

    @property
    def keeps(self) -> bool:
        """Whether a step changes anything that a later step reads.

        A step whose losses are not finite changes nothing then: its update is NaN, ``decide`` does not see
        it, nor does ``look_again``. To tell, such a method waits for the device.
        """
        return self.tier == 2 or bool({"stateful", "stochastic"} & self.traits)

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        """The update from the losses as they came; what tier 2 overrides."""
        return self.combine(task_loss, self.grouped(losses))

    def grouped(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Raw losses of ``names`` as one tensor (n,), stages summed where a path is the unit."""
        stacked = torch.stack([losses[loss] for loss in self.losses])
        if stacked.dtype in (torch.float16, torch.bfloat16):
            stacked = stacked.float()
        if self._one_to_one:
            return stacked
        return stacked.new_zeros(len(self.names)).index_add(0, self.positions, stacked)

    def combine(self, task_loss: Tensor, raw: Tensor) -> Update:
        """The update from the task loss and the raw losses (n,); tier 1: one weighted sum.

        ``total = task_loss + k * sum_i w_i * factors(...)_i * raw_i``, factors detached.
        """
        seen = raw.detach()
        if self.static_weights == "loss" and not self._uniform:
            seen = seen * self.static
        with torch.no_grad():
            factors = self.factors(seen) * self.strength
        return self.weighted_sum(task_loss, raw, factors)

    def weighted_sum(self, task_loss: Tensor, raw: Tensor, factors: Tensor) -> Update:
        """The update ``task_loss + sum_i factors_i * raw_i``, factors (n,) effective and detached."""
        factors = factors.to(raw.dtype)
        return Update(self.names, factors, total=task_loss + torch.dot(factors, raw))

    def factors(self, seen: Tensor) -> Tensor:
        """The method's factor on each loss (n,), before static weights and k.

        Args:
            seen: the losses as ``static_weights`` says, (n,), detached.
        """
        raise TypeError(f"{type(self).__name__} implements neither factors nor combine")

    def refuse_negative(self, losses: Tensor) -> None:
        """Raise where a loss (n,) is below what the method's logarithm takes (waits for the device).

        Raises:
            UserError: names the loss. NaN passes: the training loop reports it.
        """
        if bool((losses < 0).any()):
            worst = int(losses.argmin())
            raise UserError(
                f"aggregator '{self.name}' takes logarithms, and '{self.names[worst]}' is "
                f"{float(losses[worst]):.3g} (after its lower bound, if any). Losses that can be negative "
                "(vid) need another aggregator, such as fixed or equal_norm."
            )

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups for what the aggregator itself learns; keys as in ``torch.optim``.

        The key ``optimizer`` set to ``main`` puts a group under the student's own settings.
        """
        return []

    def begin_epoch(self, means: Mapping[str, float] | None) -> None:
        """Called before each epoch with the mean raw loss of each of ``names`` in the last one.

        A run that resumes within an epoch may call it again with the same means. A method that uses them
        implements ``compare_epochs``; means that are not finite never get there.
        """
        if means is not None and all(map(math.isfinite, means.values())):
            self.compare_epochs(means)

    def compare_epochs(self, means: Mapping[str, float]) -> None:
        """Take in the mean raw loss of each of ``names`` in the last epoch."""

    def after_step(self, evaluate: Callable[[], Mapping[str, Tensor]]) -> None:
        """Called after the optimizer's step; ``evaluate()`` gives the losses on the same batch anew.

        A method that uses them sets ``looks_again`` and implements ``look_again``.
        """
        if self.looks_again and self.losses and self.learns:
            losses = evaluate()
            if finite(losses.values()):
                self.look_again(self.grouped(losses).detach())

    def look_again(self, after: Tensor) -> None:
        """Take in the raw losses of ``names`` (n,) on the step's batch as they are after the step."""

    def figures(self) -> dict[str, Sequence[float]]:
        """What the method has to say of each of ``names`` at the end of an epoch: {figure: (n,)}.

        The training loop records them with the path; the keys are the same in every epoch.
        """
        return {}

    def optimizer_rule(self) -> Any:
        """What takes the place of ``torch.optim.SGD``, called with its arguments; None: the run's own."""
        return None

    def get_extra_state(self) -> Any:
        return {"generator": self.generator.get_state(), "steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])


def finite(losses: Iterable[Tensor]) -> bool:
    """Whether all of some scalars are finite (waits for the device)."""
    return bool(torch.stack([loss.detach() for loss in losses]).isfinite().all())
