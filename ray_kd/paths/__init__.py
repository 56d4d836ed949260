"""How knowledge flows from teacher to student: one file for each method."""

from ray_kd.config.registry import PATHS
from ray_kd.paths.base import AdaptedPath, FeaturePath, LogitPath, Path
from ray_kd.paths.create import create_path

register_path = PATHS.register

__all__ = ["AdaptedPath", "FeaturePath", "LogitPath", "Path", "create_path", "register_path"]
