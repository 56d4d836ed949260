"""Students and teachers, and the taps that read their stages."""

from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.create import create_model

register_model = MODELS.register

__all__ = ["StagedModel", "create_model", "register_model"]
