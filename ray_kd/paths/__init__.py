"""How knowledge flows from teacher to student: one file for each method."""

from ray_kd.paths.base import Path
from ray_kd.paths.create import create_path
from ray_kd.paths.feature import AdaptedPath, FeaturePath, RelationPath
from ray_kd.paths.logit import LogitPath

__all__ = [
    "AdaptedPath",
    "FeaturePath",
    "LogitPath",
    "Path",
    "RelationPath",
    "create_path",
]
