"""CIFAR's files: pickles of arrays and lists, read without running anything that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ray_kd.models.pickles import DamagedError, Unread, read_pickle

PIXELS = 3 * 32 * 32
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
"""What numpy calls its arrays in a pickle: before its version 2, as in the published files, and since."""


def read_batch(file: Path, label: str) -> tuple[np.ndarray, list[int]]:
    """Images (N, 3072), uint8, and labels of a file.

    Args:
        label: the key of the labels.

    Raises:
        DamagedError: the file is none of CIFAR's.
    """
    entry = _mapping(file)
    images, labels = _array(entry.get("data")), entry.get(label)
    if not isinstance(labels, list) or len(labels) != len(images) or {type(one) for one in labels} - {int}:
        raise DamagedError(f"its '{label}' are no list of {len(images):,} numbers")
    return images, labels


def read_names(file: Path, key: str) -> tuple[str, ...]:
    """The names of the classes, by the key that they have in the file.

    Raises:
        DamagedError: the file is none of CIFAR's.
    """
    found = _mapping(file).get(key)
    if not isinstance(found, list) or {type(one) for one in found} - {str}:
        raise DamagedError(f"its '{key}' are no list of names")
    return tuple(found)


def _mapping(file: Path) -> dict[Any, Any]:
    with file.open("rb") as stream:
        found = read_pickle(stream, {})
    if isinstance(found, Unread) or not isinstance(found, dict):
        what = f", but calls {found.made_of}" if isinstance(found, Unread) else ""
        raise DamagedError(f"it holds no mapping{what}")
    return found


def _array(value: Any) -> np.ndarray:
    """The array of bytes that numpy described."""
    if not isinstance(value, Unread):
        raise DamagedError("its 'data' is no array")
    if value.made_of not in _ARRAYS:
        raise DamagedError(f"its 'data' is no array, but calls {value.made_of}")
    match value.state:
        case (_, (rows, columns), Unread() as kind, False, raw) if kind.made_of == "numpy.dtype":
            data = (
                raw.encode("latin-1", "ignore") if isinstance(raw, str) else raw
            )  # Python 2 wrote bytes as text
            whole = type(rows) is int and columns == PIXELS and isinstance(data, bytes)
            if whole and len(data) == rows * columns and kind.arguments[:1] in (("u1",), ("uint8",)):
                return np.frombuffer(data, np.uint8).reshape(rows, columns)
    raise DamagedError(f"its 'data' is no array of (N, {PIXELS}) bytes")
