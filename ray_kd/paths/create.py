"""Paths by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_kd.config.options import PathOptions, parse_component
from ray_kd.config.registry import PATHS
from ray_kd.paths.base import Path


def create_path(
    name: str | PathOptions,
    *,
    student_channels: Sequence[int],
    teacher_channels: Sequence[int],
    seed: int = 0,
    **options: Any,
) -> Path:
    """A path, ready to be trained with a student.

    Args:
        name: a registered path, or its Options.
        student_channels: channels of the student's stages, shallow to deep.
        teacher_channels: channels of the teacher's stages.
        seed: key of the path's random stream (its adapters' initial weights).
        **options: the path's own options (``temperature=2``, ``stages=(1, 2)``, ``adapter=None`` ...).

    Raises:
        UserError: unknown path or option, a stage that does not exist, widths that do not match.

    Example:
        >>> path = create_path("soft_target", student_channels=(8,), teacher_channels=(16,))
        >>> path.keys
        ('soft_target',)
    """
    parsed = parse_component(PATHS, name if isinstance(name, PathOptions) else {"name": name, **options})
    path: Path = PATHS.get(parsed.component_name)(parsed, student_channels, teacher_channels, seed)
    return path
