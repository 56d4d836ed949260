"""A counter-based generator: random numbers as a pure function of (seed, sample, view, draw).

A view drawn from it is the same on any rank, in any batch, on any number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.random_streams import key


def uniform(seed: int, name: str, samples: Tensor, view: int, draws: int) -> Tensor:
    """Uniform numbers in [0, 1) for each sample.

    SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over a counter made of the key, the
    sample's id and the view.

    Args:
        seed: ``views.seed``.
        name: what is drawn; another name is another stream.
        samples: sample ids (B,), int64.
        view: which view of the samples.
        draws: how many numbers each sample gets.

    Returns:
        float32 (B, draws) on the device of ``samples``.
    """
    base = _mix(samples * _GOLDEN + key(seed, name, view))
    counter = base.unsqueeze(1) + torch.arange(1, draws + 1, device=samples.device) * _GOLDEN
    return (_mix(counter) >> 40 & 0xFFFFFF).to(torch.float32) / (1 << 24)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, which wraps as uint64 does; shifts are made logical by masks."""
    value = (value ^ (value >> 30 & 0x3FFFFFFFF)) * _FIRST
    value = (value ^ (value >> 27 & 0x1FFFFFFFFF)) * _SECOND
    return value ^ (value >> 31 & 0x1FFFFFFFF)
