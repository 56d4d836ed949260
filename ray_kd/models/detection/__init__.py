"""Detectors: networks whose Outputs carry a head that knows boxes."""

from ray_kd.models.detection.scenes_detector import ScenesDetector
from ray_kd.models.detection.torchvision_detector import TorchvisionDetector

__all__ = ["ScenesDetector", "TorchvisionDetector"]
