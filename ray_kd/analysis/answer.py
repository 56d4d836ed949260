"""The form of an answer to one further question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_kd.analysis.plot_style import Picture


@dataclass(frozen=True)
class Answer:
    """One task's answer, ready to be written."""

    markdown: str
    """What was found, the table, and notes on it."""
    csv: str
    """The table as numbers."""
    draw: Callable[[], Picture]
    """Draws the figure."""
