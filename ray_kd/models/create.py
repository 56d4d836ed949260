"""Models by name."""

from __future__ import annotations

from typing import Any

from ray_kd.config.options import Options, parse_component
from ray_kd.config.registry import DATASETS, MODELS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.models.base import StagedModel
from ray_kd.models.taps import Size
from ray_kd.models.weights import begin_with
from ray_kd.random_streams import forked


def create_model(
    name: str | Options,
    *,
    classes: int,
    channels: int,
    size: Size | None = None,
    seed: int = 0,
    **options: Any,
) -> StagedModel:
    """A model as it begins: freshly drawn, or with the weights that its options name.

    Args:
        name: a registered model, or its Options.
        classes: how many classes its head tells apart.
        channels: channels of an image.
        size: height and width of the images that it is for; None: the network's own. Read by networks that
            are built for one size.
        seed: key of the stream its weights are drawn from.
        **options: the model's own options.

    Raises:
        UserError: unknown model or option, weights that are not there or do not fit.
    """
    parsed = parse_component(MODELS, name if isinstance(name, Options) else {"name": name, **options})
    model = draw_model(parsed, classes=classes, channels=channels, size=size, seed=seed)
    weights = getattr(parsed, "weights", None)
    if weights is not None:
        begin_with(model, weights, parsed.head == "fresh", parsed.weights_key)
    return model


def draw_model(
    options: Options, *, classes: int, channels: int, size: Size | None = None, seed: int
) -> StagedModel:
    """A freshly drawn model, whatever weights its options name."""
    make = MODELS.get(options.component_name)
    with forked(seed, "student"):
        model: StagedModel = make(
            options, classes, channels, *([size] if getattr(make, "sized", False) else [])
        )
    return model


def fitting(options: Options, spec: RunSpec, dataset: Dataset, own: bool = True) -> dict[str, Any]:
    """What a model of a run is built for: classes, channels, and the size of the images that it trains on.

    Args:
        options: the model's.
        spec: the run.
        dataset: what the model is asked about.
        own: it is the run's own dataset; else the run's options say the size, if they do.
    """
    found: dict[str, Any] = {
        "classes": dataset.classes_of(spec.task.component_name),
        "channels": dataset.channels,
    }
    if not getattr(MODELS.get(options.component_name), "sized", False):
        return found
    shape = None if own else DATASETS.get(spec.dataset.component_name).image_shape(spec.dataset)
    size = getattr(spec.views, "size", None) or (shape[1:] if shape is not None else dataset.image_size())
    return {**found, "size": size}
