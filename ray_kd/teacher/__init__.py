"""The live teacher, and its weights."""

from ray_kd.teacher.live import LiveTeacher, Teachers
from ray_kd.teacher.load import load_teacher

__all__ = ["LiveTeacher", "Teachers", "load_teacher"]
