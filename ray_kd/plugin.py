"""All that an extension of ray-kd is written with: bases, options, decorators, suites, and small helpers.

docs/extending.md shows a path, an aggregator, a dataset and a model that are made of nothing else. A package
of your own is found by ray-kd when a spec names it (``plugins: [my_package]``), or by an entry point in the
group ``ray_kd.plugins``; ``ray-kd new path NAME DIR`` writes one.

The suites (``PathConformance`` ...) need pytest, and are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ray_kd.aggregation import Gradients, Update, create_aggregator, register_aggregator
from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.gramian_weighting import Game, GameOptions, GradientAggregator, GradientOptions
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions, ModelOptions, Options, PathOptions, ViewOptions
from ray_kd.data import create_dataset, register_dataset, register_view
from ray_kd.data.base import Dataset, MapSplit, RawSplit, Split, TensorSplit
from ray_kd.data.draws import uniform
from ray_kd.data.sample_views import SampleViews
from ray_kd.data.splits import hold_out, stratified_order
from ray_kd.data.views import Views
from ray_kd.models import create_model, register_model
from ray_kd.models.base import StagedModel
from ray_kd.outputs import IGNORE, Outputs, main_class
from ray_kd.paths import Path, create_path, register_path
from ray_kd.paths.base import exact, feature_of, full, logits_of
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, FeaturePath, RelationPath, match_size, pooled
from ray_kd.paths.gather import all_rows, normaliser
from ray_kd.paths.logit import LogitOptions, LogitPath
from ray_kd.streams import forked, generator
from ray_kd.tasks import Task, register_task
from ray_kd.tasks.base import Meter

if TYPE_CHECKING:
    from ray_kd.testing.aggregators import AggregatorConformance
    from ray_kd.testing.datasets import DatasetConformance
    from ray_kd.testing.models import ModelConformance
    from ray_kd.testing.paths import PathConformance

_SUITES = {
    "AggregatorConformance": "ray_kd.testing.aggregators",
    "DatasetConformance": "ray_kd.testing.datasets",
    "ModelConformance": "ray_kd.testing.models",
    "PathConformance": "ray_kd.testing.paths",
}
__all__ = [
    # A path
    "AdaptedOptions",
    "AdaptedPath",
    "FeaturePath",
    "LogitOptions",
    "LogitPath",
    "Path",
    "PathConformance",
    "PathOptions",
    "RelationPath",
    "all_rows",
    "create_path",
    "exact",
    "feature_of",
    "full",
    "logits_of",
    "match_size",
    "normaliser",
    "pooled",
    "register_path",
    # An aggregator
    "Aggregator",
    "AggregatorConformance",
    "AggregatorOptions",
    "Game",
    "GameOptions",
    "GradientAggregator",
    "GradientOptions",
    "Gradients",
    "Update",
    "create_aggregator",
    "register_aggregator",
    # A dataset, a view policy
    "Dataset",
    "DatasetConformance",
    "MapSplit",
    "RawSplit",
    "SampleViews",
    "Split",
    "TensorSplit",
    "ViewOptions",
    "Views",
    "create_dataset",
    "hold_out",
    "register_dataset",
    "register_view",
    "stratified_order",
    "uniform",
    # A model, a task
    "Meter",
    "ModelConformance",
    "ModelOptions",
    "StagedModel",
    "Task",
    "create_model",
    "register_model",
    "register_task",
    # Any of them
    "Field",
    "IGNORE",
    "Options",
    "Outputs",
    "UserError",
    "forked",
    "generator",
    "main_class",
]


def __getattr__(name: str) -> Any:
    """The suites, whose modules import pytest.

    Raises:
        ImportError: pytest is not installed.
    """
    if name not in _SUITES:
        raise AttributeError(f"module 'ray_kd.plugin' has no attribute '{name}'")
    return getattr(importlib.import_module(_SUITES[name]), name)
