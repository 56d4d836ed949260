"""Datasets, and views: augmentation as a pure function of (seed, sample, view)."""

from ray_kd.config.registry import DATASETS, VIEWS
from ray_kd.data.base import Dataset, Split
from ray_kd.data.create import create_dataset, create_views
from ray_kd.data.views import Views

register_dataset = DATASETS.register
register_view = VIEWS.register

__all__ = ["Dataset", "Split", "Views", "create_dataset", "create_views", "register_dataset", "register_view"]
