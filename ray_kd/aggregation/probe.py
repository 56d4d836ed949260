"""Slopes of every loss along one direction: two forwards, and no backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Losses = Mapping[str, Tensor]


class Evaluate(Protocol):
    """A function of the training loop: path losses of a batch at the present parameters."""

    def __call__(self, *, same: bool, placebo: bool) -> tuple[Losses, Losses]:
        """The losses by name, without gradients.

        They are means over ranks, in full precision, with batch statistics. The call changes no buffer and
        no random stream, and two calls in one step draw the same numbers.

        Args:
            same: use this step's batch; else another training batch, such as the one before.
            placebo: whether to return the second mapping too.

        Returns:
            The losses, and the losses with every sample's target exchanged for another sample's (empty
            without ``placebo``).
        """
        ...


@torch.no_grad()
def slopes(
    parameters: Sequence[Tensor],
    direction: Tensor,
    evaluate: Evaluate,
    names: Sequence[str],
    *,
    reach: float,
    same: bool,
    placebo: bool,
) -> Tensor:
    r"""Derivative of every loss along a direction d, by :math:`(L(\theta+h d)-L(\theta-h d)) / 2h`.

    Parameters are restored bit for bit, without autograd noticing: a graph built before can still be
    differentiated afterwards.

    Args:
        parameters: the student's parameters theta.
        direction: d over all of them, (P,).
        evaluate: computes the losses; gets ``same`` and ``placebo``.
        names: the n losses to return.
        reach: length of ``h d`` relative to theta's length.

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
            found = evaluate(same=same, placebo=placebo)[: 1 + placebo]
            sides.append(torch.stack([torch.stack([losses[name] for name in names]) for losses in found]))
    finally:
        torch._foreach_copy_(data, kept)
    return (sides[0] - sides[1]).double() / (2 * size)
