"""Students and teachers, and the taps that read their stages."""

from ray_kd.models.base import StagedModel
from ray_kd.models.create import create_model

__all__ = ["StagedModel", "create_model"]
