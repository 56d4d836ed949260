"""One training step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_kd.aggregation import Aggregator, Update
from ray_kd.aggregation.gradients import Gradients
from ray_kd.config.errors import UserError
from ray_kd.config.spec import Optimizer, RunSpec
from ray_kd.models.compiled import load_own_state, own_state
from ray_kd.outputs import Outputs
from ray_kd.paths import Path
from ray_kd.tasks import Task
from ray_kd.teacher.live import Targets
from ray_kd.training.build import Parts
from ray_kd.training.distributed import average, average_gradients, reduce_losses
from ray_kd.training.probing import exchanged, untouched
from ray_kd.training.run_context import RunContext, resolve_precision
from ray_kd.training.schedule import learning_rate


class Distilled(nn.Module):
    """Student and paths as the one module that trains, so that DDP sees all of it."""

    def __init__(self, student: nn.Module, paths: nn.ModuleList, task: Task) -> None:
        super().__init__()
        self.student, self.paths, self.task = student, paths, task

    def forward(
        self, batch: Mapping[str, Tensor], targets: Targets
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The task loss, every path's losses, and the logits on a batch."""
        outputs = cast(Outputs, self.student(batch["image"]))
        return self.task.loss(outputs, batch), self.path_losses(outputs, batch, targets), outputs.logits

    def path_losses(
        self, outputs: Outputs, batch: Mapping[str, Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Every path's losses for the student's outputs."""
        losses: dict[str, Tensor] = {}
        for path in cast("list[Path]", self.paths):
            losses.update(path(outputs, targets[path.label], batch))
        return losses


class Step:
    """Forward, aggregate, backward, clip, update.

    Attributes:
        sums: running sums over the epoch's steps: task loss, raw losses, effective weights.
        taken: optimizer steps so far.
        before: the last step's batch and targets, where the aggregator probes.
    """

    def __init__(self, spec: RunSpec, parts: Parts, context: RunContext, steps_per_epoch: int) -> None:
        self.spec, self.context, self.steps_per_epoch = spec, context, steps_per_epoch
        self.aggregator: Aggregator = parts.aggregator
        self.student = parts.student
        self.module = Distilled(parts.student, parts.paths, parts.task)
        dtype = resolve_precision(spec.training.precision, context.device)
        self.precision = str(dtype).removeprefix("torch.")
        self._autocast = dtype if dtype != torch.float32 else None
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=dtype == torch.float16)
        self.ddp: nn.Module = self.module
        self.gradients: Gradients | None = None
        if self.aggregator.tier == 2 and self.aggregator.losses:
            self.gradients = Gradients(
                self.student.named_parameters(),
                adapters=parts.paths.parameters(),
                reduce=partial(average, world=context.world) if context.world > 1 else None,
                scale=lambda: self.scaler.get_scale(),
            )
            self.scaler.scale(torch.zeros((), device=context.device))  # makes the scale that it reads
        elif context.world > 1:
            ids = [context.device.index or 0] if context.device.type == "cuda" else None
            self.ddp = DistributedDataParallel(self.module, device_ids=ids, broadcast_buffers=False)
        self.clipped = [p for p in self.student.parameters() if p.requires_grad]
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.corrupted = [path for path in cast("list[Path]", parts.paths) if path.options.corrupt]
        self.optimizers = make_optimizers(spec.optimizer, self.trained, self.aggregator)
        self.before: tuple[Mapping[str, Tensor], Targets] | None = None
        self._exchanged: tuple[Targets, Targets] | None = None
        self.taken = 0
        self.names = self.aggregator.losses
        self.sums = self.empty_sums()

    def empty_sums(self) -> Tensor:
        """Zeroes for the running sums."""
        size = 1 + len(self.names) + len(self.aggregator.names) * (4 if self.gradients else 1)
        return torch.zeros(size, device=self.context.device)

    def __call__(self, batch: Mapping[str, Tensor], targets: Targets) -> None:
        """Take one optimizer step on a batch.

        Raises:
            UserError: the batch is empty: means over no samples would poison what aggregators remember.
        """
        if len(batch["image"]) == 0:
            raise UserError("a training step: expected a batch of at least one sample, got an empty one.")
        training = self.spec.training
        rate = learning_rate(
            self.spec.schedule, self.spec.optimizer.lr, self.taken, self.steps_per_epoch, training.epochs
        )
        for group in self.optimizers[0].param_groups:  # loading a state makes new groups
            group["lr"] = rate
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.corrupt(batch, targets, self.taken)
        with self.autocast():
            task_loss, losses, logits = self.ddp(batch, targets)
        if self.gradients is not None:
            self.gradients.tensors = {} if logits is None else {"logits": logits}
            self.gradients.evaluate = partial(self.probe, batch, targets)
        if self.context.world > 1:
            reduced = reduce_losses([task_loss, *losses.values()], self.context.world)
            task_loss, losses = reduced[0], dict(zip(losses, reduced[1:], strict=True))
        update = self.decide(task_loss, losses)
        self.apply(update)
        self.aggregator.after_step(lambda: self.evaluate(batch, targets))
        self.note(task_loss, losses, update)
        self.remember(batch, targets)
        self.taken += 1

    def corrupt(self, batch: Mapping[str, Tensor], targets: Targets, step: int) -> None:
        """Spoil the targets of the paths that ask for it, in place."""
        for path in self.corrupted:
            targets[path.label] = path.corrupted(targets[path.label], batch, step)

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor]) -> Update:
        """The aggregator's update for this step's losses."""
        weight = self.spec.training.task_weight
        weighted = task_loss if weight == 1 else task_loss * weight
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
        if len(parts) == 1:
            self.sums += parts[0]
            return
        self.sums += torch.cat([part.to(self.sums.dtype) for part in parts] if self._autocast else parts)

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
            average_gradients(self.trained, self.context.world)  # DDP does it for tier 1
        if self.spec.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(self.clipped, self.spec.optimizer.clip)
        self.scaler.step(main)
        for optimizer in self.optimizers[1:]:
            self.scaler.step(optimizer)
        self.scaler.update()

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses on a batch anew, leaving BatchNorm's statistics and every stream untouched."""
        with untouched(self.module), self.autocast():
            _, losses, _ = self.module(batch, targets)
        values = reduce_losses(list(losses.values()), self.context.world)
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
        with untouched(self.module), torch.autocast(self.context.device.type, enabled=False):
            outputs = cast(Outputs, self.student(batch["image"]))
            losses = self.module.path_losses(outputs, batch, targets)
            other: dict[str, Tensor] = {}
            if placebo:
                if self._exchanged is None or self._exchanged[0] is not targets:
                    self._exchanged = (targets, exchanged(targets, batch))
                other = self.module.path_losses(outputs, batch, self._exchanged[1])
        values = reduce_losses([*losses.values(), *other.values()], self.context.world)
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
        return torch.autocast(self.context.device.type, dtype=self._autocast)

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
        self.sums = state["sums"].to(self.context.device)
        self.taken = state["taken"]


def make_optimizers(
    options: Optimizer, trained: list[nn.Parameter], aggregator: Aggregator
) -> list[torch.optim.Optimizer]:
    """The main optimizer for student and adapters, and one for what an aggregator trains by itself.

    Raises:
        UserError: the aggregator brings its own form of SGD, and the run asks for another optimizer.
    """
    rule = aggregator.optimizer_rule()
    if rule is not None and options.name != "sgd":
        raise UserError(
            f"aggregator '{aggregator.name}' is a form of SGD: optimizer.name: expected sgd, "
            f"got {options.name}."
        )
    groups: list[dict[str, Any]] = [{"params": trained}]
    own: list[dict[str, Any]] = []
    for group in aggregator.param_groups():
        (groups if group.get("optimizer") == "main" else own).append(
            {name: value for name, value in group.items() if name != "optimizer"}
        )
    # The fused kernels update all parameters in one call.
    if options.name == "adamw":
        main: torch.optim.Optimizer = torch.optim.AdamW(
            groups,
            lr=options.lr,
            betas=(options.momentum, 0.999),
            weight_decay=options.weight_decay,
            fused=True,
        )
    else:
        main = (rule or torch.optim.SGD)(
            groups,
            lr=options.lr,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
            fused=True,
        )
    if not own:
        return [main]
    if any("betas" in group for group in own):
        return [main, torch.optim.Adam(own)]
    return [main, torch.optim.SGD(own, lr=0.1)]
