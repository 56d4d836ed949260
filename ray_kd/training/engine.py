"""One optimizer step, whoever drives the loop: a run by `Step`, or a user's loop by `Distiller`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ray_kd.aggregation import Aggregator, Update
from ray_kd.aggregation.gradients import Gradients
from ray_kd.config.errors import UserError
from ray_kd.models.compiled import load_own_state, own_state
from ray_kd.outputs import Outputs, as_outputs
from ray_kd.paths import Path
from ray_kd.teacher.live import Targets
from ray_kd.training.distributed import average, average_gradients, reduce_losses
from ray_kd.training.probing import exchanged, keeping_statistics, untouched
from ray_kd.training.run_context import resolve_precision

TaskLoss = Callable[[Outputs, Mapping[str, Tensor]], Tensor]
"""The loss on labels: a scalar for the student's outputs and the batch, a mean over its samples."""


class Distilled(nn.Module):
    """Student and paths as the one module that trains, so that DDP sees all of it."""

    def __init__(self, student: nn.Module, paths: nn.ModuleList, task_loss: TaskLoss) -> None:
        super().__init__()
        self.student, self.paths, self.task_loss = student, paths, task_loss

    def forward(
        self, batch: Mapping[str, Tensor], targets: Targets
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The task loss, every path's losses, and the logits on a batch."""
        outputs = as_outputs(self.student(batch["image"]), "student")
        return self.task_loss(outputs, batch), self.path_losses(outputs, batch, targets), outputs.logits

    def path_losses(
        self, outputs: Outputs, batch: Mapping[str, Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Every path's losses for the student's outputs."""
        losses: dict[str, Tensor] = {}
        for path in cast("list[Path]", self.paths):
            losses.update(path(outputs, targets[path.label], batch))
        return losses


def require_accumulation(aggregator: Aggregator, paths: Iterable[Path]) -> None:
    """Raise UserError if a step of several batches would not be the step of one large batch."""
    one = "expected one batch in a step, got a second"
    if aggregator.tier == 2 and aggregator.losses:
        raise UserError(
            f"aggregator '{aggregator.name}' needs the gradient of every loss over the whole batch, "
            f"so all activations at once: {one}. Aggregators that need loss values alone can accumulate."
        )
    for path in paths:
        if "stateful" in path.traits:
            raise UserError(f"path '{path.label}' remembers the batches that it has seen: {one}.")


@dataclass
class Seen:
    """A batch of the step that is under way, its targets, and the losses on it."""

    batch: Mapping[str, Tensor]
    targets: Targets
    task_loss: Tensor
    losses: dict[str, Tensor]


class Engine:
    """Forward, aggregate, backward, clip, update, and every hook that a path or an aggregator has.

    A step is ``begin()``, ``add(batch, targets)`` once or several times, and ``finish()``.

    Args:
        student: returns Outputs, or what ``as_outputs`` reads.
        aggregator: made for the paths' losses.
        device, world: where, and how many processes train together.
        precision: of forward passes: auto, float32, bfloat16 or float16.
        task_weight: factor on the task loss.
        clip: the largest norm of the student's gradient; None: no clipping.

    Attributes:
        optimizers: the main one, and those of what an aggregator trains by itself; set by whoever makes them.
        figures: of the last step: task loss, raw losses, effective weights, and what gradients told.
        sums: running sums of them over the epoch's steps.
        before: the last step's batch and targets, where the aggregator probes.
    """

    def __init__(
        self,
        student: nn.Module,
        paths: nn.ModuleList,
        aggregator: Aggregator,
        task_loss: TaskLoss,
        *,
        device: torch.device,
        world: int = 1,
        precision: str = "auto",
        task_weight: float = 1.0,
        clip: float | None = None,
    ) -> None:
        self.student, self.aggregator, self.device, self.world = student, aggregator, device, world
        self.task_weight, self.clip = task_weight, clip
        self.module = Distilled(student, paths, task_loss)
        dtype = resolve_precision(precision, device)
        self.precision = str(dtype).removeprefix("torch.")
        self._autocast = dtype if dtype != torch.float32 else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.ddp: nn.Module = self.module
        self.gradients: Gradients | None = None
        if aggregator.tier == 2 and aggregator.losses:
            self.gradients = Gradients(
                student.named_parameters(),
                adapters=paths.parameters(),
                reduce=partial(average, world=world) if world > 1 else None,
                scale=lambda: self.scaler.get_scale(),
            )
            self.scaler.scale(torch.zeros((), device=device))  # makes the scale that it reads
        elif world > 1:
            ids = [device.index or 0] if device.type == "cuda" else None
            self.ddp = DistributedDataParallel(self.module, device_ids=ids, broadcast_buffers=False)
        self.clipped = [p for p in student.parameters() if p.requires_grad]
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.paths = list(cast("list[Path]", paths))
        self.corrupted = [path for path in self.paths if path.options.corrupt]
        self.optimizers: list[torch.optim.Optimizer] = []
        self.before: tuple[Mapping[str, Tensor], Targets] | None = None
        self._exchanged: tuple[Targets, Targets] | None = None
        self.seen: list[Seen] = []
        self.taken = 0
        self.names = aggregator.losses
        self.sums = self.figures = self.empty_sums()

    def empty_sums(self) -> Tensor:
        """Zeroes for the running sums."""
        size = 1 + len(self.names) + len(self.aggregator.names) * (4 if self.gradients else 1)
        return torch.zeros(size, device=self.device)

    def begin_epoch(self, epoch: int, means: Mapping[str, float] | None, *, resumed: bool = False) -> None:
        """Tell paths and aggregator that epoch ``epoch`` (from 0) begins, or goes on where it was left.

        Args:
            means: the mean loss of each of the aggregator's names in the epoch before; None: there is none.
        """
        if not resumed:
            self.sums = self.empty_sums()
        self.aggregator.begin_epoch(means)
        for path in self.paths:
            path.begin_epoch(epoch)

    def begin(self) -> None:
        """Begin a step; what an unfinished one left in gradients is gone."""
        self.seen.clear()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def add(self, batch: Mapping[str, Tensor], targets: Targets) -> Tensor | None:
        """Take a batch into the step: forward, and its losses.

        From the second batch on, activations are dropped and computed again for the backward pass.

        Returns:
            The student's logits, without a gradient; None where it has none.

        Raises:
            UserError: the batch is empty: means over no samples would poison what aggregators remember; or
                it is the step's second, and the aggregator or a path takes only one.
        """
        if len(batch["image"]) == 0:
            raise UserError("a training step: expected a batch of at least one sample, got an empty one.")
        if self.seen:
            require_accumulation(self.aggregator, self.paths)
        self.corrupt(batch, targets, self.taken)
        with self.autocast():
            if not self.seen:
                task_loss, losses, logits = self.ddp(batch, targets)
            else:
                task_loss, losses, logits = checkpoint(
                    self.module,
                    batch,
                    targets,
                    use_reentrant=False,
                    context_fn=lambda: (nullcontext(), keeping_statistics(self.module)),
                )
        if self.gradients is not None:
            self.gradients.tensors = {} if logits is None else {"logits": logits}
            self.gradients.evaluate = partial(self.probe, batch, targets)
        self.seen.append(Seen(batch, targets, task_loss, losses))
        return None if logits is None else logits.detach()

    def finish(self) -> Update:
        """Update from the losses of the step's batches, step every optimizer, call every hook."""
        task_loss, losses = self._mean([(seen.task_loss, seen.losses) for seen in self.seen])
        if self.world > 1:
            reduced = reduce_losses([task_loss, *losses.values()], self.world)
            task_loss, losses = reduced[0], dict(zip(losses, reduced[1:], strict=True))
        update = self.decide(task_loss, losses)
        self.apply(update)
        self.aggregator.after_step(self.evaluate)
        self.note(task_loss, losses, update)
        self.remember(self.seen[-1].batch, self.seen[-1].targets)
        self.taken += 1
        self.seen.clear()
        return update

    def _mean(self, found: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of the step's batches as the means over all of their samples."""
        if len(found) == 1:
            return found[0]
        counts = [len(seen.batch["image"]) for seen in self.seen]

        def mean(values: Iterable[Tensor]) -> Tensor:
            shares = [value * (count / sum(counts)) for value, count in zip(values, counts, strict=True)]
            return torch.stack(shares).sum()

        means = {name: mean(losses[name] for _, losses in found) for name in self.names}
        return mean(task for task, _ in found), means

    def corrupt(self, batch: Mapping[str, Tensor], targets: Targets, step: int) -> None:
        """Spoil the targets of the paths that ask for it, in place."""
        for path in self.corrupted:
            targets[path.label] = path.corrupted(targets[path.label], batch, step)

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor]) -> Update:
        """The aggregator's update for this step's losses."""
        weighted = task_loss if self.task_weight == 1 else task_loss * self.task_weight
        return cast(Update, self.aggregator(weighted, losses, self.gradients))

    def note(self, task_loss: Tensor, losses: Mapping[str, Tensor], update: Update) -> None:
        """Add the step's figures to the running sums; nothing here waits for the device."""
        parts = [task_loss.detach().view(1)]
        if losses:
            parts += [torch.stack([losses[name].detach() for name in self.names]), self.known(update.factors)]
        if self.gradients is not None:
            norms, cosines = update.gradient_norms, update.cosines
            nothing = torch.zeros_like(update.factors)
            measured = nothing if norms is None else torch.ones_like(nothing)
            parts += [nothing if found is None else self.known(found) for found in (norms, cosines)]
            parts.append(measured)
        if len(parts) > 1:
            parts = [torch.cat([part.to(self.sums.dtype) for part in parts] if self._autocast else parts)]
        self.figures = parts[0]
        self.sums += self.figures

    def known(self, figures: Tensor) -> Tensor:
        """Figures from gradients, 0 in a step that a ``GradScaler`` is about to skip: it overflowed."""
        return figures.nan_to_num(0, 0, 0) if self.scaler.is_enabled() else figures

    def apply(self, update: Update) -> None:
        """Backward, clip the student's gradient, step every optimizer."""
        main = self.optimizers[0]
        if self.scaler.is_enabled() and update.total is not None:
            self.scaler.scale(update.total).backward()
        else:
            update.backward()  # without a total, Gradients has scaled what it wrote
        if self.scaler.is_enabled():
            self.scaler.unscale_(main)
        if self.gradients is not None and update.total is not None:
            average_gradients(self.trained, self.world)  # DDP does it for tier 1
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.clipped, self.clip)
        self.scaler.step(main)
        for optimizer in self.optimizers[1:]:
            self.scaler.step(optimizer)
        self.scaler.update()

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """The losses on the step's batches anew; BatchNorm's statistics and every stream stay as they are."""
        with untouched(self.module), self.autocast():
            found = [self.module(seen.batch, seen.targets)[:2] for seen in self.seen]
        _, losses = self._mean(found)
        values = reduce_losses(list(losses.values()), self.world)
        return dict(zip(losses, values, strict=True))

    @torch.no_grad()
    def probe(
        self, batch: Mapping[str, Tensor], targets: Targets, *, same: bool, placebo: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The paths' losses on this batch or the one before; see ``aggregation.probe.Evaluate``.

        In float32 whatever the run's precision: small differences of losses are what is asked for.
        """
        if not same and self.before is not None:
            batch, targets = self.before
        with untouched(self.module), torch.autocast(self.device.type, enabled=False):
            outputs = as_outputs(self.student(batch["image"]), "student")
            losses = self.module.path_losses(outputs, batch, targets)
            other: dict[str, Tensor] = {}
            if placebo:
                if self._exchanged is None or self._exchanged[0] is not targets:
                    self._exchanged = (targets, exchanged(targets, batch))
                other = self.module.path_losses(outputs, batch, self._exchanged[1])
        values = reduce_losses([*losses.values(), *other.values()], self.world)
        count = len(losses)
        return dict(zip(losses, values[:count], strict=True)), dict(zip(other, values[count:], strict=True))

    def remember(self, batch: Mapping[str, Tensor], targets: Targets) -> None:
        """Keep the batch of the step just taken, where the aggregator looks at it in the next one."""
        if self.aggregator.probes:
            self.before = (batch, targets)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where the run has it."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly from here."""
        return {
            "student": own_state(self.student),
            "paths": self.module.paths.state_dict(),
            "aggregator": self.aggregator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "sums": self.sums,
            "taken": self.taken,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        load_own_state(self.student, state["student"])
        self.module.paths.load_state_dict(state["paths"])
        self.aggregator.load_state_dict(state["aggregator"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.scaler.load_state_dict(state["scaler"])
        self.sums = state["sums"].to(self.device).clone()
        self.taken = state["taken"]
