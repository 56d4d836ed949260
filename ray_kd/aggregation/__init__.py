"""How the losses of several paths become one update: a file for each method, one for torchjd's."""

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.create import create_aggregator
from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.update import Update
from ray_kd.config.registry import AGGREGATORS

register_aggregator = AGGREGATORS.register

__all__ = ["Aggregator", "Gradients", "Update", "create_aggregator", "register_aggregator"]
