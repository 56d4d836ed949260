"""The base of all aggregators: how the losses of several paths become one update.

An aggregator sees a task loss and named path losses, never a model. A method that needs only the
values of the losses (tier 1) implements ``factors`` or ``combine``; one that needs their gradients
(tier 2) builds on ``GradientAggregator``.

Total strength: for every method, the update is its task part plus ``k`` times its distillation part;
``k = 1`` is the published method. ``k`` is not part of the losses that the method sees, so a method that
undoes the scale of a loss does not undo ``k``.

Static weights: for most methods a weight w is part of the loss: the method sees and scales ``w L``. Methods
that would cancel such a rescaling (inverse, RLW, ...) see the raw losses and multiply their factors by w.
Some refuse weights other than 1. The update's ``factors`` are always the effective factors on the raw
losses.
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
        names: names of the losses in each call, ``path`` or ``path/stage``.
        weights: static weight w of each path or loss by name; 1 where absent.
        seed: key of the aggregator's random stream.

    Example:
        >>> from ray_kd.aggregation import create_aggregator
        >>> weight = torch.tensor(2.0, requires_grad=True)
        >>> aggregator = create_aggregator("fixed", names=["logits"])
        >>> aggregator(3 * weight, {"logits": weight**2}).backward()
        >>> float(weight.grad)
        7.0
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tier: ClassVar[int] = 1
    """1: needs loss values; 2: needs gradients of the losses."""
    cost: ClassVar[str] = "1"
    """Backward passes per step; K is the number of weighted losses."""
    footprint: ClassVar[str] = "none"
    """Extra memory of a step, in gradients of the student."""
    traits: ClassVar[frozenset[str]] = frozenset()
    """Of: stochastic, stateful, signed (factors may be negative), scale_free (factors undo a loss's
    scale, once settled), direction (the update is no weighted sum of the losses' gradients)."""
    probes: ClassVar[bool] = False
    """Whether it evaluates losses at moved parameters, with ``gradients.evaluate``."""
    looks_again: ClassVar[bool] = False
    """Whether it needs the losses of a step's batch again after the step, in ``look_again``."""
    tensor: ClassVar[str | None] = None
    """The name of the tensor from which every path must be computed, if the method needs one."""
    static_weights: ClassVar[Literal["loss", "preference", "refused"]] = "loss"
    """How a static weight w is used: part of the loss, factor on the method's own factor, or refused."""
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
        """Number of steps that the method has learnt from; counted if it ``keeps`` a state."""
        self.learns = True
        """Whether the losses of the last step were finite."""
        self.setup()

    def setup(self) -> None:
        """Create the method's state (buffers, a memory); called once, at the end of construction."""

    def _static(self, weights: Mapping[str, float]) -> Tensor:
        paths = {loss.partition("/")[0] for loss in self.losses}
        for name, weight in weights.items():
            if name not in paths and name not in self.losses:
                raise UserError(
                    f"aggregator '{self.name}': got a weight for '{name}'; expected one of {sorted(paths)}."
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
            losses: a scalar for each of ``names``.
            gradients: computes gradients of losses on demand; needed by tier 2.

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
        """Whether a step changes a state that later steps read.

        If so, a step whose losses are not finite changes nothing: its update is NaN, and neither ``decide``
        nor ``look_again`` is called for it. This check waits for the device.
        """
        return self.tier == 2 or bool({"stateful", "stochastic"} & self.traits)

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        """The update from the losses of a call; tier 2 overrides it."""
        return self.combine(task_loss, self.grouped(losses))

    def grouped(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Raw losses of ``names`` as one tensor (n,); stages are summed if the unit is the path."""
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
            seen: the losses (n,), weighted as ``static_weights`` says, detached.
        """
        raise TypeError(f"{type(self).__name__} implements neither factors nor combine")

    def refuse_negative(self, losses: Tensor) -> None:
        """Raise if a loss (n,) is too small for the method's logarithm (waits for the device).

        Raises:
            UserError: the message names the loss. NaN raises nothing here: the training loop reports it.
        """
        if bool((losses < 0).any()):
            worst = int(losses.argmin())
            raise UserError(
                f"aggregator '{self.name}' takes logarithms, and '{self.names[worst]}' is "
                f"{float(losses[worst]):.3g} (after its lower bound, if any). Losses that can be negative "
                "(vid) need another aggregator, such as fixed or equal_norm."
            )

    def param_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the aggregator's own parameters; keys as in ``torch.optim``.

        A group with ``optimizer: main`` gets the student's settings.
        """
        return []

    def begin_epoch(self, means: Mapping[str, float] | None) -> None:
        """Called before each epoch with the mean raw loss of each of ``names`` in the last one.

        A run that resumes within an epoch may call it again with the same means. A method that uses them
        implements ``compare_epochs``, which is not called with means that are not finite.
        """
        if means is not None and all(map(math.isfinite, means.values())):
            self.compare_epochs(means)

    def compare_epochs(self, means: Mapping[str, float]) -> None:
        """Use the mean raw loss of each of ``names`` in the last epoch."""

    def after_step(self, evaluate: Callable[[], Mapping[str, Tensor]]) -> None:
        """Called after the optimizer's step; ``evaluate()`` computes the losses on the same batch again.

        A method that uses them sets ``looks_again`` and implements ``look_again``.
        """
        if self.looks_again and self.losses and self.learns:
            losses = evaluate()
            if finite(losses.values()):
                self.look_again(self.grouped(losses).detach())

    def look_again(self, after: Tensor) -> None:
        """Use the raw losses of ``names`` (n,) on the step's batch after the step."""

    def figures(self) -> dict[str, Sequence[float]]:
        """The method's own figures for each of ``names`` at the end of an epoch: {figure: (n,)}.

        The training loop records them with the path; the keys are the same in every epoch.
        """
        return {}

    def optimizer_rule(self) -> Any:
        """Replaces ``torch.optim.SGD``, with the same arguments; None: the run's own optimizer is used."""
        return None

    def get_extra_state(self) -> Any:
        return {"generator": self.generator.get_state(), "steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])


def finite(losses: Iterable[Tensor]) -> bool:
    """Whether all of some scalars are finite (waits for the device)."""
    return bool(torch.stack([loss.detach() for loss in losses]).isfinite().all())
