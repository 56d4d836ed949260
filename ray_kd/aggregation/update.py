"""Update: what an aggregator decided for one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Update:
    """One step's decision: call ``backward()``, read ``weights`` and ``log``.

    Args:
        names: of the weighted losses, by path or layer.
        factors: the effective factor on each raw loss, shape (n,), detached.
        total: the weighted sum, if its backward is the update; else None.
        backward: fills ``.grad`` in the other case; gradients are then already averaged over ranks.
        log: further figures of this step, by name.
        gradient_norms: norm of each raw loss's gradient over the student, (n,); None: not measured.
        cosines: cosine of each loss's gradient to the task loss's, (n,); None: not measured.
    """

    def __init__(
        self,
        names: Sequence[str],
        factors: Tensor,
        *,
        total: Tensor | None = None,
        backward: Callable[[], None] | None = None,
        log: Mapping[str, Tensor | float] | None = None,
        gradient_norms: Tensor | None = None,
        cosines: Tensor | None = None,
    ) -> None:
        if (total is None) == (backward is None):
            raise TypeError("an Update needs either a total or a backward")
        self.names, self.factors, self.total = tuple(names), factors.detach(), total
        self.gradient_norms, self.cosines = gradient_norms, cosines
        self._backward = backward
        self._log = log

    def backward(self) -> None:
        """Add the update's gradient to ``.grad`` of student, adapters and the aggregator's parameters."""
        if self.total is not None:
            self.total.backward()  # type: ignore[no-untyped-call]
        elif self._backward is not None:
            self._backward()

    @property
    def weights(self) -> dict[str, float]:
        """The effective factor on the raw loss of each path (waits for the device)."""
        return dict(zip(self.names, self.factors.tolist(), strict=True))

    @property
    def log(self) -> dict[str, float]:
        """Further figures of this step (waits for the device)."""
        return {
            name: float(value.detach() if isinstance(value, torch.Tensor) else value)
            for name, value in (self._log or {}).items()
        }
