"""Datasets, and views: augmentation as a pure function of (seed, sample, view)."""

from ray_kd.data.base import Dataset, Split
from ray_kd.data.create import create_dataset, create_views
from ray_kd.data.views import Views

__all__ = ["Dataset", "Split", "Views", "create_dataset", "create_views"]
