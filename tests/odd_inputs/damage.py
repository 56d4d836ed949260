"""The ways in which a file comes to harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Damage = Callable[[bytes], bytes]
WAYS: dict[str, Damage] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "garbage": lambda data: np.random.default_rng(0).bytes(max(64, len(data))),
    "NULs": lambda data: bytes(len(data)),
    "another value": lambda data: b"[]\n",
}


def damaged(file: Path, way: str) -> Path:
    data = file.read_bytes()
    file.write_bytes(WAYS[way](data))
    assert file.read_bytes() != data
    return file
