"""One training step of a run, as its spec says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.aggregation import Aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.spec import Optimizer, RunSpec
from ray_kd.teacher.live import Targets
from ray_kd.training.build import Parts
from ray_kd.training.engine import Engine
from ray_kd.training.run_context import RunContext
from ray_kd.training.schedule import learning_rate


class Step(Engine):
    """The engine of a run: its optimizers, and the learning rate of each step."""

    def __init__(self, spec: RunSpec, parts: Parts, context: RunContext, steps_per_epoch: int) -> None:
        super().__init__(
            parts.student,
            parts.paths,
            parts.aggregator,
            parts.task.loss,
            device=context.device,
            world=context.world,
            precision=spec.training.precision,
            task_weight=spec.training.task_weight,
            clip=spec.optimizer.clip,
        )
        self.spec, self.steps_per_epoch = spec, steps_per_epoch
        self.optimizers = make_optimizers(spec.optimizer, self.trained, self.aggregator)

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
        self.add(batch, targets)
        self.finish()


def make_optimizers(
    options: Optimizer, trained: list[nn.Parameter], aggregator: Aggregator
) -> list[torch.optim.Optimizer]:
    """A run's main optimizer for student and adapters, and one for what its aggregator trains by itself."""
    settings: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay, "fused": True}
    make: type[torch.optim.Optimizer] = torch.optim.SGD
    if options.name == "adamw":
        make = torch.optim.AdamW
        settings["betas"] = (options.momentum, 0.999)
    else:
        settings |= {"momentum": options.momentum, "nesterov": options.nesterov}
    # The fused kernels update all parameters in one call.
    expected = f"optimizer.name: expected sgd, got {options.name}."
    return create_optimizers(make, [{"params": trained}], aggregator, expected, **settings)


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
