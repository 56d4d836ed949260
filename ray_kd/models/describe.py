"""What a network's taps are, and what images it is for, as tables and plans show it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ray_kd.config.options import Options
from ray_kd.config.registry import DATASETS, MODELS
from ray_kd.config.spec import RunSpec
from ray_kd.models.base import Preprocessing, StagedModel
from ray_kd.models.create import draw_model
from ray_kd.models.tapped import TappedModel

TapRow = tuple[str, str, str, str, str]
"""Of a stage: its number, its module, channels x height x width, stride, and the module's layout."""


def tap_rows(options: Options, size: tuple[int, int], channels: int = 3) -> list[TapRow]:
    """The stages of a network for images of a size, which it is built for where it is built for one.

    Raises:
        UserError: the network cannot be built, or a tap gives no feature map.
    """
    with torch.device("meta"):
        model = draw_model(options, classes=10, channels=channels, size=size, seed=0).eval()
        features = model(torch.empty(1, channels, *size)).features
    described = model.described if isinstance(model, TappedModel) else ()
    rows = []
    for place, feature in enumerate(features):
        count, height, width = feature.shape[1:]
        strides = dict.fromkeys(f"{a / b:g}" for a, b in zip(size, (height, width), strict=True))
        module, layout = f"stages.{place}", "N x C x H x W"
        if described:
            tap = described[place]
            module = tap.module + ("" if not tap.call else f", call {tap.call}")
            layout = " x ".join(tap.layout) + (f", {tap.prefix} before the grid" if tap.prefix else "")
        rows.append((str(place), module, f"{count} x {height} x {width}", " x ".join(strides), layout))
    return rows


def images_of(options: Options, weights: str | None = None) -> Preprocessing | None:
    """What images a network's weights were trained on, as its own configuration says; None: it does not."""
    model = MODELS.get(options.component_name)
    return model.preprocessing(options, weights) if issubclass(model, StagedModel) else None


def image_notes(specs: Iterable[RunSpec]) -> list[str]:
    """What images the networks of runs were made for, as they say themselves, beside the dataset's.

    Of a network that begins with drawn weights nothing is said: no images were seen by those.
    """
    notes: dict[str, None] = {}
    for spec in specs:
        shape = DATASETS.get(spec.dataset.component_name).image_shape(spec.dataset)
        mean, std = (getattr(spec.dataset, name, None) for name in ("mean", "std"))
        shown = getattr(spec.views, "size", None) or (shape[1:] if shape is not None else None)
        given = "" if mean is None or std is None else str(Preprocessing(tuple(mean), tuple(std), shown))
        networks: list[tuple[str, Options, str | None]] = [("student", spec.student, None)]
        networks += [(f"teacher '{name}'", t.model, t.weights) for name, t in spec.teachers.items()]
        for role, options, given_weights in networks:
            weights = given_weights or getattr(options, "weights", None)
            found = None if weights in (None, "initial") else images_of(options, given_weights)
            if found is not None:
                beside = f"; the dataset's are {given}" if given and given != str(found) else ""
                notes[f"{role} ({options.component_name}) was made for {found}{beside}."] = None
    return list(notes)
