"""Whether a state is what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def assert_same(state: Any, wanted: Any) -> None:
    """Two states, nested as they may be, are equal bit for bit."""
    if isinstance(wanted, Tensor):
        torch.testing.assert_close(state, wanted, rtol=0, atol=0, equal_nan=True)
    elif isinstance(wanted, dict):
        assert state.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(state[key], value)
    else:
        assert state == wanted


def assert_kept(path: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """A path's state is as it was, but for what BatchNorm counts."""
    norms = {name for name, m in path.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    for key, values in path.state_dict().items():
        assert key.rpartition(".")[0] in norms or torch.equal(values, kept[key]), key
