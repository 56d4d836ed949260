"""What the student is for: the task loss, and the metrics that judge it."""

from ray_kd.tasks.base import Task, TeacherPredictions
from ray_kd.tasks.create import create_task

__all__ = ["Task", "TeacherPredictions", "create_task"]
