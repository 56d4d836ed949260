"""Slopes of every loss along one direction: two forwards, and no backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Losses = Mapping[str, Tensor]
Evaluate = Callable[[bool], tuple[Losses, Losses]]
"""What a training loop provides: ``evaluate(placebo)`` gives the losses of this step's batch anew, at the
parameters as they are now, and the same losses with every sample's target exchanged for another sample's
(empty where ``placebo`` is False). Means over ranks, full precision, batch statistics; it changes no
buffer and no random stream, and two calls draw the same numbers."""


@torch.no_grad()
def slopes(
    parameters: Sequence[Tensor],
    direction: Tensor,
    evaluate: Evaluate,
    names: Sequence[str],
    *,
    reach: float,
    placebo: bool,
) -> Tensor:
    r"""Derivative of every loss along a direction d, by :math:`(L(\theta+h d)-L(\theta-h d)) / 2h`.

    Parameters are put back bit for bit, and autograd does not notice: a graph built before may still
    be differentiated afterwards.

    Args:
        parameters: the student's parameters theta.
        direction: d over all of them, (P,).
        evaluate: gives the losses.
        names: which of them, n.
        reach: length of ``h d`` as a share of theta's length.
        placebo: whether to measure the losses with exchanged targets too.

    Returns:
        (1, n), with a placebo (2, n): slopes of the losses, and of the losses with exchanged targets.
    """
    data = [parameter.data for parameter in parameters]
    kept = [values.clone() for values in data]
    length = torch.stack(torch._foreach_norm(kept)).norm()
    size = float(reach * length / direction.norm())
    parts = [
        part.view_as(values).to(values.dtype)
        for part, values in zip(direction.split([values.numel() for values in data]), data, strict=True)
    ]
    sides = []
    try:
        for sign in (1.0, -1.0):
            torch._foreach_copy_(data, kept)
            torch._foreach_add_(data, parts, alpha=sign * size)
            found = evaluate(placebo)[: 2 if placebo else 1]
            sides.append(torch.stack([torch.stack([losses[name] for name in names]) for losses in found]))
    finally:
        torch._foreach_copy_(data, kept)
    return (sides[0] - sides[1]).double() / (2 * size)
