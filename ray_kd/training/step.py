"""One training step of a run, as its spec says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.aggregation import Aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.training import Optimizer, optimizer_class
from ray_kd.teacher.live import Targets
from ray_kd.training.build import Parts
from ray_kd.training.compiling import Compiled, as_written
from ray_kd.training.ema import AveragedStudent
from ray_kd.training.engine import Engine
from ray_kd.training.process_cache import student_state
from ray_kd.training.run_context import RunContext
from ray_kd.training.schedule import learning_rate

FUSED = ("sgd", "adam", "adamw")
"""Optimizers whose kernels update all parameters in one call, on any device."""


class Step(Engine):
    """The engine of a run: its optimizers, and the learning rate of each step."""

    def __init__(self, spec: RunSpec, parts: Parts, context: RunContext, steps_per_epoch: int) -> None:
        training = spec.training
        if training.channels_last:
            nn.ModuleList([parts.student, parts.paths]).to(memory_format=torch.channels_last)
        super().__init__(
            parts.student,
            parts.paths,
            parts.aggregator,
            parts.task.loss,
            device=context.device,
            world=context.world,
            precision=training.precision,
            task_weight=training.task_weight,
            clip=spec.optimizer.clip,
        )
        self.spec, self.steps_per_epoch = spec, steps_per_epoch
        self.ema = None if training.ema is None else AveragedStudent(training.ema, parts.student)
        teachers = parts.teachers if parts.stored is None else {}
        self.compiled = Compiled(self, teachers) if training.compile else None
        self.optimizers = make_optimizers(spec.optimizer, self.trained, self.aggregator, self.module)

    def ready(
        self, batch: dict[str, Tensor], targets: Callable[[Mapping[str, Tensor]], Targets]
    ) -> dict[str, Tensor]:
        """A batch as the networks take it; with the first one, the parts of the run are compiled.

        Args:
            targets: gives the paths' targets for a batch.
        """
        if self.spec.training.channels_last:
            batch = {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
        if self.compiled is not None and not self.compiled.told:
            self.compiled.compile(batch["image"], lambda: next(self._parts(batch, targets(batch))))
        return batch

    def __call__(self, batch: Mapping[str, Tensor], targets: Targets) -> None:
        """Take one optimizer step on a batch."""
        rate = learning_rate(
            self.spec.schedule,
            self.spec.optimizer.lr,
            self.taken,
            self.steps_per_epoch,
            self.spec.training.epochs,
        )
        for group in self.optimizers[0].param_groups:  # loading a state makes new groups
            group["lr"] = rate
        self.begin()
        for part, wanted in self._parts(batch, targets):
            self.add(part, wanted)
        self.finish()
        if self.ema is not None:
            self.ema.update(self.taken)

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU of the weights that count: the averaged ones where there are any."""
        with self.ema.shown() if self.ema is not None else nullcontext():
            return student_state(self.student)

    def metrics(self, name: str, evaluate: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
        """Metrics of the weights that count; where they are averaged, beside them those of the raw ones."""
        with as_written(self.compiled):
            raw = evaluate()
            if self.ema is None:
                return {name: raw}
            with self.ema.shown():
                return {name: evaluate(), f"{name}_raw": raw}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "ema": None if self.ema is None else self.ema.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        if self.ema is not None:
            for name, value in self.ema.state.items():
                value.copy_(state["ema"][name])

    def _parts(
        self, batch: Mapping[str, Tensor], targets: Targets
    ) -> Iterator[tuple[Mapping[str, Tensor], Targets]]:
        """The batch as it is, or ``accumulate`` equal parts of it with their targets."""
        count = self.spec.training.accumulate
        if count == 1:
            yield batch, targets
            return
        for i in range(count):
            wanted: Targets = {label: _part(target, i, count) for label, target in targets.items()}
            yield _part(batch, i, count), wanted


def _part(values: Mapping[str, Tensor], i: int, count: int) -> dict[str, Tensor]:
    return {name: rows.chunk(count)[i] for name, rows in values.items()}


def make_optimizers(
    options: Optimizer, trained: list[nn.Parameter], aggregator: Aggregator, module: nn.Module | None = None
) -> list[torch.optim.Optimizer]:
    """A run's main optimizer for student and adapters, and one for what its aggregator trains by itself.

    Args:
        module: holds what is trained; with ``decay_norms: false`` its networks are asked for exceptions.

    Raises:
        UserError: the aggregator brings its own form of SGD, and the run asks for another optimizer or for
            ``options``, which that form does not have.
    """
    if options.options and aggregator.optimizer_rule() is not None:
        raise UserError(f"aggregator '{aggregator.name}' is a form of SGD without optimizer.options.")
    make, settings = optimizer_class(options.name), options.settings()
    if options.name in FUSED:
        settings["fused"] = True
    groups: list[dict[str, Any]] = [{"params": trained}]
    if not options.decay_norms:
        free = _undecayed(trained, module)
        groups = [
            {"params": [p for p in trained if p not in free]},
            {"params": [p for p in trained if p in free], "weight_decay": 0.0},
        ]
    expected = f"optimizer.name: expected sgd, got {options.name}."
    return create_optimizers(make, [g for g in groups if g["params"]], aggregator, expected, **settings)


def _undecayed(trained: Sequence[nn.Parameter], module: nn.Module | None) -> set[nn.Parameter]:
    """Parameters of fewer than two dimensions, and what networks of timm name (``pos_embed``)."""
    found = {parameter for parameter in trained if parameter.dim() < 2}
    for part in () if module is None else module.modules():
        named = getattr(part, "no_weight_decay", None)
        if callable(named):
            own, names = dict(part.named_parameters()), named()
            found |= {own[name] for name in names if name in own}  # timm names tokens that some lack
    return found


def create_optimizers(
    make: Any, groups: Sequence[dict[str, Any]], aggregator: Aggregator, expected: str, **settings: Any
) -> list[torch.optim.Optimizer]:
    """The main optimizer, and one for what an aggregator trains by itself.

    Args:
        make: the main optimizer's class, which an aggregator's own form of SGD takes the place of.
        groups: what it updates, as ``torch.optim`` has them; the aggregator's are added.
        expected: ends the message where an aggregator that is a form of SGD meets another optimizer.
    """
    rule = aggregator.optimizer_rule()
    if rule is not None and make is not torch.optim.SGD:
        raise UserError(f"aggregator '{aggregator.name}' is a form of SGD: {expected}")
    main, own = list(groups), list[dict[str, Any]]()
    for group in aggregator.param_groups():
        (main if group.get("optimizer") == "main" else own).append(
            {name: value for name, value in group.items() if name != "optimizer"}
        )
    optimizers = [(rule or make)(main, **settings)]
    if own:
        adam = any("betas" in group for group in own)
        optimizers.append(torch.optim.Adam(own) if adam else torch.optim.SGD(own, lr=0.1))
    return optimizers
