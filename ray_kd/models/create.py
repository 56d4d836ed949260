"""Models by name."""

from __future__ import annotations

from typing import Any

from ray_kd.config.options import Options, parse_component
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.streams import forked


def create_model(
    name: str | Options, *, classes: int, channels: int, seed: int = 0, **options: Any
) -> StagedModel:
    """A freshly initialised model.

    Args:
        name: a registered model, or its Options.
        classes: how many classes its head tells apart.
        channels: channels of an image.
        seed: key of the stream its weights are drawn from.
        **options: the model's own options.

    Raises:
        UserError: unknown model or option.
    """
    parsed = parse_component(MODELS, name if isinstance(name, Options) else {"name": name, **options})
    with forked(seed, "student"):
        model: StagedModel = MODELS.get(parsed.component_name)(parsed, classes, channels)
    return model
