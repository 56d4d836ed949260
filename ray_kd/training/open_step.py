"""One optimizer step of a user's loop, as its ``with`` block sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ray_kd.aggregation import Update
from ray_kd.config.errors import UserError


@dataclass
class Taken:
    """A step that was taken: the aggregator's update, and the task loss and all losses as one tensor."""

    update: Update
    figures: Tensor
    names: tuple[str, ...]


class Owner(Protocol):
    """What a step asks of its Distiller."""

    device: torch.device

    def _begin_step(self, step: OpenStep, optimizer: Any) -> int: ...
    def _add(self, batch: Mapping[str, Any]) -> Tensor | None: ...
    def _update(self, optimizer: Any) -> Taken: ...
    def _end_step(self, done: bool) -> None: ...


class OpenStep:
    """``with distiller.step(optimizer) as step: step(batch)``; figures are to be read after the block.

    Raises:
        UserError: a call outside the block, a block without a call, figures before the block was left.
    """

    def __init__(self, owner: Owner, optimizer: Any) -> None:
        self._owner, self._optimizer = owner, optimizer
        self._generators: AbstractContextManager[None] | None = None
        self._calls = 0
        self._taken: Taken | None = None

    def __enter__(self) -> OpenStep:
        if self._calls:
            raise UserError("distiller.step: a step is taken once; ask for another one.")
        key = self._owner._begin_step(self, self._optimizer)
        cuda = self._owner.device.type == "cuda"
        self._generators = torch.random.fork_rng([self._owner.device.index or 0] if cuda else [])
        self._generators.__enter__()
        torch.default_generator.manual_seed(key)
        if cuda:
            torch.cuda.manual_seed(key)
        return self

    def __call__(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Run student and teacher on a batch and compute its losses; the student's logits, without gradient.

        Args:
            batch: ``image`` (N, C, H, W), ``label`` (N,) or what else the task reads, and ``sample`` (N,),
                whole numbers that tell samples apart, where a path needs it. Tensors go to the device.

        Raises:
            UserError: it is no mapping, lacks what a path or the task needs, or is empty; it is the second
                one, and the aggregator looks at gradients or a path remembers what it saw.
        """
        if self._generators is None:
            raise UserError(
                "step(batch): expected 'with distiller.step(optimizer) as step:' around the call."
            )
        self._calls += 1
        return self._owner._add(batch)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        generators, self._generators = self._generators, None
        assert generators is not None
        try:
            if kind is None:
                if not self._calls:
                    raise UserError("distiller.step: its block made no call of step(batch).")
                self._taken = self._owner._update(self._optimizer)
        finally:
            generators.__exit__(kind, error, trace)
            self._owner._end_step(self._taken is not None)

    @property
    def weights(self) -> dict[str, float]:
        """The effective factor on the raw loss of each path (waits for the device)."""
        return self._done().update.weights

    @property
    def log(self) -> dict[str, float]:
        """What else the aggregator says of the step (waits for the device)."""
        return self._done().update.log

    @property
    def task_loss(self) -> float:
        """The loss on labels, mean over all samples of the step (waits for the device)."""
        return float(self._done().figures[0])

    @property
    def losses(self) -> dict[str, float]:
        """Every path's raw losses, the same (waits for the device)."""
        done = self._done()
        return dict(zip(done.names, done.figures[1 : 1 + len(done.names)].tolist(), strict=True))

    def _done(self) -> Taken:
        if self._taken is None:
            raise UserError("step: its figures are there once its block was left without an error.")
        return self._taken
