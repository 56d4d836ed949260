"""Networks that torch.compile has wrapped: their own names, and how to run them as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MARK = "_orig_mod."
"""What the wrapper puts into the name of everything below it."""


def is_compiled(module: nn.Module) -> bool:
    """Whether a network or a part of it was compiled."""
    return any(
        "_orig_mod" in part._modules or part._compiled_call_impl is not None for part in module.modules()
    )


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """A network's state under its own names, whatever of it was compiled."""
    return {name.replace(MARK, ""): value for name, value in module.state_dict().items()}


def load_own_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what ``own_state`` gave, into the network whether it is compiled or not."""
    names = {name.replace(MARK, ""): name for name in module.state_dict()}
    module.load_state_dict({names.get(name, name): value for name, value in state.items()})


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Within the block a network runs as it was written; others that are compiled do so too."""
    if not is_compiled(module):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
