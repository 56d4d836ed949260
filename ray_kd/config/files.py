"""Identities of runs and weight files, wherever the files lie; and whether a recorded spec is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray_kd.config.errors import UserError

INITIAL = "initial"
"""The value of ``weights`` of an untrained teacher."""
HUB = "hub:"
"""What the name of a model on Hugging Face's hub begins with."""


def is_published(weights: str) -> bool:
    """Whether ``weights`` is a published name such as IMAGENET1K_V2, or one on a hub, and not a file."""
    return weights.startswith(HUB) or re.fullmatch(r"[A-Z][A-Z0-9_]*", weights) is not None


IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
"""What Hugging Face's libraries call the weights in a folder that they write."""


def weights_file(weights: str) -> str:
    """The file that weights lie in: the one given, or the one in a folder as timm and transformers write it.

    Raises:
        UserError: a folder without such a file.
    """
    if not Path(weights).is_dir():
        return weights
    for name in IN_A_FOLDER:
        if (Path(weights) / name).is_file():
            return str(Path(weights) / name)
    raise UserError(f"weights: expected {' or '.join(IN_A_FOLDER)} in the folder '{weights}', got neither.")


def known_weights(weights: str, where: str) -> str:
    """What identifies weights: a published name, or the digest of a file's content.

    Raises:
        UserError: the file cannot be read; ``where`` is the key that names it.
    """
    if is_published(weights):
        return weights
    weights = weights_file(weights)
    try:
        status = os.stat(weights)
        return _digest(weights, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"{where}: cannot read '{weights}' ({error.strerror}).") from error


@lru_cache(maxsize=256)
def _digest(place: str, changed: int, size: int) -> str:
    """A sweep calls this once for each trial; the file is read again only if it changed."""
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()


def identity_of(essence: dict[str, Any]) -> str:
    """16 hexadecimal digits of the hash of a run's essence."""
    text = json.dumps(essence, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_whole_record(file: Path, data: dict[str, Any]) -> None:
    """Refuse a run's own ``spec.yaml`` that was cut off, since it would describe another run."""
    if file.name != "spec.yaml" or not re.fullmatch("[0-9a-f]{16}", file.absolute().parent.name):
        return
    if list(data)[-1:] != ["storage"] or not file.read_bytes().endswith(b"\n"):
        raise UserError(
            f"{file} is damaged: it ends before its last key ('storage') and describes another run."
        )
