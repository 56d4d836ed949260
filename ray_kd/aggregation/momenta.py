"""SGD with one momentum for the task's part of a gradient and another for distillation's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ray_kd.config.errors import UserError


class SeparateMomenta(torch.optim.Optimizer):
    """DOT's optimizer (Zhao, Cui, Song, ICCV 2023, arXiv 2307.08436).

    ``v_t <- (momentum - delta) v_t + g - d + weight_decay p``; ``v_d <- (momentum + delta) v_d + d``;
    ``p <- p - lr (v_t + v_d)``, for a gradient g of which d is distillation's part. A parameter without
    such a part gets plain SGD with momentum.

    Args:
        params: as in ``torch.optim.SGD``.
        lr, momentum, weight_decay: as in ``torch.optim.SGD``.
        delta: half the difference of the two momenta.
        parts: by parameter, distillation's part of the gradient and the norm of the whole gradient, which
            each step's backward sets. If ``.grad`` was scaled since (clipping), the part is scaled too.
        nesterov: must be False.

    Raises:
        UserError: nesterov, or a momentum out of [delta, 1 - delta).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        delta: float,
        parts: dict[Tensor, tuple[Tensor, Tensor]],
        nesterov: bool = False,
        **_: Any,
    ) -> None:
        if nesterov:
            raise UserError("aggregator 'dot': optimizer.nesterov: expected false.")
        if not delta <= momentum < 1 - delta:
            raise UserError(
                f"aggregator 'dot': optimizer.momentum: expected a value from {delta} to below {1 - delta} "
                f"(delta is {delta}), got {momentum}."
            )
        self.delta, self.parts = delta, parts
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        self.parts.clear()
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, both, momentum = self.state[parameter], self.parts.get(parameter), group["momentum"]
        task = gradient.add(parameter, alpha=group["weight_decay"])
        if both is None:
            parameter.sub_(_blend(state, "momentum", momentum, task), alpha=group["lr"])
            return
        part, norm = (values.to(gradient.dtype) for values in both)
        part = part * torch.where(norm > 0, torch.linalg.vector_norm(gradient) / norm, 1.0)
        first = _blend(state, "momentum", momentum - self.delta, task - part)
        second = _blend(state, "distillation", momentum + self.delta, part)
        parameter.sub_(first + second, alpha=group["lr"])


def _blend(state: dict[str, Any], name: str, momentum: float, gradient: Tensor) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(gradient)
    buffer: Tensor = state[name]
    return buffer.mul_(momentum).add_(gradient)
