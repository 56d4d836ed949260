"""Tasks from a spec."""

from __future__ import annotations

from ray_kd.config.registry import TASKS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.tasks.base import Task


def create_task(spec: RunSpec, dataset: Dataset) -> Task:
    """A run's task, for the classes of its dataset."""
    name = spec.task.component_name
    task: Task = TASKS.get(name)(spec.task, dataset.classes_of(name))
    return task
