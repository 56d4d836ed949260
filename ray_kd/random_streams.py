"""Random streams keyed by (seed, name), so that runs of one seed are paired whatever else differs.

Whatever draws random numbers takes a stream of its own; nothing consumes another's. A stream is a
pure function of its key: resuming needs no saved generator state.
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
    """Run a block whose draws from PyTorch's global generator come from the stream ``parts``.

    The global state is put back afterwards, so the block costs no other stream a number.
    Modules are initialised under it, since their initialisers take no generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(*parts))
        yield
