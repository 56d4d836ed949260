"""Models by name."""

from __future__ import annotations

from typing import Any

from ray_kd.config.options import Options, parse_component
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.weights import begin_with
from ray_kd.random_streams import forked


def create_model(
    name: str | Options, *, classes: int, channels: int, seed: int = 0, **options: Any
) -> StagedModel:
    """A model as it begins: freshly drawn, or with the weights that its options name.

    Args:
        name: a registered model, or its Options.
        classes: how many classes its head tells apart.
        channels: channels of an image.
        seed: key of the stream its weights are drawn from.
        **options: the model's own options.

    Raises:
        UserError: unknown model or option, weights that are not there or do not fit.
    """
    parsed = parse_component(MODELS, name if isinstance(name, Options) else {"name": name, **options})
    model = draw_model(parsed, classes=classes, channels=channels, seed=seed)
    weights = getattr(parsed, "weights", None)
    if weights is not None:
        begin_with(model, weights, parsed.head == "fresh", parsed.weights_key)
    return model


def draw_model(options: Options, *, classes: int, channels: int, seed: int) -> StagedModel:
    """A freshly drawn model, whatever weights its options name."""
    with forked(seed, "student"):
        model: StagedModel = MODELS.get(options.component_name)(options, classes, channels)
    return model
