"""Files of weights in a spec: known by their content, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from ray_kd.config.errors import UserError


def is_published(weights: str) -> bool:
    """Whether ``weights`` is a name such as IMAGENET1K_V2, and no file."""
    return re.fullmatch(r"[A-Z][A-Z0-9_]*", weights) is not None


def known_weights(weights: str, where: str) -> str:
    """What identifies weights: a published name, or the digest of a file's content.

    Raises:
        UserError: the file cannot be read; ``where`` is the key that names it.
    """
    if is_published(weights):
        return weights
    try:
        status = os.stat(weights)
        return _digest(weights, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"{where}: cannot read '{weights}' ({error.strerror}).") from error


@lru_cache(maxsize=256)
def _digest(place: str, changed: int, size: int) -> str:
    """A sweep asks for it once a trial; the file is read again when it changed."""
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()
