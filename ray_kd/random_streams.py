"""Random streams keyed by (seed, name), so that runs of one seed are paired whatever else differs.

Every consumer of random numbers draws from a random stream of its own. A random stream is a pure function
of its key, so resuming needs no saved generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def key(*parts: int | str) -> int:
    """A 63-bit number that depends on every part and their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by ``key(*parts)``."""
    return torch.Generator().manual_seed(key(*parts))


@contextmanager
def forked(*parts: int | str) -> Iterator[None]:
    """Within the block, PyTorch's global generator draws from the random stream ``parts``.

    The global state is restored afterwards. Modules are initialised in such a block, since PyTorch's
    initialisers take no generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(*parts))
        yield
