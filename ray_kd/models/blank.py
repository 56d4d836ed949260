"""A network asked with blank images, without memory where that can be, and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Within the block a network is in a mode, without gradients; after it every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def ask_on_meta(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """What a network returns for images of a shape, on the meta device: shapes without values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    return functional_call(model, bare, (torch.empty(shape, device="meta"),))
