"""Packages that only some networks need, and the files that those write."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_kd.config.errors import UserError


def optional(package: str, extra: str) -> Any:
    """A package of one of ray-kd's extras.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(
            f"model {extra}: it needs the package '{package}', which is not installed: "
            f"pip install 'ray-kd[{extra}]'."
        ) from error


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Within the block Hugging Face's hub says nothing of its own; what fails is raised."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = getattr(sys.modules.get("transformers"), "utils", None)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if bars is not None:
        bars.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars is not None:
            bars.logging.enable_progress_bar()


def read_json(file: Path) -> dict[str, Any]:
    """What a file holds; nothing, where there is none.

    Raises:
        UserError: it is damaged.
    """
    if not file.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: damaged: it is no JSON ({error}).") from error
    return found
