"""Where a run's progress is reported, in a spec."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from ray_kd.config.options import Strict


class Tracking(Strict):
    """Where progress is reported besides the records."""

    wandb: Literal["off", "offline", "online"] = "off"
    """offline: written below the storage and sent later by 'wandb sync'; online without a key is offline."""
    project: str = "ray-kd"
    """The W&B project."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML reads a bare ``off`` as false."""
        return "off" if value is False else value
