"""How the losses of several paths become one update: a file for each method, one for torchjd's."""

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.create import create_aggregator
from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.update import Update

__all__ = ["Aggregator", "Gradients", "Update", "create_aggregator"]
