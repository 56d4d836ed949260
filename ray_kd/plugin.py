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

from ray_kd.aggregation import Gradients, Update, create_aggregator
from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.gramian_weighting import Game, GameOptions, GradientAggregator, GradientOptions
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions, ModelOptions, Options, PathOptions, ViewOptions
from ray_kd.config.registry import AGGREGATORS, DATASETS, MODELS, PATHS, TASKS, VIEWS
from ray_kd.data import create_dataset
from ray_kd.data.base import Dataset, MapSplit, RawSplit, Split, TensorSplit
from ray_kd.data.draws import uniform
from ray_kd.data.mixing import MixedViews, MixOptions
from ray_kd.data.sample_views import SampleViews
from ray_kd.data.splits import hold_out, stratified_order
from ray_kd.data.views import Views
from ray_kd.models import create_model
from ray_kd.models.base import StagedModel
from ray_kd.outputs import IGNORE, Outputs, main_class
from ray_kd.paths import Path, create_path
from ray_kd.paths.base import exact, feature_of, full, logits_of
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, FeaturePath, RelationPath, match_size, pooled
from ray_kd.paths.gather import all_rows, normaliser
from ray_kd.paths.logit import LogitOptions, LogitPath
from ray_kd.random_streams import forked, generator
from ray_kd.tasks import Task
from ray_kd.tasks.base import Meter

if TYPE_CHECKING:
    from ray_kd.testing.aggregators import AggregatorConformance
    from ray_kd.testing.datasets import DatasetConformance
    from ray_kd.testing.models import ModelConformance
    from ray_kd.testing.paths import PathConformance

register_path, register_aggregator = PATHS.register, AGGREGATORS.register
register_dataset, register_view = DATASETS.register, VIEWS.register
register_model, register_task = MODELS.register, TASKS.register

# fmt: off
__all__ = [
    # a path
    "Path", "PathOptions", "LogitPath", "LogitOptions", "FeaturePath", "AdaptedPath", "AdaptedOptions",
    "RelationPath", "PathConformance", "register_path", "create_path",
    "all_rows", "exact", "feature_of", "full", "logits_of", "match_size", "normaliser", "pooled",
    # an aggregator
    "Aggregator", "AggregatorOptions", "GradientAggregator", "GradientOptions", "Game", "GameOptions",
    "Gradients", "Update", "AggregatorConformance", "register_aggregator", "create_aggregator",
    # a dataset, a view policy
    "Dataset", "Split", "TensorSplit", "MapSplit", "RawSplit", "DatasetConformance", "register_dataset",
    "create_dataset", "hold_out", "stratified_order",
    "Views", "SampleViews", "ViewOptions", "MixedViews", "MixOptions", "register_view", "uniform",
    # a model, a task
    "StagedModel", "ModelOptions", "ModelConformance", "register_model", "create_model",
    "Task", "Meter", "register_task",
    # any of them
    "Field", "Options", "Outputs", "IGNORE", "UserError", "forked", "generator", "main_class",
]
# fmt: on


def __getattr__(name: str) -> Any:
    """The suites, whose modules import pytest.

    Raises:
        ImportError: pytest is not installed.
    """
    kind = name.removesuffix("Conformance")
    if name not in __all__ or kind == name:
        raise AttributeError(f"module 'ray_kd.plugin' has no attribute '{name}'")
    return getattr(importlib.import_module(f"ray_kd.testing.{kind.lower()}s"), name)
