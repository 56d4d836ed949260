"""Find the parameters that a loss depends on from its autograd graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ray_kd.config.errors import UserError


def reached(loss: Tensor) -> set[int]:
    """Ids of all leaves that a loss depends on."""
    leaves: set[int] = {id(loss)} if loss.is_leaf else set()
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves


def last_shared(losses: Sequence[Tensor], names: Sequence[str], parameters: Sequence[Tensor]) -> list[int]:
    """Positions of the deepest parameters upstream of every loss: the module of the last shared kernel.

    Depth is the order in which the student registers its parameters. Modules with only biases or
    normalisation are skipped, since their gradients say little about the layer.
    """
    found = [reached(loss) for loss in losses if loss.requires_grad]
    shared = set.intersection(*found) if found else set()
    positions = [index for index, parameter in enumerate(parameters) if id(parameter) in shared]
    if not positions:
        raise UserError(
            "aggregation.parameters: last_shared: no parameter of the student is upstream of the task "
            "loss and of every path. Use parameters: all."
        )
    kernels = [index for index in positions if parameters[index].dim() > 1] or positions
    module = names[kernels[-1]].rpartition(".")[0]
    return [index for index in positions if names[index].rpartition(".")[0] == module]
