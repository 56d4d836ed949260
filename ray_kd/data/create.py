"""Datasets and views from a spec."""

from __future__ import annotations

import copy

import torch

from ray_kd.config.options import Options
from ray_kd.config.registry import DATASETS, VIEWS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.permuted import permuted_labels
from ray_kd.data.sample_checks import SPLITS, check_dataset
from ray_kd.data.views import Views


def create_dataset(options: Options, device: torch.device | None = None) -> Dataset:
    """The dataset of these options; every batch of it is checked as it is read.

    Args:
        device: where splits that lie in memory are to lie; None: the CPU.

    Raises:
        UserError: files that are missing, or cannot be read as this dataset.
    """
    name = options.component_name
    dataset: Dataset = DATASETS.get(name)(options)
    check_dataset(dataset, f"dataset {name}", f"Dataset '{name}' says how many classes there are (classes).")
    for split in SPLITS:
        found = getattr(dataset, split)
        if isinstance(found, TensorSplit) and device is not None:
            setattr(dataset, split, found.to(device))
    return dataset


def create_views(spec: RunSpec, dataset: Dataset) -> Views:
    """A run's view policy, bound to its dataset."""
    views: Views = VIEWS.get(spec.views.component_name)(spec.views)
    views.bind(dataset, spec.task.component_name)
    return views


def as_trained(spec: RunSpec, dataset: Dataset) -> Dataset:
    """A dataset as a run trains on it, its labels permuted where the run asks for it."""
    if spec.training.labels != "permuted":
        return dataset
    dataset = copy.copy(dataset)  # other runs of this process share the original
    dataset.train = permuted_labels(dataset.train, spec.seed)
    return dataset
