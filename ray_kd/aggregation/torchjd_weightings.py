"""The one place that uses the torchjd package: its maintained weightings of a Gramian."""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kd.config.errors import UserError

Array = NDArray[np.float64]


def torchjd_weighting(name: str, aggregator: str, **options: Any) -> Any:
    """A weighting of ``torchjd.aggregation`` by its class name.

    Raises:
        UserError: torchjd is not installed, or lacks it; names the extra.
    """
    try:
        made = getattr(importlib.import_module("torchjd.aggregation"), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"aggregator '{aggregator}' takes its weights from torchjd, and that cannot be used ({error}). "
            "Install ray-kd with the extra 'mtl': pip install 'ray-kd[mtl]'."
        ) from error
    return made(**options)


def weights_of(weighting: Any, gramian: Array, generator: torch.Generator) -> Array:
    """The weights (m,) that a torchjd weighting gives a Gramian (m, m).

    torchjd draws from PyTorch's global CPU stream; here it draws from ``generator``, and the global
    stream is put back.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            weights = weighting(torch.from_numpy(np.ascontiguousarray(gramian)))
    finally:
        torch.set_rng_state(state)
    return cast(Array, weights.double().numpy())
