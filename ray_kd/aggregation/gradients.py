"""Gradients of a step's losses over the student's parameters, computed on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_kd.aggregation.loss_graph import last_shared
from ray_kd.aggregation.probe import Evaluate
from ray_kd.config.errors import UserError, nearest

Adapters = list[tuple[Tensor | None, ...]]


@dataclass
class Jacobian:
    """Gradients of m losses.

    Attributes:
        rows: gradient of each loss over the chosen parameters of the student, (m, P), averaged over
            ranks. The next Jacobian uses the same memory.
        reached: for each loss, whether it has a gradient for each parameter, in the order of ``Gradients``.
        adapters: this rank's gradients over adapter parameters for each loss; None: not reached.
    """

    rows: Tensor
    reached: list[list[bool]]
    adapters: Adapters

    def gramian(self) -> NDArray[np.float64]:
        """Products of all rows, (m, m), in double precision on the CPU (waits for the device)."""
        products: NDArray[np.float64] = (self.rows @ self.rows.T).double().cpu().numpy()
        return products


class Gradients:
    """Computes gradients for tier-2 aggregators; one object serves a whole run.

    ``torch.autograd.grad`` runs no hooks of DistributedDataParallel. So with several ranks the forward
    runs on the unwrapped modules, and every gradient is averaged with ``reduce`` before any product is
    taken: a mean of Gramians would be biased. The gradients in ``.grad`` are already averaged.

    Args:
        parameters: the student's named parameters (those that do not train are left out).
        adapters: parameters that belong to paths; they get the weighted gradient of their path.
        reduce: mean of a flat tensor over ranks, in place or not; None: one rank.
        scale: the loss scale of a ``GradScaler``; ``.grad`` is written times it. None: 1.
        chunk: losses in one vectorised backward (``is_grads_batched``); more than 1 saves launches on a
            GPU and takes that many times the memory of a backward.

    Attributes:
        tensors: named tensors of this step's forward ("logits", ...) for methods that need gradients
            there; set by the loop before each step.
        evaluate: computes losses at the present parameters, for methods that probe (see ``probe``); set by
            the loop before each step, None if the loop does not offer it.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        *,
        adapters: Iterable[Tensor] = (),
        reduce: Callable[[Tensor], Tensor] | None = None,
        scale: Callable[[], float] | None = None,
        chunk: int = 1,
    ) -> None:
        named = [(name, tensor) for name, tensor in parameters if tensor.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [tensor for _, tensor in named]
        self.adapters = [tensor for tensor in adapters if tensor.requires_grad]
        self.tensors: Mapping[str, Tensor] = {}
        self.evaluate: Evaluate | None = None
        self.chunk = chunk
        self._reduce = reduce
        self._scale = scale or (lambda: 1.0)
        self._chosen: dict[str, list[int]] = {"all": list(range(len(named)))}
        self._rows = torch.empty(0)

    def choose(self, which: str, losses: Sequence[Tensor]) -> list[int]:
        """Positions of the parameters that ``which`` means: ``all``, ``last_shared`` or a name's prefix.

        The first losses decide which parameters ``last_shared`` means.

        Raises:
            UserError: no parameter has that prefix, or the losses share none.
        """
        if which not in self._chosen:
            if which == "last_shared":
                self._chosen[which] = last_shared(losses, self.names, self.parameters)
            else:
                self._chosen[which] = self._below(which)
        return self._chosen[which]

    def _below(self, prefix: str) -> list[int]:
        found = [i for i, name in enumerate(self.names) if name == prefix or name.startswith(f"{prefix}.")]
        if not found:
            modules = {name[:end] for name in self.names for end in _ends(name)}
            guess = nearest(prefix, modules)
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UserError(
                f"aggregation.parameters: '{prefix}' is neither 'all' nor 'last_shared', nor does a "
                f"parameter of the student start with it.{hint}"
            )
        return found

    def jacobian(self, losses: Sequence[Tensor], which: str = "all", *, keep: bool = False) -> Jacobian:
        """Gradients of losses, with those of adapters if ``which`` is ``all``.

        Args:
            losses: scalars, m of them; one without a graph has a gradient of 0.
            which: see ``choose``.
            keep: keep the graph for a further backward.
        """
        chosen = [self.parameters[index] for index in self.choose(which, losses)]
        adapters = self.adapters if which == "all" else []
        inputs = [*chosen, *adapters]
        rows = self._storage(len(losses), sum(tensor.numel() for tensor in chosen), chosen[0])
        reached: list[list[bool]] = []
        parts, scale = [], self._scale()
        for index, gradients in enumerate(self._each(losses, inputs, scale, keep)):
            reached.append([gradient is not None for gradient in gradients[: len(chosen)]])
            _fill(rows[index], chosen, gradients[: len(chosen)])
            parts.append(tuple(gradients[len(chosen) :]))
        if self._reduce is not None:
            rows = self._reduce(rows)
        return Jacobian(rows.div_(scale) if scale != 1 else rows, reached, parts)

    def at(self, name: str, losses: Sequence[Tensor], called: Sequence[str]) -> Tensor:
        """Gradients of losses at a tensor of the forward pass (N, ...), summed over samples: (m, D).

        Args:
            name: one of ``tensors``.
            losses: scalars, m of them.
            called: their names, for the error.

        Raises:
            UserError: the loop does not provide that tensor, or a loss does not depend on it.
        """
        if name not in self.tensors:
            raise UserError(f"gradients at '{name}': the loop provides {sorted(self.tensors) or 'none'}.")
        tensor, rows = self.tensors[name], []
        for loss, label in zip(losses, called, strict=True):
            gradient = None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss, tensor, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise UserError(
                    f"path '{label}' does not depend on the student's {name}; this aggregator needs that."
                )
            rows.append(gradient.sum(0).flatten().float())
        stacked = torch.stack(rows)
        return stacked if self._reduce is None else self._reduce(stacked)

    def write(self, vector: Tensor, jacobian: Jacobian, factors: Sequence[float]) -> None:
        """Add a direction over all of the student's parameters to ``.grad``, and the adapters' own.

        Args:
            vector: the direction, (P,).
            factors: factor of each loss for the adapters; a negative one counts as 0, since an adapter
                must not increase its own path's loss.
        """
        scale = self._scale()
        parts = torch.split(vector * scale if scale != 1 else vector, [p.numel() for p in self.parameters])
        for parameter, part, *reached in zip(self.parameters, parts, *jacobian.reached, strict=True):
            if any(reached):
                _add(parameter, part.view_as(parameter))
        sums: list[Tensor | None] = [None] * len(self.adapters)
        for factor, gradients in zip(factors, jacobian.adapters, strict=True):
            for position, gradient in enumerate(gradients):
                if gradient is not None:
                    so_far, part = sums[position], gradient * max(factor, 0.0)
                    sums[position] = part if so_far is None else so_far + part
        self._add_all(self.adapters, sums)

    def split(self, vector: Tensor, reached: Sequence[Sequence[bool]]) -> dict[Tensor, Tensor]:
        """A direction (P,) by parameter, for the parameters that every loss depends on."""
        parts = torch.split(vector, [p.numel() for p in self.parameters])
        return {
            parameter: part.view_as(parameter)
            for parameter, part, *by in zip(self.parameters, parts, *reached, strict=True)
            if all(by)
        }

    def backward(self, losses: Sequence[Tensor], factors: Sequence[float]) -> None:
        """One backward of the weighted sum of losses, averaged over ranks; adapters as in ``write``."""
        scale = self._scale()
        both = [*self.parameters, *self.adapters]
        student = weighted(losses, [factor * scale for factor in factors])
        if not self.adapters or min(factors) >= 0:
            self._add_all(both, torch.autograd.grad(student, both, allow_unused=True))
            return
        gradients = torch.autograd.grad(student, self.parameters, allow_unused=True, retain_graph=True)
        self._add_all(self.parameters, gradients)
        climbing = weighted(losses, [max(factor, 0.0) * scale for factor in factors])
        self._add_all(self.adapters, torch.autograd.grad(climbing, self.adapters, allow_unused=True))

    def train_adapters(self, losses: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Add the gradient of a weighted sum of losses to ``.grad`` of the adapters, not of the student.

        Losses whose factor is 0 are not differentiated; losses that depend on no adapter add nothing.
        """
        some = [(loss, factor) for loss, factor in zip(losses, factors, strict=True) if factor != 0]
        some = [(loss, factor) for loss, factor in some if loss.requires_grad]
        if not some or not self.adapters:
            return
        total = weighted([loss for loss, _ in some], [factor * self._scale() for _, factor in some])
        found = torch.autograd.grad(total, self.adapters, retain_graph=True, allow_unused=True)
        self._add_all(self.adapters, found)

    def _each(
        self, losses: Sequence[Tensor], inputs: Sequence[Tensor], scale: float, keep: bool
    ) -> Iterator[Sequence[Tensor | None]]:
        """Gradients of each loss in turn, times ``scale``; the graph is freed by the last one."""
        live = [index for index, loss in enumerate(losses) if loss.requires_grad]
        found: dict[int, Sequence[Tensor | None]] = {}
        for index, loss in enumerate(losses):
            if index not in found and loss.requires_grad:
                some = [i for i in live if i >= index][: self.chunk]
                retain = keep or some[-1] != live[-1]
                if len(some) == 1:
                    found[index] = torch.autograd.grad(
                        loss * scale if scale != 1 else loss, inputs, retain_graph=retain, allow_unused=True
                    )
                else:
                    found.update(
                        zip(some, _vectorised([losses[i] for i in some], inputs, scale, retain), strict=True)
                    )
            yield found.pop(index, (None,) * len(inputs))

    def _storage(self, count: int, size: int, like: Tensor) -> Tensor:
        if self._rows.shape != (count, size) or self._rows.device != like.device:
            self._rows = torch.empty(
                count, size, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
            )
        return self._rows

    def _add_all(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        if not pairs:
            return
        if self._reduce is None:
            for parameter, gradient in pairs:
                _add(parameter, gradient)
            return
        flat = self._reduce(torch.cat([gradient.flatten() for _, gradient in pairs]))
        for (parameter, gradient), part in zip(
            pairs, torch.split(flat, [g.numel() for _, g in pairs]), strict=True
        ):
            _add(parameter, part.view_as(gradient))


def _vectorised(
    losses: Sequence[Tensor], inputs: Sequence[Tensor], scale: float, retain: bool
) -> list[Sequence[Tensor | None]]:
    stacked = torch.stack(list(losses))
    select = torch.eye(len(losses), dtype=stacked.dtype, device=stacked.device) * scale
    batched = torch.autograd.grad(
        stacked, inputs, select, retain_graph=retain, allow_unused=True, is_grads_batched=True
    )
    return [[None if g is None else g[row] for g in batched] for row in range(len(losses))]


def weighted(losses: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """The weighted sum of scalars."""
    stacked = torch.stack(list(losses))
    return torch.dot(stacked, torch.tensor(factors, dtype=stacked.dtype, device=stacked.device))


def _fill(row: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Write gradients into a row; parameters that the loss does not depend on get 0."""
    start = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        place = row[start : start + parameter.numel()]
        if gradient is None:
            place.zero_()
        else:
            place.copy_(gradient.flatten())
        start += parameter.numel()


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype)
    else:
        parameter.grad.add_(gradient)


def _ends(name: str) -> list[int]:
    return [index for index, letter in enumerate(name) if letter == "."] + [len(name)]
