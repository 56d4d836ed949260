"""Utility: weight a path by whether it helps the task on labels that the step does not use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ray_kd.aggregation import utility_evidence
from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.gramian_weighting import Array, GradientAggregator
from ray_kd.aggregation.probe import slopes
from ray_kd.aggregation.update import Update
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

Count = Annotated[int, Field(ge=1)]
MARGIN = 4.0
"""The t-statistic against the placebo is at most this much more than the t of the path's own slope."""
NORMS_EVERY = 256
"""Steps between two measurements of all paths' norms, once they no longer change quickly."""


class UtilityOptions(AggregatorOptions):
    """Options of utility."""

    dense: Annotated[int, Field(ge=0)] = 100
    """How many measurements are taken at the early interval."""
    dense_every: Count = 5
    """Steps between two measurements at first."""
    every: Count = 100
    """Steps between two measurements afterwards."""
    burn_in: Annotated[int, Field(ge=2)] = 80
    """Measurements after which a path needs evidence that it helps; until then it is used fully, unless (from
    a quarter of them on) there is evidence that it hurts."""
    memory: Annotated[float, Field(gt=2)] = 100.0
    """Measurements after which an old one counts 1/e."""
    t_off: float = 1.0
    """t-statistic at and below which a path is off."""
    t_on: float = 2.0
    """t-statistic at and above which a path that is on stays fully on; to come back it needs half of
    ``t_on - t_off`` more."""
    t_harm: Annotated[float, Field(lt=0)] = -2.0
    """t-statistic at and below which a path is switched off before ``burn_in`` is over."""
    placebo: utility_evidence.Placebo = "scaled"
    """How the slope with exchanged targets is subtracted: each slope in its own standard deviations, plainly,
    or not at all. Ablation."""
    batch: Literal["other", "same"] = "other"
    """The batch of the paths' slopes: the one before, so that its labels differ from those of the task loss
    that should fall, or the same batch. Ablation."""
    normalise: Literal["cosine", "none"] = "cosine"
    """Whether a slope is divided by both gradients' norms before it is averaged. Ablation."""
    reach: Annotated[float, Field(gt=0)] = 0.01
    """Distance by which a measurement moves the student's parameters, relative to their norm."""

    @model_validator(mode="after")
    def _ordered(self) -> UtilityOptions:
        if self.t_on <= self.t_off:
            raise ValueError(f"t_on: expected more than t_off ({self.t_off}), got {self.t_on}")
        return self


@AGGREGATORS.register("utility", source="this project; docs/utility.md")
class Utility(GradientAggregator):
    r"""Utility: :math:`g_{task} + k \sum_i w_i \gamma_i \frac{\bar n}{\|g_i\|} g_i`, gates in [0, 1].

    A gate follows from measurements of how fast the task loss on one batch B falls along path i's
    gradient on *another* batch B', against a placebo: the same path with targets exchanged between samples.

    .. math:: r_i = \frac{\langle \nabla L_i(B'), \nabla L_{task}(B) \rangle}{\|g_i\| \|g_{task}\|}, \quad
              p_i = \text{the same with exchanged targets}, \quad
              t_i = \frac{\bar r_i / \sigma_{r_i} - \bar p_i / \sigma_{p_i}}{\sqrt{(2 - 2 \rho_i) / n}}

    B is the step's batch, B' the one before, both at the present parameters: a gradient kept from the
    step before has the wrong direction if the learning rate is large. All products come from
    two forwards of B' at :math:`\theta \pm h g_{task}`. Means are running ones, and t is at most 4 more
    than that of r alone: a path that is less harmful than its placebo is harmful. At first a path is used
    fully unless t shows that it hurts; after ``burn_in`` measurements t has to show that it helps: its
    gate falls from 1 at t >= ``t_on`` to 0 at t <= ``t_off``, with hysteresis.

    Base strength is that of ``equal_norm``: :math:`\bar n` is the average of the task gradient's norm
    over all steps so far; the norms of the paths are taken at steps 1, 2, 4 ... 256 and every 256th. The
    adapter of a faded path trains at base strength while the student does not feel the path, so that
    its gate can rise again.

    Built on: gradient similarity (Du et al. 2018, 1812.02224), whose cosine is of the same batch and
    has no placebo and no test; OL-AUX (Lin et al., NeurIPS 2019) and Auto-Lambda (Liu et al., TMLR
    2022), which step weights along products with a held-out gradient; learning to reweight (Ren et
    al., ICML 2018), L2T-ww (1905.05901), DistPro (2204.05547), which learn weights through a
    look-ahead; TracIn (Pruthi et al., NeurIPS 2020) for the product as a measure of influence. The near
    relative across batches: Xue et al., ICLR 2026 (OpenReview Z0sFCSLw6s), whose auxiliary batch's task
    gradient is the reference of a quadratic program in every step.
    """

    Options = UtilityOptions
    cost: ClassVar[str] = "1, and 1 more with 2 forwards where it measures; K + 1 now and then"
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful", "scale_free"})
    probes: ClassVar[bool] = True

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given, paths = self.needed(gradients), self.summed(losses)
        norms = self.takes_norms(self.steps) or "norms" not in self.memory
        if norms or self.measures(self.steps):
            return self.split(task_loss, paths, given, norms)
        return self.plain(task_loss, paths, given)

    def takes_norms(self, step: int) -> bool:
        """Whether step ``step`` (from 1) measures every path's norm: 1, 2, 4 ... 256, then every 256th."""
        return step & (step - 1) == 0 if step <= NORMS_EVERY else step % NORMS_EVERY == 0

    def measures(self, step: int) -> bool:
        """Whether step ``step`` (from 1) measures."""
        options = self.options
        early = options.dense * options.dense_every
        return bool(step % options.dense_every == 0 if step <= early else (step - early) % options.every == 0)

    def measure(self, direction: Tensor, length: float, gradients: Gradients) -> None:
        """Measure once along a task gradient (P,) of that norm, and set the gates."""
        if gradients.evaluate is None:
            raise UserError(
                f"aggregator '{self.name}' evaluates a batch's losses at moved parameters: set "
                "gradients.evaluate before each step (see ray_kd.aggregation.probe.Evaluate)."
            )
        found = slopes(
            gradients.parameters,
            direction,
            gradients.evaluate,
            self.losses,
            reach=self.options.reach,
            same=self.options.batch == "same",
            placebo=self.options.placebo != "none",
        )
        grouped = found.new_zeros(len(found), len(self.names)).index_add(1, self.positions, found)
        rows: Array = grouped.cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = rows / (self.memory["norms"] * length)
        self.memory["cosines"] = np.nan_to_num(cosines[0], posinf=0.0, neginf=0.0)
        rows = cosines if self.options.normalise == "cosine" else rows
        known = self.memory.get("evidence", utility_evidence.empty(len(self.names)))
        self.memory["evidence"] = utility_evidence.observed(known, rows[0], rows[-1], self.options.memory)
        self.memory["count"] = self.memory.get("count", np.zeros(1)) + 1
        self.judge()

    def judge(self) -> None:
        """Set the gates by the evidence so far."""
        options, count = self.options, self.memory["count"][0]
        if count >= options.burn_in:
            self.memory["gates"] = utility_evidence.gates(self.gates, self.t, options.t_off, options.t_on)
        elif 4 * count >= options.burn_in:
            self.memory["gates"] = utility_evidence.guilty(self.gates, self.t, options.t_harm, options.t_on)

    @property
    def gates(self) -> Array:
        """Gate of each path (n,)."""
        return self.memory.get("gates", np.ones(len(self.names)))

    @property
    def t(self) -> Array:
        """t-statistic of each path (n,)."""
        known = self.memory.get("evidence", utility_evidence.empty(len(self.names)))
        statistic = utility_evidence.statistic
        return np.minimum(statistic(known, self.options.placebo), statistic(known, "none") + MARGIN)

    def base(self) -> Array:
        """Factors (n,) that every path has with its gate open: reference norm over its own, w and k."""
        norms, (steps, total) = self.memory["norms"], self.memory["reference"][:2]
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms != 0)
        base: Array = self.options.k * self._scale[1:] * (total / steps) * inverse
        return base

    def split(self, task: Tensor, paths: list[Tensor], gradients: Gradients, norms: bool) -> Update:
        """A step with the task's gradient alone, and each path's if their norms are measured."""
        base, factors = np.zeros(len(paths)), np.zeros(len(paths))
        if not norms:
            base = self.base()
            factors = base * self.gates
        parts = [task, *(paths if norms else self.mixed(paths, factors))]
        jacobian = gradients.jacobian(parts, keep=True)
        lengths: Array = torch.linalg.vector_norm(jacobian.rows, dim=1).double().cpu().numpy()
        self.note_norms(lengths[0], lengths[1:] if norms else None)
        known = "norms" in self.memory
        if norms:
            base = self.base() if known else np.full(len(paths), np.nan)
            factors = base * self.gates
        measured = known and self.steps > 1 and self.measures(self.steps) and 0 < lengths[0] < np.inf
        if measured:
            self.measure(jacobian.rows[0], lengths[0], gradients)
        listed = [1.0, *factors.tolist()] if norms else [1.0] * len(parts)
        rows = jacobian.rows
        vector = torch.tensor(listed, dtype=rows.dtype, device=rows.device) @ rows

        def backward() -> None:
            gradients.write(vector, jacobian, listed)
            gradients.train_adapters(paths, (base - factors).tolist())

        update = self.written([1.0, *factors.tolist()], backward, task.device)
        if measured:  # elsewhere the cosines are those of an earlier step
            figures = np.stack([self.memory["norms"], self.memory["cosines"]])
            update.gradient_norms, update.cosines = torch.tensor(
                figures, dtype=rows.dtype, device=rows.device
            ).unbind()
        return update

    def plain(self, task: Tensor, paths: list[Tensor], gradients: Gradients) -> Update:
        """A step without measurement: one backward of the weighted sum, and those of faded adapters."""
        base = self.base()
        factors = base * self.gates

        def backward() -> None:
            gradients.train_adapters(paths, (base - factors).tolist())
            gradients.backward([task, *self.mixed(paths, factors)], [1.0] * (1 + int(factors.any())))

        return self.written([1.0, *factors.tolist()], backward, task.device)

    def mixed(self, paths: list[Tensor], factors: Array) -> list[Tensor]:
        """The weighted sum of the paths whose factor is not 0, if there is one."""
        some = [(path, factor) for path, factor in zip(paths, factors.tolist(), strict=True) if factor != 0]
        if not some:
            return []
        stacked = torch.stack([path for path, _ in some])
        weights = torch.tensor([factor for _, factor in some], dtype=stacked.dtype, device=stacked.device)
        return [torch.dot(stacked, weights)]

    def note_norms(self, task: float, paths: Array | None) -> None:
        """Remember the norm of the task's gradient, for every step since the last, and those of the paths."""
        steps, total, last = self.memory.get("reference", np.zeros(3))
        if np.isfinite(task):
            since = self.steps - last
            self.memory["reference"] = np.array([steps + since, total + since * task, self.steps])
        if paths is None or not np.isfinite(paths).all() or "reference" not in self.memory:
            return
        before = self.memory.get("norms", paths)
        middle = np.sqrt(before * paths)  # of two batches, once norms no longer change quickly
        self.memory["norms"] = np.where((self.steps > 64) & (middle > 0), middle, paths)

    def figures(self) -> dict[str, Sequence[float]]:
        if "norms" not in self.memory:
            return {}
        pull = self.base() * self.gates * self.memory["norms"]
        share = pull / pull.sum() if pull.sum() > 0 else pull
        count = float(self.memory.get("count", np.zeros(1))[0])
        return {
            "gate": self.gates.tolist(),
            "t": self.t.tolist(),
            "share": share.tolist(),
            "measurements": [count] * len(self.names),
        }
